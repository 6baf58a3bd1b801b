//! Floor 4: the reference scenario on this machine, with this very program in every role.
//!
//! Nine web servers behind a real HAProxy under load, their agents, a controller, and two
//! notification servers: a commit brings each cluster to a new revision, and the demo says
//! what happened when, and whether any request failed.

mod api;
pub mod fleet;
pub mod guard;
mod load;
mod ports;
mod process;
mod progress;
mod receiver;
mod release;
mod repository;
mod summary;
pub mod web;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::api::{Api, Follower};
use self::fleet::{APP, Broker, FIRST_REVISION, Fleet, FleetError, Shape, Site, cluster_file};
use self::load::Load;
use self::process::Ended;
use self::progress::Marks;
use self::receiver::Receiver;
pub use self::summary::Summary;
use self::summary::{Phases, Requests, Rollout};
use crate::bus::session::OpenError;
use crate::controller::view::{ClusterView, View};
use crate::model::{Cause, Event, EventKind, Wall};
use crate::plan::Phase;

/// A rollout takes a second; the checks alone may take 100 s where a machine is not well.
const CONVERGE_MAX: Duration = Duration::from_secs(240);

/// A message follows its convergence in milliseconds; a notification server that is stuck is
/// passed over after 20 s.
const MESSAGE_MAX: Duration = Duration::from_secs(60);

/// Between two looks at the controller. The times come from its events and from the bus, so that
/// this need not be short, and burdens nobody.
const LOOK: Duration = Duration::from_millis(50);

/// What is wanted.
#[derive(Debug, Clone)]
pub struct Options {
    /// Leave it running afterwards, until a signal comes.
    pub keep: bool,
    /// Where, if not in a temporary directory.
    pub dir: Option<PathBuf>,
    /// Releases are unpacked and servers restarted.
    pub release_layout: bool,
    /// Who carries the documents.
    pub broker: Broker,
    /// All servers in one cluster.
    pub one_cluster: bool,
    /// The floor of ready servers, if not the shipped one.
    pub min_ready: Option<String>,
    /// Further revisions after the second.
    pub rounds: u32,
    /// The story goes to standard error, for standard output is a machine's.
    pub json: bool,
}

/// Why the demo could not be carried out.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The directory cannot be used.
    #[error("cannot use the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The directory has something in it.
    #[error("the directory {} is not empty; the demo wants one of its own", .0.display())]
    NotEmpty(PathBuf),
    /// The fleet cannot be set up.
    #[error(transparent)]
    Fleet(#[from] FleetError),
    /// A process ended in the middle.
    #[error("{} ended: {}", .0.name, .0.how)]
    Ended(Ended),
    /// Something of the system's.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// The bus cannot be followed.
    #[error("cannot follow the bus")]
    Bus(#[from] OpenError),
    /// The controller cannot be asked.
    #[error("{0}")]
    Api(String),
    /// A cluster does not converge.
    #[error("{cluster} has not converged on {revision} {after}:\n{state}")]
    NotConverged {
        /// Which.
        cluster: String,
        /// On what.
        revision: String,
        /// When this was given up.
        after: String,
        /// How its nodes are.
        state: String,
    },
    /// A signal came.
    #[error("interrupted")]
    Interrupted,
}

/// Tells the story, line by line, with the time since the last change.
struct Teller {
    json: bool,
    since: Mutex<Option<Instant>>,
}

impl Teller {
    fn line(&self, text: &str) {
        // Nobody listens any more: the demo goes on to its end, and cleans up.
        let _ = match self.json {
            true => writeln!(std::io::stderr(), "{text}"),
            false => writeln!(std::io::stdout(), "{text}"),
        };
    }

    fn timed(&self, who: &str, what: &str) {
        let since = *self.since.lock().unwrap_or_else(PoisonError::into_inner);
        match since {
            Some(since) => {
                self.line(&format!("{:>9.3} s  {who:<8} {what}", since.elapsed().as_secs_f64()));
            }
            None => self.line(&format!("             {who:<8} {what}")),
        }
    }

    fn begin(&self, at: Instant) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(at);
    }
}

