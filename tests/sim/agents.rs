//! The agents: the real core of each, and around it a process, a disk, a service, a HAProxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use evenkeel::agent::core::{AgentCore, BalancerSetup, Effect, Event, Memory, Publication, Setup};
use evenkeel::bus::{Topic, encode};
use evenkeel::checker::{By, Fact, Tale};
use evenkeel::model::*;
use evenkeel::plan::ports::{DeliverError, SetServer};
use fastrand::Rng;

use crate::broker::{Client, Link, Will};
use crate::disk::Disk;
use crate::haproxy::Haproxy;
use crate::mutant;
use crate::plot::{Plot, Role};
use crate::service::Service;
use crate::wire::Packet;
use crate::world::{Happening, World};

/// A receipt that is later than this counts as lost, by the design.
const LATE_MS: u64 = 20_000;

/// One node and its agent.
pub struct Agent {
    setup: Setup,
    /// None while the process does not run.
    pub core: Option<AgentCore>,
    pub life: u64,
    /// Which session with the broker: a new one for each life, and whenever the core wants one.
    pub session: u64,
    started_ms: u64,
    pub link: Option<Link>,
    connections: u64,
    /// Stopped where it stands, with the number of that.
    pub frozen: Option<u64>,
    backlog: Vec<Event>,
    wake_ms: Option<u64>,
    pub disk: Disk,
    /// How far its wall clock is behind, in milliseconds.
    pub wall_behind_ms: u64,
    pub service: Service,
    pub haproxy: Option<Haproxy>,
    /// What a hand has changed since the last reading: what was there before, and when.
    pub unseen: BTreeMap<ServerName, (AdminBits, u64)>,
    /// Its servers, as the checker was told.
    shown: BTreeMap<ServerName, ServerSeen>,
    /// Its notification services do not answer.
    pub mute: bool,
    /// Its last report, whether that left it or not.
    pub told: Option<Arc<[u8]>>,
    /// It began with an empty disk, and has not asked the broker yet.
    pub blank: bool,
}

/// What HAProxy is asked.
#[derive(Debug, Clone)]
pub enum Question {
    Read,
    Set(Vec<SetServer>),
    Process,
    Dump,
}

impl Agent {
    /// Every agent of the plot; none runs yet.
    pub fn all(plot: &Plot, rng: &mut Rng) -> BTreeMap<NodeName, Agent> {
        let agent = |(name, role): (&NodeName, &Role)| {
            (name.clone(), Agent::new(plot, name, role, rng.u64(..)))
        };
        plot.nodes.iter().map(agent).collect()
    }

    fn new(plot: &Plot, name: &NodeName, role: &Role, seed: u64) -> Self {
        let mut setup = Setup {
            node: name.clone(),
            facts: BTreeMap::new(),
            version: "sim".to_owned(),
            apps: BTreeSet::new(),
            checks: BTreeSet::new(),
            balancer: None,
            recipients: None,
            heartbeat_ms: 30_000,
            observe_ms: 10_000,
            seed,
            trusted_keys: BTreeSet::new(),
        };
        let (mut service, mut haproxy) = (Service::default(), None);
        match role {
            Role::Web { cluster, runs } => {
                setup.facts.insert("cluster".to_owned(), cluster.to_string());
                setup.apps.insert(plot.app.clone());
                setup.checks = plot.checks.clone();
                service.runs = runs.clone();
            }
            Role::Balancer { state_file, disabled } => {
                let state_file = *state_file;
                setup.balancer = Some(BalancerSetup { state_file, backends: Vec::new() });
                let servers = plot.webs().map(|name| {
                    let server = ServerName::new(name.as_str()).expect("a name");
                    let disabled = disabled.contains(&server);
                    (server, disabled)
                });
                haproxy = Some(Haproxy::new(plot.backend.clone(), servers.collect(), state_file));
            }
            Role::Notify => setup.recipients = Some(BTreeSet::from([plot.recipient.clone()])),
        }
        Self {
            setup,
            core: None,
            life: 0,
            session: 0,
            started_ms: 0,
            link: None,
            connections: 0,
            frozen: None,
            backlog: Vec::new(),
            wake_ms: None,
            disk: Disk::default(),
            wall_behind_ms: 0,
            service,
            haproxy,
            unseen: BTreeMap::new(),
            shown: BTreeMap::new(),
            mute: false,
            told: None,
            blank: false,
        }
    }

