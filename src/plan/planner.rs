//! The planner: one call for one app, pure and total. It says what to do next, whatever happened.
//!
//! Every node's verdict is found as if it were alone; then the app's budgets are spent in the order
//! of work: put back, upgrade what is out, take out; clusters that have begun first, then by name.

use std::collections::BTreeSet;

use crate::model::{
    Blocked, ClusterName, Convergence, Decision, Done, EventKind, NodeName, Order, Permit, TakeOut,
    Wait,
};

use super::budget::{Batch, Floors};
use super::conditions::cluster_plan;
use super::drafts::Drafts;
use super::gate::{Gate, pending};
use super::input::{Input, NodePlan, Plan};
use super::rollout::Course;
use super::verdict::{Case, Verdict, Verdicts, Want, keeps_others_waiting};
use super::view::Fleet;

/// Says what to do next for one app.
pub fn plan(input: Input<'_>) -> Plan {
    let fleet = Fleet::new(input);
    let mut works: Vec<ClusterWork> =
        fleet.clusters.keys().map(|cluster| ClusterWork::new(&fleet, cluster)).collect();
    // Stable: by name within.
    works.sort_by_key(|work| !work.course.is_begun());
    let mut drafts = Drafts::new(&fleet);
    // Whom the floor refuses decides who is put back, and not the other way round: a floor counts what was seen.
    take_out(&fleet, &mut works, &mut drafts);
    put_back(&fleet, &mut works, &mut drafts);
    smaller_acts(&fleet, &mut works, &mut drafts);
    upgrade(&fleet, &mut works, &mut drafts);
    block_on_floors(&mut works);
    probe(&fleet, &works, &mut drafts);
    let mut plan = Plan::default();
    for work in &mut works {
        begin(&fleet, work);
        converge(&fleet, work);
    }
    say_again(&works, &mut drafts);
    for member in fleet.members.values().filter(|member| member.claims.len() > 1) {
        drafts.revoke(member);
    }
    plan.assignments = drafts.changed();
    for work in works {
        work.into_plan(&fleet, &mut plan);
    }
    others(&fleet, &mut plan);
    plan.look_again_ms = plan.nodes.values().filter_map(deadline_ms).min();
    plan
}

/// One cluster while its plan is made.
pub(super) struct ClusterWork {
    pub course: Course,
    pub gate: Gate,
    pub verdicts: Verdicts,
    /// Members whose act was granted.
    pub granted: BTreeSet<NodeName>,
    /// It has converged, with this plan or before.
    pub converged: bool,
}

impl ClusterWork {
    fn new(fleet: &Fleet<'_>, cluster: &ClusterName) -> Self {
        let mut course = Course::new(fleet, cluster);
        let gate = Gate::new(fleet, &course);
        if gate.changes.is_ok() {
            course.begin_with_failures(fleet);
        }
        let verdicts = fleet.clusters[cluster]
            .iter()
            .map(|name| {
                let member = &fleet.members[name];
                let case = Case { fleet, course: &course, gate: &gate, member };
                (name.clone(), case.verdict())
            })
            .collect();
        Self { course, gate, verdicts, granted: BTreeSet::new(), converged: false }
    }

    fn wanting(&self, wanted: impl Fn(&Want) -> bool) -> Vec<NodeName> {
        let wants = |verdict: &Verdict| verdict.want.as_ref().is_some_and(&wanted);
        self.verdicts.iter().filter(|(_, v)| wants(v)).map(|(name, _)| name.clone()).collect()
    }

    fn defer(&mut self, name: &NodeName, what: Wait) {
        if let Some(verdict) = self.verdicts.get_mut(name) {
            verdict.decision = Decision::Wait { what, until_ms: None };
            verdict.want = None;
        }
    }

