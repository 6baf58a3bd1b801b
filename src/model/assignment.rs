//! What the controller asks of ONE node for ONE app, whole, never a delta.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::name::{
    AppName, BackendName, CheckName, ClusterName, NodeName, Revision, RolloutId, ServerName,
};
use super::stamp::Stamp;

/// Everything the controller asks of one node for one app. It stays in force until a later one.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assignment {
    /// The app.
    pub app: AppName,
    /// The node that is asked.
    pub node: NodeName,
    /// Which assignment this is. Changes with the content, and only with it.
    pub stamp: Stamp,
    /// Rollouts that start only when this node has echoed this stamp.
    pub probes: BTreeSet<RolloutId>,
    /// What is asked of a node that runs the app.
    pub work: Option<NodeWork>,
    /// What is asked of a load balancer of the app, per backend.
    pub balance: BTreeMap<BackendName, BalancerWork>,
}

/// What is asked of a node that runs the app.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeWork {
    /// The cluster that the node belongs to.
    pub cluster: ClusterName,
    /// The revision that the node should run. Informs only; a [`Permit`] is what allows.
    pub target: Revision,
    /// The load balancers whose reports the agent must follow, to judge a permit.
    pub load_balancers: BTreeSet<NodeName>,
    /// The checks that must be OK.
    pub checks: BTreeSet<CheckName>,
    /// Time from the start of one round of checks to the next, in milliseconds.
    pub check_interval_ms: u64,
    /// After this time of checking the node counts as not settled, in milliseconds.
    pub settle_timeout_ms: u64,
    /// Time limit of one upgrade attempt, in milliseconds.
    pub upgrade_timeout_ms: u64,
    /// Asks for checks until further notice. With a permit beside it, they begin when the
    /// permitted attempt has succeeded; without one, at once.
    pub settle: Option<SettleKey>,
    /// Allows one upgrade attempt.
    pub permit: Option<Permit>,
}

/// Which settling is asked for: a report with another key proves nothing about this one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettleKey {
    /// The rollout that asks.
    pub rollout: RolloutId,
    /// The desired file's `retry`, empty if there is none.
    pub retry: String,
    /// The attempt that put the revision there; 0 if no upgrade was needed.
    pub attempt: u32,
    /// The generation of the assignment that first asked, so that each asking is a new one.
    pub asked: u64,
}

/// Allows ONE upgrade attempt. Written to the agent's disk before the attempt starts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Permit {
    /// The rollout that asks; attempts are counted per (rollout, revision, retry).
    pub rollout: RolloutId,
    /// The revision to bring to the node.
    pub revision: Revision,
    /// The desired file's `retry`, empty if there is none.
    pub retry: String,
    /// Which attempt, from 1.
    pub attempt: u32,
    /// What must be seen, live, before the attempt may start.
    pub out: Vec<OutProof>,
}

/// A precondition of a permit: this server is out at this load balancer, as asked at `at` or later.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutProof {
    /// The load balancer's node.
    pub lb: NodeName,
    /// The backend there.
    pub backend: BackendName,
    /// The node's server in that backend.
    pub server: ServerName,
    /// The load balancer's assignment that asked it out; its report must be `done` with it.
    pub at: Stamp,
}

/// What is asked of a load balancer for one backend. Servers that are not named are left alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BalancerWork {
    /// How long to wait for sessions to end before maintenance, in milliseconds.
    pub drain_ms: u64,
    /// An explicit order per server.
    pub servers: BTreeMap<ServerName, Order>,
}

/// What is asked for one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// Keep it in maintenance.
    Out,
    /// Give up the maintenance that we own, and restore what was there before; nothing else.
    In,
}
