//! The facts of one app, joined from reports and assignments: who belongs where, and how each
//! node's servers stand at each load balancer. It judges nothing.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{
    AppReport, Assignment, Attempt, AttemptOutcome, BackendName, BackendSeen, ClusterName, Expect,
    NodeName, NodeWork, Order, Permit, Presence, Report, Revision, ServerName, ServerReport,
    Standing,
};

use super::input::{Assigned, Desire, Input, Observed};

/// One app's fleet at one instant.
pub(super) struct Fleet<'a> {
    pub input: Input<'a>,
    /// Every node with the app's role, or with an assignment for it as such.
    pub members: BTreeMap<NodeName, Member<'a>>,
    /// Per cluster, the names of the members that only it claims.
    pub clusters: BTreeMap<ClusterName, BTreeSet<NodeName>>,
    /// Per backend, every load balancer that is known or expected to have it.
    pub balancers: BTreeMap<BackendName, BTreeMap<NodeName, Balancer<'a>>>,
}

/// A node with the app's role.
pub(super) struct Member<'a> {
    pub name: NodeName,
    /// The clusters whose selection it matches; more than one is one too many.
    pub claims: Vec<ClusterName>,
    pub observed: &'a Observed,
    pub report: &'a Report,
    pub app: &'a AppReport,
    pub assigned: Option<&'a Assigned>,
    /// The name of its server in HAProxy; `None` where nothing balances it.
    pub server: Option<Result<ServerName, String>>,
}

/// A load balancer of a backend.
pub(super) struct Balancer<'a> {
    pub presence: Presence,
    pub report: Option<&'a Report>,
    pub report_age_ms: u64,
    /// Its servers, if it could read them.
    pub servers: Result<&'a BTreeMap<ServerName, ServerReport>, String>,
    pub assigned: Option<&'a Assigned>,
    pub state_file: bool,
}

impl<'a> Fleet<'a> {
    pub fn new(input: Input<'a>) -> Self {
        let balancers = balancers(input);
        let mut members = BTreeMap::new();
        for (name, observed) in input.nodes {
            let Some(report) = observed.report.as_deref() else { continue };
            let Some(app) = report.apps.get(input.app) else { continue };
            let assigned = input.assigned.get(name);
            let mut claims: Vec<ClusterName> = input
                .desired
                .iter()
                .filter(|(_, desire)| claims(desire, name, report))
                .map(|(cluster, _)| cluster.clone())
                .collect();
            if claims.len() > 1 {
                // A cluster whose file has gone gives way: else one under a new name, with the
                // nodes of the old, could never begin.
                let stands =
                    |cluster: &ClusterName| input.desired[cluster].standing != Standing::Vanished;
                let standing: Vec<ClusterName> =
                    claims.iter().filter(|cluster| stands(cluster)).cloned().collect();
                if !standing.is_empty() {
                    claims = standing;
                }
            }
            if claims.is_empty()
                && let Some(work) = assigned.and_then(|a| a.assignment.work.as_ref())
                && (work.permit.is_some() || work.settle.is_some())
                && input.desired.contains_key(&work.cluster)
            {
                // Its facts have changed in mid-work: whoever began it finishes it.
                claims.push(work.cluster.clone());
            }
            let server = match claims.as_slice() {
                [cluster] => input.desired[cluster]
                    .settings
                    .load_balancer
                    .as_ref()
                    .map(|lb| lb.server.render(name, &report.facts)),
                _ => None,
            };
            members.insert(
                name.clone(),
                Member { name: name.clone(), claims, observed, report, app, assigned, server },
            );
        }
        refuse_shared_servers(input.desired, &mut members);
        let mut clusters: BTreeMap<ClusterName, BTreeSet<NodeName>> =
            input.desired.keys().map(|cluster| (cluster.clone(), BTreeSet::new())).collect();
        for member in members.values() {
            if let [cluster] = member.claims.as_slice()
                && let Some(names) = clusters.get_mut(cluster)
            {
                names.insert(member.name.clone());
            }
        }
        Self { input, members, clusters, balancers }
    }