    fn under_way(&self) -> usize {
        let under_way = |verdict: &&Verdict| {
            verdict.ours
                && match verdict.decision {
                    // It may be waiting for one that waits for its place.
                    Decision::Wait { what: Wait::After { .. }, .. } => false,
                    Decision::Act(_) | Decision::Wait { .. } => true,
                    Decision::Blocked(_) | Decision::Done(_) => false,
                }
        };
        self.verdicts.values().filter(under_way).count()
    }

    fn into_plan(self, fleet: &Fleet<'_>, plan: &mut Plan) {
        let cluster = self.course.cluster.clone();
        plan.clusters.insert(cluster.clone(), cluster_plan(fleet, &self));
        for (name, verdict) in self.verdicts {
            let goal = self.course.goal(&fleet.members[&name]);
            let cluster = Some(cluster.clone());
            plan.nodes.insert(name, NodePlan { cluster, goal, decision: verdict.decision });
        }
        let old = fleet.input.ledgers.get(&cluster).cloned().unwrap_or_default();
        if old != self.course.ledger {
            plan.ledgers.insert(cluster, self.course.ledger);
        }
        plan.events.extend(self.course.events);
    }
}

fn take_out(fleet: &Fleet<'_>, works: &mut [ClusterWork], drafts: &mut Drafts<'_, '_>) {
    let mut floors = Floors::new(fleet);
    let batch = Batch::new(fleet);
    let in_batches = |work: &ClusterWork| {
        fleet.desire(&work.course.cluster).settings.rollout.take_out == TakeOut::Batch
    };
    // The batch is the app's, so all its clusters that go in batches share it.
    let mut out: usize =
        works.iter().filter(|work| in_batches(work)).map(ClusterWork::under_way).sum();
    for work in works {
        let cluster = work.course.cluster.clone();
        let limit = if in_batches(work) { batch.limit(fleet, &cluster) } else { usize::MAX };
        for name in work.wanting(|want| *want == Want::TakeOut) {
            let ours = work.verdicts[&name].ours;
            if !ours && out >= limit {
                work.defer(&name, Wait::Batch { upgrading: out, batch: limit });
                continue;
            }
            let member = &fleet.members[&name];
            match floors.take(fleet, &cluster, member) {
                Err(wait) => work.defer(&name, wait),
                Ok(()) => {
                    drafts.order(&cluster, member, Order::Out);
                    drafts.unsettle(&work.course, member);
                    work.granted.insert(name);
                    out += usize::from(!ours && limit < usize::MAX);
                }
            }
        }
    }
}

fn put_back(fleet: &Fleet<'_>, works: &mut [ClusterWork], drafts: &mut Drafts<'_, '_>) {
    for work in works {
        let cluster = work.course.cluster.clone();
        let together = match fleet.desire(&cluster).settings.rollout.take_out {
            TakeOut::Cluster => true,
            TakeOut::Batch => false,
        };
        let unsettled = work.verdicts.values().filter(|v| keeps_others_waiting(v)).count();
        for name in work.wanting(|want| *want == Want::PutBack) {
            if together && unsettled > 0 {
                work.defer(&name, Wait::Others { unsettled });
            } else {
                drafts.order(&cluster, &fleet.members[&name], Order::In);
                work.granted.insert(name);
            }
        }
    }
}

/// What needs no budget: withdrawals, checks, the end of a soak; and work already asked for is
/// brought up to date with the files.
fn smaller_acts(fleet: &Fleet<'_>, works: &mut [ClusterWork], drafts: &mut Drafts<'_, '_>) {
    for work in works {
        let settings = &fleet.desire(&work.course.cluster).settings;
        for (name, verdict) in &work.verdicts {
            let member = &fleet.members[name];
            let goal = work.course.goal(member);
            let course = &work.course;
            match &verdict.want {
                Some(Want::Withdraw) => {
                    drafts.work(course, member, goal.as_ref()).permit = None;
                }
                Some(Want::Settle { attempt }) => {
                    drafts.settle(course, member, *attempt, &settings.retry);
                }
                Some(Want::Release) => drafts.unsettle(course, member),
                Some(Want::Upgrade { .. } | Want::TakeOut | Want::PutBack) => continue,
                None => {
                    let asked = member.work().is_some_and(|w| w.settle.is_some());
                    if asked && member.is_present() && !settings.paused {
                        drafts.work(course, member, goal.as_ref());
                    }
                    continue;
                }
            }
            work.granted.insert(name.clone());
        }
    }
}

