//! The agents: the real core of each, and around it a disk, a service, a HAProxy.
//!
//! What a core asks of its own disk, and what it reads, is answered at once. What changes the world is an act of its
//! own, so that anything may come between: a state that is set at HAProxy, a state file that is written, a
//! deploy command, a check.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Debug};
use std::sync::Arc;

use evenkeel::agent::core::{
    AgentCore, BalancerSetup, Document, Effect, Event, Interest, Memory, Publication, Setup,
};
use evenkeel::checker::{By, Fact};
use evenkeel::model::*;
use evenkeel::plan::ports::{BalancerState, ProcessId, SetServer, UpgradeError};

use crate::haproxy::{Haproxy, Server};
use crate::mutant;
use crate::plot::{Plot, app, backend, revision, server};
use crate::state::{Mail, Part, Sealed, State, controller};

/// Heartbeats have passed by then, with their jitter.
pub const BEAT_MS: u64 = 34_000;

/// A core that asks for more than this in one step has run wild.
const EVENTS_MAX: usize = 1_000;

/// One node and its agent.
#[derive(Clone)]
pub struct Agent {
    setup: Setup,
    /// None while the process does not run.
    pub core: Option<AgentCore>,
    disk: Option<Memory>,
    pub clock_ms: u64,
    connection: u64,
    pub follows: BTreeSet<NodeName>,
    /// What its service runs, if it has one.
    pub runs: Option<Revision>,
    pub job: Option<Attempt>,
    pub checks: BTreeSet<(u64, CheckName)>,
    /// The last check was not OK: another round is to come.
    pub again: bool,
    /// Attempts that did not succeed, in truth.
    pub failed: BTreeMap<Revision, u32>,
    /// What it ran when its checks were not OK in time; and whether they have not been since.
    pub unsettled: BTreeMap<Revision, bool>,
    pub haproxy: Option<Haproxy>,
    /// What HAProxy is being asked to do.
    pub asked: Option<Question>,
    /// HAProxy as the core last read it.
    read: Option<BalancerState>,
    /// The servers as the checker was told.
    told: BTreeMap<ServerName, Server>,
}

/// What HAProxy is asked to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    Set(Vec<SetServer>),
    Dump,
}

/// How a deploy command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Well,
    /// It has changed nothing.
    Fails,
    /// It ends with an error, and the new revision runs.
    BreaksOff,
    /// It says that all is well, and the old revision runs.
    Lies,
}

impl Debug for Agent {
    /// What is recognised: what is on disk is in the core, too, while it runs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let disk = self.disk.as_ref().filter(|_| self.core.is_none());
        f.debug_struct("Agent")
            .field("core", &self.core)
            .field("disk", &disk)
            .field("follows", &self.follows)
            .field("runs_now", &self.runs)
            .field("job", &self.job)
            .field("checks_run", &self.checks)
            .field("again", &self.again)
            .field("failed", &(&self.failed, &self.unsettled))
            .field("haproxy", &self.haproxy)
            .field("asked_of_it", &self.asked)
            .field("stale", &self.is_stale())
            .finish()
    }
}

impl Agent {
    pub fn all(plot: &Plot) -> BTreeMap<NodeName, Part<Agent>> {
        let webs = plot.webs.iter().map(|(name, cluster)| {
            let mut agent = Agent::new(name);
            agent.setup.facts.insert("cluster".to_owned(), cluster.to_string());
            agent.setup.apps.insert(app());
            agent.setup.checks = BTreeSet::from([CheckName::new("check_load").expect("a name")]);
            agent.runs = Some(revision("1"));
            (name.clone(), Part::new(agent))
        });
        let balancers = plot.balancers.iter().map(|name| {
            let mut agent = Agent::new(name);
            let state_file = plot.state_file;
            agent.setup.balancer = Some(BalancerSetup { state_file, backends: Vec::new() });
            let servers = plot.webs.iter().map(|(web, _)| (server(web), false)).collect();
            agent.haproxy = Some(Haproxy::new(backend(), servers, state_file));
            (name.clone(), Part::new(agent))
        });
        webs.chain(balancers).collect()
    }