/// Carries out the demo, and tells it; the summary says whether all was well.
///
/// Everything that it has started has ended when this returns, or is dropped. The directory is
/// removed if it is a temporary one and all was well.
///
/// # Errors
/// [`DemoError`]; the directory is then left, and the logs' last lines have been told.
pub async fn run(options: Options) -> Result<Summary, DemoError> {
    let teller = Arc::new(Teller { json: options.json, since: Mutex::new(None) });
    let place = Place::new(options.dir.as_deref())?;
    let mut signals = Signals::new()?;
    let mut stage = Stage::default();
    let outcome = tokio::select! {
        biased;
        () = signals.next() => Err(DemoError::Interrupted),
        outcome = play(&options, &teller, &place, &mut stage) => outcome,
    };
    if let Ok(summary) = &outcome {
        teller.line(&format!("\n{summary}"));
    }
    let outcome = match (outcome, stage.fleet.as_ref()) {
        (Ok(summary), Some(fleet)) if options.keep && summary.problems.is_empty() => {
            teller.line(&format!("\n{}", addresses(fleet.site())));
            tokio::select! {
                biased;
                () = signals.next() => Ok(summary),
                error = watch(fleet, &teller) => Err(error),
            }
        }
        (outcome, _) => outcome,
    };
    let tails = stage.fleet.as_ref().map(|fleet| fleet.processes.tails()).unwrap_or_default();
    drop(stage);
    let leave = match &outcome {
        Ok(summary) => !summary.problems.is_empty(),
        Err(DemoError::Interrupted) => false,
        Err(_) => {
            for (name, tail) in tails {
                teller.line(&format!("--- {name}.log\n{tail}"));
            }
            true
        }
    };
    if leave {
        teller.line(&format!("\nEverything is left in {}", place.leave().display()));
    }
    outcome
}

/// Whoever ends a process while the demo is kept does so on purpose, and is told how to start it again.
async fn watch(fleet: &Fleet, teller: &Teller) -> DemoError {
    loop {
        match fleet.processes.watch().await {
            Ok(Ended { name, how, command }) => {
                teller.line(&format!("{name} has ended ({how}); to start it again:\n  {command}"));
            }
            Err(error) => return DemoError::System { what: "look after the processes", error },
        }
    }
}

fn died(ended: std::io::Result<Ended>) -> DemoError {
    match ended {
        Ok(ended) => DemoError::Ended(ended),
        Err(error) => DemoError::System { what: "look after the processes", error },
    }
}

/// The directory of the demo.
enum Place {
    Temporary(TempDir),
    Given(PathBuf),
}

impl Place {
    fn new(dir: Option<&std::path::Path>) -> Result<Place, DemoError> {
        let Some(dir) = dir else {
            let made = tempfile::Builder::new().prefix("evenkeel-demo-").tempdir();
            let path = std::env::temp_dir();
            return made
                .map(Place::Temporary)
                .map_err(|error| DemoError::Directory { path, error });
        };
        let path = dir.to_owned();
        let found = std::fs::create_dir_all(dir)
            .and_then(|()| dir.canonicalize())
            .and_then(|dir| Ok((std::fs::read_dir(&dir)?.next().is_none(), dir)));
        match found {
            Ok((true, dir)) => Ok(Place::Given(dir)),
            Ok((false, dir)) => Err(DemoError::NotEmpty(dir)),
            Err(error) => Err(DemoError::Directory { path, error }),
        }
    }

    fn path(&self) -> &std::path::Path {
        match self {
            Self::Temporary(dir) => dir.path(),
            Self::Given(dir) => dir,
        }
    }

