//! A core on a bench: a disk, a broker that retains, and agents that do at once what is asked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::{Core, Effect, Input, Publication, Setup};
use crate::bus::intake::Document;
use crate::bus::topics::Topic;
use crate::controller::store::AppFile;
use crate::model::*;
use crate::plan::{Observed, World};

/// Rounds in which everything that follows from one event must have come to rest.
const ROUNDS_MAX: usize = 200;

pub struct Bench {
    /// What its assignments are signed with from the next start on.
    pub key: PublicKey,
    pub core: Core,
    pub now: Now,
    pub disk: BTreeMap<AppName, AppFile>,
    pub disk_full: bool,
    /// The broker takes what is published and loses it, but for the marker.
    pub lossy: bool,
    pub retained: BTreeMap<Topic, Document>,
    /// Everything that was published, and not taken away by a test.
    pub sent: Vec<Publication>,
    pub resigned: Option<String>,
    /// What the history would have, as the driver hands it over.
    pub recorded: Vec<Record>,
    /// The agents.
    pub world: World,
    /// Agents that are heard.
    pub silent: BTreeSet<NodeName>,
    waiting: VecDeque<(Document, bool)>,
    starts: u64,
}

pub fn shop() -> AppName {
    AppName::new("shop").unwrap()
}

pub fn alfa() -> ClusterName {
    ClusterName::new("alfa").unwrap()
}

pub fn node(name: &str) -> NodeName {
    NodeName::new(name).unwrap()
}

pub fn id(name: &str) -> ControllerId {
    ControllerId::new(name).unwrap()
}

pub fn settings(to: &str) -> DesiredCluster {
    DesiredCluster {
        revision: Revision::new(to).unwrap(),
        expect: Expect::Count(3),
        select: BTreeMap::from([("cluster".to_owned(), "alfa".to_owned())]),
        retry: String::new(),
        after: BTreeSet::new(),
        hold: BTreeSet::new(),
        paused: false,
        load_balancer: Some(LoadBalancer {
            backend: BackendName::new("app").unwrap(),
            expect: Expect::Count(1),
            server: ServerTemplate("{node}".to_owned()),
            drain_ms: 0,
            min_ready: Share::Percent(30),
        }),
        rollout: RolloutPolicy {
            take_out: TakeOut::Cluster,
            batch: Share::Count(2),
            tries: 1,
            upgrade_timeout_ms: 600_000,
            on_failure: OnFailure::Hold,
            max_failed: 0,
            max_missing: 0,
        },
        settle: SettlePolicy {
            checks: BTreeSet::from([CheckName::new("check_load").unwrap()]),
            interval_ms: 10_000,
            timeout_ms: 100_000,
            soak_ms: 0,
        },
        notify: NotifyPolicy {
            recipients: BTreeSet::from([RecipientName::new("oncall").unwrap()]),
            on: BTreeSet::from([NotifyOn::Completed, NotifyOn::Failed, NotifyOn::Recovered]),
        },
    }
}

pub fn declared(clusters: &[(&str, DesiredCluster)]) -> Input {
    let clusters = clusters
        .iter()
        .map(|(name, settings)| (ClusterName::new(*name).unwrap(), settings.clone()))
        .collect();
    let app = DesiredApp { name: shop(), clusters, commit: None };
    Input::Desired(BTreeMap::from([(shop(), Ok(app))]))
}

pub fn at(revision: &str) -> Input {
    declared(&[("alfa", settings(revision))])
}

fn report(name: &str) -> Report {
    Report::first(node(name), Boot { started: 1, connection: 1 })
}

fn web(name: &str) -> Report {
    let revision = RevisionSeen::Running(Revision::new("1").unwrap());
    let state = AppReport { revision, attempt: None, settle: None };
    Report {
        facts: BTreeMap::from([("cluster".to_owned(), "alfa".to_owned())]),
        apps: BTreeMap::from([(shop(), state)]),
        ..report(name)
    }
}

fn balancer(servers: &[&str]) -> Report {
    let server = ServerReport {
        seen: ServerSeen {
            admin: AdminBits(0),
            health: Health::Up,
            weight: 1,
            backup: false,
            sessions: 0,
        },
        owned: None,
        steady_for_ms: 1_000,
    };
    let servers =
        servers.iter().map(|name| (ServerName::new(*name).unwrap(), server.clone())).collect();
    let backend = BackendName::new("app").unwrap();
    let backends = BTreeMap::from([(backend, BackendSeen::Servers(servers))]);
    Report { balancer: Some(BalancerReport { state_file: true, backends }), ..report("lb1") }
}

fn notifier(name: &str) -> Report {
    let recipients = BTreeSet::from([RecipientName::new("oncall").unwrap()]);
    Report { notify: Some(NotifyReport { recipients }), ..report(name) }
}

/// What its assignments are signed with at first.
pub const KEY: PublicKey = PublicKey([1; 32]);

fn setup(started: u64, key: PublicKey) -> Setup {
    Setup { id: id("me"), started, page: None, key: Some(key) }
}