    fn new(name: &NodeName) -> Self {
        Self {
            setup: Setup {
                node: name.clone(),
                facts: BTreeMap::new(),
                version: String::new(),
                apps: BTreeSet::new(),
                checks: BTreeSet::new(),
                balancer: None,
                recipients: None,
                heartbeat_ms: 30_000,
                observe_ms: 10_000,
                seed: 1,
                trusted_keys: BTreeSet::new(),
            },
            core: None,
            disk: None,
            clock_ms: 1_000_000,
            connection: 0,
            follows: BTreeSet::new(),
            runs: None,
            job: None,
            checks: BTreeSet::new(),
            again: false,
            failed: BTreeMap::new(),
            unsettled: BTreeMap::new(),
            haproxy: None,
            asked: None,
            read: None,
            told: BTreeMap::new(),
        }
    }

    pub fn now(&self) -> Now {
        Now { mono: Mono(self.clock_ms), wall: Wall(1) }
    }

    /// An order for the server of `web` is on its way to HAProxy.
    pub fn is_setting(&self, web: &NodeName) -> bool {
        match &self.asked {
            Some(Question::Set(commands)) => commands.iter().any(|set| set.server == server(web)),
            Some(Question::Dump) | None => false,
        }
    }

    /// The bits of a server; of a load balancer's agent.
    pub fn bits(&self, web: &NodeName) -> AdminBits {
        self.haproxy.as_ref().expect("a HAProxy").servers[&server(web)].admin
    }

    /// With these bits a server would be as its core last read it, by which nobody can tell that a hand or a reload has
    /// changed it in between, and whose they are; or as a reload that it has not noticed yet may have left it.
    pub fn would_not_see(&self, web: &NodeName, bits: AdminBits) -> bool {
        let process = self.haproxy.as_ref().map(|haproxy| ProcessId(haproxy.process));
        self.read.as_ref().is_some_and(|read| {
            let reloaded = Some(read.process) != process;
            read.backends[&backend()][&server(web)].admin == bits
                || (reloaded && bits.is_forced_maintenance())
        })
    }

    /// The server is in maintenance that its core has not read yet, and that a reload would bring from the state file all
    /// the same, whosever it is there.
    pub fn would_look_dumped(&self, web: &NodeName) -> bool {
        let Some(haproxy) = &self.haproxy else { return false };
        let bits = self.bits(web);
        let read = self.read.as_ref().map(|read| read.backends[&backend()][&server(web)].admin);
        let dumped = haproxy.dumped(&server(web)).is_some_and(AdminBits::is_forced_maintenance);
        bits.is_forced_maintenance() && read != Some(bits) && dumped
    }

    /// HAProxy has changed since its core last read it.
    pub fn is_stale(&self) -> bool {
        self.haproxy.as_ref().and_then(|haproxy| haproxy.read().ok()) != self.read
    }
}

impl State {
    pub fn start_agent(&mut self, name: &NodeName) {
        let agent = self.agent(name);
        let memory = agent.disk.clone();
        agent.core = Some(AgentCore::new(agent.setup.clone(), memory, agent.now()));
        agent.connection = 1;
        self.tell(name, vec![Event::Tick, Event::Connected { connection: 1 }], None);
    }

    /// SIGKILL, and what it was deploying dies with it. Its will is said.
    pub fn kill_agent(&mut self, name: &NodeName) {
        let agent = self.agent(name);
        let Some(core) = agent.core.take() else { return };
        let boot = Boot { started: core.started(), connection: agent.connection };
        agent.follows.clear();
        agent.checks.clear();
        (agent.again, agent.asked, agent.read) = (false, None, None);
        // What is on record as running may have begun or not, and may have ended well: nobody will know.
        let attempt = agent.disk.as_ref().and_then(|memory| memory.attempts.get(&app()));
        let running = attempt.filter(|attempt| attempt.outcome == AttemptOutcome::Running);
        if let Some(revision) = running.map(|attempt| attempt.revision.clone()) {
            *agent.failed.entry(revision).or_default() += 1;
        }
        if agent.job.take().is_some() {
            self.fact(Fact::UpgradeEnded { node: name.clone() });
        }
        self.cut(name);
        self.say_alive(name, Alive { node: name.clone(), boot, alive: false });
    }

