//! What the controller shows: the documents of the JSON API, which the command line reads back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::model::{
    AdminBits, AppName, AttemptOutcome, BackendName, BackendSeen, Cause, ClusterName, Commit,
    Condition, Decision, Done, Event, Expect, Health, Mono, NodeName, Now, Presence, Report,
    Revision, RevisionSeen, Rollout, RolloutId, ServerName, ServerReport, SettleState, Standing,
    Wall,
};
use crate::plan::{Phase, World};

use super::core::{App, Core, Node};

/// Everything, at one instant: the document at `/api/v1/state`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct View {
    /// When.
    pub at: Wall,
    /// The version of the controller's program.
    pub version: String,
    /// The bus is connected, and everything retained has been seen.
    pub bus_live: bool,
    /// The desired directory has been read.
    pub desired_read: bool,
    /// Its apps.
    pub apps: BTreeMap<AppName, AppView>,
    /// Every node that was ever heard and is not forgotten.
    pub nodes: BTreeMap<NodeName, NodeView>,
}

/// One app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppView {
    /// The number of the epoch in which this controller leads it; none while it does not.
    pub epoch: Option<u64>,
    /// The commit behind its desired state.
    pub commit: Option<Commit>,
    /// Its clusters.
    pub clusters: BTreeMap<ClusterName, ClusterView>,
    /// Its load balancers, per backend.
    pub balancers: BTreeMap<BackendName, BTreeMap<NodeName, BalancerView>>,
}

/// One cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ClusterView {
    /// The revision that the files declare.
    pub target: Revision,
    /// The last revision on which it has converged.
    pub converged_on: Option<Revision>,
    /// In one word.
    pub phase: Phase,
    /// The rollout that is under way; none if none is.
    pub rollout: Option<RolloutId>,
    /// When that began.
    pub begun: Option<Wall>,
    /// How far it is; none if none is under way, or the controller is older than this.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Who must be there.
    pub expected: usize,
    /// Members that are there.
    pub present: usize,
    /// Members at the target and in service.
    pub converged: usize,
    /// Those that the file expects by name, and of whom nothing was ever heard.
    #[serde(default)]
    pub unheard: BTreeSet<NodeName>,
    /// How far the files behind it can be trusted.
    pub standing: Standing,
    /// Its conditions.
    pub conditions: Vec<Condition>,
    /// What somebody should know, while it lasts.
    pub causes: BTreeMap<Cause, String>,
    /// Those of them that may end by themselves: nobody is told yet.
    #[serde(default)]
    pub young: BTreeSet<Cause>,
    /// Messages that nobody has confirmed yet.
    pub messages_pending: usize,
}

/// How far a rollout is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Nodes that it has to bring to its revision: all members but those that ran it at its begin.
    pub nodes: usize,
    /// Those of them that run it.
    pub upgraded: usize,
    /// Those of them that run it and are in service.
    pub in_service: usize,
    /// When it would end if it went on at its pace so far; none until a node runs the revision, and
    /// while nothing moves.
    pub ends: Option<Wall>,
}

impl Progress {
    /// Whatever is left takes as long as what is done has taken; to be upgraded is one half of a
    /// node's way, and to be in service the other.
    fn pace(self, begun: Wall, now: Wall) -> Option<Wall> {
        let done = (self.upgraded + self.in_service) as u64;
        let left = (2 * self.nodes) as u64 - done;
        let took = now.0.saturating_sub(begun.0);
        (done > 0).then(|| Wall(now.0.saturating_add(took.saturating_mul(left) / done)))
    }
}

/// One backend at one load balancer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BalancerView {
    /// Whether its agent is there.
    pub presence: Presence,
    /// Ready servers.
    pub ready: usize,
    /// All servers.
    pub servers: usize,
    /// The floor of ready servers.
    pub floor: usize,
    /// Servers by state, each counted once.
    #[serde(default)]
    pub states: BTreeMap<ServerState, usize>,
    /// Why it cannot be read, if so.
    pub error: Option<String>,
}

/// How a server stands at a load balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServerState {
    /// It gets traffic.
    Ready,
    /// In maintenance that is ours.
    Maintenance,
    /// In maintenance, or drained, by somebody else.
    Foreign,
    /// Nobody keeps it out, and it is not up.
    Down,
    /// Up, and not counted: without weight, or a backup.
    Uncounted,
}

