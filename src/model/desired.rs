//! What the files declare, after validation: every cluster's settings in full, overrides applied.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::name::{
    AppName, BackendName, CheckName, ClusterName, NodeName, RecipientName, Revision, ServerName,
};

/// One app: all its clusters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredApp {
    /// The app's name, as its folder.
    pub name: AppName,
    /// Its clusters, by the names of their files.
    pub clusters: BTreeMap<ClusterName, DesiredCluster>,
    /// The commit that the files come from, where they are a git checkout.
    pub commit: Option<Commit>,
}

/// A commit, for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Commit {
    /// The full hash.
    pub id: String,
    /// The first line of its message, at most 200 characters; empty where it cannot be read.
    pub subject: String,
    /// The files differ from it: somebody has changed them, and not committed that.
    #[serde(default)]
    pub modified: bool,
}

impl Commit {
    /// Its subject, and whether that is all.
    pub fn words(&self) -> String {
        let and = if self.modified { ", and changes that are not committed" } else { "" };
        format!("{}{and}", self.subject)
    }
}

impl fmt::Display for Commit {
    /// For people, in one line: `commit 0123456789ab: Bump alfa`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short: String = self.id.chars().take(12).collect();
        write!(f, "commit {short}: {}", self.words())
    }
}

/// One cluster: `app.toml` with the tables of the cluster's own file over it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DesiredCluster {
    /// The revision that its nodes should run.
    pub revision: Revision,
    /// Who must be there.
    pub expect: Expect,
    /// Facts that a node must have to be a member.
    pub select: BTreeMap<String, String>,
    /// Any change grants fresh attempts at the same revision; empty if not given.
    pub retry: String,
    /// A new revision starts only when these clusters have converged on the same one.
    pub after: BTreeSet<ClusterName>,
    /// Nodes to keep out of service, not upgraded, neither failed nor missing.
    pub hold: BTreeSet<NodeName>,
    /// Change nothing.
    pub paused: bool,
    /// Where its nodes get their traffic from; `None`: there is nothing to take out.
    pub load_balancer: Option<LoadBalancer>,
    /// How a revision is brought to the nodes.
    pub rollout: RolloutPolicy,
    /// When a node counts as fit for service.
    pub settle: SettlePolicy,
    /// Who is told of what.
    pub notify: NotifyPolicy,
}

/// Who must be there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Expect {
    /// That many, whoever they are.
    Count(u32),
    /// Every one of these.
    Nodes(BTreeSet<NodeName>),
}

/// `[load_balancer]`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoadBalancer {
    /// The HAProxy backend with the app's servers.
    pub backend: BackendName,
    /// The load balancers that must obey.
    pub expect: Expect,
    /// The server's name in HAProxy.
    pub server: ServerTemplate,
    /// How long to wait for sessions to end before maintenance, in milliseconds.
    pub drain_ms: u64,
    /// The floor of ready servers, per load balancer and backend.
    pub min_ready: Share,
}

/// A server's name in HAProxy, with `{node}` or `{fact}` where a node's own values go in.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ServerTemplate(pub String);

impl ServerTemplate {
    /// The server's name for `node`; `{node}` is its name, any other `{word}` its fact.
    ///
    /// # Errors
    /// A sentence: an unclosed brace, a fact that the node does not have, or a result that is no
    /// server name.
    pub fn render(
        &self,
        node: &NodeName,
        facts: &BTreeMap<String, String>,
    ) -> Result<ServerName, String> {
        let mut name = String::new();
        let mut rest = self.0.as_str();
        while let Some(open) = rest.find('{') {
            name.push_str(&rest[..open]);
            let inner = &rest[open + 1..];
            let close = inner.find('}').ok_or_else(|| {
                format!("the server template {:?} has a brace that is not closed", self.0)
            })?;
            match &inner[..close] {
                "node" => name.push_str(node.as_str()),
                fact => name.push_str(facts.get(fact).ok_or_else(|| {
                    format!("the server template {:?} wants the fact {fact:?}", self.0)
                })?),
            }
            rest = &inner[close + 1..];
        }
        name.push_str(rest);
        ServerName::new(&name).map_err(|error| error.to_string())
    }
}

/// A count, or a part of a whole in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// That many.
    Count(u32),
    /// That many of a hundred, 0 to 100.
    Percent(u32),
}

