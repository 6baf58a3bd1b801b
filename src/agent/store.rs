//! The agent's state directory: a lock, so that two agents cannot share it, and its memory as one file.
//!
//! The file is replaced as a whole, so that a crash leaves either the old memory or the new one.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::core::Memory;
use crate::command::chain;
use crate::disk::{self, Access, DiskError};

/// The version that this program writes, and the only one that it reads.
const VERSION: u32 = 1;

/// The largest memory that is read, in bytes: many times what all the assignments that a bus
/// would carry for one node can take. Larger ones were not written by us.
const BYTES_MAX: u64 = 256 << 20;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made or locked.
    #[error("cannot use the agent's state directory {}; does it belong to the agent's user?", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        error: DiskError,
    },
    /// A file in it cannot be read, or not be set aside.
    #[error("cannot use {} in the agent's state directory; does it belong to the agent's user?", path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// Another agent uses it.
    #[error("another agent uses the state directory {}; give each its own `state`", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
    },
}

/// The state directory, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    _lock: File,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    memory: &'a Memory,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Found {
    #[serde(rename = "version")]
    _version: u32,
    memory: Memory,
}

impl Store {
    /// Makes the directory, with mode 0700, if it is missing, and locks it.
    pub(super) fn open(folder: &Path) -> Result<Store, StateError> {
        let path = || folder.to_owned();
        match disk::lock_folder(folder) {
            Ok(Some(lock)) => Ok(Store { folder: path(), _lock: lock }),
            Ok(None) => Err(StateError::Locked { path: path() }),
            Err(error) => Err(StateError::Open { path: path(), error }),
        }
    }

    fn file(&self) -> PathBuf {
        self.folder.join("memory.json")
    }

    /// The memory, if there is one. One that is torn or of a foreign version is set aside as
    /// `memory.json.bad`: losing it is survivable, since the agent's retained report has most of it.
    pub(super) fn read(&self) -> Result<Option<Memory>, StateError> {
        let path = self.file();
        let io = |error| StateError::Io { path: path.clone(), error };
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io(error)),
            Ok(file) => file.take(BYTES_MAX + 1).read_to_end(&mut bytes).map_err(io)?,
        };
        match parse(&bytes) {
            Ok(memory) => Ok(Some(memory)),
            Err(error) => {
                let bad = self.folder.join("memory.json.bad");
                tracing::error!(
                    file = %path.display(),
                    kept_as = %bad.display(),
                    error,
                    "the agent's memory is not readable; going on with its retained report"
                );
                std::fs::rename(&path, &bad).map_err(io)?;
                Ok(None)
            }
        }
    }

    /// Replaces the memory. When this returns, it survives a crash.
    pub(super) fn write(&self, memory: &Memory) -> Result<(), String> {
        let bytes = serde_json::to_vec(&Written { version: VERSION, memory })
            .map_err(|error| format!("cannot write the memory as JSON: {error}"))?;
        disk::replace(&self.file(), &bytes, Access::Owner).map_err(|error| chain(&error))
    }
}

fn parse(bytes: &[u8]) -> Result<Memory, String> {
    if bytes.len() as u64 > BYTES_MAX {
        return Err(format!("it is larger than {BYTES_MAX} bytes"));
    }
    // The version first: what another one holds is not ours to judge.
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this program reads version {VERSION}"));
    }
    let Found { memory, .. } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("state")).unwrap();
        (folder, store)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, store) = store();
        assert_eq!(store.read().unwrap(), None);
        for started in [7, 8] {
            let memory = Memory { started, ..Memory::default() };
            store.write(&memory).unwrap();
            assert_eq!(store.read().unwrap(), Some(memory));
        }
    }

    #[test]
    fn only_one_agent_may_use_it() {
        let (_folder, store) = store();
        let second = Store::open(&store.folder);
        assert!(matches!(second, Err(StateError::Locked { .. })), "{second:?}");
        let folder = store.folder.clone();
        drop(store);
        Store::open(&folder).unwrap();
    }

    #[test]
    fn what_is_not_readable_is_set_aside() {
        for text in [
            "",
            "{\"version\":1,\"memory\":{\"started\":",
            "{\"version\":2,\"memory\":{\"anything\":1}}",
            "{\"version\":1,\"memory\":{\"started\":1}}",
            "[]",
        ] {
            let (_folder, store) = store();
            std::fs::write(store.file(), text).unwrap();
            assert_eq!(store.read().unwrap(), None, "{text}");
            let kept = std::fs::read_to_string(store.folder.join("memory.json.bad")).unwrap();
            assert_eq!(kept, text);
            assert_eq!(store.read().unwrap(), None, "{text}");
            store.write(&Memory::default()).unwrap();
            assert_eq!(store.read().unwrap(), Some(Memory::default()));
        }
    }
}
