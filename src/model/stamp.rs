//! Who commands, which order of theirs, and which life of an agent speaks.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{AppName, ControllerId};

/// Who commands an app. Ordered by number; an agent accepts one controller per number, and nothing
/// below the highest number that it knows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// Grows with every claim of leadership.
    pub number: u64,
    /// Who claimed it.
    pub controller: ControllerId,
}

/// Which assignment: the epoch it was made in, and a generation that grows per (node, app).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stamp {
    /// Who made it.
    pub epoch: Epoch,
    /// Grows with every change of this node's assignment for this app, across epochs too.
    pub generation: u64,
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch.number, self.generation)
    }
}

/// One life of a process that speaks on the bus: which start of it, and which connection of that.
/// Later ones are greater; what an older one said is ignored.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Wall milliseconds at the start of the process, but always greater than any earlier start's.
    pub started: u64,
    /// Counts the connections of that process, from 1.
    pub connection: u64,
}

/// The document at `leader/<app>`: who leads. Agents answer a new one with a live report.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Leader {
    /// The app that is led.
    pub app: AppName,
    /// The leader's claim.
    pub epoch: Epoch,
    /// Changes with every start and connection of the leader, so that agents answer anew.
    pub boot: Boot,
}
