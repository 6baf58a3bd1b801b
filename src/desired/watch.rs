//! Watches a desired directory: a new [`Snapshot`] whenever its content, or its commit, changes.
//!
//! Events only wake; what counts is always read whole. They are missed by nature: a folder that
//! comes with a file in it, a network file system, a queue that ran over. So the directory is also
//! looked at every 30 s, and after every event a second time.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::commit::GitDir;
use super::places::{Hint, Places, judge, places};
use super::{Snapshot, Style, assemble, read};
use crate::model::Commit;

/// Files being written at once that are remembered; with more, every change is read twice.
const OPEN_FILES_MAX: usize = 1000;

/// How often to ask whether git has let go of its lock. Its going is an event, too, where the git
/// directory can be watched.
const LOCK_POLL: Duration = Duration::from_millis(10);

/// How long the watcher waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// From one look to the next when no event comes: what the events missed is found then.
    pub look_every: Duration,
    /// From one reading to the next that must equal it, where nothing tells that a writer is done.
    pub equal_reads_apart: Duration,
    /// For git to finish a checkout; then its lock is taken for a forgotten one.
    pub git_lock_max: Duration,
    /// For git to say which commit the files of a checkout are of, once they are in place.
    pub git_head_max: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(30),
            equal_reads_apart: Duration::from_millis(20),
            git_lock_max: Duration::from_secs(30),
            git_head_max: Duration::from_secs(1),
        }
    }
}

