//! What somebody who looks on sees of a fleet: the state in few words, small enough to be sent again
//! and again. What changes between two of them is in `patch.rs`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::view::{
    AppView, BalancerView, ClusterView, NodeAppView, NodeView, Progress, Recent, View,
};
use crate::model::{
    Act, AppName, BackendName, Blocked, Cause, ClusterName, Commit, Condition, ConditionStatus,
    ConditionType, Decision, Done, Event, EventKind, NodeName, Presence, Revision, RevisionSeen,
    Wait, Wall,
};
use crate::plan::Phase;

/// Of the events, the last so many.
const EVENTS_MAX: usize = 60;

/// Of a text that comes from outside, so many characters; a node's document has all of it.
const TEXT_MAX: usize = 400;

/// Ends are told to so many milliseconds: what is estimated is not known any better.
const END_MS: u64 = 5_000;

/// A node's state, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NodeState {
    /// It has failed in this rollout.
    Failed,
    /// Nothing leads on from here by itself.
    Blocked,
    /// Its agent has gone, or is not heard.
    Missing,
    /// An attempt is permitted, or runs.
    Upgrading,
    /// It is being taken out of the load balancers.
    TakingOut,
    /// At its goal, and watched before it is back for good.
    Settling,
    /// It is being put back.
    PuttingBack,
    /// It waits for others.
    Waiting,
    /// Held out of service by the desired file.
    Held,
    /// At its goal, and in service.
    InService,
    /// A load balancer or a notification server.
    Serves,
    /// Nobody claims it.
    Unclaimed,
}

impl NodeState {
    /// What a decision amounts to, for a node that is there or not.
    pub fn of(presence: Presence, decision: Option<&Decision>) -> NodeState {
        match decision {
            Some(Decision::Blocked(Blocked::Failed { .. })) => Self::Failed,
            Some(Decision::Blocked(Blocked::Departed | Blocked::Silent)) => Self::Missing,
            _ if matches!(presence, Presence::Departed | Presence::Unknown) => Self::Missing,
            Some(Decision::Blocked(_)) => Self::Blocked,
            Some(Decision::Act(act)) => match act {
                Act::Probe => Self::Waiting,
                Act::TakeOut => Self::TakingOut,
                Act::Upgrade { .. } | Act::Withdraw => Self::Upgrading,
                Act::Settle | Act::Release => Self::Settling,
                Act::PutBack => Self::PuttingBack,
            },
            Some(Decision::Wait { what, .. }) => match what {
                Wait::Upgrade { .. } | Wait::Start { .. } | Wait::Withdrawal => Self::Upgrading,
                Wait::Checks { .. } | Wait::Soak | Wait::Others { .. } => Self::Settling,
                Wait::Up { .. } => Self::PuttingBack,
                Wait::Echo { .. }
                | Wait::Balancer { .. }
                | Wait::Floor { .. }
                | Wait::Batch { .. }
                | Wait::After { .. } => Self::Waiting,
            },
            Some(Decision::Done(done)) => match done {
                Done::InService { .. } => Self::InService,
                Done::Held => Self::Held,
                Done::Serves => Self::Serves,
                Done::Unclaimed => Self::Unclaimed,
            },
            None => Self::Unclaimed,
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Failed => "failed",
            Self::Blocked => "blocked",
            Self::Missing => "missing",
            Self::Upgrading => "upgrading",
            Self::TakingOut => "taking out",
            Self::Settling => "settling",
            Self::PuttingBack => "putting back",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::InService => "in service",
            Self::Serves => "serves",
            Self::Unclaimed => "unclaimed",
        }
    }

    /// A sign for it, that is told apart without colours.
    pub fn sign(self) -> &'static str {
        match self {
            Self::Failed => "✗",
            Self::Blocked => "!",
            Self::Missing => "?",
            Self::Upgrading => "↑",
            Self::TakingOut => "←",
            Self::Settling => "~",
            Self::PuttingBack => "→",
            Self::Waiting => "…",
            Self::Held => "=",
            Self::InService => "✓",
            Self::Serves => "·",
            Self::Unclaimed => "-",
        }
    }

    /// Nothing is to be seen to: what is folded first where room is scarce.
    pub fn is_quiet(self) -> bool {
        matches!(self, Self::InService | Self::Serves)
    }
}

/// The message of the condition that matters most: what is wrong before what goes on before what is well.
pub fn message(conditions: &[Condition]) -> &str {
    use ConditionStatus::{False, True, Unknown};
    let order = [
        (ConditionType::Degraded, True),
        (ConditionType::DesiredValid, False),
        (ConditionType::Converged, Unknown),
        (ConditionType::Progressing, True),
        (ConditionType::Converged, True),
        (ConditionType::Converged, False),
    ];
    let find = |(kind, status): &(ConditionType, ConditionStatus)| {
        conditions.iter().find(|c| c.kind == *kind && c.status == *status)
    };
    let found = order.iter().find_map(find);
    found.map_or("", |c| if c.message.is_empty() { &c.reason } else { &c.message })
}

