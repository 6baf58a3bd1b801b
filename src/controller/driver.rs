//! The controller's driver: the only loop and `select!`. It waits, hands events to the core, and
//! carries out what the core says; it decides nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{mpsc, oneshot, watch};

use super::core::{Core, Effect, Input, Publication, Setup};
use super::store::{Store, StoreError};
use super::tally::Tally;
use super::view::{Recent, View, WorldView};
use crate::bus::session::{self, Events, Handle};
use crate::bus::topics::Topic;
use crate::bus::wire::{Document, WireError, encode, encode_signed};
use crate::bus::{BrokerAddress, Refusals, Signer, SignerError, intake};
use crate::desired::{Snapshot, WatchError, Watcher};
use crate::history::{self, Keeper};
use crate::model::buckets::{Buckets, QUICK};
use crate::model::{
    AppName, ControllerAlive, ControllerId, DesiredApp, FleetName, Mono, NodeName, Now, Record,
    Wall, What,
};

/// Questions that may wait for an answer at once; the rest is turned away.
const QUERIES_MAX: usize = 64;

/// Events taken in before the core plans, at most: a flood must not keep it from planning.
const BURST_MAX: usize = 10_000;

/// How long the last words may take, and the last lines of the history.
const CLOSE: Duration = Duration::from_secs(2);

/// How long to wait for the marker before the list is asked for again: a broker can drop it.
const LIST: Duration = Duration::from_secs(30);

/// What a controller is started with.
pub struct Config {
    /// The desired directory.
    pub desired: PathBuf,
    /// The state directory.
    pub state: PathBuf,
    /// The fleet.
    pub fleet: FleetName,
    /// Where people find the page, with a slash at its end; goes into messages.
    pub page: Option<String>,
    /// Where the bus is.
    pub bus: session::Config,
    /// The key that signs what is asked of agents; one in the state directory, where none is named.
    pub signing_key: Option<PathBuf>,
    /// What is kept of its history; the state directory is the same.
    pub history: history::Config,
}

/// Why a controller ends.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The state directory does not serve.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The key that signs what is asked of agents does not serve.
    #[error(transparent)]
    Key(#[from] SignerError),
    /// The desired directory cannot be watched.
    #[error("cannot watch the desired directory")]
    Watch(#[from] WatchError),
    /// The bus cannot be used as configured.
    #[error("cannot use the bus")]
    Bus(#[from] session::OpenError),
    /// Somebody else leads.
    #[error("{reason}")]
    Resigned {
        /// Why, in words.
        reason: String,
    },
    /// The bus session ended by itself.
    #[error("the bus session ended")]
    SessionEnded,
}

/// A question to the running controller.
#[derive(Debug)]
pub enum Query {
    /// Everything, now.
    View(oneshot::Sender<Box<View>>),
    /// The recent events.
    Events(oneshot::Sender<Recent>),
    /// An app's fleet as the planner sees it.
    World(AppName, oneshot::Sender<Option<Box<WorldView>>>),
    /// Forget a node; answers what came of it, in words.
    Forget(NodeName, oneshot::Sender<Result<String, ForgetError>>),
    /// Whether it is ready.
    Ready(oneshot::Sender<bool>),
    /// What metrics are made of.
    Metrics(oneshot::Sender<Box<(View, Counters)>>),
}

/// Why a node is not forgotten.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForgetError {
    /// Nobody of that name was ever heard.
    #[error("no node of that name is known")]
    Unknown,
    /// It is there.
    #[error("its agent is there; stop it first")]
    Present,
}

/// What the driver counts.
#[derive(Debug, Clone)]
pub struct Counters {
    /// How long plans took.
    pub plans: Buckets,
    /// When this process started.
    pub started: Wall,
    /// Events that no plan has answered yet.
    pub queue: u64,
    /// Documents heard, by kind.
    pub documents: BTreeMap<&'static str, u64>,
    /// Documents that were refused.
    pub documents_bad: u64,
    /// Assignments published.
    pub assignments: u64,
    /// Files written to the state directory.
    pub kept: u64,
    /// Files that could not be written.
    pub kept_not: u64,
    /// Connections to the bus that were made.
    pub connections: u64,
    /// Publishes that wait for the broker's word.
    pub unconfirmed: usize,
    /// Faults in the desired files at the last reading.
    pub desired_faults: usize,
    /// What the session counts.
    pub session: session::Counters,
    /// What has come about.
    pub tally: Tally,
    /// What became of the history.
    pub history: history::Counters,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            plans: Buckets::new(QUICK),
            started: Wall(0),
            queue: 0,
            documents: BTreeMap::new(),
            documents_bad: 0,
            assignments: 0,
            kept: 0,
            kept_not: 0,
            connections: 0,
            unconfirmed: 0,
            desired_faults: 0,
            session: session::Counters::default(),
            tally: Tally::default(),
            history: history::Counters::default(),
        }
    }
}