impl ServerState {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Ready, Self::Maintenance, Self::Foreign, Self::Down, Self::Uncounted];

    /// The stable name, for labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Maintenance => "maintenance",
            Self::Foreign => "foreign",
            Self::Down => "down",
            Self::Uncounted => "uncounted",
        }
    }

    fn of(report: &ServerReport) -> Self {
        let seen = &report.seen;
        if seen.is_ready() {
            Self::Ready
        } else if report.owned.is_some() {
            Self::Maintenance
        } else if !seen.admin.is_clear() {
            Self::Foreign
        } else if seen.health == Health::Up {
            Self::Uncounted
        } else {
            Self::Down
        }
    }
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeView {
    /// Whether its agent is there.
    pub presence: Presence,
    /// The version of its agent's program.
    pub agent: String,
    /// What it says of itself.
    pub facts: BTreeMap<String, String>,
    /// What its agent does: `app`, `balancer`, `notify`.
    pub roles: Vec<String>,
    /// Its part in each app.
    pub apps: BTreeMap<AppName, NodeAppView>,
}

/// One node's part in one app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeAppView {
    /// The cluster that it belongs to.
    pub cluster: Option<ClusterName>,
    /// The revision that it runs; `Err` in words where that is unknown.
    pub revision: Option<RevisionSeen>,
    /// The revision that it should run now.
    pub goal: Option<Revision>,
    /// What is done about it, and why.
    pub decision: Option<Decision>,
    /// The same, in words.
    pub reason: String,
    /// Since when.
    pub since: Option<Wall>,
    /// Its server at each load balancer.
    pub servers: BTreeMap<NodeName, ServerView>,
    /// The last attempt, in words.
    pub last_attempt: Option<String>,
    /// The last lines that its command wrote, at most 4 KiB, if it has failed and wrote any.
    #[serde(default)]
    pub last_output: Option<String>,
    /// The last round of checks, in words.
    pub last_checks: Option<String>,
}

/// A node's server at a load balancer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ServerView {
    /// Its name there.
    pub server: ServerName,
    /// `ready`, `maintenance`, `drain`, `down`, ... and whose doing it is.
    pub state: String,
    /// The administrative state.
    pub admin: AdminBits,
}

/// An app's fleet as the planner sees it: the document at `/api/v1/apps/<app>/world`.
pub type WorldView = World;

/// The recent events, oldest first: the document at `/api/v1/events`.
pub type EventsView = Vec<Event>;

/// The same, numbered.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// The number of the first one: so many have happened before it, since the controller's start.
    pub first: u64,
    /// Oldest first.
    pub events: EventsView,
}

impl Core {
    /// Everything, now.
    pub fn view(&self, now: Now) -> View {
        let apps =
            self.apps.iter().map(|(n, app)| (n.clone(), self.app_view(now, n, app))).collect();
        let nodes = self
            .nodes
            .iter()
            .map(|(name, node)| (name.clone(), self.node_view(now, name, node)))
            .collect();
        View {
            at: now.wall,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            bus_live: self.is_live(),
            desired_read: self.has_read_desired(),
            apps,
            nodes,
        }
    }

    /// The recent events.
    pub fn recent(&self) -> Recent {
        Recent { first: self.events_gone, events: self.events.iter().cloned().collect() }
    }

    /// An app's fleet as the planner sees it; `None` if there is no such app, or it is not led yet.
    pub fn world_view(&self, now: Now, name: &AppName) -> Option<WorldView> {
        let app = self.apps.get(name)?;
        Some(World {
            app: name.clone(),
            epoch: app.epoch.clone()?,
            desired: app.desired.clone(),
            nodes: self.observed(now.mono),
            assigned: app.assigned(now.mono),
            ledgers: app.ledgers.clone(),
            failing: Default::default(),
            unsettled: Default::default(),
        })
    }

    fn app_view(&self, now: Now, app_name: &AppName, app: &App) -> AppView {
        let clusters = app
            .plan
            .clusters
            .iter()
            .filter_map(|(name, plan)| {
                let ledger = app.ledgers.get(name).cloned().unwrap_or_default();
                let mut conditions = plan.conditions.clone();
                conditions.push(self.undelivered(now, &ledger));
                let view = ClusterView {
                    target: plan.target.clone(),
                    converged_on: ledger.converged.as_ref().map(|c| c.revision.clone()),
                    phase: plan.phase,
                    rollout: ledger.rollout.as_ref().map(|r| r.id.clone()),
                    begun: ledger.rollout.as_ref().map(|r| r.begun),
                    progress: ledger
                        .rollout
                        .as_ref()
                        .map(|rollout| self.progress(now.wall, (app_name, app), name, rollout)),
                    expected: plan.expected,
                    present: plan.present,
                    converged: plan.converged,
                    unheard: self.unheard(&app.desired.get(name)?.settings.expect),
                    standing: app.desired.get(name)?.standing.clone(),
                    conditions,
                    causes: plan.causes.clone(),
                    young: plan
                        .causes
                        .keys()
                        .copied()
                        .filter(|cause| !app.is_ripe(now.mono, name, *cause))
                        .collect(),
                    messages_pending: ledger.messages.len(),
                };
                Some((name.clone(), view))
            })
            .collect();
        AppView {
            epoch: app.epoch.as_ref().map(|epoch| epoch.number),
            commit: app.commit.clone(),
            clusters,
            balancers: self.balancer_views(now.mono, app),
        }
    }

