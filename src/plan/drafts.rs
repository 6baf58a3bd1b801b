//! The next assignments, drafted from those in force; only what differs is stamped and published.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    Assignment, ClusterName, NodeName, NodeWork, Order, Permit, Presence, Revision, RolloutId,
    SettleKey, Stamp,
};

use super::rollout::Course;
use super::view::{Fleet, Member};

/// Assignments in the making.
pub(super) struct Drafts<'f, 'a> {
    fleet: &'f Fleet<'a>,
    drafts: BTreeMap<NodeName, Assignment>,
}

impl<'f, 'a> Drafts<'f, 'a> {
    pub fn new(fleet: &'f Fleet<'a>) -> Self {
        Self { fleet, drafts: BTreeMap::new() }
    }

    /// The generation that a changed assignment of `node` will have.
    fn next_generation(&self, node: &NodeName) -> u64 {
        let input = self.fleet.input;
        let assigned = input.assigned.get(node).map(|a| a.assignment.stamp.generation);
        let obeyed = input
            .nodes
            .get(node)
            .and_then(|o| o.report.as_ref())
            .and_then(|r| r.assignments.get(input.app))
            .map(|o| o.assignment.stamp.generation);
        assigned.max(obeyed).unwrap_or(0) + 1
    }

    fn draft(&mut self, node: &NodeName) -> &mut Assignment {
        let input = self.fleet.input;
        let stamp = Stamp { epoch: input.epoch.clone(), generation: self.next_generation(node) };
        self.drafts.entry(node.clone()).or_insert_with(|| match input.assigned.get(node) {
            Some(assigned) => Assignment { stamp, ..assigned.assignment.clone() },
            None => Assignment {
                app: input.app.clone(),
                node: node.clone(),
                stamp,
                probes: BTreeSet::new(),
                work: None,
                balance: BTreeMap::new(),
            },
        })
    }

    /// Asks `node` to answer for `rollout`, in the name of this epoch.
    pub fn probe(&mut self, node: &NodeName, rollout: &RolloutId, current: &BTreeSet<RolloutId>) {
        let probes = &mut self.draft(node).probes;
        // Those of rollouts that have ended go when something changes anyway.
        probes.retain(|probe| current.contains(probe));
        probes.insert(rollout.clone());
    }

    /// The node's work, brought up to date with the files, keeping what was asked of it.
    pub fn work(
        &mut self,
        course: &Course,
        member: &Member<'_>,
        goal: Option<&Revision>,
    ) -> &mut NodeWork {
        let fresh = self.fresh_work(&course.cluster, member, goal.unwrap_or(&course.aim));
        self.draft(&member.name).work.insert(fresh)
    }

    fn fresh_work(&self, cluster: &ClusterName, member: &Member<'_>, goal: &Revision) -> NodeWork {
        let settings = &self.fleet.desire(cluster).settings;
        let drafted = self.drafts.get(&member.name).and_then(|draft| draft.work.as_ref());
        let kept = drafted.or(member.work());
        let balancers = self.fleet.balancers_of(cluster);
        NodeWork {
            cluster: cluster.clone(),
            target: goal.clone(),
            load_balancers: balancers.into_iter().map(|(name, _)| name.clone()).collect(),
            checks: settings.settle.checks.clone(),
            check_interval_ms: settings.settle.interval_ms,
            settle_timeout_ms: settings.settle.timeout_ms,
            upgrade_timeout_ms: settings.rollout.upgrade_timeout_ms,
            settle: kept.and_then(|work| work.settle.clone()),
            permit: kept.and_then(|work| work.permit.clone()),
        }
    }

    /// Allows one attempt, with the settling that follows it.
    pub fn permit(&mut self, course: &Course, member: &Member<'_>, permit: Permit) {
        let asked = self.next_generation(&member.name);
        let key = SettleKey {
            rollout: permit.rollout.clone(),
            retry: permit.retry.clone(),
            attempt: permit.attempt,
            asked,
        };
        let work = self.work(course, member, Some(&permit.revision.clone()));
        work.permit = Some(permit);
        work.settle = Some(key);
    }

    /// Takes back a permit whose attempt has not started, and changes nothing else.
    pub fn revoke(&mut self, member: &Member<'_>) {
        if member.has_unstarted_permit()
            && let Some(work) = &mut self.draft(&member.name).work
        {
            work.permit = None;
        }
    }

    /// Asks for checks.
    pub fn settle(&mut self, course: &Course, member: &Member<'_>, attempt: u32, retry: &str) {
        let key = SettleKey {
            rollout: course.id.clone(),
            retry: retry.to_owned(),
            attempt,
            asked: self.next_generation(&member.name),
        };
        let goal = course.goal(member);
        self.work(course, member, goal.as_ref()).settle = Some(key);
    }

    /// No longer asks for checks: what they have shown until now does not count any more.
    pub fn unsettle(&mut self, course: &Course, member: &Member<'_>) {
        if member.work().is_some_and(|work| work.settle.is_some()) {
            self.work(course, member, course.goal(member).as_ref()).settle = None;
        }
    }

    /// Gives an order for the member's server to every load balancer of its cluster.
    pub fn order(&mut self, cluster: &ClusterName, member: &Member<'_>, order: Order) {
        let Some(lb) = &self.fleet.desire(cluster).settings.load_balancer else { return };
        let Some(Ok(server)) = &member.server else { return };
        let names: Vec<NodeName> =
            self.fleet.balancers_of(cluster).into_iter().map(|(name, _)| name.clone()).collect();
        for name in names {
            let work = self.draft(&name).balance.entry(lb.backend.clone()).or_default();
            work.drain_ms = lb.drain_ms;
            work.servers.insert(server.clone(), order);
        }
    }

    /// What an earlier claim has left behind for a load balancer is said again if the agent does not obey it: having
    /// heard of the present claim, it never would.
    pub fn say_again(&mut self, lb: &NodeName) {
        let input = self.fleet.input;
        let (Some(assigned), Some(seen)) = (input.assigned.get(lb), input.nodes.get(lb)) else {
            return;
        };
        let old = &assigned.assignment.stamp;
        let obeyed = seen.report.as_ref().and_then(|r| r.assignments.get(input.app));
        let obeys = obeyed.is_some_and(|obeyed| obeyed.assignment.stamp == *old);
        if seen.presence == Presence::Present && old.epoch != *input.epoch && !obeys {
            self.draft(lb);
        }
    }

    /// Those that say something new.
    pub fn changed(self) -> BTreeMap<NodeName, Assignment> {
        let input = self.fleet.input;
        let differs = |draft: &Assignment| {
            input.assigned.get(&draft.node).is_none_or(|assigned| {
                let old = &assigned.assignment;
                old.stamp.epoch != draft.stamp.epoch
                    || Assignment { stamp: old.stamp.clone(), ..draft.clone() } != *old
            })
        };
        self.drafts.into_iter().filter(|(_, draft)| differs(draft)).collect()
    }
}
