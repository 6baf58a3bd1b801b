//! The controller: the real core, and around it a process and a disk.
//!
//! It plans after every document that it hears, and what it says comes back to it at once; what it asks of others is
//! under way then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::{self, Debug};

use evenkeel::bus::intake::Document;
use evenkeel::checker::{Fact, Tale};
use evenkeel::controller::core::{Core, Effect, Input, Publication, Setup};
use evenkeel::controller::store::AppFile;
use evenkeel::model::*;
use evenkeel::plan::Phase;

use crate::agents::BEAT_MS;
use crate::mutant;
use crate::plot::app;
use crate::presence::{Presence, SILENT_MS};
use crate::state::{Mail, State, controller};

/// A core that plans more often than this for one event has run wild.
const ROUNDS_MAX: usize = 100;

/// The controller's process and its disk.
#[derive(Clone)]
pub struct Control {
    /// None while the process does not run.
    pub core: Option<Core>,
    disk: Option<AppFile>,
    starts: u64,
    /// Which one it is: a controller that has lost its disk is another one.
    identity: u64,
    pub clock_ms: u64,
    presence: Presence,
    told: BTreeSet<MessageKey>,
    /// What it decided last, and what it makes of the clusters.
    pub shown: BTreeMap<NodeName, Shown>,
    pub phases: BTreeMap<ClusterName, Phase>,
}

/// A node, as the controller shows it.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub decision: Decision,
    pub goal: Option<Revision>,
}

impl Default for Control {
    fn default() -> Self {
        Self {
            core: None,
            disk: None,
            starts: 0,
            identity: 1,
            clock_ms: 1_000_000,
            presence: Presence::default(),
            told: BTreeSet::new(),
            shown: BTreeMap::new(),
            phases: BTreeMap::new(),
        }
    }
}

impl Debug for Control {
    /// What is recognised: what is shown follows from the rest, and the disk is in the core while it runs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control")
            .field("core", &self.core)
            .field("disk", &self.disk)
            .field("identity", &self.identity)
            .field("presence", &self.presence)
            .field("told", &self.told)
            .finish()
    }
}

impl Control {
    pub fn now(&self) -> Now {
        Now { mono: Mono(self.clock_ms), wall: Wall(1) }
    }
}

impl State {
    /// The files, as the controller reads them.
    fn files(&self) -> BTreeMap<AppName, Result<DesiredApp, String>> {
        let clusters = self.plot.commits[self.committed].clone();
        let desired = DesiredApp { name: app(), clusters, commit: None };
        mutant::desired(self.plot.mutant, BTreeMap::from([(app(), Ok(desired))]))
    }

    pub fn start_controller(&mut self) {
        let control = self.control.edit();
        control.starts += 1;
        control.presence = Presence::default();
        let id = ControllerId::new(format!("c{}", control.identity)).expect("an id");
        let setup = Setup { id, started: control.starts, page: None, key: None };
        let files = control.disk.clone().into_iter().collect();
        control.core = Some(Core::new(setup, files));
        self.fact(Fact::Restarted);
        self.control(vec![Input::Connected { connection: 1 }], None);
        self.read_files();
    }

    pub fn read_files(&mut self) {
        for (cluster, settings) in self.plot.clone().commits[self.committed].clone() {
            let settings = Box::new(settings);
            self.fact(Fact::Desired { cluster, settings, standing: Standing::Current });
        }
        let files = self.files();
        self.control(vec![Input::Desired(files)], None);
    }

    /// SIGKILL.
    pub fn kill_controller(&mut self, wiped: bool) {
        let control = self.control.edit();
        control.core = None;
        control.shown.clear();
        control.phases.clear();
        if wiped {
            control.disk = None;
            control.identity += 1;
        }
        self.cut(&controller());
    }

    /// A document arrives at the controller.
    pub fn controller_hears(&mut self, mail: Mail, dies_at: Option<usize>) -> bool {
        let document = match mail {
            Mail::Assignment(assignment) => Document::Assignment(assignment, None),
            Mail::Leader(leader) => Document::Leader(leader),
            Mail::Report(sealed) => Document::Report(Box::new(Report::clone(&sealed.report))),
            Mail::Alive(alive) => Document::Alive(alive),
        };
        self.control(vec![Input::Heard { document, retained: false }], dies_at)
    }