    /// The connection has ended, and there is a new one.
    pub fn reconnect(&mut self, name: &NodeName) {
        self.cut(name);
        let agent = self.agent(name);
        agent.connection += 1;
        agent.follows.clear();
        let connection = agent.connection;
        self.tell(name, vec![Event::Disconnected, Event::Connected { connection }], None);
    }

    /// Tells an agent's core what has happened, and carries out what it asks for; it dies before the effect with
    /// the number `dies_at`. False if there is none of that number.
    pub fn tell(&mut self, name: &NodeName, events: Vec<Event>, dies_at: Option<usize>) -> bool {
        let mut events = VecDeque::from(events);
        let (mut taken, mut effects_done) = (0, 0);
        while let Some(event) = events.pop_front() {
            taken += 1;
            assert!(taken < EVENTS_MAX, "{name} does not come to rest: {event:?}");
            let agent = self.agent(name);
            let now = agent.now();
            let Some(core) = &mut agent.core else { return false };
            for effect in core.step(now, event) {
                if matches!(effect, Effect::Log(_)) {
                    continue;
                }
                if dies_at == Some(effects_done) {
                    self.kill_agent(name);
                    return true;
                }
                effects_done += 1;
                self.asks(name, effect, &mut events);
            }
        }
        dies_at.is_none()
    }

    fn asks(&mut self, name: &NodeName, effect: Effect, events: &mut VecDeque<Event>) {
        match effect {
            Effect::Persist { token, memory } => {
                self.agent(name).disk = Some(Arc::unwrap_or_clone(memory));
                events.push_back(Event::Persisted { token });
            }
            Effect::ReadRevision { app, read } => {
                let runs = self.agents[name].runs.clone().expect("a service");
                let seen = RevisionSeen::Running(runs);
                events.push_back(Event::RevisionRead { app, read, seen });
            }
            // A deploy command dies with its agent here.
            Effect::AwaitEarlier { app } => events.push_back(Event::EarlierEnded { app }),
            Effect::StartUpgrade { app, revision, timeout_ms: _ } => {
                let agent = self.agent(name);
                let memory = agent.disk.as_ref().expect("its record is on disk");
                let job = memory.attempts[&app].clone();
                assert_eq!((&job.revision, &job.outcome), (&revision, &AttemptOutcome::Running));
                assert_eq!(agent.job.replace(job.clone()), None, "one upgrade at a time");
                let Attempt { rollout, retry, attempt, .. } = job;
                let node = name.clone();
                self.fact(Fact::UpgradeStarted { node, rollout, revision, retry, attempt });
            }
            Effect::RunCheck { app: _, run, check } => {
                self.agent(name).checks.insert((run, check.clone()));
                self.fact(Fact::CheckStarted { node: name.clone(), check });
            }
            Effect::ReadBalancer => {
                let agent = self.agent(name);
                let state = agent.haproxy.as_ref().expect("a HAProxy").read().expect("it runs");
                agent.read = Some(state.clone());
                let owned = agent.disk.as_ref().map(|memory| memory.owned.clone());
                let ours = |server: &ServerName| {
                    owned.iter().flatten().any(|(_, servers)| servers.contains_key(server))
                };
                let mut state = state;
                mutant::read(self.plot.mutant, &mut state, ours);
                events.push_back(Event::BalancerRead(Ok(state)));
            }
            Effect::AskProcess => {
                let process = self.agents[name].haproxy.as_ref().expect("a HAProxy").process();
                events.push_back(Event::ProcessSeen(process));
            }
            Effect::SetBalancer(commands) => {
                self.agent(name).asked = Some(Question::Set(commands));
            }
            Effect::DumpState => self.agent(name).asked = Some(Question::Dump),
            Effect::Subscribe(interests) => {
                for interest in interests {
                    self.subscribe(name, &interest, events);
                }
            }
            Effect::Mark { connection } => events.push_back(Event::Marker { connection }),
            Effect::Publish(publication) => match *publication {
                Publication::Alive(alive) => self.say_alive(name, alive),
                Publication::Report(report) => self.say_report(name, report),
                Publication::Receipt(receipt) => panic!("a receipt of {name}: {receipt:?}"),
            },
            Effect::Reconnect { started } => panic!("{name} finds a start after {started}"),
            Effect::Deliver { .. } | Effect::Log(_) | Effect::Exit => {}
        }
    }

