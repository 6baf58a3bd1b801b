//! What somebody who looks on sees of a fleet: the state in few words, small enough to be sent again
//! and again, and what changes between two of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

use super::view::{AppView, BalancerView, ClusterView, NodeAppView, NodeView, Progress, View};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
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

/// Everything, in short: the document of `/api/v1/stream`.
#[derive(Debug, Serialize)]
pub struct Live<'a> {
    at: Wall,
    version: &'a str,
    bus_live: bool,
    desired_read: bool,
    apps: BTreeMap<&'a AppName, LiveApp<'a>>,
    /// Nodes without a revision: load balancers, notification servers, strays.
    others: BTreeMap<&'a NodeName, LiveOther<'a>>,
    events: Vec<LiveEvent<'a>>,
}

#[derive(Debug, Serialize)]
struct LiveApp<'a> {
    leads: bool,
    commit: Option<&'a Commit>,
    clusters: BTreeMap<&'a ClusterName, LiveCluster<'a>>,
    balancers: &'a BTreeMap<BackendName, BTreeMap<NodeName, BalancerView>>,
    /// Nodes that no cluster claims, or more than one.
    unclaimed: BTreeMap<&'a NodeName, LiveNode<'a>>,
}

#[derive(Debug, Serialize)]
struct LiveCluster<'a> {
    target: &'a Revision,
    converged_on: Option<&'a Revision>,
    phase: Phase,
    expected: usize,
    present: usize,
    converged: usize,
    begun: Option<Wall>,
    progress: Option<Progress>,
    message: &'a str,
    notes: BTreeMap<Cause, &'a str>,
    messages_pending: usize,
    nodes: BTreeMap<&'a NodeName, LiveNode<'a>>,
}

#[derive(Debug, Serialize)]
struct LiveNode<'a> {
    state: NodeState,
    words: &'static str,
    sign: &'static str,
    revision: Option<&'a Revision>,
    goal: Option<&'a Revision>,
    reason: &'a str,
    since: Option<Wall>,
}

#[derive(Debug, Serialize)]
struct LiveOther<'a> {
    presence: Presence,
    roles: &'a [String],
}

#[derive(Debug, Serialize)]
struct LiveEvent<'a> {
    at: Wall,
    app: &'a AppName,
    cluster: Option<&'a ClusterName>,
    node: Option<&'a NodeName>,
    what: String,
    /// Worth to be told to somebody who does not look.
    important: bool,
}

impl<'a> Live<'a> {
    /// Of what the controller shows.
    pub fn new(view: &'a View, events: &'a [Event]) -> Live<'a> {
        let apps = view.apps.iter().map(|(name, app)| (name, live_app(view, name, app)));
        let others = view.nodes.iter().filter(|(_, node)| node.apps.values().all(serves));
        let others = others
            .map(|(name, node)| (name, LiveOther { presence: node.presence, roles: &node.roles }));
        let from = events.len().saturating_sub(EVENTS_MAX);
        Live {
            at: view.at,
            version: &view.version,
            bus_live: view.bus_live,
            desired_read: view.desired_read,
            apps: apps.collect(),
            others: others.collect(),
            events: events[from..].iter().map(live_event).collect(),
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

fn live_app<'a>(view: &'a View, name: &AppName, app: &'a AppView) -> LiveApp<'a> {
    let mut clusters: BTreeMap<&ClusterName, LiveCluster<'_>> =
        app.clusters.iter().map(|(name, cluster)| (name, live_cluster(cluster))).collect();
    let mut unclaimed = BTreeMap::new();
    for (node, seen) in &view.nodes {
        let Some(part) = seen.apps.get(name).filter(|part| !serves(part)) else { continue };
        let cluster = part.cluster.as_ref().and_then(|cluster| clusters.get_mut(cluster));
        let nodes = cluster.map_or(&mut unclaimed, |cluster| &mut cluster.nodes);
        nodes.insert(node, live_node(seen, part));
    }
    LiveApp {
        leads: app.epoch.is_some(),
        commit: app.commit.as_ref(),
        clusters,
        balancers: &app.balancers,
        unclaimed,
    }
}

/// A load balancer or a notification server.
fn serves(part: &NodeAppView) -> bool {
    part.decision == Some(Decision::Done(Done::Serves))
}

fn live_cluster(cluster: &ClusterView) -> LiveCluster<'_> {
    let round = |progress: Progress| Progress {
        ends: progress.ends.map(|end| Wall(end.0.next_multiple_of(END_MS))),
        ..progress
    };
    LiveCluster {
        target: &cluster.target,
        converged_on: cluster.converged_on.as_ref(),
        phase: cluster.phase,
        expected: cluster.expected,
        present: cluster.present,
        converged: cluster.converged,
        begun: cluster.begun,
        progress: cluster.progress.map(round),
        message: short(message(&cluster.conditions)),
        notes: cluster.causes.iter().map(|(cause, text)| (*cause, short(text))).collect(),
        messages_pending: cluster.messages_pending,
        nodes: BTreeMap::new(),
    }
}

fn live_node<'a>(node: &NodeView, part: &'a NodeAppView) -> LiveNode<'a> {
    let state = NodeState::of(node.presence, part.decision.as_ref());
    LiveNode {
        state,
        words: state.words(),
        sign: state.sign(),
        revision: part.revision.as_ref().and_then(RevisionSeen::known),
        goal: part.goal.as_ref(),
        reason: short(&part.reason),
        since: part.since,
    }
}

fn live_event(event: &Event) -> LiveEvent<'_> {
    let what = event.kind.to_string();
    LiveEvent {
        at: event.at,
        app: &event.app,
        cluster: event.cluster.as_ref(),
        node: event.node.as_ref(),
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

/// The JSON merge patch (RFC 7396) that leads from `old` to `new`, neither of which has a null in
/// it; none where they are equal.
pub fn patch(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(before), Value::Object(after)) = (old, new) else {
        return Some(new.clone());
    };
    let mut changes = Map::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        changes.insert(name.clone(), Value::Null);
    }
    for (name, value) in after {
        let change = match before.get(name) {
            Some(old) => patch(old, value),
            None => Some(value.clone()),
        };
        if let Some(change) = change {
            changes.insert(name.clone(), change);
        }
    }
    Some(Value::Object(changes))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// As RFC 7396 has it.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(changes) = patch else { return patch.clone() };
        let mut fields = match target {
            Value::Object(fields) => fields,
            _ => Map::new(),
        };
        for (name, change) in changes {
            if change.is_null() {
                fields.remove(name);
            } else {
                let old = fields.remove(name).unwrap_or(Value::Null);
                fields.insert(name.clone(), apply(old, change));
            }
        }
        Value::Object(fields)
    }

    #[test]
    fn a_patch_leads_from_one_to_the_other_and_says_no_more_than_it_must() {
        let states = [
            json!({}),
            json!({"a": 1, "b": {"c": "x", "d": [1, 2]}}),
            json!({"a": 1, "b": {"c": "y", "d": [1, 2]}}),
            json!({"a": 1, "b": {"d": [2]}, "e": {}}),
            json!({"a": {"b": 1}, "e": [{}]}),
            json!({"a": {"b": {}}, "e": "x"}),
        ];
        for old in &states {
            for new in &states {
                match patch(old, new) {
                    Some(patch) => assert_eq!(apply(old.clone(), &patch), *new, "{old} {patch}"),
                    None => assert_eq!(old, new),
                }
            }
        }
        assert_eq!(patch(&states[1], &states[2]), Some(json!({"b": {"c": "y"}})));
    }

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
