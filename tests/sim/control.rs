//! The controller: the real core, and around it a process and a disk.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel::bus::intake::Document;
use evenkeel::bus::{Topic, encode};
use evenkeel::checker::Fact;
use evenkeel::controller::core::{Core, Effect, Input, Publication, Setup};
use evenkeel::controller::store::AppFile;
use evenkeel::model::*;

use crate::broker::{Client, Link, Will};
use crate::disk::Disk;
use crate::mutant;
use crate::presence::Presence;
use crate::wire::Packet;
use crate::world::{Happening, World};

/// The controller's process and its disk.
#[derive(Default)]
pub struct Controller {
    /// None while the process does not run.
    pub core: Option<Core>,
    pub life: u64,
    started_ms: u64,
    setup: Option<Setup>,
    pub link: Option<Link>,
    connections: u64,
    plans: bool,
    wake_ms: Option<u64>,
    /// Its id and the start of its last life.
    pub identity: Disk,
    /// A file per app.
    pub disk: Disk,
    pub presence: Presence,
    /// What it last read, or has on disk, without a fault.
    good: BTreeMap<ClusterName, DesiredCluster>,
    /// Every ledger as it was last published, by its topic.
    ledgers: BTreeMap<String, Arc<[u8]>>,
    /// It began with an empty disk and goes by what the broker has.
    blank: bool,
}

impl Controller {
    /// It has the ledger, in its memory or on its disk.
    pub fn remembers(&self) -> bool {
        !self.blank && !self.disk.is_lost()
    }

    pub fn next_connection(&mut self) -> (u64, Will) {
        self.connections += 1;
        let setup = self.setup.as_ref().expect("it runs");
        let boot = Boot { started: setup.started, connection: self.connections };
        let gone = ControllerAlive { controller: setup.id.clone(), boot, alive: false };
        let payload: Arc<[u8]> = encode(&gone).expect("a will").into();
        (self.connections, (Topic::Controller(setup.id.clone()).on(&World::fleet()), payload))
    }
}

impl World {
    fn controller_now(&self) -> Now {
        Now { mono: Mono(self.now_ms - self.controller.started_ms), wall: self.wall() }
    }

    pub fn start_controller(&mut self) {
        if self.controller.core.is_some() {
            return;
        }
        self.lives += 1;
        let drawn = format!("c{:08x}", self.rng.u32(..));
        let known: Option<(String, u64)> = self.controller.identity.read();
        let (id, before) = known.unwrap_or((drawn, 0));
        let started = self.wall().0.max(before + 1);
        if self.controller.identity.write(&(id.clone(), started)).is_err() {
            // A controller that cannot keep its name ends, and its unit starts it again.
            return self.after(5_000, Happening::Start(Client::Controller));
        }
        let setup =
            Setup { id: ControllerId::new(&id).expect("a name"), started, page: None, key: None };
        let files: Option<Vec<AppFile>> = self.controller.disk.read();
        let controller = &mut self.controller;
        controller.blank = files.is_none();
        let files = files.unwrap_or_default();
        let kept = files.iter().filter_map(|file| file.desired.as_ref());
        controller.good = kept.flat_map(|desired| desired.clusters.clone()).collect();
        controller.life = self.lives;
        controller.started_ms = self.now_ms;
        controller.connections = 0;
        controller.link = None;
        controller.plans = false;
        controller.wake_ms = None;
        controller.presence = Presence::default();
        controller.setup = Some(setup.clone());
        controller.core = Some(Core::new(setup, files));
        self.fact(Fact::Restarted);
        if self.controller.blank {
            self.fact(Fact::FilesLost);
        }
        self.trace.line(self.now_ms, &format!("controller {id} starts"));
        let life = self.controller.life;
        let (connect_ms, read_ms) = (self.rng.u64(0..50), self.rng.u64(0..50));
        self.after(connect_ms, Happening::Connect { client: Client::Controller, life });
        self.after(read_ms, Happening::Read { life });
    }

    /// SIGKILL.
    pub fn kill_controller(&mut self) {
        self.cut_words(&Client::Controller);
        self.controller.core = None;
        self.controller.link = None;
        self.trace.line(self.now_ms, "controller is killed");
    }

    pub fn controller_wiped(&mut self) {
        self.controller.disk.wipe();
        self.controller.identity.wipe();
    }

