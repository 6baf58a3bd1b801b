//! A fleet in the nominal world, and the documents in which a controller would show it.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel::controller::live::Live;
use evenkeel::controller::view::{
    AppView, BalancerView, ClusterView, NodeAppView, NodeView, Progress, Recent, ServerView, View,
};
use evenkeel::model::*;
use evenkeel::plan::World;

use crate::fleet::{self, backend, cluster, node};
use crate::parts::receiver::{Answer, Receiver};

/// When the documents are made.
pub const NOW: Wall = Wall(1_800_000_000_000);

/// Since when every decision holds: 3 minutes and 12.3 seconds before.
const SINCE: Wall = Wall(NOW.0 - 192_300);

pub fn app() -> AppName {
    AppName::new("shop").expect("an app name")
}

/// The reference scenario, converged on revision 1: alfa with web1 to web5, bravo with web6 to web9.
pub fn converged() -> World {
    let mut world = fleet::world();
    let mut servers = BTreeMap::new();
    for (number, of) in (1..=9).map(|n| (n, if n <= 5 { "alfa" } else { "bravo" })) {
        let name = format!("web{number}");
        world.nodes.insert(node(&name), fleet::web(&name, of, Some("1")));
        servers.insert(ServerName::new(&name).expect("a server name"), fleet::server(true));
    }
    world.nodes.insert(node("lb1"), fleet::balancer("lb1", servers));
    for (name, size) in [("alfa", 5), ("bravo", 4)] {
        world.desired.insert(cluster(name), fleet::current(fleet::settings(name, "1", size)));
    }
    run(&mut world, 100);
    world
}

/// At most so many rounds.
pub fn run(world: &mut World, rounds: usize) {
    world.run(rounds, |_| ());
}

/// Declares a revision.
pub fn declare(world: &mut World, name: &str, to: &str) {
    world.desired.get_mut(&cluster(name)).expect("a cluster").settings.revision =
        fleet::revision(to);
}

/// In the middle of alfa's rollout to 2, with web1 and web2 permitted.
pub fn midway() -> World {
    let mut world = converged();
    declare(&mut world, "alfa", "2");
    run(&mut world, 3);
    world
}

/// What a controller shows of it, and of a notification server and a stray beside it.
pub fn view(world: &World) -> View {
    let plan = world.plan();
    let clusters = plan.clusters.iter().map(|(name, plan)| {
        let ledger = world.ledgers.get(name).cloned().unwrap_or_default();
        let view = ClusterView {
            target: plan.target.clone(),
            converged_on: ledger.converged.map(|c| c.revision),
            phase: plan.phase,
            rollout: ledger.rollout.as_ref().map(|r| r.id.clone()),
            begun: ledger.rollout.as_ref().map(|r| r.begun),
            progress: ledger.rollout.as_ref().map(|_| Progress {
                nodes: plan.expected,
                upgraded: 1,
                in_service: 0,
                ends: Some(Wall(NOW.0 + 130_000)),
            }),
            expected: plan.expected,
            present: plan.present,
            converged: plan.converged,
            unheard: BTreeSet::new(),
            standing: world.desired[name].standing.clone(),
            conditions: plan.conditions.clone(),
            causes: plan.causes.clone(),
            young: BTreeSet::new(),
            messages_pending: ledger.messages.len(),
        };
        (name.clone(), view)
    });
    let shop = AppView {
        epoch: Some(world.epoch.number),
        commit: Some(Commit {
            id: "0123456789abcdef0123456789abcdef01234567".to_owned(),
            subject: "Bump alfa".to_owned(),
            modified: false,
        }),
        clusters: clusters.collect(),
        balancers: BTreeMap::from([(backend(), BTreeMap::from([(node("lb1"), balancer(world))]))]),
    };
    let mut nodes: BTreeMap<NodeName, NodeView> =
        world.nodes.keys().map(|name| (name.clone(), node_view(world, name))).collect();
    for (name, role) in [("push1", Some("notify")), ("stray", None)] {
        let view = NodeView {
            presence: Presence::Present,
            agent: "0.1.0".to_owned(),
            facts: BTreeMap::from([("rack".to_owned(), "r\u{1b}[2J".to_owned())]),
            roles: role.map(str::to_owned).into_iter().collect(),
            apps: BTreeMap::new(),
        };
        nodes.insert(node(name), view);
    }
    View {
        at: NOW,
        version: "0.1.0".to_owned(),
        bus_live: true,
        desired_read: true,
        apps: BTreeMap::from([(app(), shop)]),
        nodes,
    }
}