/// Why a directory cannot be watched. A missing or empty one can be.
#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    /// The path cannot be made absolute.
    #[error("cannot make the path {path:?} of the desired directory absolute")]
    Path {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Yields the present snapshot of a desired directory, and every later one.
pub struct Watcher {
    dir: PathBuf,
    pace: Pace,
    hints: Arc<Hints>,
    sight: Arc<Mutex<Sight>>,
    /// What was yielded last.
    known: Option<(read::Digest, Option<Commit>)>,
    /// A reading that differs from `known`, and when it was made.
    candidate: Option<(read::Digest, Instant)>,
    /// When to look next, whatever comes.
    due: Instant,
    /// Not to look before: readings take half of the time at most.
    not_before: Instant,
    /// Whether the next reading may be believed at once.
    sure: bool,
    /// Whether an event came since the last look.
    stirred: bool,
    /// The lock that is waited for, and since when.
    lock: Option<(Lock, Instant)>,
    /// Since when `HEAD` may be about to move.
    moving: Option<Instant>,
    /// A lock that nobody seems to hold.
    forgotten_lock: Option<Lock>,
    /// The look that is under way.
    looking: Option<JoinHandle<Look>>,
}

impl Watcher {
    /// Prepares to watch `dir`, at the default [`Pace`].
    ///
    /// # Errors
    /// [`WatchError`] if `dir` cannot be made absolute.
    pub fn new(dir: &Path) -> Result<Self, WatchError> {
        Self::with_pace(dir, Pace::default())
    }

    /// Prepares to watch `dir`.
    ///
    /// # Errors
    /// [`WatchError`] if `dir` cannot be made absolute.
    pub fn with_pace(dir: &Path, pace: Pace) -> Result<Self, WatchError> {
        let dir = std::path::absolute(dir)
            .map_err(|source| WatchError::Path { path: dir.to_owned(), source })?;
        let now = Instant::now();
        Ok(Self {
            dir,
            pace,
            hints: Arc::default(),
            sight: Arc::default(),
            known: None,
            candidate: None,
            due: now,
            not_before: now,
            sure: false,
            stirred: false,
            lock: None,
            moving: None,
            forgotten_lock: None,
            looking: None,
        })
    }

    /// The present snapshot, at once, the first time; after that the next that differs from the last.
    ///
    /// Cancel-safe: a snapshot that was not yielded is yielded by the next call. Must be called within a tokio
    /// runtime with time; the reading is done on its blocking threads.
    pub async fn next(&mut self) -> Snapshot {
        loop {
            self.wait().await;
            let look = self.look().await;
            if let Some(snapshot) = self.weigh(look) {
                return snapshot;
            }
        }
    }

    /// Waits until it is time to look.
    async fn wait(&mut self) {
        while Instant::now() < self.due {
            tokio::select! {
                biased;
                () = self.hints.wake.notified() => {
                    self.stirred = true;
                    self.due = self.due.min(self.not_before);
                }
                () = tokio::time::sleep_until(self.due) => {}
            }
        }
    }

    /// A look that is under way when the caller goes elsewhere is the next call's: begun anew each time, it would never
    /// come to its end beside a caller that is busy.
    async fn look(&mut self) -> Look {
        let looking = match self.looking.take() {
            Some(looking) => looking,
            None => self.begin_look(),
        };
        let looked = self.looking.insert(looking).await;
        self.looking = None;
        match looked {
            Ok(look) => look,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                // Only a runtime that is shutting down cancels a blocking task; this one ends with it.
                Err(_) => std::future::pending().await,
            },
        }
    }

    fn begin_look(&mut self) -> JoinHandle<Look> {
        let (finished, open) = self.hints.take();
        self.sure = (self.sure || finished) && !open;
        let (dir, hints, sight) = (self.dir.clone(), self.hints.clone(), self.sight.clone());
        // The first look waits for nobody.
        let heed_lock = self.known.is_some();
        let forgotten = self.forgotten_lock;
        let git_head_max = self.pace.git_head_max;
        let known = self.known.as_ref().and_then(|(_, commit)| commit.clone());
        tokio::task::spawn_blocking(move || {
            // Nothing in there is left half done by a panic: each field is a whole.
            let mut sight = sight.lock().unwrap_or_else(PoisonError::into_inner);
            let heed = |lock| heed_lock && Some(lock) != forgotten;
            sight.look(&dir, &hints, known.as_ref(), git_head_max, heed)
        })
    }

    /// Decides what a look is worth, and when to look again.
    fn weigh(&mut self, look: Look) -> Option<Snapshot> {
        let now = Instant::now();
        let (tree, commit, moves, took) = match look {
            Look::Locked(lock) => {
                self.weigh_lock(lock, now);
                return None;
            }
            Look::Read { tree, commit, moves, took } => (tree, commit, moves, took),
        };
        self.not_before = now + took;
        let news = self.known.as_ref().is_some_and(|(digest, _)| *digest != tree.digest);
        if moves && news {
            let since = *self.moving.get_or_insert(now);
            // Somebody may have git write its index over and over.
            if now < since + self.pace.git_head_max {
                self.due = now + LOCK_POLL;
                return None;
            }
        }
        self.moving = None;
        // Whoever held the lock is done.
        let sure = std::mem::take(&mut self.sure) || self.lock.take().is_some();
        let soon = now + self.pace.equal_reads_apart;
        let follow_up = std::mem::take(&mut self.stirred);
        self.due = if follow_up { soon } else { now + self.pace.look_every };

        let Some((digest, known_commit)) = &self.known else {
            return Some(self.settle_on(tree, commit));
        };
        if *digest == tree.digest {
            self.candidate = None;
            let commit_changed = *known_commit != commit;
            return commit_changed.then(|| self.settle_on(tree, commit));
        }
        let since = match &self.candidate {
            Some((candidate, since)) if *candidate == tree.digest => *since,
            Some(_) | None => now,
        };
        if sure || now >= since + self.pace.equal_reads_apart {
            return Some(self.settle_on(tree, commit));
        }
        self.candidate = Some((tree.digest, since));
        self.due = since + self.pace.equal_reads_apart;
        None
    }

    fn settle_on(&mut self, tree: read::Tree, commit: Option<Commit>) -> Snapshot {
        self.candidate = None;
        self.known = Some((tree.digest.clone(), commit.clone()));
        assemble(tree, commit.as_ref(), Style::Plain)
    }

    fn weigh_lock(&mut self, lock: Lock, now: Instant) {
        let since = match self.lock {
            Some((waited_for, since)) if waited_for == lock => since,
            Some(_) | None => now,
        };
        self.lock = Some((lock, since));
        self.due = now + LOCK_POLL;
        self.not_before = now;
        if now >= since + self.pace.git_lock_max {
            tracing::warn!(
                dir = %self.dir.display(),
                waited_ms = (now - since).as_millis(),
                "git's index.lock does not go away; reading the desired directory in spite of it"
            );
            self.forgotten_lock = Some(lock);
            self.lock = None;
            self.due = now;
        }
    }
}

/// What the events say, for the next look. Bounded: they are merged as they come.
#[derive(Default)]
struct Hints {
    wake: tokio::sync::Notify,
    told: Mutex<Told>,
}

#[derive(Default)]
struct Told {
    /// A file is in place, whole.
    finished: bool,
    /// Desired files that are being written.
    open: BTreeSet<PathBuf>,
}

impl Hints {
    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, hint: Hint, path: &Path) {
        let mut told = self.told();
        match hint {
            Hint::Nothing => return,
            Hint::Stirred => _ = told.open.remove(path),
            Hint::Opened => {
                if told.open.len() < OPEN_FILES_MAX {
                    told.open.insert(path.to_owned());
                }
            }
            Hint::Finished => {
                told.open.remove(path);
                told.finished = true;
            }
        }
        drop(told);
        self.wake.notify_one();
    }

    /// Whether a file is in place, and whether one may be half written; asked once, both are
    /// forgotten. So a writer that never closes its file does not make every later change wait.
    fn take(&self) -> (bool, bool) {
        let told = std::mem::take(&mut *self.told());
        (told.finished, !told.open.is_empty())
    }
}

