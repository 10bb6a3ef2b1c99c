//! The vocabulary every other module shares: small values with units, no behaviour of their own.
//! Never reads a clock, a socket or a file, and imports nothing of ETM.
//!
//! # Glossary
//!
//! | word | meaning |
//! |---|---|
//! | provider | an AS that takes our traffic: transit, peer, IXP member |
//! | uplink | a network interface of this router that leads to providers |
//! | exit | one way out: an uplink and the next hop behind it |
//! | candidate | a feasible route of one prefix through one exit |
//! | preferred | the exit plain routing uses for a prefix while ETM does nothing |
//! | demand | bytes per second that leave towards a prefix, whatever the exit |
//! | offered / sent / dropped | before the qdisc, after it, and lost in it (architecture, section "data plane") |
//! | projection | load of each uplink if no override existed |
//! | override | our own route for a prefix, through an exit other than the preferred one |
//! | throw | a route that sends a more-specific back to plain routing |
//! | lease | the time until which the kernel honours overrides without hearing from the agent |
//! | round | one recomputation of the decision |

mod attrs;
pub mod bgp;
pub mod bmp;
mod ident;
mod money;
mod prefix;
mod prefix_map;
mod time;
mod units;

pub use attrs::{AsPath, AsPathSegment, Asn, CarriedAttr, Community, LargeCommunity, Origin, RouteAttrs};
pub use ident::{ExitId, Generation, IfIndex, PathId, PeerId, ProviderId, RouterId, SlotId, UplinkId};
pub use money::Price;
pub use prefix::{Family, Prefix, PrefixError};
pub use prefix_map::PrefixMap;
pub use time::Timestamp;
pub use units::{BitRate, Count, FlowShare, Share, UnitError, parse_duration};
