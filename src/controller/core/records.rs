//! What the history is told: events, decisions and acts as values, each with what led to it.
//!
//! Principle: the core gives records out and never reads one; nothing rests on them.

use std::collections::BTreeMap;

use crate::model::{
    AppName, Assignment, BackendName, Change, ClusterLedger, ClusterName, Decision, Event,
    EventKind, NodeName, Now, Presence, Record, Revision, RevisionSeen, RolloutId, ServerName,
    Standing, What,
};
use crate::plan::{Desire, Observed, Phase, Plan, PlanEvent};

use super::apps::App;
use super::{Core, EVENTS_MAX, Effect};

/// What led to something, and what it changes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Because {
    /// In words.
    pub cause: String,
    /// What was before.
    pub before: Option<String>,
    /// What is now.
    pub after: Option<String>,
    /// The rollout that it is part of.
    pub rollout: Option<RolloutId>,
}

/// A decision that is not what it was.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Moved {
    pub node: NodeName,
    pub cluster: Option<ClusterName>,
    pub before: Option<Decision>,
    pub after: Decision,
}

impl Core {
    /// Something that has come about, for the event list, the log and the history.
    pub(super) fn tell(
        &mut self,
        now: Now,
        app: &AppName,
        cluster: Option<ClusterName>,
        node: Option<NodeName>,
        kind: EventKind,
        because: Because,
    ) -> Effect {
        let event = Event { at: now.wall, app: app.clone(), cluster, node, kind: kind.clone() };
        let (cluster, node) = (event.cluster.clone(), event.node.clone());
        self.push_event(event);
        self.record(now, app, cluster, node, What::Event(kind), because)
    }

    /// A decision that is another one from now on.
    pub(super) fn tell_decision(
        &mut self,
        now: Now,
        app: &AppName,
        moved: Moved,
        because: Because,
    ) -> Effect {
        let Moved { node, cluster, before, after } = moved;
        let kind = EventKind::Decided { decision: after.to_string() };
        let (at, cluster_too, node_too) = (now.wall, cluster.clone(), Some(node.clone()));
        self.push_event(Event { at, app: app.clone(), cluster: cluster_too, node: node_too, kind });
        let before = before.as_ref().map(named);
        let because = Because { before, after: Some(named(&after)), ..because };
        self.record(now, app, cluster, Some(node), What::Decision(after), because)
    }

    fn push_event(&mut self, event: Event) {
        if self.events.len() == EVENTS_MAX {
            self.events.pop_front();
            self.events_gone += 1;
        }
        self.events.push_back(event);
    }

    fn record(
        &self,
        now: Now,
        app: &AppName,
        cluster: Option<ClusterName>,
        node: Option<NodeName>,
        what: What,
        because: Because,
    ) -> Effect {
        let state = self.apps.get(app);
        let planned = || state?.plan.nodes.get(node.as_ref()?)?.cluster.clone();
        let cluster = cluster.or_else(planned);
        let under_way = || {
            let ledger = state?.ledgers.get(cluster.as_ref()?)?;
            ledger.rollout.as_ref().map(|rollout| rollout.id.clone())
        };
        let rollout = because.rollout.or_else(under_way);
        Effect::Log(Box::new(Record {
            at: now.wall,
            app: app.clone(),
            cluster,
            node,
            rollout,
            epoch: state.and_then(|app| app.epoch.clone()),
            commit: state.and_then(|app| app.commit.as_ref()).map(|commit| commit.id.clone()),
            what,
            cause: because.cause,
            before: because.before,
            after: because.after,
        }))
    }
}

/// `act.upgrade`, `wait.batch`, `blocked.silent`, `done.in_service`, ...
fn named(decision: &Decision) -> String {
    let (kind, reason) = decision.names();
    format!("{kind}.{reason}")
}

/// An agent is there, or not any more.
pub(super) fn of_presence(before: Presence, after: Presence) -> Because {
    Because {
        before: Some(before.to_string()),
        after: Some(after.to_string()),
        ..Because::default()
    }
}

