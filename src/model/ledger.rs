//! What the controller must remember of a cluster because nothing that it observes could tell it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::message::{Cause, Message, MessageKey};
use super::name::{NodeName, Revision, RolloutId};
use super::time::Wall;

/// The memory of one cluster. Kept on disk and published at `status/<app>/<cluster>`; of two, the
/// one with the higher (`epoch`, `sequence`) holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterLedger {
    /// The number of the epoch that wrote it.
    pub epoch: u64,
    /// Grows with every change.
    pub sequence: u64,
    /// The last convergence.
    pub converged: Option<Convergence>,
    /// The rollout that is under way, if one is.
    pub rollout: Option<Rollout>,
    /// The revision that failed on more nodes than tolerated; until `revision` or `retry` changes.
    pub rejected: Option<Rejection>,
    /// Causes that somebody has been told of and that last.
    pub told: BTreeMap<Cause, Told>,
    /// Messages without a receipt.
    #[serde(deserialize_with = "super::message::by_their_keys")]
    pub messages: BTreeMap<MessageKey, Message>,
}

/// Somebody has been told.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Told {
    /// With which message.
    pub key: MessageKey,
    /// During which rollout.
    pub rollout: RolloutId,
}

/// All expected nodes were at this revision and in service.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Convergence {
    /// The revision.
    pub revision: Revision,
    /// The rollout that brought it; the next rollout's id is derived from it.
    pub rollout: RolloutId,
    /// When, for people.
    pub at: Wall,
}

/// A rollout that has begun: its probes were echoed, and something was or will be changed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rollout {
    /// Its id.
    pub id: RolloutId,
    /// The revision that it brings.
    pub revision: Revision,
    /// What each member ran when it began; where an untried node goes back to if no revision has
    /// ever converged.
    pub from: BTreeMap<NodeName, Revision>,
    /// When, for people.
    pub begun: Wall,
    /// Nodes that have failed in it.
    pub failed: BTreeMap<NodeName, Failure>,
}

/// A node's failure in a rollout.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The revision that failed on it.
    pub revision: Revision,
    /// What went wrong.
    pub cause: FailureCause,
    /// In words, for people.
    pub detail: String,
}

/// What went wrong with a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureCause {
    /// All attempts are spent.
    TriesSpent,
    /// The checks were not OK within the timeout; a late OK mends it.
    NotSettled,
    /// Not UP at a load balancer within the settle timeout after it was put back.
    NotUp,
    /// A check or the server's health failed while it soaked.
    SoakFailed,
}

/// A revision that failed.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rejection {
    /// The revision.
    pub revision: Revision,
    /// The `retry` that it failed with.
    pub retry: String,
    /// The cluster goes back to its last converged revision.
    pub rollback: bool,
}