    fn leave(self) -> PathBuf {
        match self {
            Self::Temporary(dir) => dir.keep(),
            Self::Given(dir) => dir,
        }
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    hangup: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Signals, DemoError> {
        let listen = |kind| {
            signal(kind).map_err(|error| DemoError::System { what: "listen to signals", error })
        };
        Ok(Signals {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// What must outlive the story: with `--keep`, it goes on.
#[derive(Default)]
struct Stage {
    load: Option<Load>,
    follower: Option<Follower>,
    receiver: Option<Receiver>,
    fleet: Option<Fleet>,
}

async fn play(
    options: &Options,
    teller: &Arc<Teller>,
    place: &Place,
    stage: &mut Stage,
) -> Result<Summary, DemoError> {
    let shape = Shape {
        clusters: Shape::clusters(options.one_cluster),
        release_layout: options.release_layout,
        broker: options.broker,
        min_ready: options.min_ready.clone(),
    };
    let clusters = shape.clusters.clone();
    let site = Site::new(place.path(), shape)?;
    let api = Api::new(site.http_port).map_err(DemoError::Api)?;
    let told = Arc::clone(teller);
    let receiver = Receiver::start(move |message| told.timed("phone", &message.title)).await;
    let receiver =
        receiver.map_err(|error| DemoError::System { what: "listen for messages", error })?;

    teller.line(&format!("A fleet on 127.0.0.1, in {}", place.path().display()));
    let fleet = stage.fleet.insert(Fleet::start(site, &receiver.url()).await?);
    let receiver = stage.receiver.insert(receiver);
    let told = Arc::clone(teller);
    let tell = move |error: &str| told.timed("load", &format!("REQUEST FAILED: {error}"));
    stage.load = Some(Load::start(fleet.site().front_port, tell));
    let told = Arc::clone(teller);
    let tell = move |node: &_, change: &progress::Change| {
        told.timed(&format!("{node}"), &change.to_string())
    };
    let follower = stage.follower.insert(Follower::start(&fleet.site().bus_url(), tell)?);

    let story =
        Story { options, teller, fleet, api: &api, receiver, follower, clusters: &clusters };
    let watched = fleet.processes.watch();
    let rollouts = tokio::select! {
        biased;
        ended = watched => Err(died(ended)),
        rollouts = story.tell() => rollouts,
    }?;
    let counts = match (options.keep, stage.load.take()) {
        (false, Some(load)) => load.end().await,
        (true, Some(load)) => stage.load.insert(load).counts(),
        (_, None) => load::Counts::default(),
    };
    Ok(story.summary(rollouts, counts))
}

struct Story<'a> {
    options: &'a Options,
    teller: &'a Teller,
    fleet: &'a Fleet,
    api: &'a Api,
    receiver: &'a Receiver,
    follower: &'a Follower,
    clusters: &'a [(String, Vec<String>)],
}

impl Story<'_> {
    async fn tell(&self) -> Result<Vec<Rollout>, DemoError> {
        let nodes: usize = self.clusters.iter().map(|(_, nodes)| nodes.len()).sum();
        self.teller.line(&format!(
            "{nodes} web servers, a load balancer, 2 notification servers, a controller, {} requests/s",
            load::RATE
        ));
        for (cluster, _) in self.clusters {
            self.converged(cluster, FIRST_REVISION).await?;
        }
        self.teller.line(&format!("All run revision {FIRST_REVISION}."));
        let mut rollouts = Vec::new();
        for number in 0..=self.options.rounds {
            let revision = (number + 2).to_string();
            self.fleet.publish(&revision)?;
            for (cluster, nodes) in self.clusters {
                rollouts.push(self.roll_out(cluster, nodes, &revision).await?);
            }
        }
        Ok(rollouts)
    }

    async fn roll_out(
        &self,
        cluster: &str,
        nodes: &[String],
        revision: &str,
    ) -> Result<Rollout, DemoError> {
        let message = format!("{cluster} to revision {revision}");
        self.teller.line(&format!("\n{APP}/{cluster}.toml: revision = \"{revision}\""));
        self.follower.with(progress::Progress::begin);
        let (began, wall) = (Instant::now(), wall());
        self.teller.begin(began);
        let file = format!("{APP}/{cluster}.toml");
        let repository = &self.fleet.repository;
        let text = cluster_file(revision, nodes.len());
        repository.write(&file, &text).map_err(FleetError::Git)?;
        // Git's few milliseconds are no part of what is measured: the file is there.
        tokio::task::block_in_place(|| repository.commit(&message)).map_err(FleetError::Git)?;
        self.converged(cluster, revision).await?;
        let events = self.api.events().await.map_err(|error| DemoError::Api(error.to_string()))?;
        let told = self.told(cluster, revision).await;
        let marks = self.follower.with(|progress| progress.marks().clone());
        let told = told.map_or(f64::NAN, |told| seconds(began, told));
        let phases = Phases { told, ..phases(&events, cluster, revision, wall, began, &marks) };
        Ok(Rollout {
            cluster: cluster.to_owned(),
            revision: revision.to_owned(),
            upgraded: marks.upgraded.len(),
            phases,
        })
    }

    /// Waits until the controller says that the cluster has converged.
    async fn converged(&self, cluster: &str, revision: &str) -> Result<(), DemoError> {
        let began = Instant::now();
        loop {
            let view = self.api.state().await;
            let seen = view.as_ref().ok().and_then(|view| cluster_of(view, cluster));
            if seen.is_some_and(|seen| has_converged(seen, revision)) {
                return Ok(());
            }
            let failed = seen.is_some_and(|seen| seen.causes.contains_key(&Cause::Failed));
            if failed || began.elapsed() > CONVERGE_MAX {
                let state = match &view {
                    Ok(view) => state_of(view),
                    Err(error) => error.to_string(),
                };
                let after = match failed {
                    true => "and will not".to_owned(),
                    false => format!("after {CONVERGE_MAX:?}"),
                };
                let (cluster, revision) = (cluster.to_owned(), revision.to_owned());
                return Err(DemoError::NotConverged { cluster, revision, after, state });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits for the message; one that does not come is found missing in the end.
    async fn told(&self, cluster: &str, revision: &str) -> Option<Instant> {
        let deadline = Instant::now() + MESSAGE_MAX;
        while Instant::now() < deadline {
            let told = |m: &receiver::Received| m.cluster == cluster && m.revision_to == revision;
            let pending = self.api.state().await.ok().and_then(|view| {
                cluster_of(&view, cluster).map(|cluster| cluster.messages_pending)
            });
            let received = self.receiver.received();
            if let (Some(message), Some(0)) = (received.iter().find(|m| told(m)), pending) {
                return Some(message.at);
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    fn summary(&self, rollouts: Vec<Rollout>, counts: load::Counts) -> Summary {
        let mut problems = Vec::new();
        for rollout in &rollouts {
            let expected = self.nodes_of(&rollout.cluster);
            if rollout.upgraded != expected {
                problems.push(format!(
                    "{} of {expected} nodes of {} were seen to be upgraded to {}",
                    rollout.upgraded, rollout.cluster, rollout.revision
                ));
            }
        }
        for Rollout { cluster, revision, phases, .. } in &rollouts {
            for phase in phases.unseen() {
                problems.push(format!("{cluster} to {revision}: {phase:?} was not seen"));
            }
        }
        let received = self.receiver.received();
        for Rollout { cluster, revision, .. } in &rollouts {
            let completed = received.iter().filter(|m| {
                m.cluster == *cluster && m.revision_to == *revision && m.cause == "completed"
            });
            match completed.count() {
                1 => {}
                count => problems.push(format!("{count} messages that {cluster} is at {revision}")),
            }
        }
        if received.len() > rollouts.len() {
            let titles: Vec<&str> = received.iter().map(|m| m.title.as_str()).collect();
            problems.push(format!("more messages than expected: {}", titles.join("; ")));
        }
        if counts.failed > 0 {
            problems.push(format!("{} requests failed", counts.failed));
        }
        if counts.served.is_empty() {
            problems.push("no request was answered".to_owned());
        }
        Summary {
            version: env!("CARGO_PKG_VERSION"),
            nodes: self.clusters.iter().map(|(_, nodes)| nodes.len()).sum(),
            broker: format!("{:?}", self.options.broker).to_lowercase(),
            release_layout: self.options.release_layout,
            medians: Summary::medians(&rollouts),
            rollouts,
            requests: Requests {
                served: counts.served,
                failed: counts.failed,
                longest: counts.longest.as_millis() as f64 / 1000.0,
            },
            messages: received.len(),
            problems,
        }
    }

    fn nodes_of(&self, cluster: &str) -> usize {
        let found = self.clusters.iter().find(|(name, _)| name == cluster);
        found.map_or(0, |(_, nodes)| nodes.len())
    }
}

/// To the millisecond: nothing here is known better.
fn seconds(began: Instant, at: Instant) -> f64 {
    at.saturating_duration_since(began).as_millis() as f64 / 1000.0
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

fn cluster_of<'a>(view: &'a View, name: &str) -> Option<&'a ClusterView> {
    let app = view.apps.iter().find(|(app, _)| app.as_str() == APP)?.1;
    Some(app.clusters.iter().find(|(cluster, _)| cluster.as_str() == name)?.1)
}

fn has_converged(cluster: &ClusterView, revision: &str) -> bool {
    cluster.phase == Phase::Converged
        && cluster.target.as_str() == revision
        && cluster.converged_on.as_ref().is_some_and(|on| on.as_str() == revision)
}

/// A line for each node, with the reason of what is done about it.
fn state_of(view: &View) -> String {
    let mut lines = Vec::new();
    for (name, node) in &view.nodes {
        for app in node.apps.values() {
            lines.push(format!("{name:<8} {}", app.reason));
        }
    }
    lines.join("\n")
}

/// The controller's events tell when it began and when it was done, the reports what was between.
fn phases(
    events: &[Event],
    cluster: &str,
    revision: &str,
    wall: Wall,
    began: Instant,
    marks: &Marks,
) -> Phases {
    let of_now = || events.iter().filter(|event| event.at >= wall);
    let noticed = of_now().find(|event| event.kind == EventKind::DesiredChanged);
    let converged = of_now().find(|event| match &event.kind {
        EventKind::Converged { revision: on, .. } => {
            on.as_str() == revision && event.cluster.as_ref().is_some_and(|c| c.as_str() == cluster)
        }
        _ => false,
    });
    let at = |event: Option<&Event>| {
        event.map_or(f64::NAN, |event| (event.at.0 - wall.0) as f64 / 1000.0)
    };
    let last = |step: &std::collections::BTreeMap<_, Instant>| {
        let last = step.values().max();
        last.map_or(f64::NAN, |last| seconds(began, *last))
    };
    Phases {
        noticed: at(noticed),
        out: last(&marks.out),
        upgraded: last(&marks.upgraded),
        settled: last(&marks.settled),
        back: last(&marks.back),
        converged: at(converged),
        told: f64::NAN,
    }
}

fn addresses(site: &Site) -> String {
    let desired = site.desired().join(APP);
    format!(
        "It goes on until Ctrl-C. Edit {}/alfa.toml, and watch.

the shop             http://127.0.0.1:{}/
the controller       http://127.0.0.1:{}/api/v1/state
the bus              mosquitto_sub -V 5 -v -p {} -t 'evenkeel/#'
HAProxy              echo 'show servers state' | socat - {}
logs                 {}
",
        desired.display(),
        site.front_port,
        site.http_port,
        site.bus_port,
        site.socket().display(),
        site.dir.join("log").display()
    )
}
