//! The nominal world: every act and check succeeds, silence and foreign maintenance persist. The
//! planner run forward over it says what `evenkeel plan` prints.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{
    AdminBits, AppName, Assignment, Attempt, AttemptFailure, AttemptOutcome, BackendSeen,
    CheckResult, CheckStatus, ClusterLedger, ClusterName, Decision, Epoch, Health, NodeName,
    NodeWork, Obeyed, Order, Owned, Presence, Report, RevisionSeen, SettleReport, SettleState,
    Stamp, Wait, Wall,
};

use super::input::{Assigned, Desire, Input, Observed, Phase, Plan};
use super::planner::plan;

/// Longer than any soak or timeout that a file may ask for, in milliseconds: in the nominal world
/// whatever only takes time has taken it.
const LONG_MS: u64 = 400 * 24 * 3600 * 1000;

/// An app's fleet in which what is asked is done at once.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct World {
    /// The app.
    pub app: AppName,
    /// In whose name assignments are made.
    pub epoch: Epoch,
    /// What the files declare.
    pub desired: BTreeMap<ClusterName, Desire>,
    /// What agents report.
    pub nodes: BTreeMap<NodeName, Observed>,
    /// What was asked of them last.
    pub assigned: BTreeMap<NodeName, Assigned>,
    /// What is remembered.
    pub ledgers: BTreeMap<ClusterName, ClusterLedger>,
    /// Nodes on which every upgrade fails.
    pub failing: BTreeSet<NodeName>,
    /// Nodes whose checks are never OK.
    pub unsettled: BTreeSet<NodeName>,
}

/// One round of planning.
#[derive(Debug, Clone)]
pub struct Step {
    /// From 1.
    pub round: usize,
    /// The plan that was made, and then carried out.
    pub plan: Plan,
}

/// How it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Every cluster has converged.
    Converged,
    /// Nothing leads on, and some cluster has not.
    Blocked,
    /// It did not end within the bound: a fault of the planner.
    Endless,
}

impl World {
    /// Plans for the present.
    pub fn plan(&self) -> Plan {
        plan(Input {
            app: &self.app,
            epoch: &self.epoch,
            desired: &self.desired,
            nodes: &self.nodes,
            assigned: &self.assigned,
            ledgers: &self.ledgers,
            wall: Wall(0),
        })
    }

    /// Plans and carries out, until nothing more is asked or `rounds_max` is reached. `each` sees
    /// every round that asked for something.
    pub fn run(&mut self, rounds_max: usize, mut each: impl FnMut(&Step)) -> Ending {
        for round in 1..=rounds_max {
            let plan = self.plan();
            let quiet = plan.assignments.is_empty() && plan.ledgers.is_empty();
            if quiet {
                let converged = plan.clusters.values().all(|c| c.phase == Phase::Converged);
                return if converged { Ending::Converged } else { Ending::Blocked };
            }
            self.apply(&plan);
            each(&Step { round, plan });
        }
        Ending::Endless
    }

    /// Carries out a plan: whoever is present does at once what is asked.
    pub fn apply(&mut self, plan: &Plan) {
        for (cluster, ledger) in &plan.ledgers {
            self.ledgers.insert(cluster.clone(), ledger.clone());
        }
        for (name, assignment) in &plan.assignments {
            let assigned = Assigned { assignment: assignment.clone(), age_ms: 0 };
            self.assigned.insert(name.clone(), assigned);
            self.obey(name);
        }
    }

    /// What is under way comes to its end, for a world that was observed in the middle of things:
    /// whoever is waited for does what was last asked of it, and what only takes time has taken it.
    pub fn catch_up(&mut self) {
        let plan = self.plan();
        let balances = |name: &NodeName| {
            self.nodes[name].report.as_ref().is_some_and(|report| report.balancer.is_some())
        };
        let balancers: Vec<NodeName> =
            self.nodes.keys().filter(|name| balances(name)).cloned().collect();
        for name in &balancers {
            self.obey(name);
        }
        for (name, node) in &plan.nodes {
            match &node.decision {
                Decision::Wait { what, .. } => {
                    self.obey(name);
                    if matches!(what, Wait::Up { .. } | Wait::Soak) {
                        self.come_up(name, node.cluster.as_ref(), &balancers);
                    }
                }
                Decision::Act(_) | Decision::Blocked(_) | Decision::Done(_) => {}
            }
        }
    }

    /// The server of `name` comes UP wherever nobody keeps it out.
    fn come_up(&mut self, name: &NodeName, cluster: Option<&ClusterName>, balancers: &[NodeName]) {
        let settings = cluster.and_then(|cluster| self.desired.get(cluster));
        let Some(lb) = settings.and_then(|d| d.settings.load_balancer.as_ref()) else { return };
        let report = self.nodes.get(name).and_then(|node| node.report.as_deref());
        let Some(Ok(server)) = report.map(|report| lb.server.render(name, &report.facts)) else {
            return;
        };
        let present = |node: &&mut Observed| node.presence == Presence::Present;
        for balancer in balancers {
            let node = self.nodes.get_mut(balancer).filter(present);
            let Some(report) = node.and_then(|node| node.report.as_mut()) else { continue };
            let Some(balancer) = &mut Arc::make_mut(report).balancer else { continue };
            let Some(BackendSeen::Servers(servers)) = balancer.backends.get_mut(&lb.backend) else {
                continue;
            };
            if let Some(server) = servers.get_mut(&server).filter(|s| s.seen.admin.is_clear()) {
                server.seen.health = Health::Up;
                server.steady_for_ms = LONG_MS;
            }
        }
    }

