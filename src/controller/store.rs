//! The state directory: what the controller must not forget, a file per app, written atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::model::{AppName, ClusterLedger, ClusterName, ControllerId, DesiredApp};

/// The version of the files that this program writes, and the only one that it reads.
const VERSION: u64 = 1;

/// A file larger than this is none of ours, in bytes.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What is kept of one app.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppFile {
    /// The app.
    pub app: AppName,
    /// Its last good desired state.
    pub desired: Option<DesiredApp>,
    /// Clusters in it that the files did not have any more.
    #[serde(default)]
    pub gone: BTreeSet<ClusterName>,
    /// Its ledgers.
    pub ledgers: BTreeMap<ClusterName, ClusterLedger>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<T> {
    version: u64,
    body: T,
}

/// Why the state directory does not serve.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be made or opened.
    #[error("cannot use the state directory {path}; give a writable one with --state")]
    Open {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
    /// Another process has it.
    #[error("the state directory {path} is in use by another controller")]
    Locked {
        /// Which.
        path: PathBuf,
    },
    /// A file could not be written; the one before is intact.
    #[error("cannot write {path}; what was there before is intact")]
    Write {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        error: io::Error,
    },
}

/// The state directory, locked for this process.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    _lock: File,
}

impl Store {
    /// Opens `folder`, which is made if it is missing, and locks it.
    ///
    /// # Errors
    /// [`StoreError::Open`], [`StoreError::Locked`].
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        let open = |error| StoreError::Open { path: folder.to_owned(), error };
        for path in [folder.to_owned(), folder.join("apps")] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(open)?;
        }
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(folder.join("lock"))
            .map_err(open)?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { folder: folder.to_owned(), _lock: lock }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(StoreError::Locked { path: folder.to_owned() })
            }
            Err(error) => Err(open(error.into())),
        }
    }

    /// This controller's id, drawn at the first start.
    ///
    /// # Errors
    /// [`StoreError::Write`] if a new one cannot be kept.
    pub fn controller_id(&self) -> Result<ControllerId, StoreError> {
        let path = self.folder.join("id");
        let known = fs::read_to_string(&path).ok();
        if let Some(Ok(id)) = known.map(|text| ControllerId::new(text.trim())) {
            return Ok(id);
        }
        let drawn = format!("{:016x}", fastrand::u64(..));
        self.write(&path, drawn.as_bytes())?;
        Ok(ControllerId::new(drawn).unwrap_or_else(|_| unreachable!("hexadecimal is a name")))
    }

    /// A start time in wall milliseconds, later than every one before, whatever the clock says.
    ///
    /// # Errors
    /// [`StoreError::Write`] if it cannot be kept.
    pub fn started(&self, wall_ms: u64) -> Result<u64, StoreError> {
        let path = self.folder.join("started");
        let before = fs::read_to_string(&path).ok().and_then(|t| t.trim().parse::<u64>().ok());
        let started = before.map_or(wall_ms, |before| wall_ms.max(before.saturating_add(1)));
        self.write(&path, started.to_string().as_bytes())?;
        Ok(started)
    }

    /// Every app that is kept. A file that cannot be read is set aside, with a word in the log: it
    /// is as if the disk had been lost, which the published status covers.
    pub fn load(&self) -> Vec<AppFile> {
        let Ok(entries) = fs::read_dir(self.folder.join("apps")) else { return Vec::new() };
        let mut paths: Vec<PathBuf> = entries
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
            .collect();
        paths.sort();
        paths.iter().filter_map(|path| load(path)).collect()
    }

    /// Keeps an app: written beside, synced, renamed, and the folder synced.
    ///
    /// # Errors
    /// [`StoreError::Write`]; the file that was there before is intact then.
    pub fn keep(&self, file: &AppFile) -> Result<(), StoreError> {
        let path = self.folder.join("apps").join(format!("{}.json", file.app));
        let payload = serde_json::to_vec(&Envelope { version: VERSION, body: file })
            .map_err(|error| StoreError::Write { path: path.clone(), error: error.into() })?;
        self.write(&path, &payload)
    }

    fn write(&self, path: &Path, payload: &[u8]) -> Result<(), StoreError> {
        write_atomically(path, payload)
            .map_err(|error| StoreError::Write { path: path.to_owned(), error })
    }
}

fn write_atomically(path: &Path, payload: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    let mut file =
        OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&beside)?;
    file.write_all(payload)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    let folder = path.parent().unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

fn load(path: &Path) -> Option<AppFile> {
    match read(path) {
        Ok(file) => Some(file),
        Err(error) => {
            let aside = path.with_extension("bad");
            tracing::error!(path = %path.display(), aside = %aside.display(), %error,
                "a state file cannot be read and is set aside; the published status is used");
            let _ = fs::rename(path, aside);
            None
        }
    }
}

fn read(path: &Path) -> Result<AppFile, String> {
    let size = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > FILE_BYTES_MAX {
        return Err(format!("it has {size} bytes, more than {FILE_BYTES_MAX}"));
    }
    let payload = fs::read(path).map_err(|error| error.to_string())?;
    let envelope: Envelope<serde_json::Value> =
        serde_json::from_slice(&payload).map_err(|error| error.to_string())?;
    if envelope.version != VERSION {
        return Err(format!("its version is {}, and {VERSION} is understood", envelope.version));
    }
    serde_json::from_value(envelope.body).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> AppFile {
        let app = AppName::new("shop").unwrap();
        AppFile { app, desired: None, gone: BTreeSet::new(), ledgers: BTreeMap::new() }
    }

    #[test]
    fn what_is_kept_is_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.keep(&file()).unwrap();
        assert_eq!(store.load(), [file()]);
        assert_eq!(store.controller_id().unwrap(), store.controller_id().unwrap());
        assert!(store.started(5).unwrap() < store.started(3).unwrap());
    }

    #[test]
    fn a_torn_file_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.keep(&file()).unwrap();
        let path = folder.path().join("apps/shop.json");
        fs::write(&path, &fs::read(&path).unwrap()[..10]).unwrap();
        assert_eq!(store.load(), []);
        assert!(folder.path().join("apps/shop.bad").exists());
    }

    #[test]
    fn a_write_that_fails_leaves_what_was_there() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        store.keep(&file()).unwrap();
        // A folder where the new file should be written makes the write fail, for root too.
        fs::create_dir(folder.path().join("apps/shop.new")).unwrap();
        assert!(matches!(store.keep(&file()), Err(StoreError::Write { .. })));
        assert_eq!(store.load(), [file()]);
    }

    #[test]
    fn two_controllers_cannot_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked { .. })));
    }
}
