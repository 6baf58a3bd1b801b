//! What an assignment asks otherwise than the one before it, in single acts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::assignment::{Assignment, BalancerWork, NodeWork, Order, Permit, SettleKey};
use super::name::{BackendName, RolloutId, ServerName};

/// What is asked anew of a node, or not any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Asked {
    /// To echo, before a rollout begins.
    Probe,
    /// To run another revision; it only informs.
    Target,
    /// To be upgraded: one attempt is permitted.
    Permit,
    /// Not to start the attempt that was permitted before.
    Withdraw,
    /// To run its checks.
    Settle,
    /// Not to run them any more.
    EndSettle,
    /// To take a server out.
    TakeOut,
    /// To put a server back.
    PutBack,
    /// Nothing more about a server.
    LetGo,
    /// What is asked has other limits: checks, times, load balancers.
    Settings,
    /// Nothing more of the app.
    Dismiss,
}

impl Asked {
    /// The stable name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Target => "target",
            Self::Permit => "permit",
            Self::Withdraw => "withdraw",
            Self::Settle => "settle",
            Self::EndSettle => "end_settle",
            Self::TakeOut => "take_out",
            Self::PutBack => "put_back",
            Self::LetGo => "let_go",
            Self::Settings => "settings",
            Self::Dismiss => "dismiss",
        }
    }
}

/// One difference between two assignments for the same node and app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is asked.
    pub asked: Asked,
    /// Of which server, where it is about one.
    pub server: Option<(BackendName, ServerName)>,
    /// For which rollout, where it names one.
    pub rollout: Option<RolloutId>,
    /// What was asked before, in words; none if nothing was.
    pub before: Option<String>,
    /// What is asked now, in words; none if nothing is.
    pub after: Option<String>,
}

impl Change {
    fn new(asked: Asked, before: Option<String>, after: Option<String>) -> Self {
        Self { asked, server: None, rollout: None, before, after }
    }

    fn of(self, rollout: &RolloutId) -> Self {
        Self { rollout: Some(rollout.clone()), ..self }
    }

    fn at(self, backend: &BackendName, server: &ServerName) -> Self {
        Self { server: Some((backend.clone(), server.clone())), ..self }
    }
}

impl Assignment {
    /// What it asks otherwise than `before` did, in the order in which it is acted on.
    pub fn changes_since(&self, before: Option<&Assignment>) -> Vec<Change> {
        let mut changes = Vec::new();
        for probe in &self.probes {
            if before.is_none_or(|before| !before.probes.contains(probe)) {
                changes.push(Change::new(Asked::Probe, None, Some("asked".to_owned())).of(probe));
            }
        }
        let none = BTreeMap::new();
        balance(before.map_or(&none, |before| &before.balance), &self.balance, &mut changes);
        match (before.and_then(|before| before.work.as_ref()), &self.work) {
            (None, None) => {}
            (Some(before), None) => {
                let was = Some(before.target.to_string());
                changes.push(Change::new(Asked::Dismiss, was, None));
            }
            (before, Some(work)) => work_changes(before, work, &mut changes),
        }
        changes
    }
}

fn work_changes(before: Option<&NodeWork>, work: &NodeWork, changes: &mut Vec<Change>) {
    if before.is_none_or(|before| before.target != work.target) {
        let was = before.map(|before| before.target.to_string());
        changes.push(Change::new(Asked::Target, was, Some(work.target.to_string())));
    }
    let permit = before.and_then(|before| before.permit.as_ref());
    match (permit, &work.permit) {
        (None, None) => {}
        (Some(was), None) => {
            changes.push(Change::new(Asked::Withdraw, Some(attempt(was)), None).of(&was.rollout));
        }
        (was, Some(permit)) => {
            if was.is_none_or(|was| key(was) != key(permit)) {
                let (was, now) = (was.map(attempt), Some(attempt(permit)));
                changes.push(Change::new(Asked::Permit, was, now).of(&permit.rollout));
            }
        }
    }
    let settle = before.and_then(|before| before.settle.as_ref());
    match (settle, &work.settle) {
        (None, None) => {}
        (Some(was), None) => {
            let change = Change::new(Asked::EndSettle, Some(settling(was)), None);
            changes.push(change.of(&was.rollout));
        }
        (was, Some(settle)) => {
            if was != Some(settle) {
                let (was, now) = (was.map(settling), Some(settling(settle)));
                changes.push(Change::new(Asked::Settle, was, now).of(&settle.rollout));
            }
        }
    }
    if let Some(before) = before
        && limits(before) != limits(work)
    {
        changes.push(Change::new(Asked::Settings, Some(limits(before)), Some(limits(work))));
    }
}

/// What tells two permits apart: proofs that are made anew are no other permission.
fn key(permit: &Permit) -> (&RolloutId, String, &str) {
    (&permit.rollout, attempt(permit), &permit.retry)
}

fn attempt(permit: &Permit) -> String {
    format!("attempt {} to {}", permit.attempt, permit.revision)
}

fn settling(key: &SettleKey) -> String {
    match key.attempt {
        0 => "checks, without an upgrade".to_owned(),
        attempt => format!("checks, after attempt {attempt}"),
    }
}

/// Everything of a node's work that is neither target, permit nor settling.
fn limits(work: &NodeWork) -> String {
    let list = |names: Vec<String>| names.join("+");
    format!(
        "cluster {}, load balancers {}, checks {} every {} ms for {} ms, upgrades {} ms",
        work.cluster,
        list(work.load_balancers.iter().map(ToString::to_string).collect()),
        list(work.checks.iter().map(ToString::to_string).collect()),
        work.check_interval_ms,
        work.settle_timeout_ms,
        work.upgrade_timeout_ms
    )
}

