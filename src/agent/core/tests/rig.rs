//! A core, a disk that can fail, a HAProxy that is a table, and a bus that can be looked at.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::super::*;
use crate::agent::core::Event;
use crate::model::*;
use crate::plan::ports::{
    BalancerError, BalancerState, ProcessId, SetServer, SetState, UpgradeError,
};

pub const WALL: u64 = 1_000_000;

/// A core and its small world.
pub struct Rig {
    pub core: AgentCore,
    setup: Setup,
    pub now: Now,
    /// What a crash would leave.
    pub disk: Option<Memory>,
    pub disk_error: Option<&'static str>,
    /// Readings of HAProxy wait for [`Rig::read`].
    pub slow_haproxy: bool,
    pub is_reading: bool,
    /// The deploy command of an earlier life goes on until [`Rig::orphan_ends`].
    pub orphan: bool,
    /// Writes wait for [`Rig::write`].
    pub slow_disk: bool,
    queue: VecDeque<Effect>,
    writes: VecDeque<(u64, Arc<Memory>)>,
    pub writes_seen: usize,
    pub haproxy: Haproxy,
    pub revision: RevisionSeen,
    pub reports: Vec<Report>,
    pub alives: Vec<Alive>,
    pub receipts: Vec<Receipt>,
    pub upgrades: Vec<(AppName, Revision)>,
    pub checks: VecDeque<(AppName, u64, CheckName)>,
    pub deliveries: VecDeque<(RecipientName, Message)>,
    pub interests: BTreeSet<Interest>,
    pub notes: Vec<Note>,
    pub reconnects: Vec<u64>,
    pub sets: Vec<SetServer>,
    pub dumps: usize,
    /// Dumps are not answered.
    pub slow_dump: bool,
    pub exited: bool,
    connection: u64,
}

/// HAProxy as a table.
pub struct Haproxy {
    pub process: u32,
    pub servers: BTreeMap<String, ServerSeen>,
    pub down: bool,
    /// Answers against commands.
    pub refuses: Option<&'static str>,
    /// Says yes and does nothing.
    pub deaf: bool,
}

pub fn node() -> NodeName {
    NodeName::new("n1").unwrap()
}

pub fn lb() -> NodeName {
    NodeName::new("lb1").unwrap()
}

pub fn app() -> AppName {
    AppName::new("shop").unwrap()
}

pub fn backend() -> BackendName {
    BackendName::new("app").unwrap()
}

pub fn server(name: &str) -> ServerName {
    ServerName::new(name).unwrap()
}

pub fn check(name: &str) -> CheckName {
    CheckName::new(name).unwrap()
}

pub fn revision(text: &str) -> Revision {
    Revision::new(text).unwrap()
}

pub fn rollout() -> RolloutId {
    RolloutId::new("r1").unwrap()
}

pub fn epoch(number: u64, controller: &str) -> Epoch {
    Epoch { number, controller: ControllerId::new(controller).unwrap() }
}

pub fn stamp(generation: u64) -> Stamp {
    Stamp { epoch: epoch(1, "c1"), generation }
}

pub fn assignment(generation: u64) -> Assignment {
    Assignment {
        app: app(),
        node: node(),
        stamp: stamp(generation),
        probes: BTreeSet::new(),
        work: None,
        balance: BTreeMap::new(),
    }
}

pub fn seen(admin: u8) -> ServerSeen {
    ServerSeen {
        admin: AdminBits(admin),
        health: Health::Up,
        weight: 1,
        backup: false,
        sessions: 0,
    }
}

pub fn result(status: CheckStatus) -> CheckResult {
    CheckResult { status, text: "text".into(), performance: String::new(), took_ms: 1 }
}

pub fn setup() -> Setup {
    Setup {
        node: node(),
        facts: BTreeMap::new(),
        version: "0".into(),
        apps: BTreeSet::new(),
        checks: BTreeSet::new(),
        balancer: None,
        recipients: None,
        heartbeat_ms: 30_000,
        observe_ms: 10_000,
        seed: 7,
        trusted_keys: BTreeSet::new(),
    }
}

/// A node that runs the app.
pub fn web() -> Setup {
    let checks = BTreeSet::from([check("load"), check("disk")]);
    Setup { apps: BTreeSet::from([app()]), checks, ..setup() }
}

/// A load balancer.
pub fn balancer() -> Setup {
    let balancer = BalancerSetup { state_file: true, backends: Vec::new() };
    Setup { balancer: Some(balancer), ..setup() }
}

