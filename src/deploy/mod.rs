//! Deploy: brings revisions to one app, by a command or by the built-in layout of releases.
//!
//! One attempt obtains the app's lock, runs the command or unpacks the release and switches to it,
//! restarts the service, probes it, and reads back from it which revision it runs.

mod config;
mod lock;
mod release;
mod unpack;
mod web;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::command::{Apart, Command, Ended, RunError, TAIL_BYTES_MAX, chain};
use crate::model::{AppName, AttemptFailure, Revision, RevisionSeen, render_duration_ms};
use crate::plan::ports::{Deploy, UpgradeError};
pub use config::Config;
use config::{Argv, From as ReadFrom, Means, Release};
use lock::Lock;
use release::{Layout, ReleaseError};
pub use unpack::{UnpackError, unpack};

/// The pause between two tries to read back the revision from a service without a probe, which may
/// still be starting.
const READ_BACK_PAUSE: Duration = Duration::from_millis(20);

/// The pause between two tries to find out who holds a lock, where the system does not let us.
const LOCK_PAUSE: Duration = Duration::from_secs(1);

/// One app on this node.
#[derive(Debug)]
pub struct App {
    name: AppName,
    config: Config,
    lock: PathBuf,
}

impl App {
    /// The app `name`, whose lock is `state/apps/NAME.lock`. Touches nothing yet.
    pub fn new(name: AppName, config: Config, state: &Path) -> App {
        let lock = state.join("apps").join(format!("{name}.lock"));
        App { name, config, lock }
    }
}

impl Deploy for App {
    async fn upgrade(&self, revision: &Revision, timeout_ms: u64) -> Result<(), UpgradeError> {
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        let mut attempt =
            Attempt { app: self, revision, timeout_ms, until, tail: String::new(), before: None };
        match attempt.run().await {
            Ok(()) => Ok(()),
            Err(why) => Err(UpgradeError { why, tail: attempt.tail }),
        }
    }

    async fn left_alone(&self) {
        // Nothing is done with the lock: that it can be had is the answer. Where that cannot be found out, a
        // command may be running.
        while let Err(error) = Lock::wait(&self.lock).await {
            tracing::error!(app = %self.name, error = chain(&error), "an earlier upgrade may be running");
            sleep(LOCK_PAUSE).await;
        }
    }

    async fn revision(&self) -> RevisionSeen {
        self.revision_until(Instant::now() + self.config.revision.timeout).await
    }
}

impl App {
    async fn revision_until(&self, until: Instant) -> RevisionSeen {
        let said = match &self.config.revision.from {
            ReadFrom::Command(argv) => self.said_by_command(argv, until).await,
            ReadFrom::Url { url, pointer } => match web::ask(url, until).await {
                Ok(body) => said_in(&body, pointer.as_deref()),
                Err(error) => Err(error),
            },
        };
        match said.and_then(|text| Revision::new(text.trim()).map_err(|error| error.to_string())) {
            Ok(revision) => RevisionSeen::Running(revision),
            Err(error) => RevisionSeen::Unknown(error),
        }
    }

    async fn said_by_command(&self, argv: &Argv, until: Instant) -> Result<String, String> {
        let command = Command::new(argv.plain()).env("EVENKEEL_APP", self.name.as_str());
        let limit = until.saturating_duration_since(Instant::now());
        let (ended, Apart { stdout, stderr }) =
            command.run_apart(limit).await.map_err(|error| chain(&error))?;
        let last = || stderr.lines().last().map_or(String::new(), |line| format!(": {line}"));
        match ended {
            Ended::Exit(0) => Ok(String::from_utf8_lossy(&stdout).into_owned()),
            Ended::Exit(code) => {
                Err(format!("the revision command ended with exit code {code}{}", last()))
            }
            Ended::Signal(signal) => {
                Err(format!("the revision command was ended by signal {signal}{}", last()))
            }
            Ended::TimedOut => Err("the revision command did not end in time".to_owned()),
        }
    }
}

/// The revision in a service's answer.
fn said_in(body: &[u8], pointer: Option<&str>) -> Result<String, String> {
    let Some(pointer) = pointer else { return Ok(String::from_utf8_lossy(body).into_owned()) };
    let json: serde_json::Value = serde_json::from_slice(body)
        .map_err(|error| format!("the service's answer is not JSON: {error}"))?;
    match json.pointer(pointer) {
        Some(serde_json::Value::String(text)) => Ok(text.clone()),
        Some(serde_json::Value::Number(number)) => Ok(number.to_string()),
        Some(_) => Err(format!("{pointer} of the service's answer is neither text nor number")),
        None => Err(format!("the service's answer has no {pointer}")),
    }
}