fn balance(
    before: &BTreeMap<BackendName, BalancerWork>,
    after: &BTreeMap<BackendName, BalancerWork>,
    changes: &mut Vec<Change>,
) {
    let word = |order: Option<&Order>| {
        order.map(|order| match order {
            Order::Out => "out".to_owned(),
            Order::In => "in".to_owned(),
        })
    };
    let none = BalancerWork::default();
    let backends = before.keys().chain(after.keys().filter(|name| !before.contains_key(*name)));
    for backend in backends {
        let was = before.get(backend).unwrap_or(&none);
        let now = after.get(backend).unwrap_or(&none);
        let servers =
            was.servers.keys().chain(now.servers.keys().filter(|s| !was.servers.contains_key(*s)));
        for server in servers {
            let (old, new) = (was.servers.get(server), now.servers.get(server));
            let asked = match new {
                new if new == old => continue,
                Some(Order::Out) => Asked::TakeOut,
                Some(Order::In) => Asked::PutBack,
                None => Asked::LetGo,
            };
            changes.push(Change::new(asked, word(old), word(new)).at(backend, server));
        }
        let both = before.contains_key(backend) && after.contains_key(backend);
        if both && was.drain_ms != now.drain_ms {
            let drain =
                |work: &BalancerWork| Some(format!("{backend} drains {} ms", work.drain_ms));
            changes.push(Change::new(Asked::Settings, drain(was), drain(now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{AppName, ClusterName, ControllerId, Epoch, NodeName, Revision, Stamp};

    fn rollout() -> RolloutId {
        let (app, cluster) = (AppName::new("shop").unwrap(), ClusterName::new("alfa").unwrap());
        RolloutId::derive(&app, &cluster, &Revision::new("2").unwrap(), "", None)
    }

    fn assignment(work: Option<NodeWork>, servers: &[(&str, Order)]) -> Assignment {
        let epoch = Epoch { number: 1, controller: ControllerId::new("me").unwrap() };
        let servers =
            servers.iter().map(|(name, order)| (ServerName::new(name).unwrap(), *order)).collect();
        let balancer = BalancerWork { drain_ms: 0, servers };
        Assignment {
            app: AppName::new("shop").unwrap(),
            node: NodeName::new("web1").unwrap(),
            stamp: Stamp { epoch, generation: 1 },
            probes: BTreeSet::new(),
            work,
            balance: BTreeMap::from([(BackendName::new("app").unwrap(), balancer)]),
        }
    }

    fn work(target: &str, permit: bool, settle: bool) -> NodeWork {
        let revision = Revision::new(target).unwrap();
        NodeWork {
            cluster: ClusterName::new("alfa").unwrap(),
            target: revision.clone(),
            load_balancers: BTreeSet::new(),
            checks: BTreeSet::new(),
            check_interval_ms: 1,
            settle_timeout_ms: 2,
            upgrade_timeout_ms: 3,
            settle: settle.then(|| SettleKey {
                rollout: rollout(),
                retry: String::new(),
                attempt: 1,
                asked: 7,
            }),
            permit: permit.then(|| Permit {
                rollout: rollout(),
                revision,
                retry: String::new(),
                attempt: 1,
                out: Vec::new(),
            }),
        }
    }

    fn said(before: Option<&Assignment>, after: &Assignment) -> String {
        let words = |words: &Option<String>| words.clone().unwrap_or_else(|| "nothing".to_owned());
        let line = |change: &Change| {
            let server = change.server.as_ref().map_or_else(String::new, |(_, s)| format!(" {s}"));
            let (before, after) = (words(&change.before), words(&change.after));
            format!("{}{server}: {before} -> {after}\n", change.asked.as_str())
        };
        after.changes_since(before).iter().map(line).collect()
    }

    #[test]
    fn a_nodes_way_is_told_in_single_acts() {
        let stages = [work("1", false, false), work("2", true, true), work("2", false, true)];
        let stages = stages.map(|work| assignment(Some(work), &[]));
        assert_eq!(said(None, &stages[0]), "target: nothing -> 1\n");
        assert_eq!(
            said(Some(&stages[0]), &stages[1]),
            "target: 1 -> 2\npermit: nothing -> attempt 1 to 2\nsettle: nothing -> checks, after attempt 1\n"
        );
        assert_eq!(said(Some(&stages[1]), &stages[2]), "withdraw: attempt 1 to 2 -> nothing\n");
        assert_eq!(
            said(Some(&stages[2]), &stages[0]),
            "target: 2 -> 1\nend_settle: checks, after attempt 1 -> nothing\n"
        );
        assert_eq!(said(Some(&stages[2]), &stages[2]), "");
        assert_eq!(said(Some(&stages[2]), &assignment(None, &[])), "dismiss: 2 -> nothing\n");
    }

    #[test]
    fn a_load_balancers_orders_are_told_server_by_server() {
        let before =
            assignment(None, &[("web1", Order::Out), ("web2", Order::In), ("web3", Order::Out)]);
        let after =
            assignment(None, &[("web1", Order::In), ("web3", Order::Out), ("web4", Order::Out)]);
        assert_eq!(
            said(Some(&before), &after),
            "put_back web1: out -> in\nlet_go web2: in -> nothing\ntake_out web4: nothing -> out\n"
        );
    }

    #[test]
    fn other_limits_are_told_with_both() {
        let before = assignment(Some(work("1", false, false)), &[]);
        let longer = NodeWork { upgrade_timeout_ms: 4, ..work("1", false, false) };
        let after = assignment(Some(longer), &[]);
        let said = said(Some(&before), &after);
        assert!(said.contains("upgrades 3 ms -> ") && said.contains("upgrades 4 ms"), "{said}");
    }
}
