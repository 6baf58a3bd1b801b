//! What a history has shown until now: what whoever plans knows and has asked, and what is true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::By;
use crate::model::{
    AppName, AppReport, Assignment, Attempt, AttemptOutcome, BackendName, BackendSeen, CheckName,
    ClusterName, DesiredCluster, Expect, LoadBalancer, NodeName, Order, Permit, Report, Revision,
    RolloutId, ServerName, ServerReport, ServerSeen, Standing,
};

/// How much longer than its limit an attempt may be under way: its agent ends it, and then reports.
const GRACE_MS: u64 = 30_000;

/// A server at a load balancer.
pub(super) type Spot = (NodeName, BackendName, ServerName);

/// Attempts are counted for each of these.
pub(super) type Tried = (RolloutId, Revision, String);

/// What is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub app: AppName,
    pub now_ms: u64,
    pub desired: BTreeMap<ClusterName, (DesiredCluster, Standing)>,
    /// Clusters of which a controller without its disk has not found the files yet.
    files_lost: BTreeSet<ClusterName>,
    /// Every revision that was ever wanted of a cluster.
    pub wanted: BTreeMap<ClusterName, BTreeSet<Revision>>,
    pub heard: BTreeMap<NodeName, Arc<Report>>,
    /// Heard live, and not lost since.
    pub present: BTreeSet<NodeName>,
    pub asked: BTreeMap<NodeName, Asked>,
    /// The revision that a cluster was last seen to be at as a whole.
    pub converged: BTreeMap<ClusterName, Revision>,
    /// And the others before that, the latest last: a cluster that comes to be at a revision by chance, or by hand, while its
    /// rollout has yet to begin, or to end, still has its last one for a goal.
    pub converged_last: BTreeMap<ClusterName, Vec<Revision>>,
    /// Those that were wanted while every node was held.
    pub converged_held: BTreeMap<ClusterName, BTreeSet<Revision>>,
    /// And all before that.
    pub converged_before: BTreeMap<ClusterName, BTreeSet<Revision>>,
    /// Rollouts in which something was permitted.
    pub begun: BTreeSet<RolloutId>,
    /// Clusters in which something was asked since another revision was last wanted of them.
    pub acted_in: BTreeSet<ClusterName>,
    /// What failed on more nodes than tolerated.
    pub rejected: BTreeMap<ClusterName, (Tried, String)>,

    /// Orders to take out that were not seen to be followed yet.
    pub taking_out: BTreeSet<Spot>,
    pub servers: BTreeMap<Spot, Server>,
    pub services: BTreeMap<NodeName, Service>,
    pub upgrading: BTreeMap<NodeName, Tried>,
    pub attempts: BTreeMap<(NodeName, Tried), u32>,
    /// The cluster that each node was last tried for.
    tried_for: BTreeMap<NodeName, ClusterName>,
    /// The batch and the tries that each permit was given under: files may declare fewer since.
    given_under: BTreeMap<NodeName, (usize, u32)>,
    /// The target of a cluster when a node was last taken out for it, or permitted.
    pub aimed: BTreeMap<ClusterName, Revision>,
    /// Something has changed since it was last looked who has converged.
    pub changed: bool,
    /// Numbers facts, to tell what came first.
    clock: u64,
}

/// What was last asked of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    pub assignment: Assignment,
    pub at_ms: u64,
    /// Per order to take out: the floor, and the servers that were heard ready when it was given.
    pub basis: BTreeMap<(BackendName, ServerName), (usize, BTreeSet<ServerName>)>,
}

/// A server, in truth.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Server {
    pub seen: ServerSeen,
    pub by: By,
    /// We keep it out; with what was there before.
    pub ours: Option<crate::model::AdminBits>,
    /// A reload has lost what somebody had set: what we set since may be in their place.
    pub for_them: bool,
    /// We kept it out when last somebody did: what a state file brings back.
    pub once_ours: Option<crate::model::AdminBits>,
}

/// The service of a node, in truth.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(super) struct Service {
    pub runs: Option<Revision>,
    /// Who brought it to that.
    pub by: By,
    /// What it ran when it was last taken out.
    pub ran_before: Option<Revision>,
    /// What it ran when another revision was last wanted of its cluster.
    pub ran_then: Option<Revision>,
    /// What it ran when something was first asked in its cluster after that: where the way there began.
    pub ran_first: Option<Revision>,
    /// When it was last touched: taken out, upgraded, or its agent began anew.
    pub touched: u64,
    /// When each check was last started, and when the last that was OK was.
    checks: BTreeMap<CheckName, (u64, Option<u64>)>,
}

