//! What was asked, judged by what whoever asked had heard: invariants 2, 5, 7, 8 and 11, and, of what was asked, 3,
//! 4 and 10.
//!
//! A plan is judged as a whole, against what was asked before it: any part of it, in any order, must be
//! safe, so that nothing in it may rest on anything else in it.

use std::collections::{BTreeMap, BTreeSet};

use super::known::{Asked, Tried, permit_of};
use super::{By, Checker, Invariant};
use crate::model::{
    Assignment, AttemptOutcome, BackendName, ClusterName, Expect, NodeName, Order, Permit,
    Revision, ServerName, SettleState, Standing,
};

/// An order that a plan gives and that was not given before.
struct NewOrder<'p> {
    lb: &'p NodeName,
    backend: &'p BackendName,
    server: &'p ServerName,
    order: Order,
}

impl Checker {
    /// One plan.
    pub(super) fn planned(&mut self, given: &BTreeMap<NodeName, Assignment>) {
        self.known.note_convergence();
        // What is only said again, since the broker has lost it, is nothing new.
        let is_new = |node: &NodeName, assignment: &Assignment| {
            self.known.asked.get(node).is_none_or(|asked| asked.assignment != *assignment)
        };
        let news = given.iter().filter(|(node, assignment)| is_new(node, assignment));
        let given: BTreeMap<NodeName, Assignment> =
            news.map(|(node, assignment)| (node.clone(), assignment.clone())).collect();
        let given = &given;
        self.quiet(given);
        let orders = self.new_orders(given);
        let permits = self.new_permits(given);
        for order in &orders {
            match order.order {
                Order::Out => self.taken_out(order),
                Order::In => self.put_back(order),
            }
        }
        self.floors(&orders);
        self.reject();
        for (node, permit) in &permits {
            self.permitted(node, permit, permits.len());
        }
        self.paused_settles(given);
        self.remember(given, &orders, &permits);
    }