impl Share {
    /// The share of `whole` as a floor: rounded up. 40 % of 9 is 3.6, so the floor is 4.
    pub fn floor_of(self, whole: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (whole * percent as usize).div_ceil(100),
        }
    }

    /// The share of `whole` as a batch: rounded down, but at least 1. 25 % of 9 is 2.25, so the
    /// batch is 2; 25 % of 3 is 0.75, and the batch is 1.
    pub fn batch_of(self, whole: usize) -> usize {
        match self {
            Self::Count(count) => (count as usize).max(1),
            Self::Percent(percent) => (whole * percent as usize / 100).max(1),
        }
    }
}

/// `[rollout]`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutPolicy {
    /// How many nodes are taken out at once.
    pub take_out: TakeOut,
    /// Nodes of the APP that upgrade at once; a percentage is of the app's members.
    pub batch: Share,
    /// Attempts per node, revision and retry; at least 1.
    pub tries: u32,
    /// Time limit of one attempt, in milliseconds.
    pub upgrade_timeout_ms: u64,
    /// What follows too many failures.
    pub on_failure: OnFailure,
    /// Failed nodes that a rollout tolerates.
    pub max_failed: u32,
    /// Expected nodes that may be absent.
    pub max_missing: u32,
}

/// How many nodes are taken out at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TakeOut {
    /// As many as the floor allows, put back together when all of them have settled.
    Cluster,
    /// Only what is being upgraded, put back one by one.
    Batch,
}

/// What follows too many failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// Nothing more is upgraded; somebody must look.
    Hold,
    /// Every node goes back to the last converged revision.
    Rollback,
}

/// `[settle]`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SettlePolicy {
    /// The checks that must be OK.
    pub checks: BTreeSet<CheckName>,
    /// Time from one round of checks to the next, in milliseconds; the first runs at once.
    pub interval_ms: u64,
    /// How long the checks may take to become OK, in milliseconds.
    pub timeout_ms: u64,
    /// How long they must stay OK, and the server UP, after the node was put back, in milliseconds.
    pub soak_ms: u64,
}

/// `[notify]`
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NotifyPolicy {
    /// Who is told; nobody, if empty.
    pub recipients: BTreeSet<RecipientName>,
    /// Of what.
    pub on: BTreeSet<NotifyOn>,
}

/// Kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NotifyOn {
    /// A rollout has converged.
    Completed,
    /// Something needs a person.
    Failed,
    /// What needed a person no longer does.
    Recovered,
}

/// How far the files behind a cluster's settings can be trusted.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The settings are what the files say now.
    Current,
    /// The files are faulty; the settings are the last good ones. Carries the first fault.
    LastGood(String),
    /// The files have gone; the settings are the last good ones, and nothing new is begun.
    Vanished,
}

/// One fault in a desired directory.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fault {
    /// The file, relative to the desired directory.
    pub file: String,
    /// The line, from 1; 0 where the fault is of the file as a whole.
    pub line: usize,
    /// The column in characters, from 1; 0 where the fault is of the file as a whole.
    pub column: usize,
    /// What is wrong, and what would be right.
    pub message: String,
    /// The fault with its line shown and underlined, as `rustc` does, without colours.
    pub rendered: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floors_round_up_and_batches_down() {
        for (share, whole, floor, batch) in [
            (Share::Percent(40), 9, 4, 3),
            (Share::Percent(25), 9, 3, 2),
            (Share::Percent(25), 3, 1, 1),
            (Share::Percent(0), 9, 0, 1),
            (Share::Percent(100), 9, 9, 9),
            (Share::Count(2), 9, 2, 2),
            (Share::Count(0), 9, 0, 1),
        ] {
            assert_eq!(share.floor_of(whole), floor, "{share:?} of {whole}");
            assert_eq!(share.batch_of(whole), batch, "{share:?} of {whole}");
        }
    }

    #[test]
    fn server_templates_use_facts() {
        let node = NodeName::new("web1.example.org").unwrap();
        let facts = BTreeMap::from([("rack".to_owned(), "r7".to_owned())]);
        let render = |text: &str| ServerTemplate(text.to_owned()).render(&node, &facts);
        assert_eq!(render("{node}").unwrap().as_str(), "web1.example.org");
        assert_eq!(render("s-{rack}").unwrap().as_str(), "s-r7");
        assert!(render("{shelf}").unwrap_err().contains("shelf"));
        assert!(render("{node").is_err());
        assert!(render("").is_err());
    }
}
