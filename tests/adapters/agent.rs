//! Agents of every role, on a real bus, a real HAProxy, real plugins, deploy commands and a receiver.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use evenkeel::agent::{AgentError, Config, run_until};
use evenkeel::bus::embedded::{self, Broker};
use evenkeel::bus::session::{self, Event, Events, Handle};
use evenkeel::bus::{Document, Filter, Topic, decode, encode};
use evenkeel::model::*;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::parts::haproxy::{Haproxy, Setup};
use crate::parts::process::{DEADLINE, eventually, program};
use crate::parts::receiver::{Answer, Receiver};

fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

fn app() -> AppName {
    AppName::new("shop").unwrap()
}

fn backend() -> BackendName {
    BackendName::new("app").unwrap()
}

fn server() -> ServerName {
    ServerName::new("web1").unwrap()
}

fn revision(text: &str) -> Revision {
    Revision::new(text).unwrap()
}

fn rollout() -> RolloutId {
    RolloutId::new("r1").unwrap()
}

fn stamp(generation: u64) -> Stamp {
    let controller = ControllerId::new("c1").unwrap();
    Stamp { epoch: Epoch { number: 1, controller }, generation }
}

/// A bus, and the test in the controller's place.
struct Fleet {
    folder: tempfile::TempDir,
    broker: Broker,
    handle: Handle,
    events: Events,
    /// The last live report of each node.
    reports: BTreeMap<NodeName, Report>,
    alive: BTreeMap<NodeName, Alive>,
    receipts: BTreeMap<MessageKey, Receipt>,
    listens: bool,
}

/// A running agent.
struct Agent {
    task: JoinHandle<Result<(), AgentError>>,
    stop: mpsc::Sender<()>,
}

impl Agent {
    /// As by SIGKILL: it says and writes nothing more.
    async fn kill(self) {
        self.task.abort();
        let ended = self.task.await;
        assert!(ended.is_err_and(|error| error.is_cancelled()), "it ran until it was killed");
    }
}