impl Rig {
    /// An agent whose disk is new.
    pub fn new(setup: Setup) -> Rig {
        let now = Now { mono: Mono(5_000), wall: Wall(WALL) };
        let servers = ["s1", "s2"].map(|name| (name.to_owned(), seen(0)));
        let haproxy = Haproxy {
            process: 100,
            servers: servers.into(),
            down: false,
            refuses: None,
            deaf: false,
        };
        Rig {
            core: AgentCore::new(setup.clone(), None, now),
            setup,
            now,
            disk: None,
            disk_error: None,
            slow_haproxy: false,
            is_reading: false,
            orphan: false,
            slow_disk: false,
            queue: VecDeque::new(),
            writes: VecDeque::new(),
            writes_seen: 0,
            haproxy,
            revision: RevisionSeen::Running(revision("1")),
            reports: Vec::new(),
            alives: Vec::new(),
            receipts: Vec::new(),
            upgrades: Vec::new(),
            checks: VecDeque::new(),
            deliveries: VecDeque::new(),
            interests: BTreeSet::new(),
            notes: Vec::new(),
            reconnects: Vec::new(),
            sets: Vec::new(),
            dumps: 0,
            slow_dump: false,
            exited: false,
            connection: 0,
        }
    }

    /// An agent whose disk is new, connected to a bus that retains nothing of it.
    pub fn connected(setup: Setup) -> Rig {
        let mut rig = Rig::new(setup);
        rig.connect();
        rig
    }

    /// Kills the agent, and starts it again a second later with what is on its disk.
    pub fn restart(&mut self) {
        self.pass_unseen(1_000);
        self.core = AgentCore::new(self.setup.clone(), self.disk.clone(), self.now);
        self.writes.clear();
        self.upgrades.clear();
        self.checks.clear();
        self.deliveries.clear();
        self.interests.clear();
        self.connection = 0;
        self.send(Event::Tick);
    }

    /// Connects; the marker comes back after whatever is `retained`.
    pub fn connect_with(&mut self, retained: Vec<Document>) {
        self.connect_unmarked(retained);
        let connection = self.connection;
        self.send(Event::Marker { connection });
    }

    /// Connects; the marker does not come back yet.
    pub fn connect_unmarked(&mut self, retained: Vec<Document>) {
        self.interests.clear();
        self.connection += 1;
        let connection = self.connection;
        self.send(Event::Connected { connection });
        for document in retained {
            self.send(Event::Received { document, retained: true });
        }
    }

    pub fn connect(&mut self) {
        self.connect_with(Vec::new());
    }

    pub fn assign(&mut self, assignment: Assignment) {
        let document = Document::Assignment(Box::new(assignment), None);
        self.send(Event::Received { document, retained: false });
    }

    pub fn hear(&mut self, report: Report) {
        self.send(Event::Received {
            document: Document::Report(Box::new(report)),
            retained: false,
        });
    }

    /// Tells the core, and carries out what it asks for, in order, until it asks for nothing more.
    pub fn send(&mut self, event: Event) {
        self.tell(event);
        while let Some(effect) = self.queue.pop_front() {
            self.carry_out(effect);
        }
        let wake = self.core.next_wake();
        assert!(wake.is_none_or(|wake| wake > self.now.mono), "it never sleeps: {:?}", self.core);
    }

    fn tell(&mut self, event: Event) {
        self.queue.extend(self.core.step(self.now, event));
    }

    /// Lets time pass, with a tick at each time that the core asks for.
    pub fn pass(&mut self, ms: u64) {
        let end = self.now.mono.plus_ms(ms);
        loop {
            let wake = self.core.next_wake().unwrap_or(end).max(self.now.mono.plus_ms(1)).min(end);
            self.pass_unseen(wake.since_ms(self.now.mono));
            self.send(Event::Tick);
            if self.now.mono >= end {
                return;
            }
        }
    }

    /// Lets time pass that the core does not notice.
    pub fn pass_unseen(&mut self, ms: u64) {
        self.now = Now { mono: self.now.mono.plus_ms(ms), wall: Wall(self.now.wall.0 + ms) };
    }

    /// Answers the oldest write that waits.
    pub fn write(&mut self) {
        let (token, memory) = self.writes.pop_front().expect("a write is under way");
        let answer = self.put_on_disk(token, &memory);
        self.send(answer);
    }

    /// Answers the reading that waits.
    pub fn read(&mut self) {
        assert!(std::mem::take(&mut self.is_reading), "HAProxy is being read");
        let answer = self.haproxy.read();
        self.send(Event::BalancerRead(answer));
    }

    pub fn is_writing(&self) -> bool {
        !self.writes.is_empty()
    }

    pub fn report(&self) -> &Report {
        self.reports.last().expect("a report was published")
    }

    pub fn obeyed(&self) -> &Obeyed {
        self.report().assignments.get(&app()).expect("an assignment is obeyed")
    }

    pub fn refusal(&self) -> Option<&RefusalReason> {
        self.obeyed().refusal.as_ref().map(|refusal| &refusal.reason)
    }

    pub fn app(&self) -> &AppReport {
        self.report().apps.get(&app()).expect("the app is reported")
    }

    pub fn outcome(&self) -> Option<&AttemptOutcome> {
        self.app().attempt.as_ref().map(|attempt| &attempt.outcome)
    }

    pub fn settle(&self) -> Option<SettleState> {
        self.app().settle.as_ref().map(|settle| settle.state)
    }

    pub fn server(&self, name: &str) -> &ServerReport {
        let balancer = self.report().balancer.as_ref().expect("a balancer is reported");
        match balancer.backends.get(&backend()) {
            Some(BackendSeen::Servers(servers)) => &servers[&server(name)],
            other => panic!("the backend is reported as {other:?}"),
        }
    }