/// The way to ask a running controller.
pub type Queries = mpsc::Sender<Query>;

/// A channel for questions.
pub fn queries() -> (Queries, mpsc::Receiver<Query>) {
    mpsc::channel(QUERIES_MAX)
}

/// Runs a controller until `stop` says so, or it cannot go on.
///
/// # Errors
/// [`ControllerError`].
pub async fn run(
    config: Config,
    mut queries: mpsc::Receiver<Query>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), ControllerError> {
    let mut store = Store::open(&config.state)?;
    let clock = Clock::new();
    let signer = match &config.signing_key {
        Some(path) => Signer::read(path)?,
        None => store.signer()?,
    };
    let setup = Setup {
        id: store.controller_id()?,
        started: store.started(clock.now().wall.0)?,
        page: config.page.clone(),
        key: Some(signer.public()),
    };
    let (handle, mut events) = open(&config, &setup)?;
    let mut watcher = Watcher::new(&config.desired)?;
    let mut driver = Driver {
        core: Core::new(setup.clone(), store.load()),
        store,
        signer,
        fleet: config.fleet.clone(),
        history: Keeper::start(&config.history),
        records: Vec::new(),
        clock,
        handle,
        counters: Counters { started: Wall(setup.started), ..Counters::default() },
        waiting: 0,
        refusals: Refusals::default(),
        connection: 0,
        broker: config.bus.url.clone(),
    };
    let key = driver.signer.public();
    tracing::info!(controller = %setup.id, fleet = %config.fleet, %key, "controller started");
    let mut list_due: Option<tokio::time::Instant> = None;
    loop {
        let due = driver.core.due().map(|due| driver.clock.instant(due));
        let mut resigned = None;
        tokio::select! {
            // Order: an end is an end; people who wait get an answer even in a flood of reports;
            // then what the fleet says, then what the files say, then time.
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            Some(query) = queries.recv() => driver.answer(query, events.waiting()),
            event = events.next() => {
                let Some(event) = event else { return Err(ControllerError::SessionEnded) };
                list_due = match &event {
                    session::Event::Connected { .. } => Some(tokio::time::Instant::now() + LIST),
                    session::Event::Disconnected { .. } => None,
                    session::Event::Message { .. } | session::Event::Refused { .. } => list_due,
                };
                resigned = driver.take(event);
                resigned = resigned.or(driver.take_ready(&mut events).await);
            }
            snapshot = watcher.next() => {
                driver.counters.desired_faults = snapshot.all_faults().count();
                resigned = driver.step(Input::Desired(desired(snapshot)));
            }
            () = at(due) => {}
            () = until(list_due), if !driver.core.is_live() => {
                tracing::warn!("the broker did not list what is retained; asking again");
                list_due = Some(tokio::time::Instant::now() + LIST);
                resigned = driver.step(Input::Connected { connection: driver.connection });
            }
        }
        let resigned = resigned.or_else(|| driver.plan());
        driver.history.keep(std::mem::take(&mut driver.records));
        if let Some(reason) = resigned {
            driver.close(&setup.id).await;
            return Err(ControllerError::Resigned { reason });
        }
    }
    tracing::info!("controller stops; the fleet stays as it is");
    driver.close(&setup.id).await;
    Ok(())
}

fn open(config: &Config, setup: &Setup) -> Result<(Handle, Events), session::OpenError> {
    let (id, started) = (setup.id.clone(), setup.started);
    session::open(session::Options {
        config: config.bus.clone(),
        fleet: config.fleet.clone(),
        client_id: format!("evenkeel-controller-{}-{}", setup.id, setup.started),
        will: Some(session::Will {
            topic: Topic::Controller(setup.id.clone()),
            payload: Box::new(move |connection| gone(&id, started, connection)),
        }),
    })
}

fn gone(id: &ControllerId, started: u64, connection: u64) -> Vec<u8> {
    let boot = crate::model::Boot { started, connection };
    let alive = ControllerAlive { controller: id.clone(), boot, alive: false };
    encode(&alive).unwrap_or_default()
}

/// An instant that never comes, where there is none.
async fn at(due: Option<Instant>) {
    until(due.map(tokio::time::Instant::from_std)).await;
}

