//! The lab: network namespaces with real routers in which ETM is tried, demonstrated and tested.
//!
//! *Never*: touches a route, link, rule or qdisc of the namespace it is started in, sends a packet to
//! an address that no namespace of the lab owns, or, but for [`mod@bench`], [`dataplane`] and [`report`], calls into the agent. ETM is
//! run as a user runs it, by its two binaries.
//!
//! Reading order: [`topology`] (what is wired to what), [`table`] (who announces what), [`lab`]
//! (brings it up), [`traffic`] (what is sent and what arrived), [`agent`] (ETM itself), [`scene`] (all of
//! it together, for tests and demo).

pub mod agent;
pub mod bench;
pub mod bird;
pub mod bird_config;
pub mod chaos;
pub mod clock;
pub mod command;
pub mod crowd;
pub mod daemons;
pub mod daemons_v6;
pub mod dataplane;
pub mod demo;
pub mod error;
pub mod http;
pub mod lab;
pub mod link;
pub mod netns;
pub mod pair;
pub mod pair_plan;
pub mod poll;
pub mod report;
pub mod scene;
pub mod starved;
pub mod state;
pub mod table;
pub mod topology;
pub mod traces;
pub mod traffic;
pub mod two_borders;
pub mod view;
