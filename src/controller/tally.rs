//! What has come about, counted for metrics: rollouts by outcome, how long they and their phases
//! took, and since when a cluster has not been at its declared state.
//!
//! Principle: it looks at the core after each plan and compares; the core knows nothing of it.

use std::collections::BTreeMap;

use super::core::{App, Core};
use crate::model::buckets::{Buckets, SLOW};
use crate::model::{
    Act, AppName, ClusterLedger, ClusterName, Decision, EventKind, Mono, NodeName, Now, RolloutId,
    Wait, Wall,
};
use crate::plan::Phase;

/// What came of a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// The cluster has converged.
    Completed,
    /// Its revision was rejected, and the cluster is held.
    Held,
    /// Its revision was rejected, and the cluster goes back.
    RolledBack,
    /// Another one took its place.
    Superseded,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Completed, Self::Held, Self::RolledBack, Self::Superseded];

    /// The stable name, for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Held => "held",
            Self::RolledBack => "rolled_back",
            Self::Superseded => "superseded",
        }
    }
}

/// A node's way through a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Out of the load balancers.
    TakingOut,
    /// To another revision.
    Upgrading,
    /// Until its checks are OK.
    Settling,
    /// Back into the load balancers, until it is UP and has soaked.
    Returning,
}

impl Step {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::TakingOut, Self::Upgrading, Self::Settling, Self::Returning];

    /// The stable name, for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TakingOut => "taking_out",
            Self::Upgrading => "upgrading",
            Self::Settling => "settling",
            Self::Returning => "returning",
        }
    }

    /// The step that a decision is part of; a wait for a load balancer goes on with what was asked of it.
    fn of(decision: &Decision, before: Option<Self>) -> Option<Self> {
        match decision {
            Decision::Act(Act::TakeOut) => Some(Self::TakingOut),
            Decision::Act(Act::Upgrade { .. })
            | Decision::Wait { what: Wait::Start { .. } | Wait::Upgrade { .. }, .. } => {
                Some(Self::Upgrading)
            }
            Decision::Act(Act::Withdraw | Act::Settle)
            | Decision::Wait { what: Wait::Withdrawal | Wait::Checks { .. }, .. } => {
                Some(Self::Settling)
            }
            Decision::Act(Act::PutBack | Act::Release)
            | Decision::Wait { what: Wait::Up { .. } | Wait::Soak, .. } => Some(Self::Returning),
            Decision::Wait { what: Wait::Balancer { .. }, .. } => before,
            Decision::Act(Act::Probe)
            | Decision::Wait {
                what:
                    Wait::Echo { .. }
                    | Wait::Floor { .. }
                    | Wait::Batch { .. }
                    | Wait::Others { .. }
                    | Wait::After { .. },
                ..
            }
            | Decision::Blocked(_)
            | Decision::Done(_) => None,
        }
    }
}

/// What the ledger said at the last look.
#[derive(Debug, Clone)]
struct Remembered {
    /// The rollout that was under way, and when it began.
    rollout: Option<(RolloutId, Wall)>,
    /// Whether its revision was rejected, and whether the cluster goes back then.
    rejected: Option<bool>,
}

/// What is counted of one cluster, since the controller's start.
#[derive(Debug, Clone)]
pub struct ClusterTally {
    /// Rollouts, by what came of them.
    pub rollouts: BTreeMap<Outcome, u64>,
    /// How long completed rollouts took.
    pub took: Buckets,
    /// How long nodes were in each step.
    pub steps: BTreeMap<Step, Buckets>,
    /// Since when it has not been at its declared state.
    pub diverged: Option<Wall>,
    ledger: Option<Remembered>,
    nodes: BTreeMap<NodeName, (Step, Mono)>,
}

impl Default for ClusterTally {
    fn default() -> Self {
        Self {
            rollouts: Outcome::ALL.into_iter().map(|outcome| (outcome, 0)).collect(),
            took: Buckets::new(SLOW),
            steps: Step::ALL.into_iter().map(|step| (step, Buckets::new(SLOW))).collect(),
            diverged: None,
            ledger: None,
            nodes: BTreeMap::new(),
        }
    }
}

