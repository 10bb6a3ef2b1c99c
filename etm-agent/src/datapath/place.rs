//! Where a program is attached: interface and side, and how pins and reports call it. Never attaches anything.

use super::error::DatapathError;
use super::sys;
use crate::types::IfIndex;
use aya::programs::{ProgramError, TcAttachType};
use std::path::{Path, PathBuf};

/// Added to the name of the pin where a clsact filter stands for a link.
pub(super) const CLSACT: &str = "-clsact";
/// Added to the interface index where the qdisc was added by ETM.
pub(super) const QDISC: &str = "-qdisc";

/// Which side of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    Egress,
    Ingress,
}

impl Direction {
    pub(super) const BOTH: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        }
    }

    pub(super) fn tc(self) -> TcAttachType {
        match self {
            Direction::Egress => TcAttachType::Egress,
            Direction::Ingress => TcAttachType::Ingress,
        }
    }
}

/// The interface and side that an attachment is for.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub(super) ifindex: IfIndex,
    pub(super) direction: Direction,
}

impl Place {
    pub(super) fn failed(
        self,
        doing: &'static str,
        hook: &'static str,
    ) -> impl Fn(ProgramError) -> DatapathError {
        let Place { ifindex, direction } = self;
        let direction = direction.as_str();
        move |cause| DatapathError::Attach { doing, direction, ifindex, hook, cause: Box::new(cause) }
    }

    /// How the place is called in pins and reports: `3-egress`.
    pub(super) fn label(self) -> String {
        format!("{}-{}", self.ifindex, self.direction.as_str())
    }

    pub(super) fn link_pin(self, dir: &Path) -> PathBuf {
        dir.join(self.label())
    }

    pub(super) fn filter_pin(self, dir: &Path) -> PathBuf {
        dir.join(self.label() + CLSACT)
    }

    pub(super) fn qdisc_pin(self, dir: &Path) -> PathBuf {
        dir.join(format!("{}{QDISC}", self.ifindex))
    }

    pub(super) fn name(self) -> Result<String, DatapathError> {
        sys::interface_name(self.ifindex)
            .map_err(|cause| DatapathError::Interface { ifindex: self.ifindex, cause })
    }
}
