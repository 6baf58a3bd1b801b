//! What the history keeps: something that happened, was decided or was asked, with what led to it.

use super::change::Asked;
use super::decision::Decision;
use super::event::EventKind;
use super::name::{AppName, ClusterName, NodeName, RolloutId};
use super::stamp::Epoch;
use super::time::Wall;

/// One line of the history, as the controller's core gives it out.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// When, for people.
    pub at: Wall,
    /// Where.
    pub app: AppName,
    /// Where; of a node, the cluster that it belongs to.
    pub cluster: Option<ClusterName>,
    /// Whom it is about.
    pub node: Option<NodeName>,
    /// The rollout that it is part of.
    pub rollout: Option<RolloutId>,
    /// In whose name it was decided; none before the app is led.
    pub epoch: Option<Epoch>,
    /// The id of the commit behind the desired state in force.
    pub commit: Option<String>,
    /// What.
    pub what: What,
    /// What it rests on, in words; empty where it speaks for itself.
    pub cause: String,
    /// What was before.
    pub before: Option<String>,
    /// What is from now on.
    pub after: Option<String>,
}

/// What a record tells.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// Something has come about.
    Event(EventKind),
    /// Something else is decided about a node than before.
    Decision(Decision),
    /// An agent is asked for something else than before.
    Action {
        /// What.
        asked: Asked,
        /// Whose agent.
        of: NodeName,
        /// The generation of the assignment that asks.
        generation: u64,
        /// The server that it is about, as `backend/server`.
        server: Option<String>,
    },
}

impl Record {
    /// Whether it has not come about if the app's file could not be kept: it is undone, and comes again.
    pub fn rests_on_the_disk(&self) -> bool {
        match self.what {
            What::Event(_) | What::Action { .. } => true,
            What::Decision(_) => false,
        }
    }
}