    pub fn orphan_ends(&mut self) {
        assert!(std::mem::take(&mut self.orphan), "one runs");
        self.send(Event::EarlierEnded { app: app() });
    }

    pub fn upgrade_ends(&mut self, result: Result<(), UpgradeError>) {
        self.send(Event::UpgradeEnded { app: app(), result });
    }

    /// Ends the oldest check under way.
    pub fn check_ends(&mut self, status: CheckStatus) -> CheckName {
        let (app, run, check) = self.checks.pop_front().expect("a check is under way");
        let result = result(status);
        self.send(Event::CheckEnded { app, run, check: check.clone(), result });
        check
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Reconnect { started } => self.reconnects.push(started),
            Effect::Subscribe(interests) => self.interests.extend(interests),
            Effect::Mark { connection } => assert_eq!(connection, self.connection),
            Effect::Publish(publication) => match *publication {
                Publication::Alive(alive) => self.alives.push(alive),
                Publication::Report(report) => self.reports.push(report),
                Publication::Receipt(receipt) => self.receipts.push(receipt),
            },
            Effect::Persist { token, memory } => {
                self.writes_seen += 1;
                if self.slow_disk {
                    self.writes.push_back((token, memory));
                } else {
                    let answer = self.put_on_disk(token, &memory);
                    self.tell(answer);
                }
            }
            Effect::ReadRevision { app, read } => {
                let seen = self.revision.clone();
                self.tell(Event::RevisionRead { app, read, seen });
            }
            Effect::AwaitEarlier { .. } if self.orphan => {}
            Effect::AwaitEarlier { app } => self.tell(Event::EarlierEnded { app }),
            Effect::StartUpgrade { app, revision, .. } => self.upgrades.push((app, revision)),
            Effect::RunCheck { app, run, check } => self.checks.push_back((app, run, check)),
            Effect::ReadBalancer if self.slow_haproxy => self.is_reading = true,
            Effect::ReadBalancer => {
                let answer = self.haproxy.read();
                self.tell(Event::BalancerRead(answer));
            }
            Effect::SetBalancer(commands) => {
                let answer = self.haproxy.set(&commands);
                self.sets.extend(commands);
                self.tell(Event::BalancerSet(answer));
            }
            Effect::AskProcess => {
                let answer = self.haproxy.read().map(|state| state.process);
                self.tell(Event::ProcessSeen(answer));
            }
            Effect::DumpState if self.slow_dump => self.dumps += 1,
            Effect::DumpState => {
                self.dumps += 1;
                self.tell(Event::StateDumped(Ok(())));
            }
            Effect::Deliver { recipient, message } => {
                self.deliveries.push_back((recipient, *message));
            }
            Effect::Log(note) => self.notes.push(note),
            Effect::Exit => self.exited = true,
        }
    }

    fn put_on_disk(&mut self, token: u64, memory: &Memory) -> Event {
        if let Some(error) = self.disk_error {
            return Event::PersistFailed { token, error: error.to_owned() };
        }
        // As the file would give it back.
        let text = serde_json::to_string(memory).unwrap();
        self.disk = Some(serde_json::from_str(&text).unwrap());
        Event::Persisted { token }
    }
}

impl Haproxy {
    pub fn admin(&self, name: &str) -> u8 {
        self.servers[name].admin.0
    }

    /// Sets the bits as somebody else would.
    pub fn by_hand(&mut self, name: &str, admin: u8) {
        self.servers.get_mut(name).unwrap().admin = AdminBits(admin);
    }

    /// Another process, which knows nothing of what was set.
    pub fn reload(&mut self) {
        self.process += 1;
        for server in self.servers.values_mut() {
            server.admin = AdminBits(0);
        }
    }

    fn gone() -> BalancerError {
        BalancerError::Connect { address: "socket".into(), error: "refused".into() }
    }

    fn read(&self) -> Result<BalancerState, BalancerError> {
        if self.down {
            return Err(Self::gone());
        }
        let servers =
            self.servers.iter().map(|(name, seen)| (server(name), seen.clone())).collect();
        let backends = BTreeMap::from([(backend(), servers)]);
        Ok(BalancerState { process: ProcessId(self.process), backends })
    }

    fn set(&mut self, commands: &[SetServer]) -> Result<Vec<Result<(), String>>, BalancerError> {
        if self.down {
            return Err(Self::gone());
        }
        let set = |command: &SetServer| {
            if let Some(error) = self.refuses {
                return Err(error.to_owned());
            }
            if !self.deaf {
                let server = self.servers.get_mut(command.server.as_str()).unwrap();
                let other = server.admin.0 & !9;
                server.admin = AdminBits(match command.state {
                    SetState::Ready => other,
                    SetState::Drain => other | AdminBits::FORCED_DRAIN,
                    SetState::Maint => other | AdminBits::FORCED_MAINTENANCE,
                });
            }
            Ok(())
        };
        Ok(commands.iter().map(set).collect())
    }
}
