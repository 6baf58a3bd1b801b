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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        AdminBits, AppName, AppReport, Attempt, BackendName, BalancerReport, Boot, CheckResult,
        Health, RevisionSeen, RolloutId, ServerName, ServerReport, ServerSeen, SettleReport, Wall,
    };

    fn report(node: &str) -> Report {
        Report::first(NodeName::new(node).unwrap(), Boot { started: 1, connection: 1 })
    }

    fn balancer(admin: u8, health: Health) -> Report {
        let seen =
            ServerSeen { admin: AdminBits(admin), health, weight: 1, backup: false, sessions: 0 };
        let server = ServerReport { seen, owned: None, steady_for_ms: 0 };
        let servers = BTreeMap::from([(ServerName::new("web1").unwrap(), server)]);
        let backend = (BackendName::new("app").unwrap(), BackendSeen::Servers(servers));
        let backends = BTreeMap::from([backend]);
        Report { balancer: Some(BalancerReport { state_file: true, backends }), ..report("lb1") }
    }

    fn web(
        revision: &str,
        attempt: Option<AttemptOutcome>,
        check: Option<(SettleState, CheckStatus)>,
    ) -> Report {
        let rollout = RolloutId::new("r").unwrap();
        let retry = String::new();
        let attempt = attempt.map(|outcome| Attempt {
            rollout: rollout.clone(),
            revision: Revision::new("2").unwrap(),
            retry: retry.clone(),
            attempt: 1,
            outcome,
            started: Wall(0),
            took_ms: 0,
        });
        let settle = check.map(|(state, status)| {
            let text = "load".to_owned();
            let result = CheckResult { status, text, performance: String::new(), took_ms: 1 };
            let check = CheckName::new("check_load").unwrap();
            SettleReport {
                key: SettleKey { rollout, retry, attempt: 1, asked: 1 },
                boot_started: 1,
                checks: [check.clone()].into(),
                state,
                ok_for_ms: 0,
                results: [(check, result)].into(),
            }
        });
        let revision = RevisionSeen::Running(Revision::new(revision).unwrap());
        let app = (AppName::new("shop").unwrap(), AppReport { revision, attempt, settle });
        Report { apps: BTreeMap::from([app]), ..report("web1") }
    }

    #[test]
    fn a_rollout_is_told_step_by_step_and_each_step_once() {
        let mut progress = Progress::default();
        let settled = SettleState::Settled { late: false };
        let ok = Some((settled, CheckStatus::Ok));
        let steps = [
            (balancer(0, Health::Up), &[][..]),
            (web("1", None, None), &[]),
            (balancer(1, Health::Down), &["out of the load balancer"]),
            (balancer(1, Health::Down), &[]),
            (web("1", Some(AttemptOutcome::Running), None), &["upgrading to 2"]),
            (web("2", Some(AttemptOutcome::Succeeded), None), &["runs 2"]),
            (
                web(
                    "2",
                    Some(AttemptOutcome::Succeeded),
                    Some((SettleState::Checking, CheckStatus::Warning)),
                ),
                &["check_load WARNING: load"],
            ),
            (web("2", Some(AttemptOutcome::Succeeded), ok), &["checks OK"]),
            (web("2", Some(AttemptOutcome::Succeeded), ok), &[]),
            (balancer(0, Health::Down), &[]),
            (balancer(0, Health::Up), &["back in service"]),
        ];
        for (number, (report, wanted)) in steps.into_iter().enumerate() {
            let changes = progress.take(Instant::now(), &report);
            assert!(changes.iter().all(|(node, _)| node.as_str() == "web1"));
            let told: Vec<String> = changes.iter().map(|(_, change)| change.to_string()).collect();
            assert_eq!(told, wanted, "step {number}");
        }
        let marks = progress.marks();
        let at = |step: &BTreeMap<NodeName, Instant>| *step.values().next().unwrap();
        assert!(at(&marks.out) < at(&marks.upgraded));
        assert!(at(&marks.upgraded) < at(&marks.settled));
        assert!(at(&marks.settled) < at(&marks.back));
        progress.begin();
        assert!(progress.marks().out.is_empty());
    }
}
