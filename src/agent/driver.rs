//! The driver: the agent's only loop. It carries out what the core asks for, and tells it what became of it.
//!
//! Everything that takes time is a task whose value is the event that answers it, so that the core's own
//! bounds (one write, one question to HAProxy, one upgrade, each check once) are the bounds here too.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use super::audit::Audit;
use super::config::{Config, ConfigError};
use super::core::{
    AgentCore, BalancerSetup, Document, Effect, Event, Interest, Publication, Setup,
};
use super::counters::Counted;
use super::log::log;
use super::store::{StateError, Store};
use crate::bus::session::{self, Events, Handle, PublishError, Will};
use crate::bus::{Filter, Refusals, Topic, encode, intake};
use crate::checks::{NrpeError, Plugins};
use crate::deploy::App;
use crate::facts::{self, FactsError};
use crate::haproxy::Haproxy;
use crate::model::{
    Alive, AppName, Boot, CheckName, FleetName, Message, Mono, NodeName, Now, RecipientName,
    Revision, Wall,
};
use crate::notify::{self, Services};
use crate::plan::ports::{Balancer, Checks, Deploy, Notify, SetServer};

/// Events that are taken in together at most: as many as a burst of a whole node's documents has,
/// and few enough that the loop looks at its signals soon.
const BATCH_MAX: usize = 256;

/// How long the last words may take to reach the broker.
const CLOSE: Duration = Duration::from_secs(2);