async fn until(due: Option<tokio::time::Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The first fault of an app stands for all of them; `evenkeel validate` shows the rest.
fn desired(snapshot: Snapshot) -> BTreeMap<AppName, Result<DesiredApp, String>> {
    for fault in snapshot.all_faults() {
        // None where it is of the whole file, or of the directory.
        let at = |number: usize| (number > 0).then_some(number);
        tracing::warn!(file = %fault.file, line = at(fault.line), column = at(fault.column),
            fault = %fault.message, "the desired files are faulty");
    }
    let first = |faults: Vec<crate::model::Fault>| {
        faults.first().map_or_else(String::new, |fault| {
            format!("{}:{}:{}: {}", fault.file, fault.line, fault.column, fault.message)
        })
    };
    snapshot.apps.into_iter().map(|(name, app)| (name, app.map_err(first))).collect()
}

struct Driver {
    core: Core,
    store: Store,
    /// Signs what is asked of agents.
    signer: Signer,
    fleet: FleetName,
    history: Keeper,
    /// For the history, since it last got some.
    records: Vec<Record>,
    clock: Clock,
    handle: Handle,
    counters: Counters,
    /// Events since the last plan.
    waiting: u64,
    refusals: Refusals,
    connection: u64,
    /// Where the bus is.
    broker: BrokerAddress,
}

impl Driver {
    /// Takes in one event of the bus. A reason to leave comes back.
    fn take(&mut self, event: session::Event) -> Option<String> {
        match event {
            session::Event::Connected { connection } => {
                tracing::info!(connection, "connected to the bus");
                self.connection = connection;
                self.counters.connections += 1;
                self.step(Input::Connected { connection })
            }
            session::Event::Disconnected { reason, retry_ms, is_news, .. } => {
                if is_news {
                    let broker = &self.broker;
                    tracing::warn!(%broker, reason, retry_ms, "not connected to the bus; trying on");
                }
                self.step(Input::Disconnected)
            }
            session::Event::Refused { operation, reason } => {
                tracing::error!(?operation, reason, "the broker refused");
                None
            }
            session::Event::Message { topic, payload, retained } => {
                match intake::read(&self.fleet, topic, &payload) {
                    Ok(document) => {
                        *self.counters.documents.entry(document.kind()).or_default() += 1;
                        self.step(Input::Heard { document, retained })
                    }
                    Err(error) => {
                        self.refusals.refuse(&error);
                        None
                    }
                }
            }
        }
    }

    /// Takes in whatever else has arrived, so that one plan answers all of it.
    async fn take_ready(&mut self, events: &mut Events) -> Option<String> {
        for _ in 0..BURST_MAX {
            let event = tokio::select! {
                biased;
                event = events.next() => event,
                () = std::future::ready(()) => None,
            };
            let resigned = self.take(event?);
            if resigned.is_some() {
                return resigned;
            }
        }
        None
    }

    fn step(&mut self, input: Input) -> Option<String> {
        self.waiting += 1;
        let effects = self.core.step(self.clock.now(), input);
        self.carry_out(effects)
    }

    fn plan(&mut self) -> Option<String> {
        let now = self.clock.now();
        if !self.core.wants_plan(now) {
            return None;
        }
        let started = Instant::now();
        let _span =
            tracing::info_span!("reconcile", number = self.counters.plans.count()).entered();
        let effects = self.core.plan(now);
        self.counters.plans.add(started.elapsed().as_secs_f64());
        self.waiting = 0;
        let resigned = self.carry_out(effects);
        self.counters.tally.look(now, &self.core);
        resigned
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<String> {
        let mut not_kept: BTreeMap<AppName, String> = BTreeMap::new();
        let mut resigned = None;
        for effect in effects {
            match effect {
                Effect::Subscribe(filters) => {
                    if let Err(error) = self.handle.subscribe(&filters) {
                        tracing::debug!(%error, "not subscribed; the next connection does");
                    }
                }
                Effect::Publish(publication) => {
                    let held_back = not_kept.keys().any(|app| publication.rests_on(app));
                    if !held_back {
                        self.publish(&publication);
                    }
                }
                // What follows in the list builds on what was not kept.
                Effect::Keep(file) if not_kept.contains_key(&file.app) => {}
                Effect::Keep(file) => match self.store.keep(&file) {
                    Ok(()) => self.counters.kept += 1,
                    Err(error) => {
                        self.counters.kept_not += 1;
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::error!(%error, cause, "state is not kept; nothing is changed");
                        not_kept.insert(file.app.clone(), error.to_string());
                    }
                },
                Effect::Log(record) => {
                    if let What::Event(kind) = &record.what {
                        self.counters.tally.count(kind);
                    }
                    super::log::log(&record);
                    if !(not_kept.contains_key(&record.app) && record.rests_on_the_disk()) {
                        self.records.push(*record);
                    }
                }
                Effect::Resign { reason } => resigned = Some(reason),
            }
        }
        for (app, error) in not_kept {
            let effects = self.core.step(self.clock.now(), Input::NotKept { app, error });
            debug_assert!(effects.is_empty());
        }
        resigned
    }

    fn publish(&mut self, publication: &Publication) {
        let sent = match publication {
            Publication::Leader(leader) => self.send(&Topic::Leader(leader.app.clone()), leader),
            Publication::Controller(alive) => {
                self.send(&Topic::Controller(alive.controller.clone()), alive)
            }
            Publication::Assignment(a) => {
                self.counters.assignments += 1;
                self.sign(&Topic::Assignment(a.node.clone(), a.app.clone()), a)
            }
            Publication::Ledger(app, cluster, ledger) => {
                self.send(&Topic::Status(app.clone(), cluster.clone()), ledger)
            }
            Publication::Mailbox(node, mailbox) => {
                self.sign(&Topic::Mailbox(node.clone()), mailbox)
            }
            Publication::Marker(id, connection) => {
                let topic = Topic::Marker(id.clone());
                self.put(&topic, connection.to_string().into_bytes(), false);
                Ok(())
            }
            Publication::Receipted(_, node, key) => {
                self.put(&Topic::Receipt(node.clone(), key.clone()), Vec::new(), true);
                Ok(())
            }
            Publication::Nothing(topic) => {
                self.put(topic, Vec::new(), true);
                Ok(())
            }
        };
        if let Err(error) = sent {
            tracing::error!(%error, "a document cannot be published");
        }
    }

    fn send<T: Document>(&self, topic: &Topic, document: &T) -> Result<(), WireError> {
        self.put(topic, encode(document)?, true);
        Ok(())
    }

    fn sign<T: Document>(&self, topic: &Topic, document: &T) -> Result<(), WireError> {
        let payload = encode_signed(document, &self.signer, &topic.on(&self.fleet))?;
        self.put(topic, payload, true);
        Ok(())
    }

    fn put(&self, topic: &Topic, payload: Vec<u8>, retain: bool) {
        if let Err(error) = self.handle.publish(topic, payload, retain) {
            // Whatever is state is published again at the next connection.
            tracing::debug!(%topic, %error, "not published");
        }
    }

    /// Answers a question, while so many events wait to be taken.
    fn answer(&mut self, query: Query, events: usize) {
        let now = self.clock.now();
        // Whoever asked may have gone away; that is theirs to do.
        match query {
            Query::View(to) => drop(to.send(Box::new(self.core.view(now)))),
            Query::Events(to) => drop(to.send(self.core.recent())),
            Query::World(app, to) => {
                drop(to.send(self.core.world_view(now, &app).map(Box::new)));
            }
            Query::Ready(to) => drop(to.send(self.core.is_ready())),
            Query::Metrics(to) => {
                let mut counters = self.counters.clone();
                counters.session = self.handle.counters();
                counters.unconfirmed = self.handle.unconfirmed();
                counters.history = self.history.counters();
                counters.queue = self.waiting + events as u64;
                counters.documents_bad = self.refusals.count();
                drop(to.send(Box::new((self.core.view(now), counters))));
            }
            Query::Forget(node, to) => {
                let answer = self.core.may_forget(now, &node);
                if answer.is_ok() {
                    self.step(Input::Forget(node));
                }
                drop(to.send(answer));
            }
        }
    }

    async fn close(&mut self, id: &ControllerId) {
        self.history.keep(std::mem::take(&mut self.records));
        self.history.flush(CLOSE).await;
        if self.core.is_live() {
            let last = ControllerAlive { alive: false, ..self.core.alive(self.connection) };
            if let Err(error) = self.send(&Topic::Controller(id.clone()), &last) {
                tracing::error!(%error, "a document cannot be published");
            }
        }
        if let Err(error) = self.handle.close(CLOSE).await {
            tracing::warn!(%error, "the bus did not take the last words");
        }
    }
}

/// The two clocks.
struct Clock {
    start: Instant,
}

impl Clock {
    fn new() -> Self {
        Self { start: Instant::now() }
    }

    fn now(&self) -> Now {
        let mono = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let wall = u64::try_from(wall.as_millis()).unwrap_or(u64::MAX);
        Now { mono: Mono(mono), wall: Wall(wall) }
    }

    fn instant(&self, mono: Mono) -> Instant {
        self.start + Duration::from_millis(mono.0)
    }
}
