//! The thread that writes the history, and the way to hand it what is to be kept.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::oneshot;

use super::audit::{Audit, Lines, Rotation};
use super::entry::Entry;
use super::sink::{Shown, Sink, SinkCounters};
#[cfg(feature = "history")]
use super::store::{Bounds, Store};
use crate::model::{Record, Wall};

/// Batches on their way to the thread, at most.
const BATCHES_MAX: usize = 1_024;

/// Records on their way to the thread, at most: a plan for ten thousand nodes, and some.
const QUEUED_MAX: usize = 50_000;

/// How often what has grown too old is looked for though nothing comes.
const TEND: Duration = Duration::from_secs(60);

/// What is kept, where, and how much of it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The state directory.
    pub folder: PathBuf,
    /// Entries that the database has at most; with 0 there is none.
    pub rows_max: u64,
    /// How old they become, in milliseconds.
    pub age_ms_max: u64,
    /// The file of the audit trail, if there is to be one.
    pub audit_log: Option<PathBuf>,
}

/// What became of entries, by place; none where there is no such place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// The database.
    pub store: Option<SinkCounters>,
    /// The audit trail.
    pub audit: Option<SinkCounters>,
}

enum Job {
    Keep(Vec<Record>),
    Flush(oneshot::Sender<()>),
}

/// Hands records to the thread that writes them. Never waits for it.
pub struct Keeper {
    jobs: Option<SyncSender<Job>>,
    queued: Arc<AtomicUsize>,
    /// Turned away since the thread last looked.
    lost: Arc<AtomicU64>,
    store: Option<Shown>,
    audit: Option<Shown>,
}