fn upgrade(fleet: &Fleet<'_>, works: &mut [ClusterWork], drafts: &mut Drafts<'_, '_>) {
    let mut batch = Batch::new(fleet);
    for work in works {
        let cluster = work.course.cluster.clone();
        let retry = &fleet.desire(&cluster).settings.retry;
        for name in work.wanting(|want| matches!(want, Want::Upgrade { .. })) {
            let member = &fleet.members[&name];
            let Some(revision) = work.course.goal(member) else { continue };
            let Some(Want::Upgrade { attempt, out }) = &work.verdicts[&name].want else { continue };
            let permit = Permit {
                rollout: work.course.id.clone(),
                revision,
                retry: retry.clone(),
                attempt: *attempt,
                out: out.clone(),
            };
            match batch.take(fleet, &cluster) {
                Err(wait) => work.defer(&name, wait),
                Ok(()) => {
                    drafts.permit(&work.course, member, permit);
                    work.granted.insert(name);
                }
            }
        }
    }
}

/// A floor that nothing under way can lift is a block, not a wait.
fn block_on_floors(works: &mut [ClusterWork]) {
    let moves = |verdict: &Verdict| match &verdict.decision {
        Decision::Act(_) => true,
        Decision::Wait { what, .. } => !matches!(
            what,
            Wait::Floor { .. } | Wait::Batch { .. } | Wait::After { .. } | Wait::Others { .. }
        ),
        Decision::Blocked(_) | Decision::Done(_) => false,
    };
    if works.iter().any(|work| work.verdicts.values().any(moves)) {
        return;
    }
    for verdict in works.iter_mut().flat_map(|work| work.verdicts.values_mut()) {
        if let Decision::Wait { what: Wait::Floor { lb, backend, ready, floor }, .. } =
            &verdict.decision
        {
            verdict.decision = Decision::Blocked(Blocked::Floor {
                lb: lb.clone(),
                backend: backend.clone(),
                ready: *ready,
                floor: *floor,
            });
        }
    }
}

/// Load balancers that somebody waits for are asked again where what they were asked cannot reach them any more.
fn say_again(works: &[ClusterWork], drafts: &mut Drafts<'_, '_>) {
    for verdict in works.iter().flat_map(|work| work.verdicts.values()) {
        if let Decision::Wait { what: Wait::Balancer { lb, .. }, .. }
        | Decision::Blocked(Blocked::BalancerDisobeys { lb, .. }) = &verdict.decision
        {
            drafts.say_again(lb);
        }
    }
}

/// Where somebody's next act needs answers first, everybody concerned is asked at once.
fn probe(fleet: &Fleet<'_>, works: &[ClusterWork], drafts: &mut Drafts<'_, '_>) {
    let current: BTreeSet<_> = works.iter().map(|work| work.course.id.clone()).collect();
    for work in works {
        let wanted = work
            .verdicts
            .values()
            .any(|verdict| verdict.decision == Decision::Act(crate::model::Act::Probe));
        if !wanted {
            continue;
        }
        for name in &work.gate.to_probe {
            drafts.probe(name, &work.course.id, &current);
            if let Some(member) = fleet.members.get(name)
                && member.claims == [work.course.cluster.clone()]
            {
                let goal = work.course.goal(member);
                drafts.work(&work.course, member, goal.as_ref());
            }
        }
    }
}

/// A rollout begins with its first act after everybody concerned has answered.
fn begin(fleet: &Fleet<'_>, work: &mut ClusterWork) {
    if work.granted.is_empty() || work.gate.changes.is_err() || !work.course.may_begin() {
        return;
    }
    work.course.begin(fleet);
}