impl Known {
    pub(super) fn new(app: AppName) -> Self {
        Self {
            app,
            now_ms: 0,
            desired: BTreeMap::new(),
            files_lost: BTreeSet::new(),
            wanted: BTreeMap::new(),
            heard: BTreeMap::new(),
            present: BTreeSet::new(),
            asked: BTreeMap::new(),
            converged: BTreeMap::new(),
            converged_last: BTreeMap::new(),
            converged_held: BTreeMap::new(),
            converged_before: BTreeMap::new(),
            begun: BTreeSet::new(),
            acted_in: BTreeSet::new(),
            rejected: BTreeMap::new(),
            taking_out: BTreeSet::new(),
            servers: BTreeMap::new(),
            services: BTreeMap::new(),
            upgrading: BTreeMap::new(),
            attempts: BTreeMap::new(),
            tried_for: BTreeMap::new(),
            given_under: BTreeMap::new(),
            aimed: BTreeMap::new(),
            changed: false,
            clock: 0,
        }
    }

    // -- taking facts in

    pub(super) fn desire(
        &mut self,
        cluster: ClusterName,
        settings: DesiredCluster,
        standing: Standing,
    ) {
        self.note_convergence();
        self.files_lost.remove(&cluster);
        let stays = self.rejected.get(&cluster).is_some_and(|((_, revision, retry), _)| {
            *revision == settings.revision && *retry == settings.retry
        });
        if !stays {
            self.rejected.remove(&cluster);
        }
        let goal = |settings: &DesiredCluster| (settings.revision.clone(), settings.retry.clone());
        let before = self.desired.get(&cluster).map(|(settings, _)| goal(settings));
        if before.is_some_and(|before| before != goal(&settings)) {
            // To come back to what was left is to try it anew.
            self.acted_in.remove(&cluster);
            self.attempts.retain(|(node, _), _| self.tried_for.get(node) != Some(&cluster));
            for node in self.members(&cluster) {
                let service = self.services.entry(node).or_default();
                service.ran_then = service.runs.clone();
            }
        }
        let wanted = self.wanted.entry(cluster.clone()).or_default();
        wanted.insert(settings.revision.clone());
        self.desired.insert(cluster, (settings, standing));
        self.changed = true;
    }

    pub(super) fn hear(&mut self, report: Arc<Report>) {
        let node = report.node.clone();
        if let Some(known) = self.heard.get(&node) {
            let order = |report: &Report| (report.boot.started, report.sequence);
            if order(&report) < order(known) {
                return;
            }
        }
        // Agents carry what was asked of them; a controller that has lost its own memory goes by that.
        if let Some(obeyed) = report.assignments.get(&self.app) {
            let assignment = obeyed.assignment.clone();
            self.find(&assignment);
        }
        let revision = report.apps.get(&self.app).map(|state| &state.revision);
        let same = self.app_report(&node).map(|state| &state.revision) == revision;
        if !same || report.balancer.is_some() {
            self.note_convergence();
            self.changed = true;
        }
        self.heard.insert(node, report);
    }

    pub(super) fn presence(&mut self, node: NodeName, present: bool) {
        self.note_convergence();
        self.changed = true;
        if present {
            self.present.insert(node);
        } else {
            self.present.remove(&node);
        }
    }

    pub(super) fn find(&mut self, assignment: &Assignment) {
        if assignment.app != self.app {
            return;
        }
        let asked = self.asked.get(&assignment.node);
        if asked.is_none_or(|asked| asked.assignment.stamp < assignment.stamp) {
            let (assignment, at_ms) = (assignment.clone(), self.now_ms);
            let asked = Asked { assignment, at_ms, basis: BTreeMap::new() };
            self.asked.insert(asked.assignment.node.clone(), asked);
        }
    }

    /// Until they are declared again, nobody knows what clusters want.
    pub(super) fn lose_files(&mut self) {
        self.files_lost = self.desired.keys().cloned().collect();
    }

    pub(super) fn restart(&mut self) {
        self.note_convergence();
        self.present.clear();
        self.asked.clear();
        self.heard.clear();
    }

    pub(super) fn forget(&mut self, node: &NodeName) {
        self.heard.remove(node);
        self.present.remove(node);
        self.asked.remove(node);
    }