impl Keeper {
    /// Starts the thread; with nothing to keep there is none. Nothing is opened before that runs: whatever is
    /// wrong with the places is told in the log and by [`Self::counters`], and tried again.
    pub fn start(config: &Config) -> Keeper {
        let (jobs, receiver) = sync_channel(BATCHES_MAX);
        let (queued, lost) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicU64::new(0)));
        let sinks = Sinks::new(config);
        let (store, audit) = (sinks.shown_store(), sinks.shown_audit());
        let mut keeper = Keeper { jobs: None, queued, lost, store, audit };
        if keeper.store.is_none() && keeper.audit.is_none() {
            return keeper;
        }
        let (queued, lost) = (Arc::clone(&keeper.queued), Arc::clone(&keeper.lost));
        let writes = move || write(&receiver, sinks, &queued, &lost);
        match thread::Builder::new().name("history".to_owned()).spawn(writes) {
            Ok(_) => keeper.jobs = Some(jobs),
            Err(error) => tracing::error!(%error, "there is no thread to write the history"),
        }
        keeper
    }

    /// Has `records` written, in one transaction.
    pub fn keep(&self, records: Vec<Record>) {
        let Some(jobs) = &self.jobs else { return };
        let count = records.len();
        if count == 0 {
            return;
        }
        let queued = self.queued.fetch_add(count, Ordering::Relaxed);
        if queued + count > QUEUED_MAX || jobs.try_send(Job::Keep(records)).is_err() {
            self.queued.fetch_sub(count, Ordering::Relaxed);
            self.lost.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// What has become of entries.
    pub fn counters(&self) -> Counters {
        let look = |shown: &Shown| {
            let mut counters = shown.lock().unwrap_or_else(PoisonError::into_inner).clone();
            counters.pending += self.queued.load(Ordering::Relaxed) as u64;
            counters
        };
        Counters { store: self.store.as_ref().map(look), audit: self.audit.as_ref().map(look) }
    }

    /// Waits until what was handed over is written, or was tried in vain, but no longer than `limit`.
    pub async fn flush(&self, limit: Duration) {
        let Some(jobs) = &self.jobs else { return };
        let (done, is_done) = oneshot::channel();
        let asked = jobs.try_send(Job::Flush(done)).is_ok();
        if !asked || tokio::time::timeout(limit, is_done).await.is_err() {
            tracing::warn!("the last of the history may not be written");
        }
    }
}

/// The places.
struct Sinks {
    #[cfg(feature = "history")]
    store: Option<(Sink<Store>, Shown)>,
    audit: Option<(Sink<Audit>, Shown)>,
}

impl Sinks {
    fn new(config: &Config) -> Self {
        let audit = config.audit_log.clone().map(|path| {
            let shown = Shown::default();
            let lines = Lines::new(path, Rotation::Elsewhere);
            (Sink::new(Audit(lines), Arc::clone(&shown)), shown)
        });
        #[cfg(feature = "history")]
        let store = (config.rows_max > 0).then(|| {
            let shown = Shown::default();
            let bounds = Bounds { rows_max: config.rows_max, age_ms_max: config.age_ms_max };
            let store = Store::new(config.folder.join(super::FILE), bounds);
            (Sink::new(store, Arc::clone(&shown)), shown)
        });
        Self {
            #[cfg(feature = "history")]
            store,
            audit,
        }
    }

    #[cfg(feature = "history")]
    fn shown_store(&self) -> Option<Shown> {
        self.store.as_ref().map(|(_, shown)| Arc::clone(shown))
    }

    #[cfg(not(feature = "history"))]
    fn shown_store(&self) -> Option<Shown> {
        None
    }

    fn shown_audit(&self) -> Option<Shown> {
        self.audit.as_ref().map(|(_, shown)| Arc::clone(shown))
    }

    fn push(&mut self, entries: &[Arc<Entry>], lost: u64) {
        #[cfg(feature = "history")]
        if let Some((sink, _)) = &mut self.store {
            sink.push(entries, lost);
        }
        if let Some((sink, _)) = &mut self.audit {
            sink.push(entries, lost);
        }
    }

    fn flush(&mut self) {
        let (now, wall) = (Instant::now(), wall());
        #[cfg(feature = "history")]
        if let Some((sink, _)) = &mut self.store {
            sink.flush(now, wall);
        }
        if let Some((sink, _)) = &mut self.audit {
            sink.flush(now, wall);
        }
    }

    /// One step of what keeps the places small; says whether another one is due.
    fn tend(&mut self) -> bool {
        let (now, wall) = (Instant::now(), wall());
        let mut more = false;
        #[cfg(feature = "history")]
        if let Some((sink, _)) = &mut self.store {
            more |= sink.tend(now, wall);
        }
        if let Some((sink, _)) = &mut self.audit {
            more |= sink.tend(now, wall);
        }
        more
    }

    fn due(&self) -> Option<Instant> {
        let audit = self.audit.as_ref().and_then(|(sink, _)| sink.due());
        #[cfg(feature = "history")]
        let store = self.store.as_ref().and_then(|(sink, _)| sink.due());
        #[cfg(not(feature = "history"))]
        let store = None;
        audit.into_iter().chain(store).min()
    }
}

/// Until nobody is left who could hand over anything.
fn write(jobs: &Receiver<Job>, mut sinks: Sinks, queued: &AtomicUsize, lost: &AtomicU64) {
    let mut more = true;
    loop {
        let wait = if more { Duration::ZERO } else { TEND };
        let due = sinks.due().map(|due| due.saturating_duration_since(Instant::now()));
        let mut flushed = None;
        let mut records = Vec::new();
        let mut ended = false;
        match jobs.recv_timeout(due.map_or(wait, |due| due.min(wait))) {
            Ok(Job::Keep(batch)) => records = batch,
            Ok(Job::Flush(done)) => flushed = Some(done),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => ended = true,
        }
        queued.fetch_sub(records.len(), Ordering::Relaxed);
        let entries: Vec<Arc<Entry>> =
            records.into_iter().map(|record| Arc::new(Entry::from(record))).collect();
        sinks.push(&entries, lost.swap(0, Ordering::Relaxed));
        sinks.flush();
        if let Some(done) = flushed {
            // Whoever asked may have lost patience.
            let _ = done.send(());
        }
        if ended {
            return;
        }
        more = sinks.tend();
    }
}

fn wall() -> Wall {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Wall(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