/// One attempt under way.
struct Attempt<'a> {
    app: &'a App,
    revision: &'a Revision,
    timeout_ms: u64,
    until: Instant,
    /// What the commands have printed so far.
    tail: String,
    /// The release that was current before.
    before: Option<String>,
}

impl Attempt<'_> {
    async fn run(&mut self) -> Result<(), AttemptFailure> {
        let lock = Lock::obtain(&self.app.lock, self.until).await;
        let lock = Arc::new(lock.map_err(|error| AttemptFailure::Error(chain(&error)))?);
        match &self.app.config.means {
            Means::Command(argv) => self.command(argv, Some(&lock)).await?,
            Means::Release(release) => self.release(release, &lock).await?,
        }
        if let Some(argv) = &self.app.config.restart {
            self.command(argv, None).await?;
        }
        self.probe().await?;
        self.read_back().await?;
        if let Means::Release(release) = &self.app.config.means {
            let (layout, keep) = (Layout::new(&release.root), release.keep);
            let before = self.before.take();
            // The service runs the revision: what becomes of old releases is no part of the
            // attempt, but the lock is held until it is over.
            tokio::task::spawn_blocking(move || {
                layout.prune(keep, before.as_deref());
                drop(lock);
            });
        }
        Ok(())
    }

    /// Runs one of the app's commands, with the lock for its standard input if it is the deploy
    /// command: whatever becomes of this process, no other attempt starts before that has ended.
    async fn command(
        &mut self,
        argv: &Argv,
        lock: Option<&Arc<Lock>>,
    ) -> Result<(), AttemptFailure> {
        let mut command = Command::new(argv.fill(self.revision))
            .env("EVENKEEL_APP", self.app.name.as_str())
            .env("EVENKEEL_REVISION", self.revision.as_str());
        if let Some(lock) = lock {
            let shared = lock.share().map_err(|error| {
                AttemptFailure::Error(format!("cannot share the app's lock: {error}"))
            })?;
            command = command.stdin(shared);
        }
        let limit = self.until.saturating_duration_since(Instant::now());
        if limit.is_zero() {
            return Err(AttemptFailure::TimedOut(self.timeout_ms));
        }
        let (ended, tail) = command.run(limit).await.map_err(|error| self.not_run(&error))?;
        self.add_to_tail(&tail);
        match ended {
            Ended::Exit(0) => Ok(()),
            Ended::Exit(code) => Err(AttemptFailure::Exit(code)),
            Ended::Signal(signal) => Err(AttemptFailure::Signal(signal)),
            Ended::TimedOut => Err(AttemptFailure::TimedOut(self.timeout_ms)),
        }
    }

    fn not_run(&self, error: &RunError) -> AttemptFailure {
        AttemptFailure::Error(chain(error))
    }

    /// Adds what another command printed; the end of it all is kept.
    fn add_to_tail(&mut self, more: &str) {
        self.tail.push_str(more);
        let mut from = self.tail.len().saturating_sub(TAIL_BYTES_MAX);
        while !self.tail.is_char_boundary(from) {
            from += 1;
        }
        self.tail.drain(..from);
    }

    /// Has the release on the disk, and `current` lead to it.
    async fn release(&mut self, release: &Release, lock: &Arc<Lock>) -> Result<(), AttemptFailure> {
        let work = Work {
            layout: Layout::new(&release.root),
            revision: self.revision.clone(),
            lock: Arc::clone(lock),
            stop: Stop::default(),
        };
        match timeout_at(self.until, work.bring(release)).await {
            Ok(Ok(before)) => {
                self.before = before;
                Ok(())
            }
            Ok(Err(error)) => Err(AttemptFailure::Error(error)),
            Err(_) => Err(AttemptFailure::Error(format!(
                "fetching and unpacking the release took longer than {}",
                render_duration_ms(self.timeout_ms)
            ))),
        }
    }

    async fn probe(&self) -> Result<(), AttemptFailure> {
        let Some(probe) = &self.app.config.probe else { return Ok(()) };
        let url = probe.fill(self.revision).map_err(AttemptFailure::Error)?;
        web::probe(&url, self.until).await.map_err(|last| {
            AttemptFailure::Error(format!(
                "the probe {} did not succeed before the attempt's time of {} was up: {last}",
                web::shown(&url),
                render_duration_ms(self.timeout_ms)
            ))
        })
    }

    /// Asks the service what it runs. One that was probed is up, and asked once; any other may
    /// still be starting, and is asked again while it does not say. What it says stands.
    async fn read_back(&self) -> Result<(), AttemptFailure> {
        let until = Instant::now() + self.app.config.revision.timeout;
        let mut before = None;
        loop {
            let seen = self.app.revision_until(until).await;
            let next = Instant::now() + READ_BACK_PAUSE;
            let seen = match seen {
                RevisionSeen::Running(revision) if revision == *self.revision => return Ok(()),
                RevisionSeen::Unknown(_) if self.app.config.probe.is_none() && next < until => {
                    before = Some(seen);
                    sleep_until(next).await;
                    continue;
                }
                // Cut off by the end of the time, which says less than the whole answer before it.
                RevisionSeen::Unknown(_) if Instant::now() >= until => before.unwrap_or(seen),
                RevisionSeen::Running(_) | RevisionSeen::Unknown(_) => seen,
            };
            return Err(AttemptFailure::Lied(seen));
        }
    }
}