    pub(super) fn runs(&mut self, node: NodeName, revision: Option<Revision>, by: By) {
        let clock = self.tick();
        let service = self.services.entry(node).or_default();
        service.runs = revision;
        service.by = by;
        match by {
            By::Us => service.touched = clock,
            By::Hand | By::Reload | By::Itself => {}
        }
    }

    pub(super) fn check_started(&mut self, node: NodeName, check: CheckName) {
        let clock = self.tick();
        let checks = &mut self.services.entry(node).or_default().checks;
        checks.entry(check).or_insert((0, None)).0 = clock;
    }

    pub(super) fn check_ended(&mut self, node: NodeName, check: CheckName, ok: bool) {
        let checks = &mut self.services.entry(node).or_default().checks;
        let entry = checks.entry(check).or_insert((0, None));
        if ok {
            entry.1 = Some(entry.0);
        }
    }

    /// A server is asked out that was not before.
    pub(super) fn taken_out(&mut self, spot: Spot) {
        if !self.servers.get(&spot).is_some_and(|server| server.seen.admin.is_out()) {
            self.taking_out.insert(spot);
        } else if let Some(node) = self.node_of(&spot.1, &spot.2) {
            self.touch(&node);
        }
    }

    /// An attempt is permitted, while the batch is `batch`.
    pub(super) fn permits(&mut self, node: &NodeName, rollout: &RolloutId, batch: usize) {
        self.begun.insert(rollout.clone());
        let Some(cluster) = self.cluster_of(node) else { return };
        let tries = self.settings(&cluster).map_or(u32::MAX, |s| s.rollout.tries);
        self.given_under.insert(node.clone(), (batch, tries));
        self.aim(&cluster);
        self.act_in(cluster);
    }

    /// Something is begun in a cluster, for its target.
    pub(super) fn aim(&mut self, cluster: &ClusterName) {
        if let Some(settings) = self.settings(cluster) {
            self.aimed.insert(cluster.clone(), settings.revision.clone());
        }
    }

    /// An attempt begins; how many there have been of its kind, with it.
    pub(super) fn tries(&mut self, node: &NodeName, tried: &Tried) -> u32 {
        if let Some(cluster) = self.cluster_of(node) {
            self.tried_for.insert(node.clone(), cluster);
        }
        let made = self.attempts.entry((node.clone(), tried.clone())).or_default();
        *made += 1;
        *made
    }

    /// The largest batch under which something was permitted that is under way.
    pub(super) fn batch_under_way(&self) -> usize {
        let given = self.upgrading.keys().filter_map(|node| self.given_under.get(node));
        given.map(|(batch, _)| *batch).max().unwrap_or(usize::MAX)
    }

    /// How many attempts are allowed on a node: as many as when the last one was permitted, if files say fewer since.
    pub(super) fn tries_allowed(&self, node: &NodeName) -> u32 {
        let settings = self.cluster_of(node).and_then(|cluster| self.settings(&cluster));
        let then = self.given_under.get(node).map_or(0, |(_, tries)| *tries);
        settings.map_or(u32::MAX, |settings| settings.rollout.tries.max(then))
    }

    /// Whoever commands has lost all memory of what was tried and told.
    pub(super) fn forget_tries(&mut self) {
        self.attempts.clear();
    }

    /// Nobody knows any more what was tried on a node.
    pub(super) fn forget_tries_on(&mut self, node: &NodeName) {
        self.attempts.retain(|(name, _), _| name != node);
    }

    /// Something is asked in a cluster.
    pub(super) fn act_in(&mut self, cluster: ClusterName) {
        if self.acted_in.contains(&cluster) {
            return;
        }
        for node in self.members(&cluster) {
            let service = self.services.entry(node).or_default();
            service.ran_first = service.runs.clone();
        }
        self.acted_in.insert(cluster);
    }

    /// From here on a settling of the node must be new.
    pub(super) fn touch(&mut self, node: &NodeName) {
        let clock = self.tick();
        let service = self.services.entry(node.clone()).or_default();
        service.touched = clock;
        service.ran_before = service.runs.clone();
    }

    pub(super) fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    // -- what is heard

    /// The members that `cluster` alone claims.
    pub(super) fn members(&self, cluster: &ClusterName) -> Vec<NodeName> {
        let of = |name: &&NodeName| self.cluster_of(name).as_ref() == Some(cluster);
        self.heard.keys().filter(of).cloned().collect()
    }