    pub fn next_connection(&mut self, name: &NodeName) -> (u64, Will) {
        self.connections += 1;
        let started = self.core.as_ref().map_or(0, AgentCore::started);
        let boot = Boot { started, connection: self.connections };
        let alive = Alive { node: name.clone(), boot, alive: false };
        let payload: Arc<[u8]> = encode(&alive).expect("a will").into();
        (self.connections, (Topic::Alive(name.clone()).on(&World::fleet()), payload))
    }

    fn now(&self, now_ms: u64, wall: Wall) -> Now {
        let mono = Mono(now_ms - self.started_ms);
        Now { mono, wall: Wall(wall.0 - self.wall_behind_ms) }
    }
}

impl World {
    pub fn start_agent(&mut self, name: &NodeName) {
        self.lives += 1;
        let (life, wall, now_ms) = (self.lives, self.wall(), self.now_ms);
        let agent = self.agents.get_mut(name).expect("an agent");
        if agent.core.is_some() || self.gone.contains(name) {
            return;
        }
        agent.life = life;
        agent.session = life;
        agent.started_ms = now_ms;
        agent.connections = 0;
        agent.link = None;
        agent.wake_ms = None;
        let memory = agent.disk.read::<Memory>();
        agent.blank = memory.is_none();
        let now = agent.now(now_ms, wall);
        agent.core = Some(AgentCore::new(agent.setup.clone(), memory, now));
        self.trace.line(self.now_ms, &format!("{name} starts"));
        self.tell(name, Event::Tick);
        let client = Client::Node(name.clone());
        let at_ms = self.rng.u64(0..100);
        self.after(at_ms, Happening::Connect { client, life });
    }

    /// With an empty disk it knows what the broker does. What that has lost as well is lost.
    pub fn remember_agent(&mut self, name: &NodeName) {
        let topic = Topic::Report(name.clone()).on(&Self::fleet());
        let agent = self.agents.get_mut(name).expect("an agent");
        let blank = std::mem::take(&mut agent.blank);
        if blank && self.broker.memory().get(&topic) != agent.told.as_ref() {
            self.trace.line(self.now_ms, &format!("what {name} had tried is forgotten"));
            self.fact(Fact::TriesLost { node: name.clone() });
            self.disowned.insert(name.clone());
        }
    }

    /// SIGKILL. What it was deploying goes on by itself, or dies with it.
    pub fn kill_agent(&mut self, name: &NodeName) {
        let client = Client::Node(name.clone());
        self.cut_words(&client);
        let orphaned = self.rng.bool();
        let agent = self.agents.get_mut(name).expect("an agent");
        agent.core = None;
        agent.link = None;
        agent.frozen = None;
        agent.backlog.clear();
        let dead = if orphaned { None } else { agent.service.kill() };
        agent.service.forget_waiting();
        self.trace.line(self.now_ms, &format!("{name} is killed"));
        if dead.is_some() {
            self.fact(Fact::UpgradeEnded { node: name.clone() });
        }
    }

    pub fn freeze(&mut self, name: &NodeName) {
        self.jobs += 1;
        let number = self.jobs;
        let agent = self.agents.get_mut(name).expect("an agent");
        if agent.core.is_some() && agent.frozen.is_none() {
            agent.frozen = Some(number);
            self.freeze_words(name, number);
        }
    }

    pub fn thaw(&mut self, name: &NodeName) {
        let agent = self.agents.get_mut(name).expect("an agent");
        if agent.frozen.take().is_none() {
            return;
        }
        // What it does now, it may do too late for anybody to have waited for it.
        self.receipts_lost(&Client::Node(name.clone()), self.now_ms + LATE_MS);
        // What came meanwhile is taken in together, as the driver does.
        let agent = self.agents.get_mut(name).expect("an agent");
        let mut events = std::mem::take(&mut agent.backlog);
        events.push(Event::Tick);
        self.tell_all(name, events);
        // A connection that the broker has ended is noticed at the first word.
        let agent = &self.agents[name];
        if let Some(link) = agent.link
            && !self.broker.knows(&Client::Node(name.clone()), link)
        {
            self.after(1, Happening::Lost { client: Client::Node(name.clone()), link });
        }
    }