impl Bench {
    /// Three web servers at revision 1, a load balancer and two notification servers; the
    /// controller has been started, and nothing else.
    pub fn new() -> Self {
        let reports = [
            web("web1"),
            web("web2"),
            web("web3"),
            balancer(&["web1", "web2", "web3"]),
            notifier("push1"),
            notifier("push2"),
        ];
        let observed = |report: Report| Observed {
            presence: Presence::Present,
            report: Some(Arc::new(report)),
            report_age_ms: 0,
        };
        let world = World {
            app: shop(),
            epoch: Epoch { number: 0, controller: id("nobody") },
            desired: BTreeMap::new(),
            nodes: reports.into_iter().map(|r| (r.node.clone(), observed(r))).collect(),
            assigned: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            failing: BTreeSet::new(),
            unsettled: BTreeSet::new(),
        };
        let mut retained = BTreeMap::new();
        for observed in world.nodes.values() {
            let report = Report::clone(observed.report.as_ref().unwrap());
            let topic = Topic::Report(report.node.clone());
            retained.insert(topic, Document::Report(Box::new(report)));
        }
        Self {
            core: Core::new(setup(1, KEY), Vec::new()),
            key: KEY,
            now: Now { mono: Mono(1_000_000), wall: Wall(1) },
            disk: BTreeMap::new(),
            disk_full: false,
            lossy: false,
            retained,
            sent: Vec::new(),
            resigned: None,
            recorded: Vec::new(),
            world,
            silent: BTreeSet::new(),
            waiting: VecDeque::new(),
            starts: 1,
        }
    }

    /// Connected, `desired` read, and everything that follows done.
    pub fn up(desired: Input) -> Self {
        let mut bench = Self::new();
        bench.connect();
        bench.step(desired);
        bench.settle();
        bench
    }

    /// A new process with what the disk has.
    pub fn restart(&mut self) {
        self.starts += 1;
        let files = self.disk.values().cloned().collect();
        self.core = Core::new(setup(self.starts, self.key), files);
        self.waiting.clear();
        self.resigned = None;
    }

    /// Connects, and hears the list.
    pub fn connect(&mut self) {
        self.step(Input::Disconnected);
        self.step(Input::Connected { connection: 1 });
        let marker = self.waiting.pop_back();
        let list: Vec<Document> = self.retained.values().cloned().collect();
        for document in list {
            self.step(Input::Heard { document, retained: true });
        }
        self.waiting.extend(marker);
    }

    pub fn step(&mut self, input: Input) {
        let effects = self.core.step(self.now, input);
        self.carry_out(effects);
    }

    pub fn hear(&mut self, document: Document) {
        self.step(Input::Heard { document, retained: false });
    }