    /// Tells the core what has happened, and carries out what follows; it dies before the effect with the number
    /// `dies_at`. False if there is none of that number.
    pub fn control(&mut self, inputs: Vec<Input>, dies_at: Option<usize>) -> bool {
        let mut inputs = VecDeque::from(inputs);
        let mut left = dies_at;
        let mutant = self.plot.mutant;
        for _ in 0..ROUNDS_MAX {
            while let Some(input) = inputs.pop_front() {
                self.note(&input);
                let input = match input {
                    Input::Heard { document, retained } => {
                        Input::Heard { document: mutant::heard(mutant, document), retained }
                    }
                    other => other,
                };
                let control = self.control.edit();
                let now = control.now();
                let Some(core) = &mut control.core else { return false };
                let effects = mutant::effects(mutant, core.step(now, input));
                if self.carry_out(effects, &mut inputs, &mut left) {
                    return true;
                }
            }
            self.tell_presence();
            let control = self.control.edit();
            let now = control.now();
            let Some(core) = &mut control.core else { return false };
            let effects = mutant::effects(mutant, core.plan(now));
            if effects.is_empty() {
                self.show();
                return dies_at.is_none();
            }
            if self.carry_out(effects, &mut inputs, &mut left) {
                return true;
            }
        }
        panic!("the controller does not come to rest");
    }

    /// What it now thinks.
    fn show(&mut self) {
        let control = self.control.edit();
        let Some(core) = &control.core else { return };
        let mut view = core.view(control.now());
        let shown = view.nodes.into_iter().filter_map(|(name, mut node)| {
            let app = node.apps.remove(&app())?;
            Some((name, Shown { decision: app.decision?, goal: app.goal }))
        });
        control.shown = shown.collect();
        let app = view.apps.remove(&app());
        let clusters = app.into_iter().flat_map(|app| app.clusters);
        control.phases = clusters.map(|(name, cluster)| (name, cluster.phase)).collect();
    }

    /// As the driver does it. True if it died of it.
    fn carry_out(
        &mut self,
        effects: Vec<Effect>,
        inputs: &mut VecDeque<Input>,
        left: &mut Option<usize>,
    ) -> bool {
        let mut planned = BTreeMap::new();
        let mut said = Vec::new();
        let mut dies = false;
        for effect in effects {
            if matches!(effect, Effect::Log(_)) {
                continue;
            }
            match left {
                Some(0) => {
                    dies = true;
                    break;
                }
                Some(more) => *more -= 1,
                None => {}
            }
            match effect {
                Effect::Subscribe(_) => self.list(inputs),
                Effect::Publish(publication) => {
                    if let Publication::Assignment(assignment) = &*publication
                        && self.broker.assignments.get(&assignment.node) != Some(assignment)
                    {
                        planned.insert(assignment.node.clone(), assignment.clone());
                    }
                    said.push(publication);
                }
                Effect::Keep(file) => self.control.edit().disk = Some(*file),
                Effect::Resign { reason } => panic!("it resigns: {reason}"),
                Effect::Log(_) => {}
            }
        }
        if !planned.is_empty() {
            self.waited = 0;
            self.fact(Fact::Planned(planned));
        }
        for publication in said {
            self.say(*publication, inputs);
        }
        if dies {
            self.kill_controller(false);
        }
        dies
    }

    /// What is retained, to whoever has just subscribed to everything.
    fn list(&self, inputs: &mut VecDeque<Input>) {
        let broker = &self.broker;
        let leader = broker.leader.clone().map(Document::Leader);
        let alive = broker.alive.values().cloned().map(Document::Alive);
        let reports = broker.reports.values();
        let reports = reports.map(|r| Document::Report(Box::new(Report::clone(&r.report))));
        let assignments =
            broker.assignments.values().map(|a| Document::Assignment(Box::new(a.clone()), None));
        let ledgers = broker.ledgers.iter().map(|(cluster, ledger)| {
            Document::Ledger(app(), cluster.clone(), Box::new(ledger.clone()))
        });
        let all = leader.into_iter().chain(alive).chain(reports).chain(assignments).chain(ledgers);
        inputs.extend(all.map(|document| Input::Heard { document, retained: true }));
    }