fn servers(world: &World) -> &BTreeMap<ServerName, ServerReport> {
    let report = world.nodes[&node("lb1")].report.as_ref().expect("a report");
    match &report.balancer.as_ref().expect("a load balancer").backends[&backend()] {
        BackendSeen::Servers(servers) => servers,
        BackendSeen::Unknown(error) => panic!("{error}"),
    }
}

fn balancer(world: &World) -> BalancerView {
    let servers = servers(world);
    BalancerView {
        presence: world.nodes[&node("lb1")].presence,
        ready: servers.values().filter(|server| server.seen.is_ready()).count(),
        servers: servers.len(),
        floor: Share::Percent(40).floor_of(servers.len()),
        states: BTreeMap::new(),
        error: None,
    }
}

fn node_view(world: &World, name: &NodeName) -> NodeView {
    let observed = &world.nodes[name];
    let report = observed.report.as_ref().expect("a report");
    let plan = world.plan();
    let part = plan.nodes.get(name).map(|plan| {
        let seen = report.apps.get(&app());
        let server = ServerName::new(name.as_str()).expect("a server name");
        let at = servers(world).get(&server).map(|report| ServerView {
            server,
            state: if report.owned.is_some() { "maintenance (ours)" } else { "ready" }.to_owned(),
            admin: report.seen.admin,
        });
        NodeAppView {
            cluster: plan.cluster.clone(),
            revision: seen.map(|seen| seen.revision.clone()),
            goal: plan.goal.clone(),
            decision: Some(plan.decision.clone()),
            reason: plan.decision.to_string(),
            since: Some(SINCE),
            servers: at.into_iter().map(|view| (node("lb1"), view)).collect(),
            last_output: None,
            last_attempt: seen
                .and_then(|seen| seen.attempt.as_ref())
                .map(|attempt| format!("{} #{} succeeded", attempt.revision, attempt.attempt)),
            last_checks: seen
                .and_then(|seen| seen.settle.as_ref())
                .map(|_| "settled: check_load OK load average: 0.10".to_owned()),
        }
    });
    let role = if report.balancer.is_some() { "balancer" } else { "app" };
    NodeView {
        presence: observed.presence,
        agent: "0.1.0".to_owned(),
        facts: report.facts.clone(),
        roles: vec![role.to_owned()],
        apps: part.into_iter().map(|part| (app(), part)).collect(),
    }
}

/// An answer with this document.
pub fn json(document: &impl serde::Serialize) -> Answer {
    Answer::status(200, &serde_json::to_string(document).expect("JSON"))
}

/// A server that shows this world.
pub fn showing(world: &World) -> Receiver {
    let (state, world) = (view(world), world.clone());
    Receiver::start(move |request| match (request.method.as_str(), request.path.as_str()) {
        ("GET", "/api/v1/state") => json(&state),
        ("GET", "/api/v1/apps/shop/world") => json(&world),
        ("DELETE", "/api/v1/nodes/web1") => {
            Answer::status(409, r#"{"error": "its agent is connected"}"#)
        }
        ("DELETE", "/api/v1/nodes/web9") => {
            Answer::status(200, r#"{"forgotten": true, "message": "web9 is forgotten"}"#)
        }
        _ => Answer::status(404, r#"{"error": "no such thing is known"}"#),
    })
}

/// The stream of a controller that shows this, and ends.
pub fn stream(view: &View) -> Answer {
    let document = Live::new(view, &Recent::default()).document().expect("JSON");
    Answer::status(200, &format!("retry: 1000\n\nevent: state\nid: 1\ndata: {document}\n\n"))
}

/// A server that shows these states, one a request; the last one for good.
pub fn telling(states: Vec<Option<View>>) -> Receiver {
    let told = std::sync::atomic::AtomicUsize::new(0);
    Receiver::start(move |request| {
        let turn = told.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        match &states[turn.min(states.len() - 1)] {
            Some(view) if request.path == "/api/v1/stream" => stream(view),
            Some(view) => json(view),
            // Headers of an answer whose body never comes would look the same: it breaks off.
            None => Answer::status(503, r#"{"error": "the controller is stopping"}"#),
        }
    })
}