impl Fleet {
    async fn start() -> Fleet {
        // Each test may be the first; the others find it installed.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let listen = ([127, 0, 0, 1], 0).into();
        let config = embedded::Config { listen, ..embedded::Config::default() };
        let broker = Broker::start(&config).await.expect("a broker");
        let url = format!("mqtt://{}", broker.address());
        let options = session::Options {
            config: session::Config::new(url.parse().unwrap()),
            fleet: FleetName::new("prod").unwrap(),
            client_id: "controller".into(),
            will: None,
        };
        let (handle, events) = session::open(options).expect("a session");
        let folder = tempfile::tempdir().unwrap();
        let (reports, alive, receipts) = Default::default();
        let mut fleet =
            Fleet { folder, broker, handle, events, reports, alive, receipts, listens: false };
        fleet.until("a connection", |fleet| fleet.handle.publish(&marker(), "0", false).ok()).await;
        let marker_alone = Filter::One(marker());
        let filters = [Filter::AllReports, Filter::AllAlive, Filter::AllReceipts, marker_alone];
        fleet.handle.subscribe(&filters).expect("queued");
        fleet.handle.publish(&marker(), "1", false).expect("queued");
        // What an agent says from now on is live.
        fleet.until("the marker", |fleet| fleet.listens.then_some(())).await;
        fleet
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts an agent with these roles.
    fn agent(&self, name: &str, roles: &str) -> Agent {
        let state = self.path(&format!("{name}.state"));
        let text = format!(
            "node = {name:?}\nfleet = \"prod\"\nstate = {state:?}\n\
             bus.url = \"mqtt://{}\"\nobserve = \"1s\"\n{roles}",
            self.broker.address()
        );
        let file = self.path(&format!("{name}.toml"));
        std::fs::write(&file, text).unwrap();
        let config = Config::read(&file).unwrap_or_else(|error| panic!("{error}"));
        let (stop, stops) = mpsc::channel(1);
        Agent { task: tokio::spawn(run_until(config, stops)), stop }
    }

    /// An agent that deploys by a script, which waits for the file `hold` to go away.
    fn web(&self) -> Agent {
        let plugin = program("check_load", "monitoring-plugins-basic");
        let nrpe = self.path("nrpe.cfg");
        let line = format!(
            "command[check_load]={} -w 10000,10000,10000 -c 10000,10000,10000\n",
            plugin.display()
        );
        std::fs::write(&nrpe, line).unwrap();
        let script = self.path("deploy");
        let text = format!(
            "#!/bin/sh\ncd {}\necho \"$1\" >>runs\n\
             while [ -e hold ]; do sleep 0.01; done\necho \"$1\" >revision\n",
            self.folder.path().display()
        );
        write_script(&script, &text);
        if !self.path("revision").exists() {
            std::fs::write(self.path("revision"), "1\n").unwrap();
        }
        self.agent(
            "web1",
            &format!(
                "facts.values.cluster = \"alfa\"\nchecks.files = [{nrpe:?}]\n\
                 [apps.shop]\ncommand = [{script:?}, \"{{revision}}\"]\n\
                 revision.command = [\"/bin/cat\", {:?}]\n",
                self.path("revision")
            ),
        )
    }

    fn lb(&self, haproxy: &Haproxy) -> Agent {
        self.agent("lb1", &format!("[haproxy]\nsocket = {:?}\n", haproxy.socket()))
    }

    /// The deployments that were started.
    fn runs(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.path("runs")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    fn publish<T: Document>(&self, topic: &Topic, document: &T) {
        self.handle.publish(topic, encode(document).unwrap(), true).expect("queued");
    }

    fn assign(&self, assignment: &Assignment) {
        self.publish(&Topic::Assignment(assignment.node.clone(), app()), assignment);
    }

    /// Takes in what comes until `probe` answers.
    async fn until<T>(&mut self, what: &str, mut probe: impl FnMut(&Fleet) -> Option<T>) -> T {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            if let Some(answer) = probe(self) {
                return answer;
            }
            let event = tokio::time::timeout_at(deadline, self.events.next()).await;
            let Ok(event) = event else { panic!("waited for: {what}\n{:#?}", self.reports) };
            if let Event::Message { topic, payload, retained } = event.expect("a session") {
                self.take_in(topic, &payload, retained);
            }
        }
    }

    fn take_in(&mut self, topic: Topic, payload: &[u8], retained: bool) {
        match topic {
            Topic::Report(node) if !retained => {
                self.reports.insert(node, decode(payload).unwrap().unwrap());
            }
            Topic::Alive(node) => {
                self.alive.insert(node, decode(payload).unwrap().unwrap());
            }
            Topic::Marker(_) => self.listens = true,
            Topic::Receipt(_, key) => {
                self.receipts.insert(key, decode(payload).unwrap().unwrap());
            }
            _ => {}
        }
    }

    /// Waits for a report of `name` with which `probe` is content.
    async fn report<T>(
        &mut self,
        name: &str,
        what: &str,
        probe: impl Fn(&Report) -> Option<T>,
    ) -> T {
        let node = node(name);
        let what = format!("{name}: {what}");
        self.until(&what, |fleet| fleet.reports.get(&node).and_then(&probe)).await
    }

    /// Waits until `name` has done what it was asked at `generation`.
    async fn done(&mut self, name: &str, generation: u64) {
        self.report(name, &format!("done {generation}"), |report| {
            (report.assignments.get(&app())?.done == Some(stamp(generation))).then_some(())
        })
        .await;
    }

    /// Orders the server, and waits until it is as ordered.
    async fn order(&mut self, generation: u64, order: Order) {
        self.assign(&lb_assignment(generation, order));
        self.done("lb1", generation).await;
    }
}

fn marker() -> Topic {
    Topic::Marker(ControllerId::new("test").unwrap())
}

fn write_script(path: &Path, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

fn haproxy() -> Haproxy {
    Setup::new().backend("app").server("web1", 1, "").server("web2", 1, "").start()
}

fn assignment(name: &str, generation: u64) -> Assignment {
    Assignment {
        app: app(),
        node: node(name),
        stamp: stamp(generation),
        probes: BTreeSet::new(),
        work: None,
        balance: BTreeMap::new(),
    }
}

fn lb_assignment(generation: u64, order: Order) -> Assignment {
    let work = BalancerWork { drain_ms: 0, servers: BTreeMap::from([(server(), order)]) };
    Assignment { balance: BTreeMap::from([(backend(), work)]), ..assignment("lb1", generation) }
}

/// What the node is asked; the permit is for the server out since the load balancer's assignment `out`.
fn web_assignment(generation: u64, settle: bool, permit: Option<(u32, u64)>) -> Assignment {
    let attempt = permit.map_or(0, |(attempt, _)| attempt);
    let key = SettleKey { rollout: rollout(), retry: String::new(), attempt, asked: generation };
    let permit = permit.map(|(attempt, out)| Permit {
        rollout: rollout(),
        revision: revision("2"),
        retry: String::new(),
        attempt,
        out: vec![OutProof {
            lb: node("lb1"),
            backend: backend(),
            server: server(),
            at: stamp(out),
        }],
    });
    let work = NodeWork {
        cluster: ClusterName::new("alfa").unwrap(),
        target: revision("2"),
        load_balancers: BTreeSet::from([node("lb1")]),
        checks: BTreeSet::from([CheckName::new("check_load").unwrap()]),
        check_interval_ms: 10_000,
        settle_timeout_ms: 100_000,
        upgrade_timeout_ms: 60_000,
        settle: settle.then_some(key),
        permit,
    };
    Assignment { work: Some(work), ..assignment("web1", generation) }
}

fn outcome(report: &Report) -> Option<&AttemptOutcome> {
    report.apps.get(&app())?.attempt.as_ref().map(|attempt| &attempt.outcome)
}

fn server_report(report: &Report) -> Option<&ServerReport> {
    match report.balancer.as_ref()?.backends.get(&backend())? {
        BackendSeen::Servers(servers) => servers.get(&server()),
        BackendSeen::Unknown(_) => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_taken_out_upgraded_settled_and_put_back() {
    let mut fleet = Fleet::start().await;
    let mut haproxy = haproxy();
    let (lb, web) = (fleet.lb(&haproxy), fleet.web());
    let running = |report: &Report, wanted: &str| {
        let seen = report.apps.get(&app())?.revision.known()?;
        (*seen == revision(wanted)).then_some(())
    };
    fleet.report("web1", "revision 1", |report| running(report, "1")).await;
    fleet.report("lb1", "its server", |report| server_report(report).map(drop)).await;
    assert_eq!(fleet.reports[&node("web1")].facts["cluster"], "alfa");
    assert!(fleet.alive[&node("web1")].alive && fleet.alive[&node("lb1")].alive);

    fleet.assign(&web_assignment(1, false, None));
    fleet.done("web1", 1).await;
    fleet.order(1, Order::Out).await;
    assert_eq!(haproxy.admin_bits("app", "web1"), 1);
    assert_eq!(haproxy.admin_bits("app", "web2"), 0);

    fleet.assign(&web_assignment(2, true, Some((1, 1))));
    fleet
        .report("web1", "success", |report| {
            (outcome(report) == Some(&AttemptOutcome::Succeeded)).then_some(())
        })
        .await;
    fleet.report("web1", "revision 2", |report| running(report, "2")).await;
    fleet
        .report("web1", "settled", |report| {
            let settle = report.apps.get(&app())?.settle.as_ref()?;
            (settle.state == SettleState::Settled { late: false }).then_some(())
        })
        .await;
    fleet.done("web1", 2).await;
    assert_eq!(fleet.runs(), ["2"]);

    let before = haproxy.worker();
    haproxy.reload();
    assert_ne!(haproxy.worker(), before);
    eventually("maintenance is set again", || {
        (haproxy.admin_bits("app", "web1") == 1).then_some(())
    });

    fleet.order(2, Order::In).await;
    assert_eq!(haproxy.admin_bits("app", "web1"), 0);
    fleet
        .report("lb1", "no ownership", |report| {
            server_report(report)?.owned.is_none().then_some(())
        })
        .await;

    for agent in [lb, web] {
        agent.stop.send(()).await.unwrap();
        agent.task.await.unwrap().unwrap();
    }
    fleet
        .until("their last words", |fleet| {
            fleet.alive.values().all(|alive| !alive.alive).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permit_without_proof_is_refused_until_it_has_it() {
    let mut fleet = Fleet::start().await;
    let haproxy = haproxy();
    let _agents = (fleet.lb(&haproxy), fleet.web());
    fleet.assign(&web_assignment(1, false, Some((1, 1))));
    fleet
        .report("web1", "not out", |report| {
            match &report.assignments.get(&app())?.refusal.as_ref()?.reason {
                RefusalReason::BalancerNotHeard { .. } | RefusalReason::NotOut { .. } => Some(()),
                other => panic!("{other:?}"),
            }
        })
        .await;
    assert!(fleet.runs().is_empty());
    fleet.order(1, Order::Out).await;
    fleet.done("web1", 1).await;
    assert_eq!(fleet.runs(), ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_killed_in_an_upgrade_does_not_take_it_for_done_nor_run_it_again() {
    let mut fleet = Fleet::start().await;
    let haproxy = haproxy();
    let (_lb, web) = (fleet.lb(&haproxy), fleet.web());
    std::fs::write(fleet.path("hold"), "").unwrap();
    fleet.assign(&web_assignment(1, false, None));
    fleet.done("web1", 1).await;
    fleet.order(1, Order::Out).await;
    fleet.assign(&web_assignment(2, false, Some((1, 1))));
    fleet
        .report("web1", "it runs", |report| {
            (outcome(report) == Some(&AttemptOutcome::Running)).then_some(())
        })
        .await;
    eventually("the command runs", || (!fleet.runs().is_empty()).then_some(()));
    web.kill().await;
    fleet.until("its will", |fleet| (!fleet.alive[&node("web1")].alive).then_some(())).await;
    std::fs::remove_file(fleet.path("hold")).unwrap();

    let _web = fleet.web();
    let failed = AttemptOutcome::Failed { why: AttemptFailure::Interrupted, tail: String::new() };
    fleet
        .report("web1", "interrupted", |report| (outcome(report) == Some(&failed)).then_some(()))
        .await;
    // Its balancer is heard live again, with all that the permit wants; only the record forbids it.
    fleet.order(2, Order::Out).await;
    fleet.assign(&web_assignment(3, false, Some((1, 1))));
    fleet.done("web1", 3).await;
    assert_eq!(fleet.runs(), ["2"]);
    fleet.order(3, Order::Out).await;
    fleet.assign(&web_assignment(4, false, Some((2, 1))));
    fleet.done("web1", 4).await;
    assert_eq!(fleet.runs(), ["2", "2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancers_agent_that_lost_its_disk_knows_what_is_its_own() {
    let mut fleet = Fleet::start().await;
    let haproxy = haproxy();
    haproxy.command("set server app/web1 state drain");
    let lb = fleet.lb(&haproxy);
    fleet.order(1, Order::Out).await;
    lb.kill().await;
    std::fs::remove_dir_all(fleet.path("lb1.state")).unwrap();
    fleet.until("its will", |fleet| (!fleet.alive[&node("lb1")].alive).then_some(())).await;
    fleet.reports.clear();
    let _lb = fleet.lb(&haproxy);
    fleet.done("lb1", 1).await;
    fleet.order(2, Order::In).await;
    assert_eq!(haproxy.admin_bits("app", "web1"), AdminBits::FORCED_DRAIN);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_leader_is_answered() {
    let mut fleet = Fleet::start().await;
    let _web = fleet.web();
    fleet.report("web1", "a report", |_| Some(())).await;
    for connection in 1..4 {
        fleet.reports.clear();
        let boot = Boot { started: 1, connection };
        let leader = Leader { app: app(), epoch: stamp(0).epoch, boot };
        fleet.publish(&Topic::Leader(app()), &leader);
        fleet.report("web1", "an answer", |_| Some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_reaches_its_recipient_once_and_is_receipted() {
    let mut fleet = Fleet::start().await;
    let receiver = Receiver::answering(Answer::status(200, "{}"));
    let roles = format!(
        "[notify.recipients.oncall]\nservice = \"ntfy\"\nurl = {:?}\ntopic = \"alarms\"\n",
        receiver.url()
    );
    let agent = fleet.agent("mail1", &roles);
    fleet.report("mail1", "its recipients", |report| report.notify.clone()).await;
    let oncall = RecipientName::new("oncall").unwrap();
    let key = MessageKey("shop.alfa.r1.completed.1".into());
    let message = Message {
        key: key.clone(),
        app: app(),
        cluster: ClusterName::new("alfa").unwrap(),
        rollout: Some(rollout()),
        cause: Cause::Completed,
        kind: NotifyOn::Completed,
        priority: Priority::Low,
        title: "shop alfa: 2".into(),
        happened: "5 nodes".into(),
        advice: String::new(),
        link: String::new(),
        revision_from: None,
        revision_to: revision("2"),
        commit: String::new(),
        recipients: BTreeSet::from([oncall.clone()]),
        at: Wall(0),
    };
    let mailbox = Mailbox { messages: BTreeMap::from([(key.clone(), message)]) };
    fleet.publish(&Topic::Mailbox(node("mail1")), &mailbox);
    let receipt = fleet.until("a receipt", |fleet| fleet.receipts.get(&key).cloned()).await;
    assert_eq!(receipt.outcomes, BTreeMap::from([(oncall, ReceiptOutcome::Delivered)]));
    agent.kill().await;
    fleet.receipts.clear();
    let _agent = fleet.agent("mail1", &roles);
    fleet.until("the receipt again", |fleet| fleet.receipts.get(&key).cloned()).await;
    let requests = receiver.wait_for(1);
    assert!(requests[0].text().contains("shop alfa: 2"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_cannot_share_a_state_directory() {
    let mut fleet = Fleet::start().await;
    let _first = fleet.agent("web1", "");
    fleet.report("web1", "a report", |_| Some(())).await;
    let second = fleet.agent("web1", "").task.await.unwrap();
    assert!(matches!(second, Err(AgentError::State(_))), "{second:?}");
}
