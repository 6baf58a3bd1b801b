//! The lock of one app: whoever holds it may change what the app runs on this node.
//!
//! It is flock(2)'s, on the open file, which the deploy command shares through its standard input.
//! So it ends when the agent AND the command have ended, in whichever order: an agent that was
//! killed in the middle of an upgrade comes back to a lock that says whether the command lives on.
//! That is why it is never unlocked, only closed: an unlock would hold for every holder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// The lock, held until this and every descriptor of it is closed.
#[derive(Debug)]
pub(super) struct Lock {
    file: File,
}

/// Why the lock was not obtained.
#[derive(Debug, thiserror::Error)]
pub(super) enum LockError {
    #[error("cannot open the lock {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "the lock {} is held by an earlier deploy command that has not ended; end that first \
         (`fuser -v` shows it)", path.display()
    )]
    Held { path: PathBuf },
}

impl Lock {
    /// Waits for the lock at `path`, until `until` at most.
    pub(super) async fn obtain(path: &Path, until: Instant) -> Result<Lock, LockError> {
        let held = |_| Err(LockError::Held { path: path.to_owned() });
        timeout_at(until, Lock::wait(path)).await.unwrap_or_else(held)
    }

    /// Waits for the lock at `path`, for as long as that takes.
    pub(super) async fn wait(path: &Path) -> Result<Lock, LockError> {
        let failed = |source| LockError::Open { path: path.to_owned(), source };
        let file = open(path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => return Ok(Lock { file }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
            Err(TryLockError::WouldBlock) => {}
        }
        match wait(file).await {
            Ok(Ok(file)) => Ok(Lock { file }),
            Ok(Err(source)) => Err(failed(source)),
            // The waiting thread has gone without a word: as if it had not got it.
            Err(_) => Err(LockError::Held { path: path.to_owned() }),
        }
    }

    /// A descriptor that holds the lock as long as it is open, for a child.
    pub(super) fn share(&self) -> io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Waits in a thread of its own, since flock can be waited for in no other way. When nobody wants
/// the lock any more, the thread goes on waiting, and closes it as soon as it has it. Not in the
/// runtime's pool: that would keep the runtime from ending.
fn wait(file: File) -> oneshot::Receiver<io::Result<File>> {
    let (give, take) = oneshot::channel();
    std::thread::spawn(move || {
        let locked = file.lock().map(|()| file);
        let _ = give.send(locked);
    });
    take
}
