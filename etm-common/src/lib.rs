//! What the kernel programs and the agent must agree on: values in maps, names, numbers, limits.
//!
//! Never holds behaviour, and nothing here may depend on the side that reads it: the same source is
//! compiled for the kernel and for user space, and a pinned map outlives both builds. Whoever changes
//! a layout, a name or a number raises [`names::ABI_VERSION`].
#![no_std]

pub mod canary;
mod layout;
pub mod limits;
pub mod local;
pub mod names;
pub mod near;
pub mod reasons;
mod values;
pub mod word;

pub use values::{
    Count, Lease, LiveKey, LiveValue, MarkSetting, Off, RowOwner, Total, UPLINK_WITHOUT_ETHERNET, Uplink,
};
