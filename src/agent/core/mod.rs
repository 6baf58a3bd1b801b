//! The core of the agent: a synchronous state machine that decides everything.
//!
//! It is told events, and answers with effects; it has no clock, no socket, no file and no task. What happens is
//! first taken in, event by event; then every part looks at the whole present state and asks for what
//! is missing. So nothing is a sequence that could be interrupted, and events that come together
//! cost one write and one report together.
//!
//! Its timer is [`AgentCore::next_wake`]: when that time comes, it wants [`Event::Tick`].

mod balancer;
mod command;
mod event;
mod heard;
mod memory;
mod node;
mod note;
mod notify;
mod observed;
mod orders;
mod ownership;
mod report;
mod settle;
mod setup;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use event::{Document, Effect, Event, Interest, Publication};
pub use memory::{Holding, Memory, Progress};
pub use note::{Handed, Note};
pub use setup::{BalancerSetup, Setup};

use balancer::Balancer;
use command::Command;
use heard::Heard;
use memory::Disk;
use node::Node;
use notify::Post;
use report::Speaker;

use crate::model::{
    Alive, AppName, Assignment, Boot, Mono, NotifyReport, Now, Obeyed, Order, Refusal,
    RefusalReason, Report, Stamp, Wall,
};

/// A running upgrade is waited for this long when the agent is asked to end. An init system gives a
/// service 90 s as a rule, and a deployment that takes longer than this is no accident.
const DRAIN_MS: u64 = 10_000;

/// What every part of the core may use in one step.
#[derive(Debug, Clone)]
struct Step {
    now: Now,
    setup: Setup,
    disk: Disk,
    effects: Vec<Effect>,
    /// The agent has read its own retained documents, and may take orders.
    restored: bool,
    stopping: bool,
}

impl Step {
    fn log(&mut self, note: Note) {
        self.effects.push(Effect::Log(note));
    }

    fn publish(&mut self, publication: Publication) {
        self.effects.push(Effect::Publish(Box::new(publication)));
    }
}

/// The agent.
#[derive(Debug, Clone)]
pub struct AgentCore {
    step: Step,
    boot: Boot,
    connected: bool,
    before: Before,
    command: Command,
    heard: Heard,
    node: Node,
    balancer: Option<Balancer>,
    post: Option<Post>,
    speaker: Speaker,
    done: BTreeMap<AppName, Stamp>,
    refusals: BTreeMap<AppName, Refusal>,
    name_taken_by: Option<u64>,
    stops_at: Option<Mono>,
    has_left: bool,
}

/// What is known of earlier lives, until it has been used.
#[derive(Debug, Clone)]
struct Before {
    /// The life that the disk was last written by.
    disk_started: u64,
    /// The latest start that a retained document shows.
    shown_started: u64,
    /// The agent's own retained report.
    report: Option<Report>,
}

impl AgentCore {
    /// An agent that starts now, with what its disk remembers, if that could be read. The first step
    /// may be a [`Event::Tick`].
    pub fn new(setup: Setup, restored: Option<Memory>, now: Now) -> AgentCore {
        let written = restored.unwrap_or_default();
        let disk_started = written.started;
        let started = now.wall.0.max(disk_started + 1);
        let mut disk = Disk::new(written);
        disk.change().started = started;
        AgentCore {
            boot: Boot { started, connection: 0 },
            connected: false,
            before: Before { disk_started, shown_started: 0, report: None },
            command: Command::default(),
            heard: Heard::default(),
            node: Node::new(&setup, now.mono),
            balancer: setup.balancer.clone().map(|setup| Balancer::new(setup, now.mono)),
            post: setup.recipients.is_some().then(Post::default),
            speaker: Speaker::new(setup.seed),
            done: BTreeMap::new(),
            refusals: BTreeMap::new(),
            name_taken_by: None,
            stops_at: None,
            has_left: false,
            step: Step { now, setup, disk, effects: Vec::new(), restored: false, stopping: false },
        }
    }

    /// The start that the Last Will is to bear.
    pub fn started(&self) -> u64 {
        self.boot.started
    }

    /// Takes in one event, and says what is to be done.
    pub fn step(&mut self, now: Now, event: Event) -> Vec<Effect> {
        self.step_all(now, [event])
    }

    /// Takes in events that have come together, in order, and says what is to be done.
    pub fn step_all(&mut self, now: Now, events: impl IntoIterator<Item = Event>) -> Vec<Effect> {
        if self.has_left {
            return Vec::new();
        }
        self.step.now = now;
        let mut quiet = true;
        for event in events {
            quiet &= matches!(event, Event::Tick | Event::ProcessSeen(_));
            self.take_in(event);
        }
        self.advance(quiet);
        std::mem::take(&mut self.step.effects)
    }

