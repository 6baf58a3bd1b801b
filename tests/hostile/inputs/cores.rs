//! What is read goes on into the cores: neither panics, what they publish can be written, on a topic of ours, and whatever
//! an agent is told, it keeps the promises that are its own.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, OnceLock};

use evenkeel::agent::core as agent_core;
use evenkeel::agent::core::{AgentCore, BalancerSetup, Memory};
use evenkeel::bus::Topic;
use evenkeel::bus::intake::Document;
use evenkeel::bus::wire::{self, WireError, encode};
use evenkeel::checker::Invariant::{ForeignKept, ToldOnce, TriesBounded, UpgradedOnlyWhileOut};
use evenkeel::checker::{Checker, Fact};
use evenkeel::controller::core::{Core, Effect, Input, Publication, Setup};
use evenkeel::model::*;
use evenkeel::plan::ports::{BalancerState, ProcessId, SetServer, SetState};

use super::fleet;
use super::presence::Presence;

/// How often a core may answer what came of its own answers. Resting takes a few rounds; a core that
/// goes on for ever would go on for ever on a real bus, too.
const ROUNDS_MAX: usize = 200;

/// Time that goes by after a document, in milliseconds: nothing; a patience; silence; longer than any limit.
const WAITS_MS: [u64; 4] = [0, 60_000, 100_000, 7_200_000];

fn at(ms: u64) -> Now {
    Now { mono: Mono(1_000_000 + ms), wall: Wall(1_767_225_600_000 + ms) }
}

// -- the controller

/// A controller hears the document in the midst of its work, and one finds it when it starts.
pub fn controller(document: &Document) {
    static LEADS: OnceLock<Controller> = OnceLock::new();
    let leads = LEADS.get_or_init(|| {
        let mut controller = Controller::new();
        let heard = fleet::reports().into_iter().map(|report| (report, false));
        controller.live(heard.collect());
        controller
    });
    let mut controller = leads.clone();
    controller.rest(at(0), VecDeque::from([(document.clone(), false)]));
    controller.pass();

    let mut controller = Controller::new();
    controller.live(vec![(document.clone(), true)]);
    let heard = fleet::reports().into_iter().map(|report| (report, false));
    controller.rest(at(0), heard.collect());
    controller.pass();
}

/// A core, with one who reads what it hears and asks, and does not trust it.
#[derive(Clone)]
struct Controller {
    core: Core,
    presence: Presence,
    checker: Checker,
}

impl Controller {
    fn new() -> Controller {
        let id = ControllerId::new("me").expect("a name");
        let setup = Setup { id, started: 1_767_225_600_000, page: None, key: None };
        Controller {
            core: Core::new(setup, Vec::new()),
            presence: Presence::default(),
            checker: Checker::new(fleet::app()),
        }
    }

    fn live(&mut self, heard: Vec<(Document, bool)>) {
        self.core.step(at(0), Input::Connected { connection: 1 });
        for (document, retained) in heard {
            self.hear(at(0), document, retained);
        }
        let desired = fleet::desired();
        for app in desired.values().filter_map(|app| app.as_ref().ok()) {
            for (cluster, settings) in app.clusters.clone() {
                let settings = Box::new(settings);
                self.fact(at(0), Fact::Desired { cluster, settings, standing: Standing::Current });
            }
        }
        self.core.step(at(0), Input::Desired(desired));
        self.rest(at(0), VecDeque::from([(Document::Marker(1), false)]));
    }

    fn fact(&mut self, now: Now, fact: Fact) {
        if self.checker.see(now.mono.0, fact) > 0 {
            panic!("{:?}", self.checker.breaches());
        }
    }

    fn hear(&mut self, now: Now, document: Document, retained: bool) -> Vec<Effect> {
        if let Some(fact) = self.presence.hear(&document, retained, now.mono) {
            self.fact(now, fact);
        }
        self.core.step(now, Input::Heard { document, retained })
    }

    fn pass(&mut self) {
        for ms in WAITS_MS {
            self.rest(at(ms), VecDeque::new());
        }
    }

    /// Hears what waits and its own words, and plans, until nothing follows.
    fn rest(&mut self, now: Now, mut waiting: VecDeque<(Document, bool)>) {
        for _ in 0..ROUNDS_MAX {
            let mut effects = Vec::new();
            for (document, retained) in waiting.drain(..) {
                effects.extend(self.hear(now, document, retained));
            }
            for fact in self.presence.news(now.mono) {
                self.fact(now, fact);
            }
            effects.extend(self.core.plan(now));
            let mut asked = BTreeMap::new();
            for effect in effects {
                match effect {
                    Effect::Publish(publication) => {
                        if let Publication::Assignment(assignment) = &*publication
                            && assignment.app == fleet::app()
                        {
                            asked.insert(assignment.node.clone(), assignment.clone());
                        }
                        waiting.extend(published(*publication));
                    }
                    Effect::Resign { .. } => return,
                    Effect::Keep(_) | Effect::Subscribe(_) | Effect::Log(_) => {}
                }
            }
            if !asked.is_empty() {
                self.fact(now, Fact::Planned(asked));
            }
            if waiting.is_empty() {
                return;
            }
        }
        panic!("it does not come to rest: {waiting:?}");
    }
}