/// What became of messages, since the controller's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    /// Handed to a notification server.
    pub handed_out: u64,
    /// Confirmed by one, for all recipients.
    pub delivered: u64,
    /// Given up by one, for the time being.
    pub failed: u64,
}

/// All of it.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    /// By cluster; what is gone is forgotten.
    pub clusters: BTreeMap<AppName, BTreeMap<ClusterName, ClusterTally>>,
    /// Messages.
    pub messages: Messages,
}

impl Tally {
    /// Looks at what the last plan has come to.
    pub fn look(&mut self, now: Now, core: &Core) {
        self.clusters.retain(|app, _| core.apps.contains_key(app));
        for (name, app) in &core.apps {
            let clusters = self.clusters.entry(name.clone()).or_default();
            clusters.retain(|cluster, _| app.plan.clusters.contains_key(cluster));
            for cluster in app.plan.clusters.keys() {
                clusters.entry(cluster.clone()).or_default().look(now, app, cluster);
            }
            for (node, plan) in &app.plan.nodes {
                let cluster = plan.cluster.as_ref().and_then(|name| clusters.get_mut(name));
                if let Some(cluster) = cluster {
                    cluster.decided(now.mono, node, &plan.decision);
                }
            }
        }
    }

    /// Counts what happened to messages.
    pub fn count(&mut self, kind: &EventKind) {
        match kind {
            EventKind::MessageSent { .. } => self.messages.handed_out += 1,
            EventKind::MessageDelivered { .. } => self.messages.delivered += 1,
            EventKind::MessageFailed { .. } => self.messages.failed += 1,
            EventKind::RolloutBegun { .. }
            | EventKind::Converged { .. }
            | EventKind::NodeFailed { .. }
            | EventKind::NodeRecovered
            | EventKind::Rejected { .. }
            | EventKind::Decided { .. }
            | EventKind::DesiredChanged
            | EventKind::DesiredInvalid { .. }
            | EventKind::DesiredVanished
            | EventKind::PresenceChanged { .. }
            | EventKind::NodeForgotten
            | EventKind::LeadershipClaimed { .. } => {}
        }
    }
}

impl ClusterTally {
    fn look(&mut self, now: Now, app: &App, cluster: &ClusterName) {
        let Some(plan) = app.plan.clusters.get(cluster) else { return };
        let ledger = app.ledgers.get(cluster);
        self.compare(now.wall, ledger);
        self.diverged = match plan.phase {
            Phase::Converged => None,
            // A rollout that began before this process is the earliest that is known of.
            Phase::Progressing | Phase::Degraded => {
                let begun = ledger.and_then(|l| l.rollout.as_ref()).map(|rollout| rollout.begun);
                let since = self.diverged.unwrap_or(now.wall);
                Some(begun.map_or(since, |begun| since.min(begun)))
            }
        };
        self.nodes.retain(|node, _| app.plan.nodes.contains_key(node));
    }

    /// Where a node is now; a step that it has left is counted.
    fn decided(&mut self, now: Mono, node: &NodeName, decision: &Decision) {
        let before = self.nodes.get(node).copied();
        let step = Step::of(decision, before.map(|(step, _)| step));
        if step == before.map(|(step, _)| step) {
            return;
        }
        if let Some((left, since)) = before {
            self.stepped(left, now.since_ms(since));
        }
        match step {
            Some(step) => drop(self.nodes.insert(node.clone(), (step, now))),
            None => drop(self.nodes.remove(node)),
        }
    }

    fn stepped(&mut self, step: Step, ms: u64) {
        if let Some(buckets) = self.steps.get_mut(&step) {
            buckets.add_ms(ms);
        }
    }