/// What the files declare otherwise than before, and by which commit.
pub(super) fn of_desired(before: &BTreeMap<ClusterName, Desire>, app: &App) -> Because {
    let line = |name: &ClusterName, desire: &Desire| {
        let standing = match &desire.standing {
            Standing::Current => "",
            Standing::LastGood(_) => ", as last declared without a fault",
            Standing::Vanished => ", its files have gone",
        };
        format!("{name}: {}{standing}", desire.settings.revision)
    };
    let differs = |(name, desire): &(&ClusterName, &Desire)| before.get(*name) != Some(*desire);
    let changed: Vec<_> = app.desired.iter().filter(differs).collect();
    let was: Vec<String> =
        changed.iter().filter_map(|(name, _)| Some(line(name, before.get(*name)?))).collect();
    let is: Vec<String> = changed
        .iter()
        .map(|(name, desire)| {
            let line = line(name, desire);
            if was.contains(&line) { format!("{line}, with other settings") } else { line }
        })
        .collect();
    let text = |lines: Vec<String>| (!lines.is_empty()).then(|| lines.join("; "));
    Because {
        cause: app.commit.as_ref().map(ToString::to_string).unwrap_or_default(),
        before: text(was),
        after: text(is),
        rollout: None,
    }
}

/// The round of one app, while it is told.
pub(super) struct Round<'a> {
    pub name: &'a AppName,
    pub app: &'a App,
    pub plan: &'a Plan,
    pub observed: &'a BTreeMap<NodeName, Observed>,
    /// The ledgers that change.
    pub ledgers: &'a BTreeMap<ClusterName, ClusterLedger>,
    pub events: &'a [PlanEvent],
}

/// What led to what comes about in a round.
pub(super) struct RoundTold {
    /// Of each event, in its order.
    pub events: Vec<Because>,
    /// Each decision that has changed, with it.
    pub decisions: Vec<(Moved, Because)>,
}