    fn say(&mut self, publication: Publication, inputs: &mut VecDeque<Input>) {
        let mut back = |document| inputs.push_back(Input::Heard { document, retained: false });
        match publication {
            Publication::Leader(leader) => {
                self.broker.edit().leader = Some(leader.clone());
                back(Document::Leader(leader.clone()));
                self.say_to_all(&leader);
            }
            Publication::Assignment(assignment) => {
                let node = assignment.node.clone();
                self.broker.edit().assignments.insert(node.clone(), assignment.clone());
                back(Document::Assignment(Box::new(assignment.clone()), None));
                if self.agents[&node].core.is_some() {
                    self.send(&controller(), &node, Mail::Assignment(Box::new(assignment)));
                }
            }
            Publication::Ledger(app, cluster, ledger) => {
                back(Document::Ledger(app, cluster.clone(), Box::new(ledger.clone())));
                self.broker.edit().ledgers.insert(cluster, ledger.clone());
                self.tales(&ledger);
            }
            Publication::Marker(_, connection) => back(Document::Marker(connection)),
            Publication::Controller(_)
            | Publication::Mailbox(..)
            | Publication::Receipted(..)
            | Publication::Nothing(_) => {}
        }
    }

    fn say_to_all(&mut self, leader: &Leader) {
        let running = self.agents.iter().filter(|(_, agent)| agent.core.is_some());
        for to in running.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.send(&controller(), &to, Mail::Leader(leader.clone()));
        }
    }

    /// A message that is in a published ledger will be delivered, once.
    fn tales(&mut self, ledger: &ClusterLedger) {
        for message in mutant::messages(self.plot.mutant, ledger.messages.clone()).into_values() {
            if !self.control.edit().told.insert(message.key.clone()) {
                continue;
            }
            let sequence = message.key.0.rsplit('.').next().and_then(|text| text.parse().ok());
            for recipient in message.recipients {
                self.fact(Fact::Told(Tale {
                    key: message.key.clone(),
                    sequence: sequence.expect("a key ends in the ledger's sequence"),
                    recipient,
                    cluster: message.cluster.clone(),
                    rollout: message.rollout.clone(),
                    cause: message.cause,
                    kind: message.kind,
                }));
            }
        }
    }

    /// What the checker, and whoever judges presence, learns of what is heard.
    fn note(&mut self, input: &Input) {
        let Input::Heard { document, retained } = input else { return };
        let control = self.control.edit();
        let now = Mono(control.clock_ms);
        let fact = control.presence.hear(document, *retained, now);
        fact.into_iter().for_each(|fact| self.fact(fact));
    }

    fn tell_presence(&mut self) {
        let control = self.control.edit();
        let news = control.presence.news(Mono(control.clock_ms));
        news.into_iter().for_each(|fact| self.fact(fact));
    }

    /// Time passes at the controller.
    pub fn controller_waits(&mut self, ms: u64) {
        self.control.edit().clock_ms += ms;
        self.control(Vec::new(), None);
        let last = self.broker.assignments.values().next();
        let needless = mutant::needless(self.plot.mutant, last);
        self.carry_out(needless.into_iter().collect(), &mut VecDeque::new(), &mut None);
    }

    /// Time passes at everybody, nothing being under way: long enough for a heartbeat of each.
    pub fn time_passes(&mut self) {
        self.waited += 1;
        let names: Vec<NodeName> = self.agents.keys().cloned().collect();
        names.iter().for_each(|name| self.beat(name));
        self.controller_waits(BEAT_MS);
    }

    /// For longer than it may, nothing is heard of a node, nor of whoever has something under way; the others
    /// are heard as always.
    pub fn falls_silent(&mut self, silent: &NodeName) {
        let others = self.agents.iter().filter(|(name, agent)| {
            *name != silent
                && agent.core.is_some()
                && !self.queues.contains_key(&((*name).clone(), controller()))
        });
        let others: Vec<NodeName> = others.map(|(name, _)| name.clone()).collect();
        for beat in 0..3 {
            for name in &others {
                self.beat(name);
                while let Some(mail) = self.take(name, &controller(), 0) {
                    self.controller_hears(mail, None);
                }
            }
            self.controller_waits(if beat < 2 { BEAT_MS } else { SILENT_MS + 1 - 2 * BEAT_MS });
        }
    }
}