/// What the broker echoes.
fn published(publication: Publication) -> Option<(Document, bool)> {
    let (topic, document) = match publication {
        Publication::Leader(leader) => {
            (sent(Topic::Leader(leader.app.clone()), &leader), Document::Leader(leader))
        }
        Publication::Controller(alive) => {
            (sent(Topic::Controller(alive.controller.clone()), &alive), Document::Controller(alive))
        }
        Publication::Assignment(asked) => {
            let topic = Topic::Assignment(asked.node.clone(), asked.app.clone());
            (sent(topic, &asked), Document::Assignment(Box::new(asked), None))
        }
        Publication::Ledger(app, cluster, ledger) => {
            let topic = Topic::Status(app.clone(), cluster.clone());
            (sent(topic, &ledger), Document::Ledger(app, cluster, Box::new(ledger)))
        }
        Publication::Mailbox(node, mailbox) => {
            (sent(Topic::Mailbox(node.clone()), &mailbox), Document::Mailbox(node, mailbox, None))
        }
        Publication::Marker(id, connection) => {
            (ours(Topic::Marker(id)), Document::Marker(connection))
        }
        Publication::Receipted(_, node, key) => {
            let topic = ours(Topic::Receipt(node, key));
            (topic.clone(), Document::Deleted(topic))
        }
        Publication::Nothing(topic) => {
            let topic = ours(topic);
            (topic.clone(), Document::Deleted(topic))
        }
    };
    ours(topic);
    Some((document, false))
}

fn sent<T: wire::Document>(topic: Topic, document: &T) -> Topic {
    match encode(document) {
        Ok(_) | Err(WireError::TooLarge { .. }) => topic,
        Err(error) => panic!("{topic:?}: {error}"),
    }
}

/// A topic that a broker takes, and that is read as what was meant.
fn ours(topic: Topic) -> Topic {
    let fleet = FleetName::new("prod").expect("a name");
    let text = topic.on(&fleet);
    assert_eq!(Topic::parse(&fleet, &text).as_ref(), Ok(&topic), "{text}");
    topic
}

// -- the agent

/// An agent of every role hears the document, live, and retained from before its start; one that trusts anybody, and one that
/// does not.
pub fn agent(document: &Document) {
    let is_own_memory =
        matches!(document, Document::Report(report) if report.node == fleet::node("web1"));
    let trusted = [BTreeSet::new(), BTreeSet::from([PublicKey([1; 32])])];
    for (retained, trusted) in
        [false, true].into_iter().flat_map(|r| trusted.clone().map(|t| (r, t)))
    {
        let mut agent = Agent::start(trusted);
        // What its own report says of whose maintenance it is, the agent believes.
        agent.has_its_memory = !is_own_memory;
        agent.rest(at(0), vec![agent_core::Event::Connected { connection: 1 }]);
        let heard = received(document.clone(), retained);
        if retained {
            agent.rest(at(0), heard.clone().into_iter().collect());
        }
        agent.rest(at(0), vec![agent_core::Event::Marker { connection: 1 }]);
        agent.rest(at(0), heard.into_iter().collect());
        for ms in WAITS_MS {
            agent.rest(at(ms), vec![agent_core::Event::Tick]);
        }
    }
}

fn server(name: &str) -> ServerName {
    ServerName::new(name).expect("a name")
}

/// As the agent's driver hands it in.
fn received(document: Document, retained: bool) -> Option<agent_core::Event> {
    let document = match document {
        Document::Assignment(assignment, key) => agent_core::Document::Assignment(assignment, key),
        Document::Report(report) => agent_core::Document::Report(report),
        Document::Alive(alive) => agent_core::Document::Alive(alive),
        Document::Leader(leader) => agent_core::Document::Leader(leader),
        Document::Mailbox(_, mailbox, key) => agent_core::Document::Mailbox(Box::new(mailbox), key),
        Document::Marker(connection) => return Some(agent_core::Event::Marker { connection }),
        Document::Controller(_)
        | Document::Ledger(..)
        | Document::Receipt(_)
        | Document::Deleted(_) => return None,
    };
    Some(agent_core::Event::Received { document, retained })
}

/// A core in a world where everything succeeds at once, and where somebody has set `web2` to maintenance.
struct Agent {
    core: AgentCore,
    servers: BTreeMap<ServerName, ServerSeen>,
    revision: Revision,
    has_its_memory: bool,
    /// What it has written down last.
    memory: Option<Arc<Memory>>,
    /// Permits that it has followed.
    followed: Vec<Permit>,
    delivered: BTreeSet<(MessageKey, RecipientName)>,
}