impl Round<'_> {
    /// What led to the events and to the decisions that have changed.
    pub fn told(&self, moved: Vec<Moved>) -> RoundTold {
        let decided = |moved: Moved| {
            let because = self.of_decision(&moved);
            (moved, because)
        };
        RoundTold {
            events: self.events.iter().map(|event| self.of_event(event)).collect(),
            decisions: moved.into_iter().map(decided).collect(),
        }
    }

    fn ledger(&self, cluster: &ClusterName) -> Option<&ClusterLedger> {
        self.ledgers.get(cluster).or_else(|| self.app.ledgers.get(cluster))
    }

    /// The rollout that a cluster is in: the one under way, the one that ends with this round, or
    /// the one that is about to begin.
    fn rollout(&self, cluster: &ClusterName) -> Option<RolloutId> {
        let begun = self.ledger(cluster).and_then(|ledger| ledger.rollout.as_ref());
        let ended = self.events.iter().find_map(|event| match &event.kind {
            EventKind::Converged { rollout, .. } if event.cluster == *cluster => Some(rollout),
            _ => None,
        });
        let next = self.plan.clusters.get(cluster).filter(|plan| plan.phase == Phase::Progressing);
        let next = next.map(|plan| &plan.rollout);
        begun.map(|rollout| &rollout.id).or(ended).or(next).cloned()
    }

    /// What led to an event of this round.
    fn of_event(&self, event: &PlanEvent) -> Because {
        let cluster = &event.cluster;
        let rollout = self.rollout(cluster);
        let last = self.app.ledgers.get(cluster).and_then(|ledger| ledger.converged.as_ref());
        let last = last.map(|converged| converged.revision.to_string());
        let failed = |revision: &Revision| {
            let failed = self.ledger(cluster).and_then(|ledger| ledger.rollout.as_ref());
            let failed = failed.into_iter().flat_map(|rollout| &rollout.failed);
            let names = failed.filter(|(_, failure)| failure.revision == *revision);
            names.map(|(name, _)| name.to_string()).collect::<Vec<_>>().join(", ")
        };
        let (cause, before, after) = match &event.kind {
            EventKind::RolloutBegun { revision, .. } => {
                let commit = self.app.commit.as_ref().map(ToString::to_string).unwrap_or_default();
                (commit, last, Some(revision.to_string()))
            }
            EventKind::Converged { revision, .. } => {
                let size = self.plan.clusters.get(cluster).map_or(0, |plan| plan.converged);
                let cause = format!("{size} nodes are at {revision} and in service");
                (cause, last, Some(revision.to_string()))
            }
            EventKind::Rejected { revision, rollback } => {
                let cause = format!("failed on {}", failed(revision));
                let goal = if *rollback { last.clone() } else { None };
                (cause, Some(revision.to_string()), goal)
            }
            EventKind::NodeFailed { detail } => (detail.clone(), None, Some("failed".to_owned())),
            EventKind::NodeRecovered => {
                let cause = event.node.as_ref().map(|node| self.facts(node)).unwrap_or_default();
                (cause, Some("failed".to_owned()), None)
            }
            EventKind::Decided { .. }
            | EventKind::DesiredChanged
            | EventKind::DesiredInvalid { .. }
            | EventKind::DesiredVanished
            | EventKind::PresenceChanged { .. }
            | EventKind::MessageSent { .. }
            | EventKind::MessageDelivered { .. }
            | EventKind::MessageFailed { .. }
            | EventKind::NodeForgotten
            | EventKind::LeadershipClaimed { .. } => (String::new(), None, None),
        };
        Because { cause, before, after, rollout }
    }

    /// What a decision rests on.
    fn of_decision(&self, moved: &Moved) -> Because {
        let rollout = moved.cluster.as_ref().and_then(|cluster| self.rollout(cluster));
        Because { cause: self.facts(&moved.node), rollout, ..Because::default() }
    }

    /// What is known of a node, in few words.
    fn facts(&self, node: &NodeName) -> String {
        let seen = self.observed.get(node);
        let presence = seen.map_or(Presence::Unknown, |observed| observed.presence);
        let report = seen.and_then(|observed| observed.report.as_deref());
        let plan = self.plan.nodes.get(node);
        let cluster = plan.and_then(|plan| plan.cluster.as_ref());
        let mut facts = vec![presence.to_string()];
        match report.and_then(|report| report.apps.get(self.name)) {
            Some(app) => match &app.revision {
                RevisionSeen::Running(revision) => facts.push(format!("runs {revision}")),
                RevisionSeen::Unknown(error) => facts.push(format!("revision unknown: {error}")),
            },
            None if cluster.is_some() => facts.push("revision not reported".to_owned()),
            None => {}
        }
        if let Some(goal) = plan.and_then(|plan| plan.goal.as_ref()) {
            facts.push(format!("should run {goal}"));
        }
        facts.join(", ")
    }

    /// Every act that assignments of this round ask for, with the decision behind it.
    pub fn actions(&self, now: Now, assignments: &BTreeMap<NodeName, Assignment>) -> Vec<Record> {
        let mut owners = None;
        let mut records = Vec::new();
        for (node, assignment) in assignments {
            let before = self.app.assigned.get(node).map(|asked| &asked.assignment);
            for change in assignment.changes_since(before) {
                let owner = change.server.as_ref().and_then(|server| {
                    owners.get_or_insert_with(|| self.owners()).get(server).cloned()
                });
                let about = owner.unwrap_or_else(|| node.clone());
                records.push(self.action(now, assignment, about, change));
            }
        }
        records
    }

    fn action(&self, now: Now, assignment: &Assignment, about: NodeName, change: Change) -> Record {
        let plan = self.plan.nodes.get(&about);
        let cluster = plan.and_then(|plan| plan.cluster.clone());
        let rollout = || cluster.as_ref().and_then(|cluster| self.rollout(cluster));
        Record {
            at: now.wall,
            app: self.name.clone(),
            rollout: change.rollout.clone().or_else(rollout),
            cluster,
            node: Some(about),
            epoch: self.app.epoch.clone(),
            commit: self.app.commit.as_ref().map(|commit| commit.id.clone()),
            what: What::Action {
                asked: change.asked,
                of: assignment.node.clone(),
                generation: assignment.stamp.generation,
                server: change.server.map(|(backend, server)| format!("{backend}/{server}")),
            },
            cause: plan.map(|plan| plan.decision.to_string()).unwrap_or_default(),
            before: change.before,
            after: change.after,
        }
    }

    /// Whose server it is.
    fn owners(&self) -> BTreeMap<(BackendName, ServerName), NodeName> {
        let mut owners = BTreeMap::new();
        for (node, plan) in &self.plan.nodes {
            let desire = plan.cluster.as_ref().and_then(|name| self.app.desired.get(name));
            let Some(lb) = desire.and_then(|d| d.settings.load_balancer.as_ref()) else { continue };
            let report = self.observed.get(node).and_then(|seen| seen.report.as_deref());
            let Some(report) = report else { continue };
            if let Ok(server) = lb.server.render(node, &report.facts) {
                owners.insert((lb.backend.clone(), server), node.clone());
            }
        }
        owners
    }
}