    /// Tells an agent's core, and carries out what it asks for.
    pub fn tell(&mut self, name: &NodeName, event: Event) {
        self.tell_all(name, vec![event]);
    }

    fn tell_all(&mut self, name: &NodeName, events: Vec<Event>) {
        let (now_ms, wall) = (self.now_ms, self.wall());
        let agent = self.agents.get_mut(name).expect("an agent");
        let now = agent.now(now_ms, wall);
        let Some(core) = &mut agent.core else { return };
        if agent.frozen.is_some() {
            agent.backlog.extend(events);
            return;
        }
        if events.iter().any(|event| matches!(event, Event::Persisted { .. })) {
            agent.disk.flushed();
        }
        let effects = core.step_all(now, events);
        let wake = core.next_wake();
        let life = agent.life;
        for effect in effects {
            self.agent_asks(name, life, effect);
        }
        self.wake_at(name, wake);
    }

    fn wake_at(&mut self, name: &NodeName, wake: Option<Mono>) {
        let now_ms = self.now_ms;
        let agent = self.agents.get_mut(name).expect("an agent");
        let Some(wake_ms) = wake.map(|wake| (wake.0 + agent.started_ms).max(now_ms)) else {
            return;
        };
        if agent.wake_ms.is_some_and(|known| known > now_ms && known <= wake_ms) {
            return; // it will look then, and ask anew
        }
        agent.wake_ms = Some(wake_ms);
        self.after(wake_ms - now_ms, Happening::Wake(name.clone()));
    }

    pub fn wake(&mut self, name: &NodeName) {
        let now_ms = self.now_ms;
        let agent = self.agents.get_mut(name).expect("an agent");
        let Some(core) = &agent.core else { return };
        let due = core.next_wake().is_some_and(|wake| wake.0 + agent.started_ms <= now_ms);
        if agent.frozen.is_some() {
            return;
        }
        agent.wake_ms = None;
        if due {
            self.tell(name, Event::Tick);
        } else {
            let wake = core.next_wake();
            self.wake_at(name, wake);
        }
    }

    pub fn answer(&mut self, name: &NodeName, life: u64, event: Event) {
        if self.agents[name].life == life && self.agents[name].core.is_some() {
            self.tell(name, event);
        }
    }

    fn later(&mut self, name: &NodeName, life: u64, ms: u64, event: Event) {
        let (node, event) = (name.clone(), Box::new(event));
        self.after(ms, Happening::Answer { node, life, event });
    }

    fn agent_asks(&mut self, name: &NodeName, life: u64, effect: Effect) {
        let client = Client::Node(name.clone());
        match effect {
            Effect::Reconnect { .. } => {
                self.cut_words(&client);
                let agent = self.agents.get_mut(name).expect("an agent");
                agent.link = None;
                agent.connections = 0;
                self.lives += 1;
                let life = self.lives;
                self.agents.get_mut(name).expect("an agent").session = life;
                self.after(10, Happening::Connect { client, life });
            }
            Effect::Subscribe(interests) => {
                for interest in interests {
                    let filter = evenkeel::agent::filter(name, interest).on(&Self::fleet());
                    self.send(&client, Packet::Subscribe(filter));
                }
            }
            Effect::Mark { connection } => {
                let topic = Topic::NodeMarker(name.clone());
                self.put(&client, &topic, connection.to_string().into_bytes(), false);
            }
            Effect::Publish(publication) => match *publication {
                Publication::Alive(alive) => {
                    self.publish(&client, &Topic::Alive(name.clone()), &alive);
                }
                Publication::Report(report) => {
                    let payload = encode(&report).expect("a report");
                    let told = Some(payload.clone().into());
                    self.agents.get_mut(name).expect("an agent").told = told;
                    self.put(&client, &Topic::Report(name.clone()), payload, true);
                }
                Publication::Receipt(receipt) => {
                    let topic = Topic::Receipt(name.clone(), receipt.key.clone());
                    self.publish(&client, &topic, &receipt);
                }
            },
            Effect::Persist { token, memory } => {
                let written = self.agents.get_mut(name).expect("an agent").disk.write(&*memory);
                let ms = self.rng.u64(0..5);
                let event = match written {
                    Ok(()) => Event::Persisted { token },
                    Err(error) => {
                        self.receipts_lost(&client, self.now_ms);
                        Event::PersistFailed { token, error }
                    }
                };
                self.later(name, life, ms, event);
            }
            Effect::ReadRevision { app, read } => {
                let seen = self.agents[name].service.says();
                let ms = self.rng.u64(1..20);
                self.later(name, life, ms, Event::RevisionRead { app, read, seen });
            }
            Effect::AwaitEarlier { app } => self.await_earlier(name, life, app),
            Effect::StartUpgrade { app, revision, timeout_ms } => {
                self.start_job(name, life, app, revision, timeout_ms);
            }
            Effect::RunCheck { app, run, check } => {
                self.fact(Fact::CheckStarted { node: name.clone(), check: check.clone() });
                let plugin = self.agents[name].service.plugin;
                let (ms, node) = (plugin.takes_ms(&mut self.rng), name.clone());
                self.after(ms, Happening::CheckEnds { node, life, app, run, check, plugin });
            }
            Effect::ReadBalancer => self.ask(name, life, Question::Read),
            Effect::SetBalancer(commands) => self.ask(name, life, Question::Set(commands)),
            Effect::AskProcess => self.ask(name, life, Question::Process),
            Effect::DumpState => self.ask(name, life, Question::Dump),
            Effect::Deliver { recipient, message } => {
                let ms = self.rng.u64(5..2_000);
                let node = name.clone();
                self.after(ms, Happening::Delivers { node, life, recipient, message });
            }
            Effect::Log(note) => {
                if self.trace.is_loud() {
                    self.trace.line(self.now_ms, &format!("{name}: {note:?}"));
                }
            }
            Effect::Exit => {}
        }
    }