    /// The cluster that claims a node, if it is just one.
    pub(super) fn cluster_of(&self, node: &NodeName) -> Option<ClusterName> {
        let report = self.heard.get(node)?;
        report.apps.get(&self.app)?;
        let matching = |(_, (settings, _)): &(&ClusterName, &(DesiredCluster, Standing))| {
            let listed = match &settings.expect {
                Expect::Count(_) => true,
                Expect::Nodes(names) => names.contains(node),
            };
            listed
                && settings.select.iter().all(|(key, value)| report.facts.get(key) == Some(value))
        };
        let claims: Vec<_> = self.desired.iter().filter(matching).collect();
        let standing: Vec<_> =
            claims.iter().filter(|(_, (_, how))| *how != Standing::Vanished).collect();
        match (claims.as_slice(), standing.as_slice()) {
            ([(one, _)], _) | (_, [(one, _)]) => Some((*one).clone()),
            ([], _) => {
                // Whoever began work on it finishes it, whatever its facts say since.
                let work = self.asked.get(node)?.assignment.work.as_ref()?;
                Some(work.cluster.clone())
            }
            _ => None,
        }
    }

    pub(super) fn settings(&self, cluster: &ClusterName) -> Option<&DesiredCluster> {
        self.desired.get(cluster).map(|(settings, _)| settings)
    }

    pub(super) fn balancing(&self, cluster: &ClusterName) -> Option<&LoadBalancer> {
        self.settings(cluster)?.load_balancer.as_ref()
    }

    pub(super) fn app_report(&self, node: &NodeName) -> Option<&AppReport> {
        self.heard.get(node)?.apps.get(&self.app)
    }

    pub(super) fn revision(&self, node: &NodeName) -> Option<&Revision> {
        self.app_report(node)?.revision.known()
    }

    /// A node's server, and the cluster that it serves in.
    pub(super) fn server_of(
        &self,
        node: &NodeName,
    ) -> Option<(ClusterName, BackendName, ServerName)> {
        let cluster = self.cluster_of(node)?;
        let balancing = self.balancing(&cluster)?;
        let server = balancing.server.render(node, &self.heard[node].facts).ok()?;
        Some((cluster.clone(), balancing.backend.clone(), server))
    }

    /// The node behind a server.
    pub(super) fn node_of(&self, backend: &BackendName, server: &ServerName) -> Option<NodeName> {
        let is = |node: &&NodeName| {
            self.server_of(node).is_some_and(|(_, b, s)| b == *backend && s == *server)
        };
        self.heard.keys().find(is).cloned()
    }

    /// It is in service at every load balancer, by what they report, and nothing of it is ours.
    pub(super) fn is_in_service(&self, node: &NodeName) -> bool {
        let Some((_, backend, server)) = self.server_of(node) else {
            return self.cluster_of(node).is_some_and(|c| self.balancing(&c).is_none());
        };
        let balancers = self.balancers(&backend);
        !balancers.is_empty()
            && balancers.iter().all(|lb| {
                let reported = self.reported(lb, &backend).and_then(|s| s.get(&server));
                self.present.contains(lb)
                    && reported.is_some_and(|r| r.seen.is_in_service() && r.owned.is_none())
            })
    }

    /// Expected members that are not there, nor held.
    pub(super) fn missing(&self, cluster: &ClusterName) -> usize {
        let Some(settings) = self.settings(cluster) else { return 0 };
        let members = self.members(cluster);
        let fine = |node: &NodeName| settings.hold.contains(node) || self.present.contains(node);
        match &settings.expect {
            Expect::Count(count) => {
                let there = members.iter().filter(|node| fine(node)).count();
                (*count as usize).saturating_sub(there)
            }
            Expect::Nodes(names) => {
                let there = |node: &&NodeName| {
                    settings.hold.contains(*node) || (members.contains(node) && fine(node))
                };
                names.len() - names.iter().filter(there).count()
            }
        }
    }

    /// Every load balancer that is known to have a backend, or listed for it.
    pub(super) fn balancers(&self, backend: &BackendName) -> BTreeSet<NodeName> {
        let has = |report: &Arc<Report>| {
            report.balancer.as_ref().is_some_and(|b| b.backends.contains_key(backend))
        };
        let known = self.heard.iter().filter(|(_, report)| has(report)).map(|(name, _)| name);
        let listed = self
            .desired
            .values()
            .filter_map(|(settings, _)| settings.load_balancer.as_ref())
            .filter(|balancing| balancing.backend == *backend)
            .flat_map(|balancing| match &balancing.expect {
                Expect::Nodes(names) => names.iter().collect::<Vec<_>>(),
                Expect::Count(_) => Vec::new(),
            });
        known.chain(listed).cloned().collect()
    }

