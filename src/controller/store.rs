//! The state directory: what the controller must not forget, a file per app, written atomically.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Access, DiskError};
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
        error: DiskError,
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
        error: DiskError,
    },
    /// What is to be kept has no form in JSON.
    #[error("cannot write {path} as JSON")]
    Form {
        /// Which file it was for.
        path: PathBuf,
        /// Why not.
        #[source]
        error: serde_json::Error,
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
        let lock = disk::lock_folder(folder).map_err(open)?;
        let lock = lock.ok_or_else(|| StoreError::Locked { path: folder.to_owned() })?;
        disk::make_folder(&folder.join("apps")).map_err(open)?;
        Ok(Self { folder: folder.to_owned(), _lock: lock })
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

    /// Keeps an app. When this returns, it survives a crash.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::Form`]; the file that was there before is intact then.
    pub fn keep(&self, file: &AppFile) -> Result<(), StoreError> {
        let path = self.folder.join("apps").join(format!("{}.json", file.app));
        let payload = serde_json::to_vec(&Envelope { version: VERSION, body: file })
            .map_err(|error| StoreError::Form { path: path.clone(), error })?;
        self.write(&path, &payload)
    }

    fn write(&self, path: &Path, payload: &[u8]) -> Result<(), StoreError> {
        disk::replace(path, payload, Access::Owner)
            .map_err(|error| StoreError::Write { path: path.to_owned(), error })
    }
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
    fn two_controllers_cannot_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked { .. })));
    }
}