    // -- HAProxy

    fn ask(&mut self, name: &NodeName, life: u64, question: Question) {
        let ms = self.rng.u64(0..3);
        self.after(ms, Happening::Haproxy { node: name.clone(), life, question });
    }

    pub fn at_haproxy(&mut self, name: &NodeName, life: u64, question: Question) {
        let mutant = self.mutant;
        let agent = self.agents.get_mut(name).expect("an agent");
        if agent.life != life || agent.core.is_none() {
            return; // whoever asked died before it had asked
        }
        let owned = agent.disk.read::<Memory>().map(|memory| memory.owned).unwrap_or_default();
        if let Question::Set(commands) = &question {
            self.pass_over_unseen(name, commands);
        }
        let agent = self.agents.get_mut(name).expect("an agent");
        let haproxy = agent.haproxy.as_mut().expect("a HAProxy");
        if matches!(question, Question::Read) {
            agent.unseen.clear();
        }
        let event = match question {
            Question::Read => Event::BalancerRead(haproxy.read().map(|mut state| {
                let ours = |server: &ServerName| owned.values().any(|s| s.contains_key(server));
                mutant::read(mutant, &mut state, ours);
                state
            })),
            Question::Process => Event::ProcessSeen(haproxy.process()),
            Question::Dump => Event::StateDumped(haproxy.dump_state()),
            Question::Set(commands) => match haproxy.process() {
                Err(error) => Event::BalancerSet(Err(error)),
                Ok(_) => {
                    let ours = |server: &ServerName| owned.values().any(|s| s.contains_key(server));
                    let state = haproxy.read().expect("it is there");
                    for lifted in mutant::lifts(mutant, &state, ours) {
                        haproxy.set(&lifted).expect("a server");
                    }
                    Event::BalancerSet(Ok(mutant::set(mutant, haproxy, &commands)))
                }
            },
        };
        let changed = matches!(event, Event::BalancerSet(Ok(_)));
        if changed {
            self.tell_servers(name, By::Us);
        }
        let ms = self.rng.u64(0..3);
        self.later(name, life, ms, event);
    }

    /// Tells the checker what has changed at a load balancer.
    pub fn tell_servers(&mut self, lb: &NodeName, by: By) {
        let agent = self.agents.get_mut(lb).expect("an agent");
        let Some(haproxy) = &agent.haproxy else { return };
        let backend = haproxy.backend.clone();
        let unproved = haproxy.is_unproved();
        let mut news = Vec::new();
        for name in haproxy.servers.keys() {
            let mut seen = haproxy.seen(name);
            seen.sessions = 0;
            if agent.shown.get(name) != Some(&seen) {
                news.push((name.clone(), seen));
            }
        }
        agent.shown.extend(news.iter().cloned());
        for (server, seen) in news {
            let (lb, backend) = (lb.clone(), backend.clone());
            self.fact(Fact::Server { lb, backend, server, seen, by });
        }
        if unproved {
            let ms = self.rng.u64(1..3_000);
            self.after(ms, Happening::Checked { node: lb.clone() });
        }
    }