    fn unheard(&self, expect: &Expect) -> BTreeSet<NodeName> {
        match expect {
            Expect::Count(_) => BTreeSet::new(),
            Expect::Nodes(names) => {
                names.iter().filter(|name| !self.nodes.contains_key(*name)).cloned().collect()
            }
        }
    }

    fn progress(
        &self,
        now: Wall,
        (app_name, app): (&AppName, &App),
        name: &ClusterName,
        rollout: &Rollout,
    ) -> Progress {
        let mut progress = Progress { nodes: 0, upgraded: 0, in_service: 0, ends: None };
        let members = app.plan.nodes.iter().filter(|(_, plan)| plan.cluster.as_ref() == Some(name));
        for (node, plan) in members {
            if rollout.from.get(node) == Some(&rollout.revision) {
                continue;
            }
            let report = self.nodes.get(node).and_then(|node| node.report.as_deref());
            let runs = report.and_then(|r| r.apps.get(app_name)?.revision.known());
            let upgraded = runs == Some(&rollout.revision);
            let serves = matches!(plan.decision, Decision::Done(Done::InService { .. }));
            progress.nodes += 1;
            progress.upgraded += usize::from(upgraded);
            progress.in_service += usize::from(upgraded && serves);
        }
        let moves = app.plan.clusters.get(name).is_some_and(|c| c.phase == Phase::Progressing);
        progress.ends = progress.pace(rollout.begun, now).filter(|_| moves);
        progress
    }

    fn balancer_views(
        &self,
        now: Mono,
        app: &App,
    ) -> BTreeMap<BackendName, BTreeMap<NodeName, BalancerView>> {
        let mut views: BTreeMap<BackendName, BTreeMap<NodeName, BalancerView>> = BTreeMap::new();
        for lb in app.desired.values().filter_map(|d| d.settings.load_balancer.as_ref()) {
            for (name, node) in &self.nodes {
                let report = node.report.as_deref();
                let Some(seen) = report.and_then(|r| backend_seen(r, &lb.backend)) else {
                    continue;
                };
                let mut states: BTreeMap<ServerState, usize> = BTreeMap::new();
                let (ready, servers, error) = match seen {
                    BackendSeen::Servers(servers) => {
                        for server in servers.values() {
                            *states.entry(ServerState::of(server)).or_default() += 1;
                        }
                        let ready = servers.values().filter(|s| s.seen.is_ready()).count();
                        (ready, servers.len(), None)
                    }
                    BackendSeen::Unknown(error) => (0, 0, Some(error.clone())),
                };
                let floor = lb.min_ready.floor_of(servers);
                let presence = node.presence(now);
                let known = views.entry(lb.backend.clone()).or_default();
                let view = known.entry(name.clone()).or_insert(BalancerView {
                    presence,
                    ready,
                    servers,
                    floor,
                    states,
                    error,
                });
                view.floor = view.floor.max(floor);
            }
        }
        views
    }

    fn node_view(&self, now: Now, name: &NodeName, node: &Node) -> NodeView {
        let report = node.report.as_deref();
        let roles = report.map_or_else(Vec::new, |report| {
            [
                ("app", !report.apps.is_empty()),
                ("balancer", report.balancer.is_some()),
                ("notify", report.notify.is_some()),
            ]
            .into_iter()
            .filter(|(_, has)| *has)
            .map(|(role, _)| role.to_owned())
            .collect()
        });
        let apps = self
            .apps
            .iter()
            .filter_map(|(app, state)| {
                let view = self.node_app_view(name, report, app, state)?;
                Some((app.clone(), view))
            })
            .collect();
        NodeView {
            presence: node.presence(now.mono),
            agent: report.map(|r| r.agent.clone()).unwrap_or_default(),
            facts: report.map(|r| r.facts.clone()).unwrap_or_default(),
            roles,
            apps,
        }
    }

