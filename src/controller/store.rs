//! The state directory: what the controller must not forget.
//!
//! An app is kept in a pair of files, in which a write is one flush: rollouts begin and end with one.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::bus::{Signer, SignerError};
use crate::command::chain;
use crate::disk::{self, Access, DiskError, Found, Pair};
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
    /// The key in it does not serve.
    #[error(transparent)]
    Key(#[from] SignerError),
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
    /// The files of the apps that have been read or kept.
    pairs: BTreeMap<AppName, Pair>,
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
        Ok(Self { folder: folder.to_owned(), pairs: BTreeMap::new(), _lock: lock })
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

    /// The key that signs what is asked of agents, made at the first start.
    ///
    /// # Errors
    /// [`StoreError::Key`]; [`StoreError::Write`] if a new one cannot be kept.
    pub fn signer(&self) -> Result<Signer, StoreError> {
        let path = self.folder.join("signing.key");
        match Signer::read(&path) {
            Err(error) if error.is_missing() => {
                let (made, pem) = Signer::make()?;
                self.write(&path, pem.as_bytes())?;
                Ok(made)
            }
            read => Ok(read?),
        }
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

    /// Every app that is kept. What cannot be read is set aside, with a word in the log: it
    /// is as if the disk had been lost, which the published status covers.
    pub fn load(&mut self) -> Vec<AppFile> {
        let Ok(entries) = fs::read_dir(self.apps()) else { return Vec::new() };
        let names: BTreeSet<AppName> = entries
            .filter_map(|entry| {
                let name = entry.ok()?.file_name().into_string().ok()?;
                AppName::new(name.strip_suffix(".a").or_else(|| name.strip_suffix(".b"))?).ok()
            })
            .collect();
        names.into_iter().filter_map(|name| self.load_app(name)).collect()
    }

    /// Keeps an app. When this returns, it survives a crash.
    ///
    /// # Errors
    /// [`StoreError::Write`], [`StoreError::Form`]; what was there before is intact then.
    pub fn keep(&mut self, file: &AppFile) -> Result<(), StoreError> {
        let apps = self.apps();
        let path = apps.join(file.app.as_str());
        let payload = serde_json::to_vec(&Envelope { version: VERSION, body: file })
            .map_err(|error| StoreError::Form { path: path.clone(), error })?;
        let failed = |error| StoreError::Write { path: path.clone(), error };
        let pair = match self.pairs.entry(file.app.clone()) {
            Entry::Occupied(pair) => pair.into_mut(),
            Entry::Vacant(place) => {
                let opened = Pair::open(&apps, file.app.as_str(), FILE_BYTES_MAX);
                place.insert(opened.map_err(failed)?.0)
            }
        };
        pair.write(&payload).map_err(failed)
    }

    fn load_app(&mut self, name: AppName) -> Option<AppFile> {
        let apps = self.apps();
        self.pairs.remove(&name);
        let read = Pair::open(&apps, name.as_str(), FILE_BYTES_MAX)
            .map_err(|error| chain(&error))
            .and_then(|(pair, found)| Ok((pair, read(&name, found)?)));
        match read {
            Ok((pair, file)) => {
                self.pairs.insert(name, pair);
                file
            }
            Err(error) => {
                tracing::error!(folder = %apps.display(), app = %name, error,
                    "an app's files cannot be read and are set aside; the published status is used");
                if let Err(error) = Pair::set_aside(&apps, name.as_str()) {
                    tracing::error!(app = %name, error = chain(&error), "they cannot be set aside");
                }
                None
            }
        }
    }

    fn apps(&self) -> PathBuf {
        self.folder.join("apps")
    }

    fn write(&self, path: &Path, payload: &[u8]) -> Result<(), StoreError> {
        disk::replace(path, payload, Access::Owner)
            .map_err(|error| StoreError::Write { path: path.to_owned(), error })
    }
}

fn read(name: &AppName, found: Found) -> Result<Option<AppFile>, String> {
    let payload = match found {
        Found::Nothing => return Ok(None),
        Found::Whole(payload) => payload,
        Found::Torn => return Err("they are torn".to_owned()),
    };
    let envelope: Envelope<serde_json::Value> =
        serde_json::from_slice(&payload).map_err(|error| error.to_string())?;
    if envelope.version != VERSION {
        return Err(format!("their version is {}, and {VERSION} is understood", envelope.version));
    }
    let file: AppFile = serde_json::from_value(envelope.body).map_err(|error| error.to_string())?;
    if file.app != *name {
        return Err(format!("they are {}'s", file.app));
    }
    Ok(Some(file))
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
        let mut store = Store::open(folder.path()).unwrap();
        store.keep(&file()).unwrap();
        assert_eq!(store.load(), [file()]);
        assert_eq!(store.controller_id().unwrap(), store.controller_id().unwrap());
        assert!(store.started(5).unwrap() < store.started(3).unwrap());
        assert_eq!(store.signer().unwrap().public(), store.signer().unwrap().public());
    }

    #[test]
    fn names_that_look_like_others_are_told_apart() {
        let folder = tempfile::tempdir().unwrap();
        let mut store = Store::open(folder.path()).unwrap();
        let named = |name| AppFile { app: AppName::new(name).unwrap(), ..file() };
        let files = ["x", "x.a", "x.a.b", "x.b"].map(named);
        for file in &files {
            store.keep(file).unwrap();
        }
        drop(store);
        let mut store = Store::open(folder.path()).unwrap();
        assert_eq!(store.load(), files);
        assert_eq!(store.load(), files, "reading sets nothing aside");
    }

    #[test]
    fn what_is_not_readable_is_set_aside_and_written_anew() {
        let torn = r#"{"version":1,"body":{"app":"#;
        let foreign = r#"{"version":2,"body":{}}"#;
        let other = r#"{"version":1,"body":{"app":"other","desired":null,"ledgers":{}}}"#;
        for text in [torn, foreign, other] {
            let folder = tempfile::tempdir().unwrap();
            let mut store = Store::open(folder.path()).unwrap();
            store.keep(&file()).unwrap();
            store.pairs.get_mut(&file().app).unwrap().write(text.as_bytes()).unwrap();
            assert_eq!(store.load(), [], "{text}");
            let aside = fs::read_to_string(folder.path().join("apps/shop.b.bad")).unwrap();
            assert!(aside.contains(text), "{aside}");
            store.keep(&file()).unwrap();
            assert_eq!(store.load(), [file()]);
        }
    }

    #[test]
    fn two_controllers_cannot_share_it() {
        let folder = tempfile::tempdir().unwrap();
        let _held = Store::open(folder.path()).unwrap();
        assert!(matches!(Store::open(folder.path()), Err(StoreError::Locked { .. })));
    }
}
