//! The demo: ETM against real routers, from a steady state to `etm off`, with figures and a verdict.
//!
//! Every figure is taken outside ETM where that is possible: from the packets that arrived, from the
//! kernel's qdisc counters, from core's BIRD. ETM's own word is used for what only it can know: when it
//! first saw the overload, and whether its books balance. *Never*: an assertion that the script cannot
//! fail; a run without overload, without a move or without a route at core ends as "did not hold".

mod script;
mod timeline;
mod verdict;
mod watch;

pub use script::run;
pub use timeline::Format;
pub use verdict::{Figures, Verdict};