    fn new_orders<'p>(&self, given: &'p BTreeMap<NodeName, Assignment>) -> Vec<NewOrder<'p>> {
        let mut found = Vec::new();
        for (lb, assignment) in given {
            for (backend, work) in &assignment.balance {
                for (server, order) in &work.servers {
                    let before = self.known.order(lb, backend, server);
                    let same = before == Some(*order) || (*order == Order::In && before.is_none());
                    if !same {
                        found.push(NewOrder { lb, backend, server, order: *order });
                    }
                }
            }
        }
        found
    }

    fn new_permits<'p>(
        &self,
        given: &'p BTreeMap<NodeName, Assignment>,
    ) -> Vec<(&'p NodeName, &'p Permit)> {
        let permits = given.iter().filter_map(|(node, a)| Some((node, permit_of(a)?)));
        permits.filter(|(node, permit)| self.known.permit(node) != Some(*permit)).collect()
    }

    fn remember(
        &mut self,
        given: &BTreeMap<NodeName, Assignment>,
        orders: &[NewOrder<'_>],
        permits: &[(&NodeName, &Permit)],
    ) {
        for (node, permit) in permits {
            let batch = self.batch_for(node).unwrap_or(usize::MAX);
            self.known.permits(node, &permit.rollout, batch);
        }
        for order in orders {
            let node = self.known.node_of(order.backend, order.server);
            let Some(node) = node else { continue };
            let Some(cluster) = self.known.cluster_of(&node) else { continue };
            // A held node is taken out for its own sake.
            let held = self.known.settings(&cluster).is_some_and(|s| s.hold.contains(&node));
            if order.order == Order::Out && !held {
                self.known.aim(&cluster);
            }
            self.known.act_in(cluster);
        }
        for (node, assignment) in given {
            let mut basis =
                self.known.asked.remove(node).map(|asked| asked.basis).unwrap_or_default();
            for order in orders.iter().filter(|order| order.lb == node) {
                let place = (order.backend.clone(), order.server.clone());
                match order.order {
                    Order::In => drop(basis.remove(&place)),
                    Order::Out => {
                        let servers = self.known.reported(node, order.backend);
                        let floor =
                            self.known.floor(order.backend, servers.map_or(0, BTreeMap::len));
                        let ready =
                            servers.into_iter().flatten().filter(|(_, s)| s.seen.is_ready());
                        let ready: BTreeSet<ServerName> = ready.map(|(n, _)| n.clone()).collect();
                        let (backend, server) = place.clone();
                        // What is not ready anyway can always be taken out.
                        if ready.contains(&server) {
                            basis.insert(place, (floor, ready));
                        }
                        self.known.taken_out((node.clone(), backend, server));
                    }
                }
            }
            let at_ms = self.known.now_ms;
            let asked = Asked { assignment: assignment.clone(), at_ms, basis };
            self.known.asked.insert(node.clone(), asked);
        }
    }

    // -- 7

    /// Nothing is asked where everything is as it should be, and nothing is left of how it came to be.
    fn quiet(&mut self, given: &BTreeMap<NodeName, Assignment>) {
        let Some((node, assignment)) = given.iter().next() else { return };
        let clusters: Vec<ClusterName> = self.known.desired.keys().cloned().collect();
        let at_rest = clusters.iter().all(|cluster| self.is_at_rest(cluster))
            && self.known.asked.values().all(|asked| is_rest(&asked.assignment))
            && self.known.heard.keys().all(|node| {
                self.known.app_report(node).is_none() || self.known.cluster_of(node).is_some()
            });
        if at_rest {
            let happened = format!("assignment {} was given", assignment.stamp);
            let forbidden_by = "every node was at its target and in service";
            self.breach(Invariant::QuietAtGoal, node, happened, forbidden_by);
        }
    }

    fn is_at_rest(&self, cluster: &ClusterName) -> bool {
        let Some(settings) = self.known.settings(cluster) else { return false };
        let members = self.known.members(cluster);
        let expected = match &settings.expect {
            Expect::Count(count) => *count as usize,
            Expect::Nodes(names) => names.len(),
        };
        members.len() >= expected
            && settings.hold.is_empty()
            && members.iter().all(|node| {
                self.known.present.contains(node)
                    && self.known.revision(node) == Some(&settings.revision)
                    && self.known.is_in_service(node)
            })
    }

    // -- 5, 8, and what is asked of load balancers

    fn taken_out(&mut self, order: &NewOrder<'_>) {
        let happened = format!("{} was asked out at {}", order.server, order.lb);
        let Some(node) = self.known.node_of(order.backend, order.server) else {
            let forbidden_by = "it is no node's";
            return self.breach(Invariant::SilenceBlocks, order.lb, happened, forbidden_by);
        };
        if !self.known.present.contains(&node) {
            let forbidden_by = "the node is not heard";
            self.breach(Invariant::SilenceBlocks, &node, &happened, forbidden_by);
        }
        let Some(cluster) = self.known.cluster_of(&node) else { return };
        self.untouched(&node, &cluster, &happened, true);
        self.heard_all(&node, &cluster, &happened);
    }

    fn put_back(&mut self, order: &NewOrder<'_>) {
        let happened = format!("{} was asked back in at {}", order.server, order.lb);
        let Some(node) = self.known.node_of(order.backend, order.server) else {
            let forbidden_by = "it is no node's";
            return self.breach(Invariant::PutBackOnlySettled, order.lb, happened, forbidden_by);
        };
        let Some(cluster) = self.known.cluster_of(&node) else { return };
        self.untouched(&node, &cluster, &happened, false);
        for forbidden_by in self.unfit(&node, &cluster) {
            self.breach(Invariant::PutBackOnlySettled, &node, &happened, forbidden_by);
        }
    }

    /// What speaks against putting a node back.
    fn unfit(&self, node: &NodeName, cluster: &ClusterName) -> Vec<String> {
        let known = &self.known;
        let mut found = Vec::new();
        if !known.present.contains(node) {
            found.push("the node is not heard".to_owned());
        }
        if known.may_upgrade(node) {
            found.push("an attempt may be under way on it".to_owned());
        }
        let (Some(settings), Some(state)) = (known.settings(cluster), known.app_report(node))
        else {
            return found;
        };
        let service = known.services.get(node).cloned().unwrap_or_default();
        let reported = state.revision.known();
        let goals: BTreeSet<&Revision> = [
            Some(&settings.revision),
            known.converged.get(cluster),
            known.aimed.get(cluster),
            service.ran_before.as_ref(),
            service.ran_then.as_ref(),
            service.ran_first.as_ref(),
        ]
        .into_iter()
        .flatten()
        .chain(known.converged_last.get(cluster).into_iter().flatten())
        .chain(known.converged_held.get(cluster).into_iter().flatten())
        .collect();
        match reported {
            None => found.push("its revision is not known".to_owned()),
            Some(revision) if !goals.contains(revision) => {
                let goals: Vec<&str> = goals.iter().map(|goal| goal.as_str()).collect();
                let goals = goals.join(", ");
                found.push(format!("it runs {revision}, and its goals are {goals}"));
            }
            Some(_) => {}
        }
        // What we have brought it to ourselves is no news to anybody.
        if let Some(truth) = service.runs.as_ref().filter(|_| service.by == By::Us)
            && Some(truth) != reported
        {
            found.push(format!("it runs {truth}, which we brought it to"));
        }
        let wanted = &settings.settle.checks;
        let key = known.asked.get(node).and_then(|a| a.assignment.work.as_ref()?.settle.as_ref());
        let boot = known.heard[node].boot.started;
        match &state.settle {
            None => found.push("no settling is reported".to_owned()),
            Some(settle) => {
                if Some(&settle.key) != key || settle.boot_started != boot {
                    found.push("the settling that is reported is not the one asked for".to_owned());
                }
                if settle.checks != *wanted || !matches!(settle.state, SettleState::Settled { .. })
                {
                    found.push(format!("it is not settled: {:?}", settle.state));
                }
            }
        }
        if let Some(check) = known.unsettled(node, wanted) {
            found.push(format!("{check} has not been OK since it was last touched"));
        }
        found
    }

    /// The cluster may be touched at all.
    fn untouched(&mut self, node: &NodeName, cluster: &ClusterName, happened: &str, begins: bool) {
        let forbidden_by = match self.known.desired.get(cluster) {
            None => Some("its cluster was never readable"),
            Some((settings, _)) if settings.paused => Some("its cluster is paused"),
            Some((_, Standing::Vanished)) if begins => Some("its cluster's file has gone"),
            Some((_, Standing::Current | Standing::LastGood(_) | Standing::Vanished)) => None,
        };
        if let Some(forbidden_by) = forbidden_by {
            self.breach(Invariant::UntouchedWherePaused, node, happened, forbidden_by);
        }
    }

    /// Nobody who is expected is silent, and every load balancer's observation is of after the last change.
    fn heard_all(&mut self, node: &NodeName, cluster: &ClusterName, happened: &str) {
        let Some(settings) = self.known.settings(cluster) else { return };
        let mut found = Vec::new();
        let missing = self.known.missing(cluster);
        let tolerated = settings.rollout.max_missing as usize;
        if missing > tolerated {
            found.push(format!("{missing} expected nodes are silent, and {tolerated} may be"));
        }
        if let Some(balancing) = &settings.load_balancer {
            let balancers = self.known.balancers(&balancing.backend);
            let expected = match &balancing.expect {
                Expect::Count(count) => *count as usize,
                Expect::Nodes(names) => names.len(),
            };
            if balancers.len() < expected.max(1) {
                found.push(format!("{} of {expected} load balancers are known", balancers.len()));
            }
            for lb in &balancers {
                if !self.known.present.contains(lb) {
                    found.push(format!("load balancer {lb} is silent"));
                } else if self.known.reported(lb, &balancing.backend).is_none() {
                    found.push(format!("load balancer {lb} cannot read its backend"));
                } else if !self.has_done(lb) {
                    found.push(format!("{lb} has not yet done what it was asked before"));
                }
            }
        }
        for forbidden_by in found {
            self.breach(Invariant::SilenceBlocks, node, happened, forbidden_by);
        }
    }

    pub(super) fn has_done(&self, lb: &NodeName) -> bool {
        let Some(asked) = self.known.asked.get(lb) else { return true };
        let obeyed = self.known.heard.get(lb).and_then(|r| r.assignments.get(&self.known.app));
        obeyed.is_some_and(|obeyed| {
            obeyed.assignment.stamp == asked.assignment.stamp
                && obeyed.done.as_ref() == Some(&asked.assignment.stamp)
        })
    }

    // -- 4

    /// With everything that the plan takes out, and nothing that it puts back, the floor is kept.
    fn floors(&mut self, orders: &[NewOrder<'_>]) {
        let places: BTreeSet<(&NodeName, &BackendName)> =
            orders.iter().map(|order| (order.lb, order.backend)).collect();
        for (lb, backend) in places {
            let Some(servers) = self.known.reported(lb, backend) else { continue };
            let taken: Vec<&NewOrder<'_>> = orders
                .iter()
                .filter(|o| o.order == Order::Out && o.lb == lb && o.backend == backend)
                .filter(|o| servers.get(o.server).is_some_and(|s| s.seen.is_ready()))
                .collect();
            let Some(first) = taken.first() else { continue };
            let left = servers.iter().filter(|(name, server)| {
                server.seen.is_ready()
                    && self.known.order(lb, backend, name) != Some(Order::Out)
                    && taken.iter().all(|order| order.server != *name)
            });
            let (left, floor) = (left.count(), self.known.floor(backend, servers.len()));
            if left < floor {
                let node = self.known.node_of(backend, first.server).unwrap_or_else(|| lb.clone());
                let happened = format!("{} servers were asked out at {lb}", taken.len());
                let forbidden_by = format!("{left} would be left ready, and the floor is {floor}");
                self.breach(Invariant::FloorKept, &node, happened, forbidden_by);
            }
        }
    }

    // -- 3, 10, 11

    /// Books what has failed on more nodes than tolerated, by what is heard.
    fn reject(&mut self) {
        let mut found: BTreeMap<ClusterName, (Tried, Vec<NodeName>)> = BTreeMap::new();
        for node in &self.known.present {
            let Some(cluster) = self.known.cluster_of(node) else { continue };
            let Some(settings) = self.known.settings(&cluster) else { continue };
            let Some(state) = self.known.app_report(node) else { continue };
            let Some(attempt) = &state.attempt else { continue };
            let failed = matches!(attempt.outcome, AttemptOutcome::Failed { .. })
                && attempt.attempt >= settings.rollout.tries
                && attempt.revision == settings.revision
                && attempt.retry == settings.retry
                && state.revision.known() != Some(&settings.revision);
            if failed && self.known.begun.contains(&attempt.rollout) {
                let tried =
                    (attempt.rollout.clone(), attempt.revision.clone(), attempt.retry.clone());
                let entry = found.entry(cluster).or_insert((tried.clone(), Vec::new()));
                if entry.0 == tried {
                    entry.1.push(node.clone());
                }
            }
        }
        for (cluster, (tried, nodes)) in found {
            let tolerated = self.known.desired[&cluster].0.rollout.max_failed as usize;
            if nodes.len() > tolerated {
                let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
                let why = format!("it had failed on {}", names.join(", "));
                self.known.rejected.entry(cluster).or_insert((tried, why));
            }
        }
    }

    fn permitted(&mut self, node: &NodeName, permit: &Permit, permits: usize) {
        let happened = format!("attempt {} at {} was permitted", permit.attempt, permit.revision);
        let Some(cluster) = self.known.cluster_of(node) else {
            let forbidden_by = "no cluster claims it";
            return self.breach(Invariant::UntouchedWherePaused, node, happened, forbidden_by);
        };
        if !self.known.present.contains(node) {
            self.breach(Invariant::SilenceBlocks, node, &happened, "the node is not heard");
        }
        self.untouched(node, &cluster, &happened, false);
        self.heard_all(node, &cluster, &happened);
        self.within_batch(node, &cluster, &happened, permits);
        self.within_tries(node, &cluster, permit, &happened);
        self.after(node, &cluster, permit, &happened);
    }

    fn within_batch(
        &mut self,
        node: &NodeName,
        cluster: &ClusterName,
        happened: &str,
        permits: usize,
    ) {
        let Some(settings) = self.known.settings(cluster) else { return };
        let Some(batch) = self.batch_for(node) else { return };
        let may = self.known.heard.keys().filter(|n| self.known.may_upgrade(n)).count();
        // Clusters may differ in their batch: the last one is judged by its own, with all before it.
        let all_agree = self.known.desired.values().all(|(s, _)| s.rollout == settings.rollout);
        let together = if all_agree { may + permits } else { may + 1 };
        if together > batch {
            let forbidden_by = format!("{may} may be upgrading, and the batch is {batch}");
            self.breach(Invariant::BatchKept, node, happened, forbidden_by);
        }
    }

    /// The batch that the files declare where `node` is.
    fn batch_for(&self, node: &NodeName) -> Option<usize> {
        let settings = self.known.settings(&self.known.cluster_of(node)?)?;
        let members = self.known.present.iter().filter(|n| self.known.app_report(n).is_some());
        Some(settings.rollout.batch.batch_of(members.count()))
    }

    fn within_tries(
        &mut self,
        node: &NodeName,
        cluster: &ClusterName,
        permit: &Permit,
        happened: &str,
    ) {
        let Some(settings) = self.known.settings(cluster) else { return };
        let mut found = Vec::new();
        let tries = settings.rollout.tries;
        if permit.attempt > tries {
            found.push(format!("{tries} attempts are allowed"));
        }
        if settings.hold.contains(node) {
            found.push("it is held".to_owned());
        }
        if let Some(((rollout, revision, retry), why)) = self.known.rejected.get(cluster)
            && (rollout, revision, retry) == (&permit.rollout, &permit.revision, &permit.retry)
        {
            found.push(why.clone());
        }
        for forbidden_by in found {
            self.breach(Invariant::TriesBounded, node, happened, forbidden_by);
        }
    }

    fn after(&mut self, node: &NodeName, cluster: &ClusterName, permit: &Permit, happened: &str) {
        let Some(settings) = self.known.settings(cluster) else { return };
        // A revision that a cluster has been at before is none that has yet to be proven.
        let was_at = |cluster: &ClusterName| {
            let known = &self.known;
            known.converged.get(cluster) == Some(&permit.revision)
                || known.converged_before.get(cluster).is_some_and(|r| r.contains(&permit.revision))
        };
        let changes = permit.revision == settings.revision && !was_at(cluster);
        if !changes || self.known.begun.contains(&permit.rollout) {
            return;
        }
        if let Some(other) = settings.after.iter().find(|other| !was_at(other)) {
            let forbidden_by = format!("{other} has not converged on it");
            self.breach(Invariant::AfterGatesStart, node, happened, forbidden_by);
        }
    }

    /// Nothing new is asked of the nodes of a paused cluster, but that a permit is withdrawn.
    fn paused_settles(&mut self, given: &BTreeMap<NodeName, Assignment>) {
        for (node, assignment) in given {
            let Some(work) = &assignment.work else { continue };
            let old = self.known.asked.get(node).and_then(|asked| asked.assignment.work.as_ref());
            if work.settle.is_some() && old.and_then(|w| w.settle.as_ref()) != work.settle.as_ref()
            {
                let cluster = work.cluster.clone();
                self.untouched(node, &cluster, "it was asked to settle", false);
            }
        }
    }
}

/// Nothing of it is left to be done or undone.
fn is_rest(assignment: &Assignment) -> bool {
    let node = assignment.work.as_ref().is_none_or(|w| w.permit.is_none() && w.settle.is_none());
    let mut orders = assignment.balance.values().flat_map(|work| work.servers.values());
    node && orders.all(|order| *order == Order::In)
}