    fn subscribe(&mut self, name: &NodeName, interest: &Interest, events: &mut VecDeque<Event>) {
        let document = match interest {
            Interest::OwnAlive => self.broker.alive.get(name).cloned().map(Document::Alive),
            Interest::OwnReport => self.retained_report(name),
            Interest::OwnAssignments => {
                let assignment = self.broker.assignments.get(name).cloned();
                assignment.map(|assignment| Document::Assignment(Box::new(assignment), None))
            }
            Interest::Leaders => self.broker.leader.clone().map(Document::Leader),
            Interest::ReportOf(lb) => {
                self.agent(name).follows.insert(lb.clone());
                self.retained_report(lb)
            }
            // Who comes is heard of at the next heartbeat: that it can be sooner is for speed alone.
            Interest::Arrivals => None,
            Interest::OwnMarker | Interest::OwnMailbox => None,
        };
        if let Some(document) = document {
            events.push_back(Event::Received { document, retained: true });
        }
    }

    fn retained_report(&self, of: &NodeName) -> Option<Document> {
        let report = self.broker.reports.get(of)?;
        Some(Document::Report(Box::new(Report::clone(&report.report))))
    }

    fn say_alive(&mut self, name: &NodeName, alive: Alive) {
        self.broker.edit().alive.insert(name.clone(), alive.clone());
        if self.control.core.is_some() {
            self.send(name, &controller(), Mail::Alive(alive));
        }
    }

    fn say_report(&mut self, name: &NodeName, report: Report) {
        let report = Sealed::new(report);
        self.broker.edit().reports.insert(name.clone(), report.clone());
        let follows = |(_, agent): &(&NodeName, &Part<Agent>)| agent.follows.contains(name);
        let followers = self.agents.iter().filter(follows).map(|(follower, _)| follower.clone());
        for to in followers.collect::<Vec<_>>().into_iter().chain([controller()]) {
            if to != controller() || self.control.core.is_some() {
                self.send(name, &to, Mail::Report(report.clone()));
            }
        }
    }

    /// A document arrives at an agent.
    pub fn agent_hears(&mut self, name: &NodeName, mail: Mail, dies_at: Option<usize>) -> bool {
        let document = match mail {
            Mail::Assignment(assignment) => Document::Assignment(assignment, None),
            Mail::Leader(leader) => Document::Leader(leader),
            Mail::Report(sealed) => Document::Report(Box::new(Report::clone(&sealed.report))),
            Mail::Alive(alive) => Document::Alive(alive),
        };
        self.tell(name, vec![Event::Received { document, retained: false }], dies_at)
    }

    // -- HAProxy

    /// HAProxy does what it was asked to do.
    pub fn haproxy_does(&mut self, lb: &NodeName, dies_at: Option<usize>) -> bool {
        let mutant = self.plot.mutant;
        let agent = self.agent(lb);
        let (Some(question), Some(haproxy)) = (agent.asked.take(), &mut agent.haproxy) else {
            return false;
        };
        let event = match question {
            Question::Set(commands) => {
                Event::BalancerSet(Ok(mutant::set(mutant, haproxy, &commands)))
            }
            Question::Dump => {
                haproxy.dump_state().expect("it runs");
                Event::StateDumped(Ok(()))
            }
        };
        self.tell_servers(lb, By::Us);
        self.tell(lb, vec![event], dies_at)
    }

