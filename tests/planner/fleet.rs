//! Fleets in the nominal world, made and disturbed by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evenkeel::model::*;
use evenkeel::plan::{Desire, Observed, World};

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a node name")
}

pub fn revision(text: &str) -> Revision {
    Revision::new(text).expect("a revision")
}

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).expect("a cluster name")
}

pub fn backend() -> BackendName {
    BackendName::new("app").expect("a backend name")
}

/// The reference scenario's settings.
pub fn settings(name: &str, to: &str, expect: u32) -> DesiredCluster {
    DesiredCluster {
        revision: revision(to),
        expect: Expect::Count(expect),
        select: BTreeMap::from([("cluster".to_owned(), name.to_owned())]),
        retry: String::new(),
        after: BTreeSet::new(),
        hold: BTreeSet::new(),
        paused: false,
        load_balancer: Some(LoadBalancer {
            backend: backend(),
            expect: Expect::Count(1),
            server: ServerTemplate("{node}".to_owned()),
            drain_ms: 0,
            min_ready: Share::Percent(40),
        }),
        rollout: RolloutPolicy {
            take_out: TakeOut::Cluster,
            batch: Share::Count(2),
            tries: 2,
            upgrade_timeout_ms: 600_000,
            on_failure: OnFailure::Hold,
            max_failed: 0,
            max_missing: 0,
        },
        settle: SettlePolicy {
            checks: BTreeSet::from([CheckName::new("check_load").expect("a check name")]),
            interval_ms: 10_000,
            timeout_ms: 100_000,
            soak_ms: 0,
        },
        notify: NotifyPolicy {
            recipients: BTreeSet::from([RecipientName::new("oncall").expect("a recipient")]),
            on: BTreeSet::from([NotifyOn::Completed, NotifyOn::Failed, NotifyOn::Recovered]),
        },
    }
}

pub fn epoch(number: u64) -> Epoch {
    Epoch { number, controller: ControllerId::new(format!("c{number}")).expect("an id") }
}

fn report(name: &str) -> Report {
    Report::first(node(name), Boot { started: 1, connection: 1 })
}

fn present(report: Report) -> Observed {
    Observed { presence: Presence::Present, report: Some(Arc::new(report)), report_age_ms: 0 }
}

pub fn web(name: &str, of_cluster: &str, at: Option<&str>) -> Observed {
    let mut report = report(name);
    report.facts.insert("cluster".to_owned(), of_cluster.to_owned());
    let state = AppReport {
        revision: at.map_or_else(
            || RevisionSeen::Unknown("nothing answers".to_owned()),
            |at| RevisionSeen::Running(revision(at)),
        ),
        attempt: None,
        settle: None,
    };
    report.apps.insert(AppName::new("shop").expect("an app name"), state);
    present(report)
}

pub fn server(in_service: bool) -> ServerReport {
    ServerReport {
        seen: ServerSeen {
            admin: AdminBits(0),
            health: if in_service { Health::Up } else { Health::Down },
            weight: 1,
            backup: false,
            sessions: 0,
        },
        owned: None,
        steady_for_ms: 1_000,
    }
}

/// A load balancer with the given servers.
pub fn balancer(name: &str, servers: BTreeMap<ServerName, ServerReport>) -> Observed {
    let mut report = report(name);
    report.balancer = Some(BalancerReport {
        state_file: true,
        backends: BTreeMap::from([(backend(), BackendSeen::Servers(servers))]),
    });
    present(report)
}

pub fn world() -> World {
    World {
        app: AppName::new("shop").expect("an app name"),
        epoch: epoch(1),
        desired: BTreeMap::new(),
        nodes: BTreeMap::new(),
        assigned: BTreeMap::new(),
        ledgers: BTreeMap::new(),
        failing: BTreeSet::new(),
        unsettled: BTreeSet::new(),
    }
}

/// A settings' entry with a standing.
pub fn current(settings: DesiredCluster) -> Desire {
    Desire { settings, standing: Standing::Current }
}