    /// Health checks have run: what was taken for up and is not is down.
    pub fn checked(&mut self, lb: &NodeName) {
        let haproxy = self.agents.get_mut(lb).expect("an agent").haproxy.as_mut();
        haproxy.expect("a HAProxy").check();
        self.tell_servers(lb, By::Itself);
    }

    /// Tells the checker how a node is before anything happens.
    pub fn tell_truth(&mut self, name: &NodeName) {
        self.tell_servers(name, By::Hand);
        if self.agents[name].haproxy.is_none() && !self.agents[name].setup.apps.is_empty() {
            let revision = self.agents[name].service.runs.clone();
            self.fact(Fact::Runs { node: name.clone(), revision, by: By::Hand });
        }
    }

    /// A service is well, or not.
    pub fn healthy(&mut self, name: &NodeName, healthy: bool) {
        self.agents.get_mut(name).expect("an agent").service.ill = !healthy;
        self.show_health(name);
    }

    /// Every load balancer finds out by its checks how a service is.
    pub fn show_health(&mut self, name: &NodeName) {
        let server = ServerName::new(name.as_str()).expect("a name");
        let healthy = self.agents[name].service.is_up();
        let lbs: Vec<NodeName> = self.plot.balancers().cloned().collect();
        for lb in lbs {
            let haproxy = self.agents.get_mut(&lb).expect("an agent").haproxy.as_mut();
            if let Some(server) = haproxy.and_then(|haproxy| haproxy.servers.get_mut(&server)) {
                server.healthy = healthy;
            }
            self.tell_servers(&lb, By::Itself);
        }
    }

    // -- notifications

    pub fn delivers(
        &mut self,
        name: &NodeName,
        life: u64,
        recipient: RecipientName,
        message: evenkeel::model::Message,
    ) {
        let agent = &self.agents[name];
        if agent.life != life || agent.core.is_none() {
            return; // it died before the service had the message
        }
        let key = message.key.clone();
        let result = if agent.mute {
            let error = "no answer".to_owned();
            Err(DeliverError::Transient { error, retry_after_ms: None })
        } else {
            let place = (key.clone(), recipient.clone());
            let untold = agent.frozen.is_some() || agent.link.is_none() || !self.broker_up;
            let itself = Client::Node(name.clone());
            if self.network.slow_ms > 0 || untold {
                self.receipts_lost(&itself, self.now_ms + LATE_MS);
            }
            let mailbox = Topic::Mailbox(name.clone()).on(&Self::fleet());
            let is_its = |mailbox: &Arc<[u8]>| String::from_utf8_lossy(mailbox).contains(&key.0);
            if !self.broker.memory().get(&mailbox).is_some_and(is_its) {
                self.overtaken.insert(key.clone());
            }
            if let Some((before_ms, other)) =
                self.delivered.insert(place, (self.now_ms, name.clone()))
            {
                let lost = [Client::Controller, Client::Node(other), itself]
                    .iter()
                    .any(|client| self.may_lack_receipt(client, before_ms));
                if lost || self.overtaken.contains(&key) {
                    self.fact(Fact::ToldAgain { key: key.clone() });
                }
            }
            self.trace.line(self.now_ms, &format!("{recipient} reads: {}", message.title));
            let sequence = key.0.rsplit('.').next().and_then(|s| s.parse().ok()).unwrap_or(0);
            let news = (sequence, message.kind, message.revision_to.clone());
            let told = self
                .told
                .entry((message.cluster.clone(), message.cause))
                .or_insert_with(|| news.clone());
            if told.0 < sequence {
                *told = news;
            }
            self.fact(Fact::Told(Tale {
                key: key.clone(),
                sequence,
                recipient: recipient.clone(),
                cluster: message.cluster,
                rollout: message.rollout,
                cause: message.cause,
                kind: message.kind,
            }));
            Ok(())
        };
        self.later(name, life, 1, Event::Delivered { key, recipient, result });
    }
}