/// What somebody should know beside causes, by its name.
pub fn warnings(conditions: &[Condition]) -> impl Iterator<Item = (&'static str, &str)> {
    conditions.iter().filter(|condition| condition.status == ConditionStatus::True).filter_map(
        |condition| match condition.kind {
            ConditionType::ReloadUnsafe => Some(("reload unsafe", condition.message.as_str())),
            ConditionType::Undelivered => Some(("undelivered", condition.message.as_str())),
            ConditionType::Converged
            | ConditionType::Progressing
            | ConditionType::Degraded
            | ConditionType::DesiredValid => None,
        },
    )
}

/// Everything, in short: the document of `/api/v1/stream`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Live {
    /// When.
    pub at: Wall,
    /// The version of the controller's program.
    pub version: String,
    /// The bus is connected, and everything retained has been seen.
    pub bus_live: bool,
    /// The desired directory has been read.
    pub desired_read: bool,
    /// Its apps.
    pub apps: BTreeMap<AppName, LiveApp>,
    /// Nodes without a revision: load balancers, notification servers, strays.
    pub others: BTreeMap<NodeName, LiveOther>,
    /// The recent events by their numbers, so that only new ones are sent. They are counted since the controller's start.
    pub events: BTreeMap<u64, LiveEvent>,
}

/// One app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveApp {
    /// Whether this controller leads it.
    pub leads: bool,
    /// The commit behind its desired state.
    pub commit: Option<Commit>,
    /// Its clusters.
    pub clusters: BTreeMap<ClusterName, LiveCluster>,
    /// Its load balancers, per backend.
    pub balancers: BTreeMap<BackendName, BTreeMap<NodeName, BalancerView>>,
    /// Nodes that no cluster claims, or more than one.
    pub unclaimed: BTreeMap<NodeName, LiveNode>,
}

/// One cluster.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveCluster {
    /// The revision that the files declare.
    pub target: Revision,
    /// The last revision on which it has converged.
    pub converged_on: Option<Revision>,
    /// In one word.
    pub phase: Phase,
    /// Who must be there.
    pub expected: usize,
    /// Members that are there.
    pub present: usize,
    /// Members at the target and in service.
    pub converged: usize,
    /// When the rollout that is under way began.
    pub begun: Option<Wall>,
    /// How far that is.
    pub progress: Option<Progress>,
    /// The message of the condition that matters most.
    pub message: String,
    /// What somebody should know, while it lasts.
    pub notes: BTreeMap<Cause, String>,
    /// What else somebody should know, by its name: that messages do not arrive, that a reload would be unsafe.
    #[serde(default)]
    pub warnings: BTreeMap<String, String>,
    /// Messages that nobody has confirmed yet.
    pub messages_pending: usize,
    /// Its nodes.
    pub nodes: BTreeMap<NodeName, LiveNode>,
}

/// One node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveNode {
    /// In one word, for programs.
    pub state: NodeState,
    /// The same, for people.
    pub words: String,
    /// A sign for it.
    pub sign: String,
    /// What it runs.
    pub revision: Option<Revision>,
    /// What it should run now.
    pub goal: Option<Revision>,
    /// Why it is as it is, without the time that is left of a wait: that would change with every look.
    pub reason: String,
    /// Since when.
    pub since: Option<Wall>,
}

/// A node without a revision.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveOther {
    /// Whether its agent is there.
    pub presence: Presence,
    /// What it does.
    pub roles: Vec<String>,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LiveEvent {
    /// When.
    pub at: Wall,
    /// Where.
    pub app: AppName,
    /// Where.
    pub cluster: Option<ClusterName>,
    /// To whom.
    pub node: Option<NodeName>,
    /// What, in words.
    pub what: String,
    /// Worth to be told to somebody who does not look.
    pub important: bool,
}

impl Live {
    /// Of what the controller shows.
    pub fn new(view: &View, recent: &Recent) -> Live {
        let apps = view.apps.iter().map(|(name, app)| (name.clone(), live_app(view, name, app)));
        let others = view.nodes.iter().filter(|(_, node)| node.apps.values().all(serves));
        let other =
            |node: &NodeView| LiveOther { presence: node.presence, roles: node.roles.clone() };
        let old = recent.events.len().saturating_sub(EVENTS_MAX);
        let events = (recent.first..).zip(&recent.events).skip(old);
        Live {
            at: view.at,
            version: view.version.clone(),
            bus_live: view.bus_live,
            desired_read: view.desired_read,
            apps: apps.collect(),
            others: others.map(|(name, node)| (name.clone(), other(node))).collect(),
            events: events.map(|(number, event)| (number, live_event(event))).collect(),
        }
    }

    /// As JSON, without what is null: nothing is there where nothing is known.
    ///
    /// # Errors
    /// The serializer's; there is none for what a controller shows.
    pub fn document(&self) -> Result<Value, serde_json::Error> {
        let mut document = serde_json::to_value(self)?;
        strip(&mut document);
        Ok(document)
    }
}