    /// `name` does what was last asked of it, if it is present.
    pub fn obey(&mut self, name: &NodeName) {
        let Some(assigned) = self.assigned.get(name) else { return };
        let assignment = assigned.assignment.clone();
        let (fails, unsettled) = (self.failing.contains(name), self.unsettled.contains(name));
        let Some(observed) = self.nodes.get_mut(name) else { return };
        if observed.presence != Presence::Present {
            return;
        }
        let Some(report) = &mut observed.report else { return };
        let report = Arc::make_mut(report);
        balance(report, &assignment);
        if let (Some(work), Some(_)) = (&assignment.work, report.apps.get(&self.app)) {
            upgrade(report, &self.app, work, fails);
            settle(report, &self.app, work, unsettled);
        }
        let done = Some(assignment.stamp.clone());
        let obeyed = Obeyed { assignment, done, refusal: None };
        report.assignments.insert(self.app.clone(), obeyed);
    }
}

fn balance(report: &mut Report, assignment: &Assignment) {
    let Some(balancer) = &mut report.balancer else { return };
    for (backend, work) in &assignment.balance {
        let Some(BackendSeen::Servers(servers)) = balancer.backends.get_mut(backend) else {
            continue;
        };
        for (server, order) in &work.servers {
            if let Some(server) = servers.get_mut(server) {
                obey_order(server, *order, &assignment.stamp);
            }
        }
    }
}

fn obey_order(server: &mut crate::model::ServerReport, order: Order, stamp: &Stamp) {
    let admin = server.seen.admin;
    match order {
        Order::Out => {
            let owned = Owned { asked: stamp.clone(), before: admin };
            server.owned.get_or_insert(owned);
            // `maint` erases a drain.
            let kept = admin.0 & !AdminBits::FORCED_DRAIN;
            server.seen.admin = AdminBits(kept | AdminBits::FORCED_MAINTENANCE);
            server.seen.health = Health::Down;
            server.steady_for_ms = 0;
        }
        Order::In => {
            let Some(owned) = server.owned.take() else { return };
            server.seen.admin = owned.before;
            if !server.seen.admin.is_out() {
                server.seen.health = Health::Up;
                server.steady_for_ms = LONG_MS;
            }
        }
    }
}

fn upgrade(report: &mut Report, app: &AppName, work: &NodeWork, fails: bool) {
    let Some(state) = report.apps.get_mut(app) else { return };
    let outcome = if fails {
        AttemptOutcome::Failed { why: AttemptFailure::Exit(1), tail: String::new() }
    } else {
        AttemptOutcome::Succeeded
    };
    if let Some(running) = &mut state.attempt
        && running.outcome == AttemptOutcome::Running
    {
        running.outcome = outcome.clone();
        if !fails {
            state.revision = RevisionSeen::Running(running.revision.clone());
        }
    }
    let Some(permit) = &work.permit else { return };
    let on_record = state.attempt.as_ref().is_some_and(|a| {
        a.rollout == permit.rollout
            && a.revision == permit.revision
            && a.retry == permit.retry
            && a.attempt >= permit.attempt
    });
    if on_record {
        return;
    }
    if !fails {
        state.revision = RevisionSeen::Running(permit.revision.clone());
    }
    state.attempt = Some(Attempt {
        rollout: permit.rollout.clone(),
        revision: permit.revision.clone(),
        retry: permit.retry.clone(),
        attempt: permit.attempt,
        outcome,
        started: Wall(0),
        took_ms: 0,
    });
}

fn settle(report: &mut Report, app: &AppName, work: &NodeWork, unsettled: bool) {
    let boot_started = report.boot.started;
    let (Some(key), Some(state)) = (&work.settle, report.apps.get_mut(app)) else { return };
    let attempt_failed = work.permit.is_some()
        && state.attempt.as_ref().is_none_or(|a| a.outcome != AttemptOutcome::Succeeded);
    if attempt_failed {
        return;
    }
    let (status, settled, ok_for_ms) = if unsettled {
        (CheckStatus::Critical, SettleState::TimedOut, 0)
    } else {
        (CheckStatus::Ok, SettleState::Settled { late: false }, LONG_MS)
    };
    let result =
        CheckResult { status, text: String::new(), performance: String::new(), took_ms: 0 };
    state.settle = Some(SettleReport {
        key: key.clone(),
        boot_started,
        checks: work.checks.clone(),
        state: settled,
        ok_for_ms,
        results: work.checks.iter().map(|name| (name.clone(), result.clone())).collect(),
    });
}

impl Step {
    /// The nodes that are asked for something in this round, with what.
    pub fn acts(&self) -> impl Iterator<Item = (&NodeName, &crate::model::Act)> {
        self.plan.nodes.iter().filter_map(|(name, node)| match &node.decision {
            Decision::Act(act) => Some((name, act)),
            Decision::Wait { .. } | Decision::Blocked(_) | Decision::Done(_) => None,
        })
    }
}