/// The work on one release: the fetching is awaited, the rest runs where it may block, holds the
/// lock until it has truly ended, and is told to stop when nobody waits for it any more.
struct Work {
    layout: Layout,
    revision: Revision,
    lock: Arc<Lock>,
    stop: Stop,
}

/// Set when it is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Work {
    /// Gives the revision that was current before.
    async fn bring(self, release: &Release) -> Result<Option<String>, String> {
        let revision = self.revision.clone();
        if !self.layout.is_complete(&revision) {
            self.blocking(|layout, _| layout.prepare()).await?;
            let checksum = self.fetch(release).await?;
            let (revision, bytes_max) = (revision.clone(), release.size_max);
            self.blocking(move |layout, stop| layout.unpack(&revision, &checksum, bytes_max, stop))
                .await?;
        }
        self.blocking(move |layout, _| layout.flip(&revision)).await
    }

    /// Fetches the archive, and gives its checksum, which is as announced.
    async fn fetch(&self, release: &Release) -> Result<String, String> {
        let url = release.url.fill(&self.revision)?;
        let sums_url = match &release.sha256_url {
            Some(address) => address.fill(&self.revision)?,
            None => {
                let mut beside = url.clone();
                beside.set_path(&format!("{}.sha256", url.path()));
                beside
            }
        };
        let name = url.path().rsplit('/').next().unwrap_or_default();
        let announced = announced(&web::text(&sums_url).await?, name)
            .ok_or_else(|| format!("{} has no SHA-256 for {name}", web::shown(&sums_url)))?;
        let found = web::download(&url, &self.layout.archive(), release.size_max).await?;
        if found == announced {
            return Ok(found);
        }
        Err(format!(
            "{} has the SHA-256 {found}, but {announced} is announced; nothing was unpacked",
            web::shown(&url)
        ))
    }

    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Layout, &AtomicBool) -> Result<T, ReleaseError> + Send + 'static,
    ) -> Result<T, String> {
        let (layout, lock) = (self.layout.clone(), Arc::clone(&self.lock));
        let stop = Arc::clone(&self.stop.0);
        let done = tokio::task::spawn_blocking(move || {
            let done = act(&layout, &stop);
            drop(lock);
            done
        });
        match done.await {
            Ok(done) => done.map_err(|error| chain(&error)),
            Err(error) => Err(format!("the work on the release was lost: {error}")),
        }
    }
}

/// The checksum for the file `name` in what sha256sum(1) prints, or one that stands alone.
fn announced(text: &str, name: &str) -> Option<String> {
    let mut sums = text.lines().filter_map(|line| {
        let (sum, file) = line.trim().split_once([' ', '\t']).unwrap_or((line.trim(), ""));
        let is_sum = sum.len() == 64 && sum.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sum.then(|| (sum.to_ascii_lowercase(), file.trim_start().trim_start_matches('*')))
    });
    let first = sums.next()?;
    let mut all = std::iter::once(first.clone()).chain(sums);
    match all.clone().count() {
        1 => Some(first.0),
        _ => all.find(|(_, file)| file.rsplit('/').next() == Some(name)).map(|(sum, _)| sum),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_found() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        for (text, expected) in [
            (format!("{a}\n"), Some(a.clone())),
            (format!("{a}  shop.tgz"), Some(a.clone())),
            // One sum alone is for the one archive, whatever it was called when it was made.
            (format!("{a} *build/out.tgz\n"), Some(a.clone())),
            (format!("{a}  other.tgz\n{b}  ./shop.tgz\n"), Some(b.to_lowercase())),
            (format!("{a}  other.tgz\n{b}  more.tgz\n"), None),
            ("<html>not found</html>".to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(announced(&text, "shop.tgz"), expected, "{text:?}");
        }
    }

    #[test]
    fn answers_are_read_by_pointer() {
        let body = br#"{"build": {"revision": "1.2", "number": 7, "tags": []}}"#;
        assert_eq!(said_in(body, Some("/build/revision")), Ok("1.2".to_owned()));
        assert_eq!(said_in(body, Some("/build/number")), Ok("7".to_owned()));
        assert!(said_in(body, Some("/build/tags")).is_err());
        assert!(said_in(body, Some("/nothing")).is_err());
        assert!(said_in(b"oops", Some("/x")).is_err());
    }
}
