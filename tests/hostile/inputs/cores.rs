//! What is read goes on into the cores: neither panics, and what they publish can be written, on a topic of ours.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::OnceLock;

use evenkeel::agent::core as agent_core;
use evenkeel::agent::core::{AgentCore, BalancerSetup};
use evenkeel::bus::Topic;
use evenkeel::bus::intake::Document;
use evenkeel::bus::wire::{self, WireError, encode};
use evenkeel::controller::core::{Core, Effect, Input, Publication, Setup};
use evenkeel::model::*;
use evenkeel::plan::ports::{BalancerState, ProcessId};

use super::fleet;

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
    static LEADS: OnceLock<Core> = OnceLock::new();
    let leads = LEADS.get_or_init(|| {
        let mut core = new_controller();
        let heard = fleet::reports().into_iter().map(|report| (report, false));
        live(&mut core, heard.collect());
        core
    });
    let mut core = leads.clone();
    rest(&mut core, at(0), VecDeque::from([(document.clone(), false)]));
    pass(&mut core);

    let mut core = new_controller();
    live(&mut core, vec![(document.clone(), true)]);
    let heard = fleet::reports().into_iter().map(|report| (report, false));
    rest(&mut core, at(0), heard.collect());
    pass(&mut core);
}

fn new_controller() -> Core {
    let id = ControllerId::new("me").expect("a name");
    Core::new(Setup { id, started: 1_767_225_600_000, page: None, key: None }, Vec::new())
}

fn live(core: &mut Core, heard: Vec<(Document, bool)>) {
    core.step(at(0), Input::Connected { connection: 1 });
    for (document, retained) in heard {
        core.step(at(0), Input::Heard { document, retained });
    }
    core.step(at(0), Input::Desired(fleet::desired()));
    rest(core, at(0), VecDeque::from([(Document::Marker(1), false)]));
}

fn pass(core: &mut Core) {
    for ms in WAITS_MS {
        rest(core, at(ms), VecDeque::new());
    }
}

/// Hears what waits and its own words, and plans, until nothing follows.
fn rest(core: &mut Core, now: Now, mut waiting: VecDeque<(Document, bool)>) {
    for _ in 0..ROUNDS_MAX {
        let mut effects = Vec::new();
        for (document, retained) in waiting.drain(..) {
            effects.extend(core.step(now, Input::Heard { document, retained }));
        }
        effects.extend(core.plan(now));
        for effect in effects {
            match effect {
                Effect::Publish(publication) => waiting.extend(published(*publication)),
                Effect::Resign { .. } => return,
                Effect::Keep(_) | Effect::Subscribe(_) | Effect::Log(_) => {}
            }
        }
        if waiting.is_empty() {
            return;
        }
    }
    panic!("it does not come to rest: {waiting:?}");
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

/// An agent of every role hears the document, live, and retained from before its start.
pub fn agent(document: &Document) {
    for retained in [false, true] {
        let mut agent = Agent::start();
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

/// As the agent's driver hands it in.
fn received(document: Document, retained: bool) -> Option<agent_core::Event> {
    let document = match document {
        Document::Assignment(assignment, None) => agent_core::Document::Assignment(assignment),
        Document::Assignment(assignment, key) => {
            let (app, stamp) = (assignment.app, assignment.stamp);
            agent_core::Document::Untrusted { app, stamp, key }
        }
        Document::Report(report) => agent_core::Document::Report(report),
        Document::Alive(alive) => agent_core::Document::Alive(alive),
        Document::Leader(leader) => agent_core::Document::Leader(leader),
        Document::Mailbox(_, mailbox, _) => agent_core::Document::Mailbox(Box::new(mailbox)),
        Document::Marker(connection) => return Some(agent_core::Event::Marker { connection }),
        Document::Controller(_)
        | Document::Ledger(..)
        | Document::Receipt(_)
        | Document::Deleted(_) => return None,
    };
    Some(agent_core::Event::Received { document, retained })
}

/// A core in a world where everything succeeds at once.
struct Agent {
    core: AgentCore,
    servers: BTreeMap<ServerName, ServerSeen>,
    revision: Revision,
}

impl Agent {
    fn start() -> Agent {
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
        };
        let names = ["web1", "web2"].map(|name| ServerName::new(name).expect("a name"));
        Agent {
            core: AgentCore::new(setup, None, at(0)),
            servers: names.into_iter().map(|name| (name, fleet::server())).collect(),
            revision: fleet::revision("1"),
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
            Effect::Persist { token, .. } => Event::Persisted { token },
            Effect::ReadRevision { app, read } => {
                let seen = RevisionSeen::Running(self.revision.clone());
                Event::RevisionRead { app, read, seen }
            }
            Effect::AwaitEarlier { app } => Event::EarlierEnded { app },
            Effect::StartUpgrade { app, revision, .. } => {
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
                for command in &commands {
                    let bits = match command.state {
                        evenkeel::plan::ports::SetState::Ready => 0,
                        evenkeel::plan::ports::SetState::Drain => AdminBits::FORCED_DRAIN,
                        evenkeel::plan::ports::SetState::Maint => AdminBits::FORCED_MAINTENANCE,
                    };
                    if let Some(server) = self.servers.get_mut(&command.server) {
                        server.admin = AdminBits(bits);
                    }
                }
                Event::BalancerSet(Ok(commands.iter().map(|_| Ok(())).collect()))
            }
            Effect::AskProcess => Event::ProcessSeen(Ok(ProcessId(1))),
            Effect::DumpState => Event::StateDumped(Ok(())),
            Effect::Deliver { recipient, message } => {
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