    /// When the core wants a [`Event::Tick`], if nothing happens before.
    pub fn next_wake(&self) -> Option<Mono> {
        if self.has_left {
            return None;
        }
        let speaks_at = self.is_online().then(|| self.speaker.next_wake());
        [
            speaks_at,
            self.stops_at,
            self.step.disk.next_wake(),
            self.node.next_wake(),
            self.balancer.as_ref().and_then(Balancer::next_wake),
            self.post.as_ref().and_then(Post::next_wake),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    fn is_online(&self) -> bool {
        self.connected && self.step.restored
    }

    fn take_in(&mut self, event: Event) {
        let now = self.step.now.mono;
        match event {
            Event::Connected { connection } => self.on_connected(connection),
            Event::Disconnected => {
                self.connected = false;
                self.heard.disconnected();
            }
            Event::Received { document, retained } => self.on_received(document, retained),
            Event::Marker { connection } => {
                if self.connected && connection == self.boot.connection && !self.step.restored {
                    self.on_restored();
                }
            }
            Event::RevisionRead { app, read, seen } => {
                self.node.revision_read(&self.step, &app, read, seen);
            }
            Event::EarlierEnded { app } => self.node.earlier_ended(&mut self.step, &app),
            Event::UpgradeEnded { app, result } => {
                self.node.upgrade_ended(&mut self.step, &app, result);
            }
            Event::CheckEnded { app, run, check, result } => {
                self.node.check_ended(&mut self.step, &app, run, check, result);
            }
            Event::BalancerRead(_)
            | Event::BalancerSet(_)
            | Event::ProcessSeen(_)
            | Event::StateDumped(_) => self.on_balancer(event),
            Event::Delivered { key, recipient, result } => {
                if let Some(post) = &mut self.post {
                    post.delivered(&mut self.step, key, recipient, result);
                }
            }
            Event::Persisted { token } => {
                self.step.disk.persisted(token);
                self.stir();
            }
            Event::PersistFailed { token, error } => {
                if let Some(note) = self.step.disk.failed(token, error, now) {
                    self.step.log(note);
                }
            }
            Event::Tick => {}
            Event::Stop => self.on_stop(),
        }
    }

    fn on_balancer(&mut self, event: Event) {
        let Some(balancer) = &mut self.balancer else { return };
        match event {
            Event::BalancerRead(answer) => balancer.was_read(&mut self.step, answer),
            Event::BalancerSet(answer) => balancer.was_set(&self.step, answer),
            Event::ProcessSeen(answer) => balancer.process_seen(&self.step, answer),
            Event::StateDumped(answer) => balancer.was_dumped(&mut self.step, answer),
            Event::Connected { .. }
            | Event::Disconnected
            | Event::Received { .. }
            | Event::Marker { .. }
            | Event::RevisionRead { .. }
            | Event::EarlierEnded { .. }
            | Event::UpgradeEnded { .. }
            | Event::CheckEnded { .. }
            | Event::Delivered { .. }
            | Event::Persisted { .. }
            | Event::PersistFailed { .. }
            | Event::Tick
            | Event::Stop => {}
        }
    }

    fn on_connected(&mut self, connection: u64) {
        self.boot.connection = connection;
        self.connected = true;
        self.heard.disconnected();
        let mut interests = vec![Interest::OwnAlive, Interest::OwnAssignments, Interest::Leaders];
        if !self.step.restored {
            interests.extend([Interest::OwnReport, Interest::OwnMarker]);
        }
        if self.post.is_some() {
            interests.push(Interest::OwnMailbox);
        }
        if self.balancer.is_some() {
            interests.push(Interest::Arrivals);
        }
        interests.extend(self.heard.interests());
        self.step.effects.push(Effect::Subscribe(interests));
        if self.step.restored {
            self.announce();
        } else {
            self.step.effects.push(Effect::Mark { connection });
        }
    }

    fn announce(&mut self) {
        self.say_alive(true);
        self.speaker.ask();
        if let Some(post) = &mut self.post {
            post.connected();
        }
    }

    fn say_alive(&mut self, alive: bool) {
        let node = self.step.setup.node.clone();
        self.step.publish(Publication::Alive(Alive { node, boot: self.boot, alive }));
    }

    fn on_received(&mut self, document: Document, retained: bool) {
        match document {
            Document::Assignment(assignment, key) => {
                if self.command.assignment(&mut self.step, *assignment, key) {
                    self.on_accepted();
                }
            }
            Document::Report(report) => self.on_report(*report, retained),
            Document::Alive(alive) => self.on_alive(&alive, retained),
            Document::Leader(leader) => {
                self.command.leader(&mut self.step, &leader);
                if self.concerns(&leader.app) {
                    self.speaker.ask();
                }
            }
            Document::Mailbox(mailbox, key) => {
                if let Some(post) = &mut self.post {
                    post.mailbox(&mut self.step, *mailbox, key);
                }
            }
        }
    }

    /// Load balancers and notification servers may serve any app.
    fn concerns(&self, app: &AppName) -> bool {
        self.balancer.is_some()
            || self.post.is_some()
            || self.step.setup.apps.contains(app)
            || self.step.disk.memory().assignments.contains_key(app)
    }

    fn on_accepted(&mut self) {
        let now = self.step.now.mono;
        if let Some(balancer) = &mut self.balancer {
            balancer.accepted(now);
        }
    }

    fn stir(&mut self) {
        if let Some(balancer) = &mut self.balancer {
            balancer.stir();
        }
    }

    fn on_report(&mut self, report: Report, retained: bool) {
        if report.node == self.step.setup.node {
            if self.step.restored || !retained {
                self.notice_namesake(report.boot);
            } else {
                self.before.shown_started = self.before.shown_started.max(report.boot.started);
                self.before.report = Some(report);
                return;
            }
        }
        self.heard.report(self.step.now.mono, report, retained);
    }

    fn on_alive(&mut self, alive: &Alive, retained: bool) {
        if alive.node != self.step.setup.node {
            // Its permit may wait for what it has heard us say since it came, and we may have nothing new to say.
            if alive.alive && !retained && self.keeps_out() {
                self.speaker.ask_soon(self.step.now.mono);
            }
            return;
        }
        if !self.step.restored && retained {
            self.before.shown_started = self.before.shown_started.max(alive.boot.started);
            return;
        }
        self.notice_namesake(alive.boot);
        if !alive.alive && alive.boot <= self.boot && self.is_online() {
            self.say_alive(true);
            self.speaker.ask();
        }
    }

    /// Whether permits can rest on what this load balancer's agent says.
    fn keeps_out(&self) -> bool {
        self.balancer.is_some()
            && orders::collect(self.step.disk.memory()).values().any(|o| o.order == Order::Out)
    }

    fn notice_namesake(&mut self, boot: Boot) {
        let other = boot.started;
        if other > self.boot.started && self.name_taken_by != Some(other) {
            self.name_taken_by = Some(other);
            self.step.log(Note::NameTaken { boot });
        }
    }

    /// Everything that earlier lives left on the bus has come.
    fn on_restored(&mut self) {
        self.step.restored = true;
        if let Some(report) = self.before.report.take() {
            let mut recovered = self.step.disk.memory().clone();
            if let Some(note) = recovered.recover(self.before.disk_started, &report) {
                *self.step.disk.change() = recovered;
                self.step.log(note);
            }
        }
        if self.before.shown_started >= self.boot.started {
            // The clock has gone back, and the disk is lost: nobody would listen to this boot.
            let started = self.before.shown_started + 1;
            self.boot = Boot { started, connection: 0 };
            self.step.disk.change().started = started;
            self.connected = false;
            self.heard.disconnected();
            self.step.effects.push(Effect::Reconnect { started });
        } else {
            self.announce();
        }
        self.command.restored(&mut self.step);
        self.on_accepted();
    }

    fn on_stop(&mut self) {
        if self.stops_at.is_none() {
            self.step.stopping = true;
            self.stops_at = Some(self.step.now.mono.plus_ms(DRAIN_MS));
            let upgrading = self.node.is_upgrading();
            self.step.log(Note::Stopping { upgrading });
        }
    }

    /// Lets every part do what the present state asks for.
    fn advance(&mut self, quiet: bool) {
        self.heard.advance(&mut self.step, self.connected);
        self.node.advance(&mut self.step, &self.heard);
        if let Some(balancer) = &mut self.balancer {
            balancer.advance(&mut self.step);
        }
        let online = self.is_online();
        if let Some(post) = &mut self.post {
            post.advance(&mut self.step, online);
        }
        let write = self.step.disk.advance(self.step.now.mono);
        self.step.effects.extend(write);
        // Time alone changes nothing that is reported, unless it made a part act or log.
        let nothing_new = quiet
            && self.step.effects.iter().all(is_question)
            && !self.speaker.is_due(self.step.now.mono);
        if online && !nothing_new {
            self.report();
        }
        self.leave();
    }

    fn report(&mut self) {
        let assignments = self.obeyed();
        let mut epochs = self.step.disk.memory().epochs.clone();
        epochs.retain(|app, epoch| match assignments.get(app) {
            Some(obeyed) => obeyed.assignment.stamp.epoch != *epoch,
            None => self.concerns(app),
        });
        let unobeyed = |app: &AppName| !assignments.contains_key(app) && self.concerns(app);
        let refusals = self.command.refusals(unobeyed);
        let report = Report {
            node: self.step.setup.node.clone(),
            boot: self.boot,
            sequence: 0,
            at: Wall(0),
            agent: self.step.setup.version.clone(),
            facts: self.step.setup.facts.clone(),
            assignments,
            epochs,
            refusals,
            apps: self.node.report(&self.step, self.boot.started),
            balancer: self.balancer.as_ref().map(|balancer| balancer.report(&self.step)),
            notify: self
                .step
                .setup
                .recipients
                .clone()
                .map(|recipients| NotifyReport { recipients }),
        };
        if let Some(report) = self.speaker.say(&self.step.setup, self.step.now, report) {
            self.step.publish(Publication::Report(report));
        }
    }

    /// What is in force, with what became of it: only what is on disk is said to be.
    fn obeyed(&mut self) -> BTreeMap<AppName, Obeyed> {
        let written = self.step.disk.written();
        let mut obeyed = BTreeMap::new();
        for (app, assignment) in &written.assignments {
            if self.is_done(assignment) {
                self.done.insert(app.clone(), assignment.stamp.clone());
            }
            let done = self.done.get(app).cloned();
            let refusal = self.refusal(assignment, done.as_ref());
            if self.refusals.get(app) != refusal.as_ref() {
                match &refusal {
                    Some(refusal) => self.refusals.insert(app.clone(), refusal.clone()),
                    None => self.refusals.remove(app),
                };
                self.step.log(Note::Refused { app: app.clone(), refusal: refusal.clone() });
            }
            let assignment = assignment.clone();
            obeyed.insert(app.clone(), Obeyed { assignment, done, refusal });
        }
        obeyed
    }

    fn is_done(&self, assignment: &Assignment) -> bool {
        let balanced = assignment.balance.is_empty()
            || self.balancer.as_ref().is_some_and(|balancer| balancer.is_done(&assignment.app));
        balanced && self.node.is_done(&self.step, assignment)
    }

    fn refusal(&self, assignment: &Assignment, done: Option<&Stamp>) -> Option<Refusal> {
        let app = &assignment.app;
        let asked = self.step.disk.memory().assignments.get(app).unwrap_or(assignment);
        let open = asked.stamp != assignment.stamp || done != Some(&assignment.stamp);
        let of = |reason: RefusalReason| Refusal { stamp: asked.stamp.clone(), reason };
        let disk = || {
            let error = self.step.disk.failure()?.to_owned();
            open.then_some(RefusalReason::Disk { error })
        };
        let balancer = || match &self.balancer {
            Some(balancer) => balancer.refusal(assignment),
            None if assignment.balance.is_empty() => None,
            None => Some(RefusalReason::NotConfigured { what: "role haproxy".to_owned() }),
        };
        disk()
            .or_else(|| self.node.refusal(&self.step.setup, assignment))
            .or_else(balancer)
            .map(of)
            .or_else(|| self.command.refusal(app).cloned())
    }

    /// Leaves, once it is asked to and nothing is left that is worth waiting for.
    fn leave(&mut self) {
        let Some(stops_at) = self.stops_at else { return };
        let disk = &self.step.disk;
        let written = disk.is_settled() || disk.failure().is_some();
        let finished = written && !self.node.is_upgrading();
        if finished || self.step.now.mono >= stops_at {
            if self.connected {
                self.say_alive(false);
            }
            self.step.effects.push(Effect::Exit);
            self.has_left = true;
        }
    }
}

/// The effect asks the world something, and nothing has come of it yet.
fn is_question(effect: &Effect) -> bool {
    match effect {
        Effect::ReadRevision { .. }
        | Effect::AwaitEarlier { .. }
        | Effect::RunCheck { .. }
        | Effect::ReadBalancer
        | Effect::AskProcess
        | Effect::DumpState
        | Effect::Persist { .. } => true,
        Effect::Reconnect { .. }
        | Effect::Subscribe(_)
        | Effect::Mark { .. }
        | Effect::Publish(_)
        | Effect::StartUpgrade { .. }
        | Effect::SetBalancer(_)
        | Effect::Deliver { .. }
        | Effect::Log(_)
        | Effect::Exit => false,
    }
}