/// Converged: all expected nodes at their aim and in service, less the absent and held ones. One that has failed and
/// then gone has failed: to converge without it would be to try it anew, and to tell it anew, whenever it comes back.
fn converge(fleet: &Fleet<'_>, work: &mut ClusterWork) {
    let settings = &fleet.desire(&work.course.cluster).settings;
    let aim = work.course.aim.clone();
    let has_failed = |name: &NodeName| work.course.failure_at(&fleet.members[name], &aim).is_some();
    let fine = |(name, verdict): (&NodeName, &Verdict)| {
        settings.hold.contains(name)
            || !fleet.members[name].is_present() && !has_failed(name)
            || match &verdict.decision {
                Decision::Done(Done::InService { revision }) => *revision == aim,
                Decision::Wait { what: Wait::After { .. }, .. } => {
                    // In service at its goal, and waiting only to leave it.
                    work.course.goal(&fleet.members[name]).as_ref() == Some(&aim)
                }
                Decision::Done(Done::Held | Done::Serves | Done::Unclaimed)
                | Decision::Act(_)
                | Decision::Wait { .. }
                | Decision::Blocked(_) => false,
            }
    };
    // Held nodes are not missing, but where nobody is there at all, nothing is proven.
    let nobody = !work.verdicts.keys().any(|name| fleet.members[name].is_present());
    if nobody || work.gate.absent.is_some() || !work.verdicts.iter().all(fine) {
        return;
    }
    work.converged = aim == settings.revision;
    let ledger = &mut work.course.ledger;
    if ledger.rollout.is_none() && ledger.converged.as_ref().is_some_and(|c| c.revision == aim) {
        return;
    }
    if !work.converged && ledger.converged.is_none() && ledger.rollout.is_none() {
        return; // `after` holds back a first revision: there is nothing to have converged on
    }
    ledger.rollout = None;
    ledger.rejected = None;
    ledger.converged = Some(Convergence {
        revision: aim.clone(),
        rollout: work.course.id.clone(),
        at: fleet.input.wall,
    });
    let rollout = work.course.id.clone();
    work.course.tell(None, EventKind::Converged { rollout, revision: aim });
}

/// Nodes that belong to no cluster, or to more than one, and the load balancers.
fn others(fleet: &Fleet<'_>, plan: &mut Plan) {
    for member in fleet.members.values().filter(|member| member.claims.len() != 1) {
        let decision = if member.claims.is_empty() {
            Decision::Done(Done::Unclaimed)
        } else {
            Decision::Blocked(Blocked::ClaimedTwice { clusters: member.claims.clone() })
        };
        let node = NodePlan { cluster: None, goal: None, decision };
        plan.nodes.insert(member.name.clone(), node);
    }
    for cluster in fleet.clusters.keys() {
        for (name, balancer) in fleet.balancers_of(cluster) {
            if plan.nodes.contains_key(name) {
                continue;
            }
            let decision = match balancer.presence {
                crate::model::Presence::Departed => Decision::Blocked(Blocked::Departed),
                crate::model::Presence::Unknown => Decision::Blocked(Blocked::Silent),
                crate::model::Presence::Duplicate => Decision::Blocked(Blocked::Duplicate),
                crate::model::Presence::Present => match &balancer.servers {
                    Err(error) => Decision::Blocked(Blocked::BalancerUnread {
                        lb: name.clone(),
                        error: error.clone(),
                    }),
                    Ok(_) if !balancer.has_done(fleet.input) => pending(fleet, cluster, name),
                    Ok(_) => Decision::Done(Done::Serves),
                },
            };
            let node = NodePlan { cluster: None, goal: None, decision };
            plan.nodes.insert(name.clone(), node);
        }
    }
}

fn deadline_ms(node: &NodePlan) -> Option<u64> {
    match &node.decision {
        Decision::Wait { until_ms, .. } => *until_ms,
        Decision::Act(_) | Decision::Blocked(_) | Decision::Done(_) => None,
    }
}