    /// Tells the checker what has changed at a load balancer.
    pub fn tell_servers(&mut self, lb: &NodeName, by: By) {
        let agent = self.agent(lb);
        let Some(haproxy) = &agent.haproxy else { return };
        let news = haproxy.servers.iter().filter(|(name, now)| agent.told.get(*name) != Some(*now));
        let news: Vec<_> = news.map(|(name, _)| (name.clone(), haproxy.seen(name))).collect();
        agent.told = haproxy.servers.clone();
        for (server, seen) in news {
            let (lb, backend) = (lb.clone(), backend());
            self.fact(Fact::Server { lb, backend, server, seen, by });
        }
    }

    /// Its agent looks again, until it has seen what has changed.
    pub fn look(&mut self, lb: &NodeName) {
        for _ in 0..20 {
            let agent = &self.agents[lb];
            if !agent.is_stale() || agent.asked.is_some() {
                return;
            }
            self.tick_at_next(lb);
        }
        panic!("{lb} does not look");
    }

    fn tick_at_next(&mut self, name: &NodeName) {
        let agent = self.agent(name);
        let wake = agent.core.as_ref().and_then(AgentCore::next_wake).expect("something to do");
        agent.clock_ms = agent.clock_ms.max(wake.0);
        self.tell(name, vec![Event::Tick], None);
    }

    // -- the service

    pub fn upgrade_ends(&mut self, web: &NodeName, end: End, dies_at: Option<usize>) -> bool {
        let agent = self.agent(web);
        let Some(job) = agent.job.take() else { return false };
        let failed = |why| Err(UpgradeError { why, tail: String::new() });
        let runs = agent.runs.clone().expect("a service");
        let (brings, result) = match end {
            End::Well => (true, Ok(())),
            End::Fails => (false, failed(AttemptFailure::Exit(1))),
            End::BreaksOff => (true, failed(AttemptFailure::Exit(2))),
            End::Lies => (false, failed(AttemptFailure::Lied(RevisionSeen::Running(runs.clone())))),
        };
        if end != End::Well {
            *agent.failed.entry(job.revision.clone()).or_default() += 1;
        }
        if brings {
            agent.runs = Some(job.revision.clone());
            let (node, revision) = (web.clone(), Some(job.revision));
            self.fact(Fact::Runs { node, revision, by: By::Us });
        }
        self.fact(Fact::UpgradeEnded { node: web.clone() });
        self.tell(web, vec![Event::UpgradeEnded { app: app(), result }], dies_at)
    }

    pub fn check_ends(&mut self, web: &NodeName, ok: bool, dies_at: Option<usize>) -> bool {
        let agent = self.agent(web);
        let Some((run, check)) = agent.checks.pop_first() else { return false };
        agent.again = !ok;
        if ok
            && agent.checks.is_empty()
            && let Some(still) = agent.runs.as_ref().and_then(|r| agent.unsettled.get_mut(r))
        {
            *still = false;
        }
        let status = if ok { CheckStatus::Ok } else { CheckStatus::Critical };
        let (text, performance) = (String::new(), String::new());
        let result = CheckResult { status, text, performance, took_ms: 0 };
        self.fact(Fact::CheckEnded { node: web.clone(), check: check.clone(), ok });
        self.tell(web, vec![Event::CheckEnded { app: app(), run, check, result }], dies_at)
    }

    /// The next round of checks begins, too late for the plots' timeout.
    pub fn check_again(&mut self, web: &NodeName) {
        let agent = self.agent(web);
        agent.again = false;
        agent.unsettled.extend(agent.runs.clone().map(|runs| (runs, true)));
        for _ in 0..5 {
            self.tick_at_next(web);
            if !self.agents[web].checks.is_empty() {
                return;
            }
        }
    }

    /// Time passes at an agent: long enough for a heartbeat, and too long for a check that runs.
    pub fn beat(&mut self, name: &NodeName) {
        let agent = self.agent(name);
        agent.clock_ms += BEAT_MS;
        if !agent.checks.is_empty() {
            agent.unsettled.extend(agent.runs.clone().map(|runs| (runs, true)));
        }
        self.tell(name, vec![Event::Tick], None);
    }
}