/// Why an agent does not start, or ends without being asked to.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Its configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Its state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Its facts cannot be gathered.
    #[error("cannot gather the node's facts")]
    Facts(#[from] FactsError),
    /// Its checks are not understood.
    #[error("cannot read the node's checks")]
    Checks(#[from] NrpeError),
    /// Its notification services are not understood.
    #[error("cannot use the table [notify]")]
    Notify(#[from] notify::ConfigError),
    /// The session with the broker cannot be opened.
    #[error("cannot open a session with the broker")]
    Bus(#[from] session::OpenError),
    /// The system does not let it listen to signals.
    #[error("cannot listen to signals")]
    Signals(#[source] std::io::Error),
    /// A task has died that the agent cannot do without.
    #[error("a task of the agent has died; it is to be started again")]
    Task(#[from] tokio::task::JoinError),
    /// The session with the broker has ended by itself.
    #[error("the session with the broker has ended; the agent is to be started again")]
    SessionEnded,
    /// It was asked twice to end.
    #[error("ended at once, by a second signal; what was running was killed")]
    Forced,
}

/// Runs an agent until it is asked to end, by SIGTERM or SIGINT. The first lets a running upgrade
/// end within 10 s, the second does not.
///
/// What it does is counted in `counted`. Needs rustls' default provider to be installed if it speaks TLS.
///
/// # Errors
/// [`AgentError`]; the process should end, and be started again.
pub async fn run(config: Config, counted: Counted) -> Result<(), AgentError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Signals)?;
    let (stop, stops) = mpsc::channel(1);
    let forward = async move {
        loop {
            tokio::select! {
                biased;
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            // The channel outlives the agent that is asked.
            let _ = stop.send(()).await;
        }
    };
    tokio::select! {
        biased;
        outcome = run_counted(config, counted, stops) => outcome,
        () = forward => Ok(()),
    }
}

/// [`run`], with messages in the place of signals. If nobody can send one any more, it runs on.
///
/// # Errors
/// [`AgentError`]
pub async fn run_until(config: Config, stops: mpsc::Receiver<()>) -> Result<(), AgentError> {
    run_counted(config, Counted::default(), stops).await
}

async fn run_counted(
    config: Config,
    counted: Counted,
    mut stops: mpsc::Receiver<()>,
) -> Result<(), AgentError> {
    let mut driver = Driver::start(config, counted)?;
    let outcome = driver.drive(&mut stops).await;
    driver.leave(outcome.is_ok()).await;
    outcome
}

/// The parts of the roles that the agent has.
struct Roles {
    apps: BTreeMap<AppName, Arc<App>>,
    checks: Option<Arc<Plugins>>,
    /// One question at a time, whoever asks.
    haproxy: Option<Arc<Mutex<Haproxy>>>,
    notify: Option<Arc<Services>>,
}

/// What HAProxy is asked.
enum Question {
    Read,
    Set(Vec<SetServer>),
    Process,
    Dump,
}

struct Driver {
    node: NodeName,
    fleet: FleetName,
    bus: session::Config,
    core: AgentCore,
    store: Arc<Store>,
    audit: Audit,
    roles: Roles,
    session: Handle,
    events: Events,
    tasks: JoinSet<Event>,
    refusals: Refusals,
    counted: Counted,
    clock: Instant,
    stops: bool,
}

/// Whether the loop goes on.
enum Flow {
    On,
    Leave,
}

impl Driver {
    fn start(config: Config, counted: Counted) -> Result<Driver, AgentError> {
        let node = config.node()?;
        let (store, memory) = Store::open(&config.state)?;
        let audit = Audit::start(&config.state, node.clone(), memory.as_ref());
        let (roles, setup) = equip(&config, &node)?;
        let clock = Instant::now();
        let core = AgentCore::new(setup, memory, now(clock));
        let (session, events) = open(&config.bus, &config.fleet, &node, core.started())?;
        tracing::info!(%node, fleet = %config.fleet, broker = %config.bus.url, "agent started");
        Ok(Driver {
            node,
            fleet: config.fleet,
            bus: config.bus,
            core,
            store: Arc::new(store),
            audit,
            roles,
            session,
            events,
            tasks: JoinSet::new(),
            refusals: Refusals::default(),
            counted,
            clock,
            stops: false,
        })
    }

    /// The loop. Signals come first, so that nothing can keep the agent from ending; then answers, which free what the
    /// core waits for; then the bus. Time comes last, and cannot be kept waiting by them: the core
    /// does what is due at every event.
    async fn drive(&mut self, stops: &mut mpsc::Receiver<()>) -> Result<(), AgentError> {
        let mut batch = vec![Event::Tick];
        loop {
            if let Flow::Leave = self.step(std::mem::take(&mut batch)).await? {
                return Ok(());
            }
            let sleep = self.until_wake();
            tokio::select! {
                biased;
                Some(()) = stops.recv() => {
                    if std::mem::replace(&mut self.stops, true) {
                        return Err(AgentError::Forced);
                    }
                    batch.push(Event::Stop);
                }
                Some(answer) = self.tasks.join_next() => batch.push(answer?),
                event = self.events.next() => {
                    batch.extend(self.translate(event.ok_or(AgentError::SessionEnded)?));
                }
                () = sleep => batch.push(Event::Tick),
            }
            self.drain(&mut batch).await?;
        }
    }

    /// Adds what is ready already, so that what came together is decided, written and reported together.
    async fn drain(&mut self, batch: &mut Vec<Event>) -> Result<(), AgentError> {
        while batch.len() < BATCH_MAX {
            if let Some(answer) = self.tasks.try_join_next() {
                batch.push(answer?);
                continue;
            }
            tokio::select! {
                biased;
                event = self.events.next() => {
                    batch.extend(self.translate(event.ok_or(AgentError::SessionEnded)?));
                }
                () = std::future::ready(()) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn step(&mut self, batch: Vec<Event>) -> Result<Flow, AgentError> {
        let mut flow = Flow::On;
        let now = now(self.clock);
        batch.iter().for_each(|event| self.counted.lock().happened(now.mono, event));
        for effect in self.core.step_all(now, batch) {
            self.counted.lock().asked(now.mono, &effect);
            match effect {
                Effect::Exit => flow = Flow::Leave,
                Effect::Reconnect { started } => self.reconnect(started).await?,
                effect => self.carry_out(effect),
            }
        }
        Ok(flow)
    }

    fn until_wake(&self) -> impl Future<Output = ()> + use<> {
        let wake = self.core.next_wake();
        let clock = self.clock;
        async move {
            match wake {
                Some(Mono(ms)) => {
                    let at = clock + Duration::from_millis(ms);
                    tokio::time::sleep_until(at.into()).await;
                }
                None => std::future::pending().await,
            }
        }
    }

    async fn reconnect(&mut self, started: u64) -> Result<(), AgentError> {
        if let Err(error) = self.session.close(CLOSE).await {
            tracing::debug!(%error, "the session before ended badly");
        }
        (self.session, self.events) = open(&self.bus, &self.fleet, &self.node, started)?;
        Ok(())
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Subscribe(interests) => {
                let filters: Vec<Filter> =
                    interests.into_iter().map(|interest| filter(&self.node, interest)).collect();
                unsent("subscriptions", self.session.subscribe(&filters));
            }
            Effect::Mark { connection } => {
                let topic = Topic::NodeMarker(self.node.clone());
                unsent("marker", self.session.publish(&topic, connection.to_string(), false));
            }
            Effect::Publish(publication) => self.publish(&publication),
            Effect::Persist { token, memory } => {
                let store = Arc::clone(&self.store);
                self.tasks.spawn_blocking(move || match store.write(&memory) {
                    Ok(()) => Event::Persisted { token },
                    Err(error) => Event::PersistFailed { token, error },
                });
            }
            Effect::ReadRevision { app, read } => self.read_revision(app, read),
            Effect::AwaitEarlier { app } => self.await_earlier(app),
            Effect::StartUpgrade { app, revision, timeout_ms } => {
                self.start_upgrade(app, revision, timeout_ms);
            }
            Effect::RunCheck { app, run, check } => self.run_check(app, run, check),
            Effect::ReadBalancer => self.ask_haproxy(Question::Read),
            Effect::SetBalancer(commands) => self.ask_haproxy(Question::Set(commands)),
            Effect::AskProcess => self.ask_haproxy(Question::Process),
            Effect::DumpState => self.ask_haproxy(Question::Dump),
            Effect::Deliver { recipient, message } => self.deliver(recipient, message),
            Effect::Log(note) => {
                log(&self.node, &note);
                self.audit.note(now(self.clock).wall, &note);
            }
            // These two are the loop's own.
            Effect::Reconnect { .. } | Effect::Exit => {}
        }
    }

    fn read_revision(&mut self, app: AppName, read: u64) {
        let Some(adapter) = self.roles.apps.get(&app).cloned() else { return };
        self.tasks.spawn(async move {
            let seen = adapter.revision().await;
            Event::RevisionRead { app, read, seen }
        });
    }

    fn await_earlier(&mut self, app: AppName) {
        let Some(adapter) = self.roles.apps.get(&app).cloned() else { return };
        self.tasks.spawn(async move {
            adapter.left_alone().await;
            Event::EarlierEnded { app }
        });
    }

    fn start_upgrade(&mut self, app: AppName, revision: Revision, timeout_ms: u64) {
        let Some(adapter) = self.roles.apps.get(&app).cloned() else { return };
        self.tasks.spawn(async move {
            let result = adapter.upgrade(&revision, timeout_ms).await;
            Event::UpgradeEnded { app, result }
        });
    }

    fn run_check(&mut self, app: AppName, run: u64, check: CheckName) {
        let Some(adapter) = self.roles.checks.clone() else { return };
        self.tasks.spawn(async move {
            let result = adapter.run(&check).await;
            Event::CheckEnded { app, run, check, result }
        });
    }

    fn deliver(&mut self, recipient: RecipientName, message: Box<Message>) {
        let Some(adapter) = self.roles.notify.clone() else { return };
        self.tasks.spawn(async move {
            let result = adapter.deliver(&recipient, &message).await;
            Event::Delivered { key: message.key, recipient, result }
        });
    }

    fn ask_haproxy(&mut self, question: Question) {
        let Some(haproxy) = self.roles.haproxy.clone() else { return };
        self.tasks.spawn(async move {
            let mut haproxy = haproxy.lock().await;
            match question {
                Question::Read => Event::BalancerRead(haproxy.read(&[]).await),
                Question::Set(commands) => Event::BalancerSet(haproxy.set(&commands).await),
                Question::Process => Event::ProcessSeen(haproxy.process().await),
                Question::Dump => Event::StateDumped(haproxy.dump_state().await),
            }
        });
    }

    fn publish(&self, publication: &Publication) {
        let (topic, payload) = match publication {
            Publication::Alive(alive) => (Topic::Alive(self.node.clone()), encode(alive)),
            Publication::Report(report) => (Topic::Report(self.node.clone()), encode(report)),
            Publication::Receipt(receipt) => {
                (Topic::Receipt(self.node.clone(), receipt.key.clone()), encode(receipt))
            }
        };
        match payload {
            Ok(payload) => unsent("document", self.session.publish(&topic, payload, true)),
            Err(error) => tracing::error!(%topic, %error, "a document cannot be published"),
        }
    }

    fn translate(&mut self, event: session::Event) -> Option<Event> {
        match event {
            session::Event::Connected { connection } => {
                tracing::info!(connection, "connected to the broker");
                Some(Event::Connected { connection })
            }
            session::Event::Disconnected { reason, retry_ms, is_news, .. } => {
                if is_news {
                    let broker = &self.bus.url;
                    tracing::warn!(%broker, reason, retry_ms, "not connected to the broker; trying on");
                }
                Some(Event::Disconnected)
            }
            session::Event::Refused { operation, reason } => {
                tracing::error!(%operation, reason, "the broker refuses; look at its access control");
                None
            }
            session::Event::Message { topic, payload, retained } => {
                match intake::read(&self.fleet, topic, &payload) {
                    Ok(document) => received(document, retained),
                    Err(error) => {
                        self.refusals.refuse(&error);
                        self.counted.lock().documents_refused += 1;
                        None
                    }
                }
            }
        }
    }

    /// Kills what runs, and says the last words if there is time for them.
    async fn leave(mut self, graceful: bool) {
        if self.refusals.count() > 0 {
            tracing::warn!(count = self.refusals.count(), "documents were not taken");
        }
        if graceful && let Err(error) = self.session.close(CLOSE).await {
            tracing::warn!(%error, "the broker will speak for this agent");
        }
        self.tasks.shutdown().await;
    }
}

/// What an agent of `node` subscribes to for `interest`.
#[must_use]
pub fn filter(node: &NodeName, interest: Interest) -> Filter {
    let node = node.clone();
    match interest {
        Interest::OwnAlive => Filter::One(Topic::Alive(node)),
        Interest::OwnReport => Filter::One(Topic::Report(node)),
        Interest::OwnMarker => Filter::One(Topic::NodeMarker(node)),
        Interest::OwnAssignments => Filter::NodeAssignments(node),
        Interest::OwnMailbox => Filter::One(Topic::Mailbox(node)),
        Interest::Leaders => Filter::AllLeaders,
        Interest::ReportOf(other) => Filter::One(Topic::Report(other)),
        Interest::Arrivals => Filter::AllAlive,
    }
}

/// What a document means to the agent; none if it was deleted, which is no order, or is nothing to it.
fn received(document: intake::Document, retained: bool) -> Option<Event> {
    let document = match document {
        intake::Document::Assignment(assignment, key) => Document::Assignment(assignment, key),
        intake::Document::Report(report) => Document::Report(report),
        intake::Document::Alive(alive) => Document::Alive(alive),
        intake::Document::Leader(leader) => Document::Leader(leader),
        intake::Document::Mailbox(_, mailbox, key) => Document::Mailbox(Box::new(mailbox), key),
        intake::Document::Marker(connection) => return Some(Event::Marker { connection }),
        intake::Document::Controller(_)
        | intake::Document::Ledger(..)
        | intake::Document::Receipt(_)
        | intake::Document::Deleted(_) => return None,
    };
    Some(Event::Received { document, retained })
}

/// The adapters of the roles, and what the core must know of them.
fn equip(config: &Config, node: &NodeName) -> Result<(Roles, Setup), AgentError> {
    let facts = facts::gather(&config.facts)?;
    let checks = config.checks.as_ref().map(Plugins::new).transpose()?;
    let notify = config.notify.as_ref().map(Services::new).transpose()?;
    let apps: BTreeMap<AppName, Arc<App>> = config
        .apps
        .iter()
        .map(|(name, app)| {
            (name.clone(), Arc::new(App::new(name.clone(), app.clone(), &config.state)))
        })
        .collect();
    let setup = Setup {
        node: node.clone(),
        facts,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        apps: apps.keys().cloned().collect(),
        checks: checks.iter().flat_map(Plugins::names).cloned().collect(),
        balancer: config.haproxy.as_ref().map(|haproxy| BalancerSetup {
            state_file: haproxy.state_file.is_some(),
            backends: haproxy.backends.clone(),
        }),
        recipients: notify.as_ref().map(|services| services.recipients().into_iter().collect()),
        heartbeat_ms: config.heartbeat_ms,
        observe_ms: config.observe_ms,
        seed: fastrand::u64(..),
        trusted_keys: config.trusted_keys.clone(),
    };
    let haproxy = config.haproxy.clone().map(|config| Arc::new(Mutex::new(Haproxy::new(config))));
    let (checks, notify) = (checks.map(Arc::new), notify.map(Arc::new));
    Ok((Roles { apps, checks, haproxy, notify }, setup))
}

fn open(
    bus: &session::Config,
    fleet: &FleetName,
    node: &NodeName,
    started: u64,
) -> Result<(Handle, Events), session::OpenError> {
    let last_word = node.clone();
    let payload = move |connection| {
        let boot = Boot { started, connection };
        let alive = Alive { node: last_word.clone(), boot, alive: false };
        // Three short fields: it has a form in JSON, and is far from any limit.
        encode(&alive).unwrap_or_default()
    };
    session::open(session::Options {
        config: bus.clone(),
        fleet: fleet.clone(),
        client_id: format!("{fleet}-{node}-{started}"),
        will: Some(Will { topic: Topic::Alive(node.clone()), payload: Box::new(payload) }),
    })
}

/// What could not be sent is sent whole at the next connection, so that only what will never be
/// sent is worth a line.
fn unsent(what: &'static str, result: Result<(), PublishError>) {
    match result {
        Ok(()) => {}
        Err(error @ (PublishError::NotConnected | PublishError::Closed)) => {
            tracing::debug!(what, %error, "not sent");
        }
        Err(error) => tracing::error!(what, %error, "not sent"),
    }
}

fn now(clock: Instant) -> Now {
    let ms = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Now { mono: Mono(ms(clock.elapsed())), wall: Wall(ms(wall)) }
}