    /// A backend's servers as a load balancer last reported them; none if it could not read them.
    pub(super) fn reported(
        &self,
        lb: &NodeName,
        backend: &BackendName,
    ) -> Option<&BTreeMap<ServerName, ServerReport>> {
        match self.heard.get(lb)?.balancer.as_ref()?.backends.get(backend)? {
            BackendSeen::Servers(servers) => Some(servers),
            BackendSeen::Unknown(_) => None,
        }
    }

    /// The floor of a backend with that many servers.
    pub(super) fn floor(&self, backend: &BackendName, servers: usize) -> usize {
        let known = self.desired.iter().filter(|(cluster, _)| !self.files_lost.contains(*cluster));
        let all = known.filter_map(|(_, (settings, _))| settings.load_balancer.as_ref());
        let of_backend = all.filter(|balancing| balancing.backend == *backend);
        of_backend.map(|balancing| balancing.min_ready.floor_of(servers)).max().unwrap_or(0)
    }

    // -- what was asked

    pub(super) fn order(
        &self,
        lb: &NodeName,
        backend: &BackendName,
        server: &ServerName,
    ) -> Option<Order> {
        let work = self.asked.get(lb)?.assignment.balance.get(backend)?;
        work.servers.get(server).copied()
    }

    pub(super) fn permit(&self, node: &NodeName) -> Option<&Permit> {
        permit_of(&self.asked.get(node)?.assignment)
    }

    /// Whether an attempt may be under way on a node: in truth, by its report, or because a permit that it
    /// may still obey allows one. A node that is not there is counted for as long as an attempt lasts.
    pub(super) fn may_upgrade(&self, node: &NodeName) -> bool {
        if self.upgrading.contains_key(node) {
            return true;
        }
        let attempt = self.app_report(node).and_then(|state| state.attempt.as_ref());
        let open = |permit: Option<&Permit>| permit.is_some_and(|p| !is_spent(attempt, p));
        let asked = self.asked.get(node);
        let obeyed = self.heard.get(node).and_then(|report| report.assignments.get(&self.app));
        let obeyed = obeyed.map(|obeyed| &obeyed.assignment);
        let may = attempt.is_some_and(|a| a.outcome == AttemptOutcome::Running)
            || open(self.permit(node))
            || open(obeyed.and_then(permit_of));
        let over = asked.is_some_and(|asked| {
            let work = asked.assignment.work.as_ref();
            let limit_ms = work.map_or(0, |work| work.upgrade_timeout_ms) + GRACE_MS;
            self.now_ms.saturating_sub(asked.at_ms) > limit_ms
        });
        may && (self.present.contains(node) || !over)
    }

    // -- what is true

    /// A check of `wanted` that has not been OK, started since the service was last touched. One that was, and has failed
    /// again since, may be under way to whoever decides.
    pub(super) fn unsettled(
        &self,
        node: &NodeName,
        wanted: &BTreeSet<CheckName>,
    ) -> Option<CheckName> {
        let service = self.services.get(node);
        let is_ok = |check: &&CheckName| {
            let start = service.and_then(|s| s.checks.get(*check)).and_then(|(_, ok)| *ok);
            start.is_some_and(|start| service.is_some_and(|s| start > s.touched))
        };
        wanted.iter().find(|check| !is_ok(check)).cloned()
    }

    /// Ready servers of a backend, in truth.
    pub(super) fn ready(&self, lb: &NodeName, backend: &BackendName) -> usize {
        let here = |((at, of, _), server): &(&Spot, &Server)| {
            at == lb && of == backend && server.seen.is_ready()
        };
        self.servers.iter().filter(here).count()
    }
}

pub(super) fn permit_of(assignment: &Assignment) -> Option<&Permit> {
    assignment.work.as_ref()?.permit.as_ref()
}

/// The attempt that a permit allows, or a later one, is on record and has ended.
fn is_spent(attempt: Option<&Attempt>, permit: &Permit) -> bool {
    attempt.is_some_and(|a| {
        a.rollout == permit.rollout
            && a.revision == permit.revision
            && a.retry == permit.retry
            && a.attempt >= permit.attempt
            && a.outcome != AttemptOutcome::Running
    })
}