    fn node_app_view(
        &self,
        name: &NodeName,
        report: Option<&Report>,
        app: &AppName,
        state: &App,
    ) -> Option<NodeAppView> {
        let plan = state.plan.nodes.get(name);
        let seen = report.and_then(|r| r.apps.get(app));
        if plan.is_none() && seen.is_none() {
            return None;
        }
        let cluster = plan.and_then(|p| p.cluster.clone());
        let servers = cluster
            .as_ref()
            .and_then(|cluster| state.desired.get(cluster)?.settings.load_balancer.as_ref())
            .zip(report)
            .map(|(lb, report)| {
                let server = lb.server.render(name, &report.facts).ok();
                server.map_or_else(BTreeMap::new, |s| self.server_views(&lb.backend, &s))
            })
            .unwrap_or_default();
        Some(NodeAppView {
            cluster,
            revision: seen.map(|s| s.revision.clone()),
            goal: plan.and_then(|p| p.goal.clone()),
            decision: plan.map(|p| p.decision.clone()),
            reason: plan.map(|p| p.decision.to_string()).unwrap_or_default(),
            since: state.since.get(name).map(|(_, since)| *since),
            servers,
            last_attempt: seen.and_then(|s| s.attempt.as_ref()).map(|attempt| {
                let outcome = match &attempt.outcome {
                    AttemptOutcome::Running => "running".to_owned(),
                    AttemptOutcome::Succeeded => "succeeded".to_owned(),
                    AttemptOutcome::Failed { why, .. } => format!("failed: {why}"),
                };
                format!("{} #{} {outcome}", attempt.revision, attempt.attempt)
            }),
            last_output: seen.and_then(|s| s.attempt.as_ref()).and_then(|attempt| {
                match &attempt.outcome {
                    AttemptOutcome::Failed { tail, .. } => Some(tail.clone()),
                    AttemptOutcome::Running | AttemptOutcome::Succeeded => None,
                }
                .filter(|tail| !tail.trim().is_empty())
            }),
            last_checks: seen.and_then(|s| s.settle.as_ref()).map(|settle| {
                let state = match settle.state {
                    SettleState::Checking => "checking",
                    SettleState::Settled { .. } => "settled",
                    SettleState::TimedOut => "timed out",
                };
                let results: Vec<String> = settle
                    .results
                    .iter()
                    .map(|(check, result)| format!("{check} {} {}", result.status, result.text))
                    .collect();
                format!("{state}: {}", results.join("; "))
            }),
        })
    }

    fn server_views(
        &self,
        backend: &BackendName,
        server: &ServerName,
    ) -> BTreeMap<NodeName, ServerView> {
        let at = |(name, node): (&NodeName, &Node)| {
            let BackendSeen::Servers(servers) = backend_seen(node.report.as_deref()?, backend)?
            else {
                return None;
            };
            let report = servers.get(server)?;
            let whose = if report.owned.is_some() { "ours" } else { "not ours" };
            let admin = report.seen.admin;
            let state = if admin.is_out() {
                format!("maintenance ({whose})")
            } else if admin.is_drain() {
                format!("drain ({whose})")
            } else {
                match report.seen.health {
                    Health::Up if report.seen.is_ready() => "ready",
                    Health::Up => "up, not counted",
                    Health::Starting => "starting",
                    Health::Down => "down",
                    Health::Stopping => "stopping",
                }
                .to_owned()
            };
            Some((name.clone(), ServerView { server: server.clone(), state, admin }))
        };
        self.nodes.iter().filter_map(at).collect()
    }
}

fn backend_seen<'a>(report: &'a Report, backend: &BackendName) -> Option<&'a BackendSeen> {
    report.balancer.as_ref()?.backends.get(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_by_the_pace_so_far() {
        let at = |upgraded, in_service| {
            let progress = Progress { nodes: 5, upgraded, in_service, ends: None };
            progress.pace(Wall(1_000), Wall(61_000)).map(|end| end.0)
        };
        assert_eq!(at(0, 0), None, "nothing is known yet");
        assert_eq!(at(1, 0), Some(61_000 + 9 * 60_000));
        assert_eq!(at(5, 0), Some(61_000 + 60_000));
        assert_eq!(at(3, 2), Some(61_000 + 60_000));
        assert_eq!(at(5, 5), Some(61_000));
    }

    #[test]
    fn a_clock_that_was_set_back_is_no_trouble() {
        let progress = Progress { nodes: 1, upgraded: 1, in_service: 0, ends: None };
        assert_eq!(progress.pace(Wall(5_000), Wall(1_000)), Some(Wall(1_000)));
    }
}
