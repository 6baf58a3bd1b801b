//! Floor 4: the reference scenario on this machine, with this very program in every role.
//!
//! Nine web servers behind a real HAProxy under load, their agents, a controller, and two
//! notification servers: a commit brings each cluster to a new revision, and the demo says
//! what happened when, and whether any request failed.

mod api;
mod fleet;
pub mod guard;
mod load;
mod ports;
mod process;
mod progress;
mod receiver;
mod release;
mod repository;
mod site;
mod story;
mod summary;
pub mod web;

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use self::api::{Api, Follower};
use self::fleet::{Fleet, FleetError};
use self::load::Load;
use self::process::Ended;
use self::receiver::Receiver;
pub use self::site::Broker;
use self::site::{APP, Shape, Site};
use self::story::Story;
pub use self::summary::Summary;
use crate::bus::session::OpenError;

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
    /// The desired files are a plain directory, not a git checkout.
    pub no_git: bool,
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
            None => {
                let now = jiff::Timestamp::now().strftime("%H:%M:%S%.3f");
                self.line(&format!("{now}  {who:<8} {what}"));
            }
        }
    }

    /// From now on lines have the time since then; without one, the time of the day, UTC.
    fn count_from(&self, at: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = at;
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
            teller.count_from(None);
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
    let git = if options.no_git { None } else { ports::git() };
    let fleet = stage.fleet.insert(Fleet::start(site, &receiver.url(), git).await?);
    let receiver = stage.receiver.insert(receiver);
    let told = Arc::clone(teller);
    let tell = move |error: &str| told.timed("load", &format!("REQUEST FAILED: {error}"));
    let may_be_empty = fleet.site().floor_is_none();
    stage.load = Some(Load::start(fleet.site().front_port, may_be_empty, tell));
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

fn addresses(site: &Site) -> String {
    let desired = site.desired().join(APP);
    format!(
        "It goes on until Ctrl-C. Edit {}/alfa.toml, and watch.

the shop             http://127.0.0.1:{}/
the live page        http://127.0.0.1:{port}/
the command line     export EVENKEEL_CONTROLLER=http://127.0.0.1:{port}; evenkeel status --watch
the bus              mosquitto_sub -V 5 -v -p {} -t 'evenkeel/#'
HAProxy              echo 'show servers state' | socat - {}
logs                 {}
",
        desired.display(),
        site.front_port,
        site.bus_port,
        site.socket().display(),
        site.dir.join("log").display(),
        port = site.http_port,
    )
}