/// What one look found.
enum Look {
    /// Git is at work.
    Locked(Lock),
    /// The directory's content.
    Read {
        tree: read::Tree,
        commit: Option<Commit>,
        /// `HEAD` may be about to move to the commit that the files are of.
        moves: bool,
        took: Duration,
    },
}

/// One particular `index.lock`: its inode and its time.
type Lock = (u64, Option<SystemTime>);

/// The watched directories, and the watcher that does it. Used on blocking threads.
#[derive(Default)]
struct Sight {
    places: Places,
    watcher: Option<RecommendedWatcher>,
    /// A complaint is logged once, until it is good again.
    complained: bool,
}

impl Sight {
    /// Watches what there is to watch, and only then reads, so that nothing falls in between.
    fn look(
        &mut self,
        dir: &Path,
        hints: &Arc<Hints>,
        known: Option<&Commit>,
        git_head_max: Duration,
        heed: impl Fn(Lock) -> bool,
    ) -> Look {
        let started = Instant::now();
        let git = GitDir::around(dir);
        self.watch(dir, git.as_ref(), hints);
        let lock = || git.as_ref().and_then(lock_of).filter(|lock| heed(*lock));
        if let Some(lock) = lock() {
            return Look::Locked(lock);
        }
        let tree = read::read(dir);
        let commit = git.as_ref().and_then(|git| git.commit(known));
        let id = |commit: Option<&Commit>| commit.map(|commit| commit.id.clone());
        let moves = git
            .as_ref()
            .is_some_and(|git| id(commit.as_ref()) == id(known) && git.wrote_within(git_head_max));
        // Git may have begun in the meantime.
        match lock() {
            Some(lock) => Look::Locked(lock),
            None => Look::Read { tree, commit, moves, took: started.elapsed() },
        }
    }

    /// Begins anew with all places when one of them has changed. That is rare, and simpler than
    /// telling the old inode's watch from the new one's.
    fn watch(&mut self, dir: &Path, git: Option<&GitDir>, hints: &Arc<Hints>) {
        let places = places(dir, git);
        if places == self.places && self.watcher.is_some() && !self.complained {
            return;
        }
        let complaint = match watcher(dir, git, hints) {
            Ok(mut watcher) => {
                let complaint = watch_all(&mut watcher, &places).err();
                self.watcher = Some(watcher);
                complaint
            }
            Err(error) => Some(error),
        };
        if let Some(error) = &complaint
            && !self.complained
        {
            tracing::warn!(
                dir = %dir.display(),
                error = %error,
                "cannot watch all of the desired directory; looking at it now and then instead. If \
                 a limit was reached, raise fs.inotify.max_user_watches or max_user_instances"
            );
        }
        self.complained = complaint.is_some();
        self.places = places;
    }
}

fn watcher(
    dir: &Path,
    git: Option<&GitDir>,
    hints: &Arc<Hints>,
) -> notify::Result<RecommendedWatcher> {
    let (hints, dir) = (hints.clone(), dir.to_owned());
    let git = git.map(|git| git.own().to_owned());
    notify::recommended_watcher(move |event: notify::Result<notify::Event>| match event {
        Ok(event) if !event.need_rescan() => {
            // Of a rename seen whole, the last path is where it leads.
            if let Some(path) = event.paths.last() {
                hints.tell(judge(event.kind, path, &dir, git.as_deref()), path);
            }
        }
        // The queue ran over, or the watcher is in trouble: see for oneself.
        Ok(_) | Err(_) => hints.tell(Hint::Stirred, &dir),
    })
}

/// Watches as many places as it can; the first error that is not a mere race.
fn watch_all(watcher: &mut RecommendedWatcher, places: &Places) -> notify::Result<()> {
    let mut result = Ok(());
    for place in places.keys() {
        match watcher.watch(place, RecursiveMode::NonRecursive) {
            // It went away meanwhile; its parent tells.
            Err(error) if matches!(error.kind, notify::ErrorKind::PathNotFound) => {}
            watched => result = result.and(watched),
        }
    }
    result
}

fn lock_of(git: &GitDir) -> Option<Lock> {
    use std::os::unix::fs::MetadataExt;
    let found = git.index_lock().symlink_metadata().ok()?;
    Some((found.ino(), found.modified().ok()))
}