    /// What has become of the rollout that was under way at the last look.
    fn compare(&mut self, wall: Wall, ledger: Option<&ClusterLedger>) {
        let rollout = ledger.and_then(|l| l.rollout.as_ref()).map(|r| (r.id.clone(), r.begun));
        let rejected = ledger.and_then(|l| l.rejected.as_ref()).map(|r| r.rollback);
        let now = Remembered { rollout: rollout.clone(), rejected };
        let Some(Remembered { rollout: before, rejected: was_rejected }) = self.ledger.replace(now)
        else {
            return; // the first look: what came before is not known
        };
        match (was_rejected, rejected) {
            (None | Some(false), Some(true)) => self.ended(Outcome::RolledBack),
            (None | Some(true), Some(false)) => self.ended(Outcome::Held),
            (Some(true), Some(true)) | (Some(false), Some(false)) | (None | Some(_), None) => {}
        }
        let Some((id, begun)) = before else { return };
        if rollout.is_some_and(|(now, _)| now == id) {
            return;
        }
        let converged = ledger.and_then(|l| l.converged.as_ref());
        if converged.is_some_and(|converged| converged.rollout == id) {
            self.ended(Outcome::Completed);
            self.took.add_ms(wall.0.saturating_sub(begun.0));
        } else if was_rejected.is_none() {
            self.ended(Outcome::Superseded);
        }
    }

    fn ended(&mut self, outcome: Outcome) {
        *self.rollouts.entry(outcome).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Convergence, Rejection, Revision, Rollout};

    fn revision(text: &str) -> Revision {
        Revision::new(text).expect("a revision")
    }

    fn id(text: &str) -> RolloutId {
        let (app, cluster) = (AppName::new("shop"), ClusterName::new("alfa"));
        let (app, cluster) = (app.expect("a name"), cluster.expect("a name"));
        RolloutId::derive(&app, &cluster, &revision(text), "", None)
    }

    fn rolling(text: &str) -> ClusterLedger {
        let rollout = Rollout {
            id: id(text),
            revision: revision(text),
            from: BTreeMap::new(),
            begun: Wall(1_000),
            failed: BTreeMap::new(),
        };
        ClusterLedger { rollout: Some(rollout), ..ClusterLedger::default() }
    }

    fn rejected(text: &str, rollback: bool) -> ClusterLedger {
        let rejected = Rejection { revision: revision(text), retry: String::new(), rollback };
        ClusterLedger { rejected: Some(rejected), ..rolling(text) }
    }

    fn converged(text: &str) -> ClusterLedger {
        let at = Wall(61_000);
        let converged = Convergence { revision: revision(text), rollout: id(text), at };
        ClusterLedger { converged: Some(converged), ..ClusterLedger::default() }
    }

    #[track_caller]
    fn check(ledgers: &[ClusterLedger], expected: &[(Outcome, u64)]) -> ClusterTally {
        let mut tally = ClusterTally::default();
        for ledger in ledgers {
            tally.compare(Wall(61_000), Some(ledger));
        }
        let counted: Vec<_> = tally.rollouts.clone().into_iter().filter(|(_, n)| *n > 0).collect();
        assert_eq!(counted, expected);
        tally
    }

    #[test]
    fn rollouts_end_in_one_of_four_ways() {
        let none = ClusterLedger::default;
        let tally = check(&[none(), rolling("1"), converged("1")], &[(Outcome::Completed, 1)]);
        assert_eq!((tally.took.count(), tally.took.sum()), (1, 60.0));
        let tally = check(&[none(), rolling("1"), rolling("2")], &[(Outcome::Superseded, 1)]);
        assert_eq!(tally.took.count(), 0);
        check(&[none(), rolling("1"), rejected("1", false)], &[(Outcome::Held, 1)]);
        check(&[none(), rolling("1"), rejected("1", true)], &[(Outcome::RolledBack, 1)]);
    }

    #[test]
    fn an_outcome_is_counted_once() {
        let none = ClusterLedger::default;
        let held = || rejected("1", false);
        check(&[none(), rolling("1"), held(), held(), rolling("2")], &[(Outcome::Held, 1)]);
        let rollback_fails = [rolling("1"), rejected("1", true), held()];
        check(&rollback_fails, &[(Outcome::Held, 1), (Outcome::RolledBack, 1)]);
        let recovers = [rolling("1"), held(), converged("1")];
        check(&recovers, &[(Outcome::Completed, 1), (Outcome::Held, 1)]);
        // What was so at the start is nobody's news.
        check(&[held(), held()], &[]);
    }
}