impl Agent {
    fn start(trusted_keys: BTreeSet<PublicKey>) -> Agent {
        let setup = agent_core::Setup {
            node: fleet::node("web1"),
            facts: BTreeMap::from([("cluster".to_owned(), "alfa".to_owned())]),
            version: "0.1.0".to_owned(),
            apps: BTreeSet::from([fleet::app()]),
            checks: BTreeSet::from([fleet::check()]),
            balancer: Some(BalancerSetup::default()),
            recipients: Some(BTreeSet::from([fleet::recipient()])),
            heartbeat_ms: 30_000,
            observe_ms: 10_000,
            seed: 1,
            trusted_keys,
        };
        let by_a_hand =
            ServerSeen { admin: AdminBits(AdminBits::FORCED_MAINTENANCE), ..fleet::server() };
        Agent {
            core: AgentCore::new(setup, None, at(0)),
            servers: [(server("web1"), fleet::server()), (server("web2"), by_a_hand)].into(),
            revision: fleet::revision("1"),
            has_its_memory: true,
            memory: None,
            followed: Vec::new(),
            delivered: BTreeSet::new(),
        }
    }

    /// An attempt starts: by a permit that is written down, that it has not followed before, and that rests on nothing
    /// which nobody has told it of.
    fn starts(&mut self, app: &AppName) {
        let asked = self.memory.as_ref().and_then(|memory| memory.assignments.get(app));
        let permit = asked.and_then(|asked| asked.work.as_ref()?.permit.clone());
        let permit = permit.unwrap_or_else(|| panic!("{TriesBounded} broke: there is no permit"));
        assert!(permit.out.is_empty(), "{UpgradedOnlyWhileOut} broke: {permit:?} is not proved");
        assert!(!self.followed.contains(&permit), "{TriesBounded} broke: {permit:?} again");
        self.followed.push(permit);
    }

    fn sets(&mut self, command: &SetServer) {
        let lifted = command.server == server("web2") && command.state != SetState::Maint;
        assert!(!(lifted && self.has_its_memory), "{ForeignKept} broke: {command:?}");
        let bits = match command.state {
            SetState::Ready => 0,
            SetState::Drain => AdminBits::FORCED_DRAIN,
            SetState::Maint => AdminBits::FORCED_MAINTENANCE,
        };
        if let Some(server) = self.servers.get_mut(&command.server) {
            server.admin = AdminBits(bits);
        }
    }

    /// Takes in the events and the answers to its own effects, until none is left.
    fn rest(&mut self, now: Now, mut events: Vec<agent_core::Event>) {
        for _ in 0..ROUNDS_MAX {
            let effects = self.core.step_all(now, std::mem::take(&mut events));
            events = effects.into_iter().filter_map(|effect| self.answer(effect)).collect();
            if events.is_empty() {
                return;
            }
        }
        panic!("it does not come to rest: {events:?}");
    }

    fn answer(&mut self, effect: agent_core::Effect) -> Option<agent_core::Event> {
        use agent_core::{Effect, Event};
        Some(match effect {
            Effect::Persist { token, memory } => {
                self.memory = Some(memory);
                Event::Persisted { token }
            }
            Effect::ReadRevision { app, read } => {
                let seen = RevisionSeen::Running(self.revision.clone());
                Event::RevisionRead { app, read, seen }
            }
            Effect::AwaitEarlier { app } => Event::EarlierEnded { app },
            Effect::StartUpgrade { app, revision, .. } => {
                self.starts(&app);
                self.revision = revision;
                Event::UpgradeEnded { app, result: Ok(()) }
            }
            Effect::RunCheck { app, run, check } => {
                let (text, performance) = ("fine".to_owned(), String::new());
                let result = CheckResult { status: CheckStatus::Ok, text, performance, took_ms: 1 };
                Event::CheckEnded { app, run, check, result }
            }
            Effect::ReadBalancer => {
                let backends = BTreeMap::from([(fleet::backend(), self.servers.clone())]);
                Event::BalancerRead(Ok(BalancerState { process: ProcessId(1), backends }))
            }
            Effect::SetBalancer(commands) => {
                commands.iter().for_each(|command| self.sets(command));
                Event::BalancerSet(Ok(commands.iter().map(|_| Ok(())).collect()))
            }
            Effect::AskProcess => Event::ProcessSeen(Ok(ProcessId(1))),
            Effect::DumpState => Event::StateDumped(Ok(())),
            Effect::Deliver { recipient, message } => {
                let place = (message.key.clone(), recipient.clone());
                assert!(self.delivered.insert(place), "{ToldOnce} broke: {} again", message.key);
                Event::Delivered { key: message.key, recipient, result: Ok(()) }
            }
            Effect::Publish(publication) => {
                self.published(*publication);
                return None;
            }
            Effect::Subscribe(_)
            | Effect::Mark { .. }
            | Effect::Reconnect { .. }
            | Effect::Log(_)
            | Effect::Exit => return None,
        })
    }

    fn published(&self, publication: agent_core::Publication) {
        let topic = match publication {
            agent_core::Publication::Alive(alive) => sent(Topic::Alive(alive.node.clone()), &alive),
            agent_core::Publication::Report(report) => {
                sent(Topic::Report(report.node.clone()), &report)
            }
            agent_core::Publication::Receipt(receipt) => {
                sent(Topic::Receipt(receipt.node.clone(), receipt.key.clone()), &receipt)
            }
        };
        ours(topic);
    }
}