    pub fn desire(&self, cluster: &ClusterName) -> &'a Desire {
        &self.input.desired[cluster]
    }

    /// The load balancers that a cluster's nodes are behind; empty where nothing balances it.
    pub fn balancers_of(&self, cluster: &ClusterName) -> Vec<(&NodeName, &Balancer<'a>)> {
        let Some(lb) = &self.desire(cluster).settings.load_balancer else { return Vec::new() };
        self.balancers.get(&lb.backend).into_iter().flatten().collect()
    }

    /// The backend of a cluster.
    pub fn backend_of(&self, cluster: &ClusterName) -> Option<&'a BackendName> {
        self.desire(cluster).settings.load_balancer.as_ref().map(|lb| &lb.backend)
    }

    /// Servers that the load balancers of `cluster` keep out for us and that are no node's any
    /// more: the backend or the server's name was changed, or the node forgotten, while it was out.
    pub fn stranded(
        &self,
        cluster: &ClusterName,
    ) -> Vec<(&NodeName, &'a BackendName, &'a ServerName)> {
        let belongs = |backend: &BackendName, server: &ServerName| {
            self.members.values().any(|member| {
                let [of] = member.claims.as_slice() else { return true };
                self.backend_of(of) == Some(backend)
                    && !matches!(&member.server, Some(Ok(name)) if name != server)
            })
        };
        let mut found = Vec::new();
        for (lb, balancer) in self.balancers_of(cluster) {
            let Some(assigned) = balancer.assigned else { continue };
            for (backend, work) in &assigned.assignment.balance {
                for (server, order) in &work.servers {
                    if *order == Order::Out && !belongs(backend, server) {
                        found.push((lb, backend, server));
                    }
                }
            }
        }
        found
    }

    /// Members of the app that are present; what a batch in percent is of.
    pub fn present_members(&self) -> usize {
        self.members.values().filter(|m| m.is_present()).count()
    }
}

fn claims(desire: &Desire, name: &NodeName, report: &Report) -> bool {
    let listed = match &desire.settings.expect {
        Expect::Count(_) => true,
        Expect::Nodes(names) => names.contains(name),
    };
    listed && desire.settings.select.iter().all(|(k, v)| report.facts.get(k) == Some(v))
}

/// Two nodes behind one server name: putting one back would put the other back, too.
fn refuse_shared_servers(
    desired: &BTreeMap<ClusterName, Desire>,
    members: &mut BTreeMap<NodeName, Member<'_>>,
) {
    let mut users: BTreeMap<(BackendName, ServerName), Vec<NodeName>> = BTreeMap::new();
    for member in members.values() {
        if let ([cluster], Some(Ok(server))) = (member.claims.as_slice(), &member.server)
            && let Some(lb) = &desired[cluster].settings.load_balancer
        {
            let key = (lb.backend.clone(), server.clone());
            users.entry(key).or_default().push(member.name.clone());
        }
    }
    for ((_, server), names) in users.into_iter().filter(|(_, names)| names.len() > 1) {
        for name in &names {
            let others: Vec<&str> =
                names.iter().filter(|n| *n != name).map(NodeName::as_str).collect();
            if let Some(member) = members.get_mut(name) {
                member.server =
                    Some(Err(format!("its server {server} is also that of {}", others.join(", "))));
            }
        }
    }
}

fn balancers<'a>(input: Input<'a>) -> BTreeMap<BackendName, BTreeMap<NodeName, Balancer<'a>>> {
    let mut all = BTreeMap::new();
    for desire in input.desired.values() {
        let Some(lb) = &desire.settings.load_balancer else { continue };
        let known = input.nodes.iter().filter(|(_, observed)| {
            observed
                .report
                .as_ref()
                .and_then(|report| report.balancer.as_ref())
                .is_some_and(|balancer| balancer.backends.contains_key(&lb.backend))
        });
        let mut names: BTreeSet<&NodeName> = known.map(|(name, _)| name).collect();
        if let Expect::Nodes(listed) = &lb.expect {
            names.extend(listed);
        }
        let of_backend: &mut BTreeMap<NodeName, Balancer<'a>> =
            all.entry(lb.backend.clone()).or_default();
        for name in names {
            of_backend
                .entry(name.clone())
                .or_insert_with(|| Balancer::new(input, name, &lb.backend));
        }
    }
    all
}

impl<'a> Balancer<'a> {
    fn new(input: Input<'a>, name: &NodeName, backend: &BackendName) -> Self {
        let observed = input.nodes.get(name);
        let report = observed.and_then(|o| o.report.as_deref());
        let balancer = report.and_then(|r| r.balancer.as_ref());
        let servers = match balancer.and_then(|b| b.backends.get(backend)) {
            Some(BackendSeen::Servers(servers)) => Ok(servers),
            Some(BackendSeen::Unknown(error)) => Err(error.clone()),
            None => Err(format!("it has no backend {backend}")),
        };
        Self {
            presence: observed.map_or(Presence::Unknown, |o| o.presence),
            report,
            report_age_ms: observed.map_or(0, |o| o.report_age_ms),
            servers,
            assigned: input.assigned.get(name),
            state_file: balancer.is_some_and(|b| b.state_file),
        }
    }

    pub fn is_present(&self) -> bool {
        self.presence == Presence::Present
    }

    /// What was last asked of it for `server`.
    pub fn order(&self, backend: &BackendName, server: &ServerName) -> Option<Order> {
        let work = self.assigned?.assignment.balance.get(backend)?;
        work.servers.get(server).copied()
    }

    /// It has seen the last assignment.
    pub fn has_seen(&self, input: Input<'_>) -> bool {
        has_seen(input, self.assigned, self.report)
    }

    /// It has carried out, and read back, the last assignment: its observation is of after that.
    pub fn has_done(&self, input: Input<'_>) -> bool {
        let Some(assigned) = self.assigned else { return true };
        let obeyed = self.report.and_then(|r| r.assignments.get(input.app));
        obeyed.is_some_and(|o| {
            o.assignment.stamp == assigned.assignment.stamp
                && o.done.as_ref() == Some(&assigned.assignment.stamp)
        })
    }

