//! What the agent is, and does not become by what it is told.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{AppName, BackendName, CheckName, NodeName, PublicKey, RecipientName, SignedBy};

/// What the agent is, from its configuration.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its name.
    pub node: NodeName,
    /// What it says of itself.
    pub facts: BTreeMap<String, String>,
    /// The version of the program.
    pub version: String,
    /// The apps whose role it has.
    pub apps: BTreeSet<AppName>,
    /// The checks that it can run.
    pub checks: BTreeSet<CheckName>,
    /// The load balancer, if it has that role.
    pub balancer: Option<BalancerSetup>,
    /// The recipients that it can reach, if it has that role.
    pub recipients: Option<BTreeSet<RecipientName>>,
    /// Time between heartbeats, in milliseconds.
    pub heartbeat_ms: u64,
    /// Time between readings of a revision, in milliseconds.
    pub observe_ms: u64,
    /// Where its jitter comes from.
    pub seed: u64,
    /// Whose orders it takes; anybody's, if empty.
    pub trusted_keys: BTreeSet<PublicKey>,
}

impl Setup {
    /// Whether orders that are signed like this are to be taken.
    pub(super) fn trusts(&self, key: SignedBy) -> bool {
        self.trusted_keys.is_empty() || key.is_some_and(|key| self.trusted_keys.contains(&key))
    }
}

/// What the agent knows of its load balancer beforehand.
#[derive(Debug, Clone, Default)]
pub struct BalancerSetup {
    /// HAProxy's state file is configured, and kept fresh by the agent.
    pub state_file: bool,
    /// The backends to look at; all of them, if empty.
    pub backends: Vec<BackendName>,
}
