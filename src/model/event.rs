//! What happened, for logs, the event list and people who ask later.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{AppName, ClusterName, NodeName, Revision, RolloutId};
use super::time::Wall;

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Event {
    /// When, for people.
    pub at: Wall,
    /// Where.
    pub app: AppName,
    /// Where.
    pub cluster: Option<ClusterName>,
    /// To whom.
    pub node: Option<NodeName>,
    /// What.
    pub kind: EventKind,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum EventKind {
    /// A rollout has begun.
    RolloutBegun {
        /// Its id.
        rollout: RolloutId,
        /// What it brings.
        revision: Revision,
    },
    /// A cluster has converged.
    Converged {
        /// The rollout that brought it.
        rollout: RolloutId,
        /// The revision.
        revision: Revision,
    },
    /// A node has failed in a rollout.
    NodeFailed {
        /// In words.
        detail: String,
    },
    /// A node that had failed is fine.
    NodeRecovered,
    /// A revision has failed on more nodes than tolerated.
    Rejected {
        /// The revision.
        revision: Revision,
        /// Whether the cluster goes back to the last converged one.
        rollback: bool,
    },
    /// A node's decision has changed.
    Decided {
        /// The decision, in words.
        decision: String,
    },
    /// The desired files of an app have changed.
    DesiredChanged,
    /// The desired files of an app are faulty.
    DesiredInvalid {
        /// The first fault.
        fault: String,
    },
    /// The desired files of an app have gone.
    DesiredVanished,
    /// An agent's presence has changed.
    PresenceChanged {
        /// In words.
        presence: String,
    },
    /// A message has been handed out.
    MessageSent {
        /// Its key.
        key: String,
    },
    /// A message has been delivered.
    MessageDelivered {
        /// Its key.
        key: String,
    },
    /// A notification server could not deliver a message.
    MessageFailed {
        /// Its key.
        key: String,
        /// In words.
        error: String,
    },
    /// Somebody had a node forgotten that has gone.
    NodeForgotten,
    /// This controller leads the app.
    LeadershipClaimed {
        /// The number of its epoch.
        epoch: u64,
    },
}

impl EventKind {
    /// The stable name.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::RolloutBegun { .. } => "rollout_begun",
            Self::Converged { .. } => "converged",
            Self::NodeFailed { .. } => "node_failed",
            Self::NodeRecovered => "node_recovered",
            Self::Rejected { .. } => "rejected",
            Self::Decided { .. } => "decided",
            Self::DesiredChanged => "desired_changed",
            Self::DesiredInvalid { .. } => "desired_invalid",
            Self::DesiredVanished => "desired_vanished",
            Self::PresenceChanged { .. } => "presence_changed",
            Self::MessageSent { .. } => "message_sent",
            Self::MessageDelivered { .. } => "message_delivered",
            Self::MessageFailed { .. } => "message_failed",
            Self::NodeForgotten => "node_forgotten",
            Self::LeadershipClaimed { .. } => "leadership_claimed",
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RolloutBegun { rollout, revision } => {
                write!(f, "rollout {rollout} to {revision} has begun")
            }
            Self::Converged { rollout, revision } => {
                write!(f, "converged on {revision} (rollout {rollout})")
            }
            Self::NodeFailed { detail } => write!(f, "failed: {detail}"),
            Self::NodeRecovered => f.write_str("recovered"),
            Self::Rejected { revision, rollback: true } => {
                write!(f, "{revision} is rejected; rolling back")
            }
            Self::Rejected { revision, rollback: false } => {
                write!(f, "{revision} is rejected; holding")
            }
            Self::Decided { decision } => f.write_str(decision),
            Self::DesiredChanged => f.write_str("the desired files have changed"),
            Self::DesiredInvalid { fault } => write!(f, "the desired files are faulty: {fault}"),
            Self::DesiredVanished => f.write_str("the desired files have gone"),
            Self::PresenceChanged { presence } => write!(f, "agent {presence}"),
            Self::MessageSent { key } => write!(f, "message {key} handed out"),
            Self::MessageDelivered { key } => write!(f, "message {key} delivered"),
            Self::MessageFailed { key, error } => write!(f, "message {key} failed: {error}"),
            Self::NodeForgotten => f.write_str("forgotten, as somebody asked"),
            Self::LeadershipClaimed { epoch } => write!(f, "leads with epoch {epoch}"),
        }
    }
}