fn live_app(view: &View, name: &AppName, app: &AppView) -> LiveApp {
    let mut clusters: BTreeMap<ClusterName, LiveCluster> =
        app.clusters.iter().map(|(name, cluster)| (name.clone(), live_cluster(cluster))).collect();
    let mut unclaimed = BTreeMap::new();
    for (node, seen) in &view.nodes {
        let Some(part) = seen.apps.get(name).filter(|part| !serves(part)) else { continue };
        let cluster = part.cluster.as_ref().and_then(|cluster| clusters.get_mut(cluster));
        let nodes = cluster.map_or(&mut unclaimed, |cluster| &mut cluster.nodes);
        nodes.insert(node.clone(), live_node(seen, part));
    }
    LiveApp {
        leads: app.epoch.is_some(),
        commit: app.commit.clone(),
        clusters,
        balancers: app.balancers.clone(),
        unclaimed,
    }
}

/// A load balancer or a notification server.
fn serves(part: &NodeAppView) -> bool {
    part.decision == Some(Decision::Done(Done::Serves))
}

fn live_cluster(cluster: &ClusterView) -> LiveCluster {
    let round = |progress: Progress| Progress {
        ends: progress.ends.map(|end| Wall(end.0.next_multiple_of(END_MS))),
        ..progress
    };
    let unheard = |name: &NodeName| (name.clone(), unheard(&cluster.target));
    LiveCluster {
        target: cluster.target.clone(),
        converged_on: cluster.converged_on.clone(),
        phase: cluster.phase,
        expected: cluster.expected,
        present: cluster.present,
        converged: cluster.converged,
        begun: cluster.begun,
        progress: cluster.progress.map(round),
        message: short(message(&cluster.conditions)).to_owned(),
        notes: cluster.causes.iter().map(|(c, text)| (*c, short(text).to_owned())).collect(),
        warnings: warnings(&cluster.conditions)
            .map(|(name, text)| (name.to_owned(), short(text).to_owned()))
            .collect(),
        messages_pending: cluster.messages_pending,
        nodes: cluster.unheard.iter().map(unheard).collect(),
    }
}

fn live_node(node: &NodeView, part: &NodeAppView) -> LiveNode {
    let state = NodeState::of(node.presence, part.decision.as_ref());
    let reason = match &part.decision {
        Some(Decision::Wait { what, .. }) => {
            short(&Decision::Wait { what: what.clone(), until_ms: None }.to_string()).to_owned()
        }
        Some(Decision::Act(_) | Decision::Blocked(_) | Decision::Done(_)) | None => {
            short(&part.reason).to_owned()
        }
    };
    LiveNode {
        state,
        words: state.words().to_owned(),
        sign: state.sign().to_owned(),
        revision: part.revision.as_ref().and_then(RevisionSeen::known).cloned(),
        goal: part.goal.clone(),
        reason,
        since: part.since,
    }
}

/// A node of which there is nothing but its name in the desired file.
fn unheard(target: &Revision) -> LiveNode {
    let state = NodeState::Missing;
    LiveNode {
        state,
        words: state.words().to_owned(),
        sign: state.sign().to_owned(),
        revision: None,
        goal: Some(target.clone()),
        reason: "expected by name, and never heard".to_owned(),
        since: None,
    }
}

fn live_event(event: &Event) -> LiveEvent {
    let what = event.kind.to_string();
    LiveEvent {
        at: event.at,
        app: event.app.clone(),
        cluster: event.cluster.clone(),
        node: event.node.clone(),
        what: short(&what).to_owned(),
        important: match event.kind {
            EventKind::RolloutBegun { .. }
            | EventKind::Converged { .. }
            | EventKind::NodeFailed { .. }
            | EventKind::NodeRecovered
            | EventKind::Rejected { .. }
            | EventKind::DesiredInvalid { .. }
            | EventKind::DesiredVanished => true,
            EventKind::Decided { .. }
            | EventKind::DesiredChanged
            | EventKind::PresenceChanged { .. }
            | EventKind::MessageSent { .. }
            | EventKind::MessageDelivered { .. }
            | EventKind::MessageFailed { .. }
            | EventKind::NodeForgotten
            | EventKind::LeadershipClaimed { .. } => false,
        },
    }
}

fn short(text: &str) -> &str {
    text.char_indices().nth(TEXT_MAX).map_or(text, |(end, _)| &text[..end])
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nothing_is_null() {
        let mut document = json!({"a": null, "b": [{"c": null}], "d": {"e": null, "f": 0}});
        strip(&mut document);
        assert_eq!(document, json!({"b": [{}], "d": {"f": 0}}));
    }

    #[test]
    fn a_long_text_is_cut_between_characters() {
        assert_eq!(short(&"ä".repeat(TEXT_MAX + 1)), "ä".repeat(TEXT_MAX));
        assert_eq!(short("short"), "short");
    }
}