    /// With an empty disk it knows what the broker does. What that has lost as well is lost.
    pub fn remember(&mut self) {
        if !self.controller.blank {
            return;
        }
        let shown = self.broker.memory();
        let lost = self.controller.ledgers.iter();
        let lost = lost.filter(|(topic, ledger)| shown.get(*topic) != Some(*ledger));
        let lost: Vec<Topic> = lost
            .map(|(topic, _)| Topic::parse(&Self::fleet(), topic).expect("one of our topics"))
            .collect();
        if !lost.is_empty() {
            self.trace.line(self.now_ms, "what people were told is forgotten");
            self.fact(Fact::MemoryLost);
            let app = self.plot.app.clone();
            let of = |cluster: &ClusterName| Topic::Status(app.clone(), cluster.clone());
            self.told.retain(|(cluster, _), _| !lost.contains(&of(cluster)));
        }
    }

    // -- events

    pub fn read_files(&mut self, life: u64) {
        if self.controller.life == life && self.controller.core.is_some() {
            let files = self.files.clone();
            self.control(Input::Desired(mutant::desired(self.mutant, files)));
            self.tell_desired();
        }
    }

    fn tell_desired(&mut self) {
        let known = self.files.get(&self.plot.app).cloned();
        if let Some(Ok(desired)) = &known {
            self.controller.good.extend(desired.clusters.clone());
        }
        for (cluster, before) in self.controller.good.clone() {
            let (now, standing) = match &known {
                Some(Ok(desired)) => match desired.clusters.get(&cluster) {
                    Some(now) => (now.clone(), Standing::Current),
                    None => (before, Standing::Vanished),
                },
                Some(Err(fault)) => (before, Standing::LastGood(fault.clone())),
                None => (before, Standing::Vanished),
            };
            self.fact(Fact::Desired { cluster, settings: Box::new(now), standing });
        }
    }

    pub fn controller_hears(&mut self, document: Document, retained: bool) {
        let now = Mono(self.now_ms);
        let fact = self.controller.presence.hear(&document, retained, now);
        fact.into_iter().for_each(|fact| self.fact(fact));
        let document = mutant::heard(self.mutant, document);
        self.control(Input::Heard { document, retained });
    }

    /// Tells the checker who may be taken to be there.
    fn tell_presence(&mut self) {
        let news = self.controller.presence.news(Mono(self.now_ms));
        news.into_iter().for_each(|fact| self.fact(fact));
    }

    /// Tells the core what has happened; it plans when everything that happens now is told.
    pub fn control(&mut self, input: Input) {
        let now = self.controller_now();
        let Some(core) = &mut self.controller.core else { return };
        let effects = core.step(now, input);
        self.carry_out(effects);
        self.plan_soon(0);
    }

    fn plan_soon(&mut self, ms: u64) {
        if !self.controller.plans {
            self.controller.plans = true;
            self.after(ms, Happening::Plan);
        }
    }

    pub fn plan(&mut self) {
        self.controller.plans = false;
        self.tell_presence();
        let now = self.controller_now();
        let Some(core) = &mut self.controller.core else { return };
        let effects = core.plan(now);
        let due = core.due();
        self.carry_out(effects);
        if let Some(due) = due
            && self.controller.core.is_some()
        {
            let due_ms = (due.0 + self.controller.started_ms).max(self.now_ms + 1);
            let known = self.controller.wake_ms;
            if known.is_none_or(|known| known <= self.now_ms || due_ms < known) {
                self.controller.wake_ms = Some(due_ms);
                self.after(due_ms - self.now_ms, Happening::Plan);
            }
        }
    }