    /// What it last said against an assignment.
    pub fn refusal(&self, input: Input<'_>) -> Option<String> {
        refusal(input, self.report)
    }
}

/// The agent has echoed exactly the assignment that is in force, and that one is of this epoch.
fn has_seen(input: Input<'_>, assigned: Option<&Assigned>, report: Option<&Report>) -> bool {
    let Some(assigned) = assigned else { return false };
    let seen = report.and_then(|r| r.assignments.get(input.app)).map(|o| &o.assignment.stamp);
    assigned.assignment.stamp.epoch == *input.epoch && seen == Some(&assigned.assignment.stamp)
}

fn refusal(input: Input<'_>, report: Option<&Report>) -> Option<String> {
    let report = report?;
    let refusal = match report.assignments.get(input.app) {
        Some(obeyed) => obeyed.refusal.as_ref(),
        None => report.refusals.get(input.app),
    };
    refusal.map(|refusal| refusal.reason.to_string())
}

impl<'a> Member<'a> {
    pub fn is_present(&self) -> bool {
        self.observed.presence == Presence::Present
    }

    /// The revision that it runs, if that is known.
    pub fn revision(&self) -> Option<&'a Revision> {
        self.app.revision.known()
    }

    pub fn assignment(&self) -> Option<&'a Assignment> {
        self.assigned.map(|a| &a.assignment)
    }

    pub fn work(&self) -> Option<&'a NodeWork> {
        self.assignment().and_then(|a| a.work.as_ref())
    }

    /// The permit that it holds, or will when it hears of it.
    pub fn permit(&self) -> Option<&'a Permit> {
        self.work().and_then(|w| w.permit.as_ref())
    }

    pub fn has_seen(&self, input: Input<'_>) -> bool {
        has_seen(input, self.assigned, Some(self.report))
    }

    pub fn refusal(&self, input: Input<'_>) -> Option<String> {
        refusal(input, Some(self.report))
    }

    pub fn is_running(&self) -> bool {
        matches!(&self.app.attempt, Some(Attempt { outcome: AttemptOutcome::Running, .. }))
    }

    /// The attempt that its permit allowed, if it is on record.
    pub fn permitted_attempt(&self) -> Option<&'a Attempt> {
        self.attempt_of(self.permit()?)
    }

    /// May start an attempt at any moment.
    pub fn has_unstarted_permit(&self) -> bool {
        self.permit().is_some() && self.permitted_attempt().is_none()
    }

    /// Holds a place in the batch: permitted and not ended, or running.
    ///
    /// A node that is not there holds it for as long as an attempt may take; after that, nothing of
    /// its permit can be running under its agent's eyes, and the retained withdrawal meets it when
    /// it returns.
    pub fn is_upgrading(&self, input: Input<'_>) -> bool {
        if !self.is_running() && !self.holds(self.permit()) && !self.may_hold_older(input) {
            return false;
        }
        self.is_present()
            || self.assigned.zip(self.work()).is_none_or(|(assigned, work)| {
                assigned.age_ms <= work.upgrade_timeout_ms.saturating_add(OVERDUE_GRACE_MS)
            })
    }

    /// The permit allows an attempt that has not ended.
    fn holds(&self, permit: Option<&Permit>) -> bool {
        permit.is_some_and(|permit| {
            self.attempt_of(permit).is_none_or(|a| a.outcome == AttemptOutcome::Running)
        })
    }

    /// It has not echoed the assignment in force, and one before it may have had a permit.
    fn may_hold_older(&self, input: Input<'_>) -> bool {
        let Some(assigned) = self.assignment().filter(|a| a.work.is_some()) else { return false };
        let Some(obeyed) = self.report.assignments.get(input.app).map(|o| &o.assignment) else {
            // Only probes go to a node that has never echoed anything.
            return false;
        };
        if obeyed.stamp == assigned.stamp {
            return false;
        }
        // What comes from before an epoch that it has heard of since, it refuses.
        let known = self.report.epochs.get(input.app);
        let refuses = known.is_some_and(|known| known.number > assigned.stamp.epoch.number);
        let nothing_between = obeyed.stamp.generation + 1 >= assigned.stamp.generation;
        !(refuses || nothing_between)
            || self.holds(obeyed.work.as_ref().and_then(|w| w.permit.as_ref()))
    }

    fn attempt_of(&self, permit: &Permit) -> Option<&'a Attempt> {
        self.app.attempt.as_ref().filter(|a| {
            a.rollout == permit.rollout
                && a.revision == permit.revision
                && a.retry == permit.retry
                && a.attempt >= permit.attempt
        })
    }
}

/// How much longer than its limit an attempt may seem to take before it counts as overdue: the
/// agent ends it at the limit, and then still reads back and reports.
pub(super) const OVERDUE_GRACE_MS: u64 = 30_000;