    /// Plans and hears until nothing follows any more.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let heard: Vec<(Document, bool)> = self.waiting.drain(..).collect();
            let quiet = heard.is_empty();
            for (document, retained) in heard {
                self.step(Input::Heard { document, retained });
            }
            let before = self.sent.len();
            let effects = self.core.plan(self.now);
            self.carry_out(effects);
            if quiet && self.waiting.is_empty() && self.sent.len() == before {
                return;
            }
        }
        panic!("it does not come to rest; last: {:#?}", &self.sent[self.sent.len() - 5..]);
    }

    /// Time goes by in steps of a second; agents that are heard give signs of life.
    pub fn wait(&mut self, seconds: u64) {
        for second in 0..seconds {
            self.now.mono = self.now.mono.plus_ms(1_000);
            if second % 30 == 0 {
                self.all_report();
            }
            self.settle();
        }
    }

    /// Time goes by in one step, at whose end agents that are heard give signs of life.
    pub fn leap(&mut self, seconds: u64) {
        self.now.mono = self.now.mono.plus_ms(seconds * 1_000);
        self.all_report();
        self.settle();
    }

    /// One round: does what the core says, and lets it hear what came of that.
    pub fn take(&mut self, effects: Vec<Effect>) {
        self.carry_out(effects);
        let heard: Vec<(Document, bool)> = self.waiting.drain(..).collect();
        for (document, retained) in heard {
            self.step(Input::Heard { document, retained });
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut not_kept: BTreeSet<AppName> = BTreeSet::new();
        for effect in effects {
            match effect {
                Effect::Subscribe(_) => {}
                Effect::Log(record) => {
                    if !(not_kept.contains(&record.app) && record.rests_on_the_disk()) {
                        self.recorded.push(*record);
                    }
                }
                Effect::Resign { reason } => self.resigned = Some(reason),
                Effect::Keep(file) if self.disk_full || not_kept.contains(&file.app) => {
                    not_kept.insert(file.app.clone());
                }
                Effect::Keep(file) => drop(self.disk.insert(file.app.clone(), *file)),
                Effect::Publish(publication) => {
                    if !not_kept.iter().any(|app| publication.rests_on(app)) {
                        self.publish(*publication);
                    }
                }
            }
        }
        for app in not_kept {
            let effects = self.core.step(self.now, Input::NotKept { app, error: String::new() });
            assert_eq!(effects, []);
        }
    }

    fn publish(&mut self, publication: Publication) {
        self.sent.push(publication.clone());
        let (topic, document) = match publication {
            Publication::Marker(_, connection) => {
                self.waiting.push_back((Document::Marker(connection), false));
                return;
            }
            Publication::Leader(l) => (Topic::Leader(l.app.clone()), Document::Leader(l)),
            Publication::Controller(c) => {
                (Topic::Controller(c.controller.clone()), Document::Controller(c))
            }
            Publication::Assignment(a) => (
                Topic::Assignment(a.node.clone(), a.app.clone()),
                Document::Assignment(Box::new(a), Some(self.key)),
            ),
            Publication::Ledger(app, cluster, ledger) => (
                Topic::Status(app.clone(), cluster.clone()),
                Document::Ledger(app, cluster, Box::new(ledger)),
            ),
            Publication::Mailbox(node, mailbox) => {
                (Topic::Mailbox(node.clone()), Document::Mailbox(node, mailbox, Some(self.key)))
            }
            Publication::Receipted(_, node, key) => {
                let topic = Topic::Receipt(node, key);
                (topic.clone(), Document::Deleted(topic))
            }
            Publication::Nothing(topic) => (topic.clone(), Document::Deleted(topic)),
        };
        if self.lossy {
            return;
        }
        match &document {
            Document::Deleted(_) => drop(self.retained.remove(&topic)),
            _ => drop(self.retained.insert(topic, document.clone())),
        }
        match &document {
            Document::Leader(_) => self.all_report(),
            Document::Assignment(assignment, _) => self.obey(assignment),
            _ => {}
        }
        self.waiting.push_back((document, false));
    }

    fn obey(&mut self, assignment: &Assignment) {
        if self.silent.contains(&assignment.node) {
            return;
        }
        let assigned = crate::plan::Assigned { assignment: assignment.clone(), age_ms: 0 };
        self.world.assigned.insert(assignment.node.clone(), assigned);
        self.world.obey(&assignment.node);
        self.speak(&assignment.node);
    }

    /// The node's agent reports.
    pub fn speak(&mut self, name: &NodeName) {
        let observed = self.world.nodes.get_mut(name).unwrap();
        let report = Arc::make_mut(observed.report.as_mut().unwrap());
        report.sequence += 1;
        let document = Document::Report(Box::new(report.clone()));
        self.retained.insert(Topic::Report(name.clone()), document.clone());
        self.waiting.push_back((document, false));
    }

    pub fn all_report(&mut self) {
        let names: Vec<NodeName> =
            self.world.nodes.keys().filter(|n| !self.silent.contains(*n)).cloned().collect();
        names.iter().for_each(|name| self.speak(name));
    }

    pub fn report(&mut self, name: &str) -> &mut Report {
        let observed = self.world.nodes.get_mut(&node(name)).unwrap();
        Arc::make_mut(observed.report.as_mut().unwrap())
    }

    pub fn revisions(&self) -> Vec<String> {
        let running = |observed: &Observed| {
            let state = observed.report.as_ref()?.apps.get(&shop())?;
            state.revision.known().map(ToString::to_string)
        };
        self.world.nodes.values().filter_map(running).collect()
    }

    /// What lies in the mailboxes: server, cause and kind.
    pub fn mail(&self) -> Vec<(String, MessageKey)> {
        let mut all = Vec::new();
        for (topic, document) in &self.retained {
            if let (Topic::Mailbox(node), Document::Mailbox(_, mailbox, _)) = (topic, document) {
                all.extend(mailbox.messages.keys().map(|key| (node.to_string(), key.clone())));
            }
        }
        all
    }

    /// A notification server's receipt arrives.
    pub fn receipt(&mut self, server: &str, key: &MessageKey, outcome: ReceiptOutcome) {
        let outcomes = BTreeMap::from([(RecipientName::new("oncall").unwrap(), outcome)]);
        let receipt = Receipt { key: key.clone(), node: node(server), outcomes };
        let topic = Topic::Receipt(node(server), key.clone());
        self.retained.insert(topic, Document::Receipt(receipt.clone()));
        self.waiting.push_back((Document::Receipt(receipt), false));
    }

    /// Whether the broker has a server's receipt.
    pub fn has_receipt(&self, server: &str, key: &MessageKey) -> bool {
        self.retained.contains_key(&Topic::Receipt(node(server), key.clone()))
    }

    /// Titles of all messages that were ever handed out, once per key.
    pub fn told(&self) -> Vec<String> {
        let mut keys = BTreeSet::new();
        let mut titles = Vec::new();
        for publication in &self.sent {
            let Publication::Mailbox(_, mailbox) = publication else { continue };
            for (key, message) in &mailbox.messages {
                if keys.insert(key.clone()) {
                    titles.push(message.title.clone());
                }
            }
        }
        titles
    }

    pub fn epoch(&self) -> Option<u64> {
        self.core.apps.get(&shop())?.epoch.as_ref().map(|epoch| epoch.number)
    }

    pub fn standing(&self, cluster: &str) -> Standing {
        self.core.apps[&shop()].desired[&ClusterName::new(cluster).unwrap()].standing.clone()
    }
}
