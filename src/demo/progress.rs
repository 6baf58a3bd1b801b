//! What the nodes report on the bus, as lines for people and as times of a rollout.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

use crate::model::{
    AttemptOutcome, BackendSeen, CheckName, CheckStatus, NodeName, Report, Revision, SettleKey,
    SettleState,
};

/// What has changed at one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// HAProxy has it in maintenance.
    Out,
    /// HAProxy gives it requests again.
    Back,
    /// An attempt has begun.
    Upgrading(Revision),
    /// An attempt has failed.
    Failed(String),
    /// The running service says that it has this revision.
    Runs(Revision),
    /// A check is not OK.
    NotOk(CheckName, CheckStatus, String),
    /// All checks are OK.
    Settled,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Out => f.write_str("out of the load balancer"),
            Self::Back => f.write_str("back in service"),
            Self::Upgrading(revision) => write!(f, "upgrading to {revision}"),
            Self::Failed(why) => write!(f, "the upgrade failed: {why}"),
            Self::Runs(revision) => write!(f, "runs {revision}"),
            Self::NotOk(check, status, text) => write!(f, "{check} {status}: {text}"),
            Self::Settled => f.write_str("checks OK"),
        }
    }
}

/// When nodes first got to each step of the present rollout.
#[derive(Debug, Clone, Default)]
pub struct Marks {
    /// Out of the load balancer.
    pub out: BTreeMap<NodeName, Instant>,
    /// At the revision.
    pub upgraded: BTreeMap<NodeName, Instant>,
    /// Checks OK.
    pub settled: BTreeMap<NodeName, Instant>,
    /// Back in service.
    pub back: BTreeMap<NodeName, Instant>,
}

impl Marks {
    fn note(&mut self, at: Instant, node: &NodeName, change: &Change) {
        let step = match change {
            Change::Out => &mut self.out,
            Change::Back => &mut self.back,
            Change::Runs(_) => &mut self.upgraded,
            Change::Settled => &mut self.settled,
            Change::Upgrading(_) | Change::Failed(_) | Change::NotOk(..) => return,
        };
        step.entry(node.clone()).or_insert(at);
    }
}

/// Compares each report with the one before.
#[derive(Debug, Default)]
pub struct Progress {
    nodes: BTreeMap<NodeName, Seen>,
    servers: BTreeMap<NodeName, bool>,
    marks: Marks,
}

#[derive(Debug, Default, PartialEq)]
struct Seen {
    revision: Option<Revision>,
    attempt: Option<(Revision, u32, AttemptOutcome)>,
    settled: Option<SettleKey>,
    not_ok: BTreeMap<CheckName, (CheckStatus, String)>,
}

impl Progress {
    /// Begins a new rollout: forgets the marks.
    pub fn begin(&mut self) {
        self.marks = Marks::default();
    }

    /// The marks of this rollout.
    pub fn marks(&self) -> &Marks {
        &self.marks
    }

    /// Takes in a report; says what it changes. A node's first report changes nothing.
    pub fn take(&mut self, at: Instant, report: &Report) -> Vec<(NodeName, Change)> {
        let mut changes = self.take_servers(report);
        changes.extend(self.take_node(report));
        for (node, change) in &changes {
            self.marks.note(at, node, change);
        }
        changes
    }

    fn take_servers(&mut self, report: &Report) -> Vec<(NodeName, Change)> {
        let backends = report.balancer.iter().flat_map(|balancer| balancer.backends.values());
        let servers = backends.filter_map(|seen| match seen {
            BackendSeen::Servers(servers) => Some(servers),
            BackendSeen::Unknown(_) => None,
        });
        let mut changes = Vec::new();
        for (server, report) in servers.flatten() {
            // The demo's servers bear their nodes' names.
            let Ok(node) = NodeName::new(server.as_str()) else { continue };
            let out = report.seen.admin.is_out();
            if !out && !report.seen.is_ready() {
                continue; // on its way; neither
            }
            let before = self.servers.insert(node.clone(), out);
            if before.is_some_and(|before| before != out) {
                changes.push((node, if out { Change::Out } else { Change::Back }));
            }
        }
        changes
    }

    fn take_node(&mut self, report: &Report) -> Vec<(NodeName, Change)> {
        let Some(app) = report.apps.values().next() else { return Vec::new() };
        let settle = app.settle.as_ref();
        let is_settled = |state| match state {
            SettleState::Settled { .. } => true,
            SettleState::Checking | SettleState::TimedOut => false,
        };
        let not_ok = settle.iter().flat_map(|settle| &settle.results);
        let seen = Seen {
            revision: app.revision.known().cloned(),
            attempt: app
                .attempt
                .as_ref()
                .map(|a| (a.revision.clone(), a.attempt, a.outcome.clone())),
            settled: settle.filter(|settle| is_settled(settle.state)).map(|s| s.key.clone()),
            not_ok: not_ok
                .filter(|(_, result)| result.status != CheckStatus::Ok)
                .map(|(name, result)| (name.clone(), (result.status, result.text.clone())))
                .collect(),
        };
        let changes =
            self.nodes.get(&report.node).map_or_else(Vec::new, |before| compare(before, &seen));
        self.nodes.insert(report.node.clone(), seen);
        changes.into_iter().map(|change| (report.node.clone(), change)).collect()
    }
}

fn compare(before: &Seen, now: &Seen) -> Vec<Change> {
    let mut changes = Vec::new();
    if let Some((revision, _, outcome)) =
        now.attempt.as_ref().filter(|_| before.attempt != now.attempt)
    {
        match outcome {
            AttemptOutcome::Running => changes.push(Change::Upgrading(revision.clone())),
            AttemptOutcome::Succeeded => {}
            AttemptOutcome::Failed { why, .. } => changes.push(Change::Failed(why.to_string())),
        }
    }
    if let Some(revision) = now.revision.as_ref().filter(|_| before.revision != now.revision) {
        changes.push(Change::Runs(revision.clone()));
    }
    for (check, (status, text)) in &now.not_ok {
        if before.not_ok.get(check).is_none_or(|(was, _)| was != status) {
            changes.push(Change::NotOk(check.clone(), *status, text.clone()));
        }
    }
    if now.settled.is_some() && now.settled != before.settled {
        changes.push(Change::Settled);
    }
    changes
}