    /// As the driver does it, and it may be killed before any of it.
    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = mutant::effects(self.mutant, effects);
        let sign = |effect: &Effect| matches!(effect, Effect::Publish(p) if matches!(**p, Publication::Controller(_)));
        if effects.iter().any(sign) {
            effects.extend(mutant::needless(self.mutant, self.published.values().next()));
        }
        let doomed = self.troubled && !effects.is_empty() && self.chance(self.plot.doom);
        let dies_at = if doomed { self.rng.usize(0..=effects.len()) } else { usize::MAX };
        let mut not_kept: BTreeMap<AppName, String> = BTreeMap::new();
        let mut planned = BTreeMap::new();
        let mut sent = Vec::new();
        let mut resigned = false;
        for (at, effect) in effects.into_iter().enumerate() {
            if at == dies_at {
                if let Effect::Keep(file) = effect
                    && self.controller.disk.write(&vec![(*file).clone()]).is_ok()
                {
                    // It dies with its machine, half-way.
                    self.controller.disk.tear();
                }
                break;
            }
            match effect {
                Effect::Subscribe(filters) => {
                    let fleet = Self::fleet();
                    sent.extend(
                        filters.iter().map(|f| Sent::Packet(Packet::Subscribe(f.on(&fleet)))),
                    );
                }
                Effect::Publish(publication) => {
                    if not_kept.keys().any(|app| publication.rests_on(app)) {
                        continue;
                    }
                    if let Publication::Assignment(assignment) = &*publication {
                        planned.insert(assignment.node.clone(), assignment.clone());
                    }
                    sent.push(Sent::Publication(publication));
                }
                Effect::Keep(file) if not_kept.contains_key(&file.app) => {}
                Effect::Keep(file) => match self.controller.disk.write(&vec![(*file).clone()]) {
                    Ok(()) => self.controller.disk.flushed(),
                    Err(error) => drop(not_kept.insert(file.app.clone(), error)),
                },
                Effect::Log(record) => {
                    if self.trace.is_loud() {
                        let of = record.node.as_ref().map_or("itself", NodeName::as_str);
                        let what = match &record.what {
                            What::Event(kind) => kind.to_string(),
                            What::Decision(decision) => decision.to_string(),
                            What::Action { asked, of, .. } => format!("{} of {of}", asked.as_str()),
                        };
                        let in_cluster = record.cluster.as_ref().map_or("-", ClusterName::as_str);
                        self.trace
                            .line(self.now_ms, &format!("controller: {in_cluster} {of}: {what}"));
                    }
                }
                Effect::Resign { reason } => {
                    self.trace.line(self.now_ms, &reason);
                    resigned = true;
                }
            }
        }
        planned.retain(|node, assignment| self.published.get(node) != Some(assignment));
        self.published.extend(planned.clone());
        if !planned.is_empty() {
            self.moved_ms = self.now_ms;
            if self.trace.is_loud() {
                for (node, assignment) in &planned {
                    let text = format!(
                        "plan {node}: {}",
                        serde_json::to_string(assignment).expect("JSON")
                    );
                    self.trace.line(self.now_ms, &text);
                }
            }
            self.fact(Fact::Planned(planned));
        }
        for sent in sent {
            match sent {
                Sent::Packet(packet) => self.send(&Client::Controller, packet),
                Sent::Publication(publication) => self.controller_publishes(&publication),
            }
        }
        if dies_at < usize::MAX || resigned {
            self.kill_controller();
            let again_ms = self.rng.u64(100..10_000);
            return self.after(again_ms, Happening::Start(Client::Controller));
        }
        for (app, error) in not_kept {
            self.receipts_lost(&Client::Controller, self.now_ms);
            let now = self.controller_now();
            if let Some(core) = &mut self.controller.core {
                core.step(now, Input::NotKept { app, error });
            }
        }
    }

    fn controller_publishes(&mut self, publication: &Publication) {
        let client = Client::Controller;
        match publication {
            Publication::Leader(leader) => {
                // Who leads has heard all that there is.
                self.controller.blank = false;
                self.publish(&client, &Topic::Leader(leader.app.clone()), leader);
            }
            Publication::Controller(alive) => {
                self.publish(&client, &Topic::Controller(alive.controller.clone()), alive);
            }
            Publication::Assignment(a) => {
                let topic = Topic::Assignment(a.node.clone(), a.app.clone());
                self.publish(&client, &topic, a);
            }
            Publication::Ledger(app, cluster, ledger) => {
                let topic = Topic::Status(app.clone(), cluster.clone());
                let payload: Arc<[u8]> = encode(ledger).expect("a ledger").into();
                self.controller.ledgers.insert(topic.on(&Self::fleet()), payload);
                self.publish(&client, &topic, ledger);
            }
            Publication::Mailbox(node, mailbox) => {
                self.publish(&client, &Topic::Mailbox(node.clone()), mailbox);
            }
            Publication::Marker(id, connection) => {
                let topic = Topic::Marker(id.clone());
                self.put(&client, &topic, connection.to_string().into_bytes(), false);
            }
            Publication::Receipted(_, node, key) => {
                let topic = Topic::Receipt(node.clone(), key.clone());
                self.put(&client, &topic, Vec::new(), true);
            }
            Publication::Nothing(topic) => self.put(&client, topic, Vec::new(), true),
        }
    }
}

enum Sent {
    Packet(Packet),
    Publication(Box<Publication>),
}
