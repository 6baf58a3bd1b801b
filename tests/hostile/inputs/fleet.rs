//! A small fleet for the cores: an app `shop` with three web servers, a load balancer and a notification server.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::bus::intake::Document;
use evenkeel::desired::load_texts;
use evenkeel::model::*;

/// The shared settings of the app.
pub const APP: &str = "[load_balancer]\nbackend = \"app\"\nexpect = 1\nmin_ready = \"30%\"\n\
    [rollout]\nbatch = 2\n[settle]\nchecks = [\"check_load\"]\n[notify]\nrecipients = [\"oncall\"]\n";

/// Its one cluster.
pub const ALFA: &str = "revision = \"2\"\nexpect = 3\n";

pub fn app() -> AppName {
    AppName::new("shop").expect("a name")
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).expect("a name")
}

pub fn check() -> CheckName {
    CheckName::new("check_load").expect("a name")
}

pub fn recipient() -> RecipientName {
    RecipientName::new("oncall").expect("a name")
}

pub fn backend() -> BackendName {
    BackendName::new("app").expect("a name")
}

pub fn revision(text: &str) -> Revision {
    Revision::new(text).expect("a revision")
}

/// What the files declare.
pub fn desired() -> BTreeMap<AppName, Result<DesiredApp, String>> {
    let files = [("shop", "app.toml", APP.as_bytes()), ("shop", "alfa.toml", ALFA.as_bytes())];
    let apps = load_texts(files).apps;
    apps.into_iter().map(|(name, app)| (name, Ok(app.expect("a good app")))).collect()
}

/// A server in service.
pub fn server() -> ServerSeen {
    ServerSeen { admin: AdminBits(0), health: Health::Up, weight: 1, backup: false, sessions: 0 }
}

fn report(name: &str) -> Report {
    Report {
        node: node(name),
        boot: Boot { started: 1, connection: 1 },
        sequence: 1,
        at: Wall(0),
        agent: "0.1.0".to_owned(),
        facts: BTreeMap::from([("cluster".to_owned(), "alfa".to_owned())]),
        apps: BTreeMap::new(),
        balancer: None,
        notify: None,
        assignments: BTreeMap::new(),
        epochs: BTreeMap::new(),
        refusals: BTreeMap::new(),
    }
}

/// What the fleet's agents say when nothing has been asked of them.
pub fn reports() -> Vec<Document> {
    let web = |name| {
        let revision = RevisionSeen::Running(revision("1"));
        let state = AppReport { revision, attempt: None, settle: None };
        Report { apps: BTreeMap::from([(app(), state)]), ..report(name) }
    };
    let seen = ServerReport { seen: server(), owned: None, steady_for_ms: 1_000 };
    let servers = ["web1", "web2", "web3"]
        .map(|name| (ServerName::new(name).expect("a name"), seen.clone()))
        .into();
    let backends = BTreeMap::from([(backend(), BackendSeen::Servers(servers))]);
    let balancer = Some(BalancerReport { state_file: true, backends });
    let notify = Some(NotifyReport { recipients: BTreeSet::from([recipient()]) });
    let reports = [
        web("web1"),
        web("web2"),
        web("web3"),
        Report { balancer, ..report("lb1") },
        Report { notify, ..report("push1") },
    ];
    reports.map(|report| Document::Report(Box::new(report))).into()
}
