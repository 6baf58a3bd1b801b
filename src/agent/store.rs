//! The agent's state directory: a lock, so that two agents cannot share it, and its memory.
//!
//! The memory is written several times for each upgrade, and what follows waits for it. So it is
//! kept in a pair of files, in which a write is one flush.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::core::Memory;
use crate::command::chain;
use crate::disk::{self, DiskError, Found, Pair};

/// The version that this program writes, and the only one that it reads.
const VERSION: u32 = 1;

/// The largest memory that is read, in bytes: many times what all the assignments that a bus
/// would carry for one node can take. Larger ones were not written by us.
const BYTES_MAX: u64 = 256 << 20;

/// The name of the pair.
const NAME: &str = "memory";

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be made, locked, read or written.
    #[error("cannot use the agent's state directory {}; does it belong to the agent's user?", path.display())]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why not.
        #[source]
        error: DiskError,
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
    pair: Mutex<Pair>,
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
struct Read {
    #[serde(rename = "version")]
    _version: u32,
    memory: Memory,
}

impl Store {
    /// Makes the directory, with mode 0700, if it is missing, locks it, and gives the memory, if there is
    /// one. One that is torn or of a foreign version is set aside as `memory.a.bad` and `memory.b.bad`:
    /// losing it is survivable, since the agent's retained report has most of it.
    pub(super) fn open(folder: &Path) -> Result<(Store, Option<Memory>), StateError> {
        let failed = |error| StateError::Open { path: folder.to_owned(), error };
        let lock = disk::lock_folder(folder).map_err(failed)?;
        let lock = lock.ok_or_else(|| StateError::Locked { path: folder.to_owned() })?;
        let (pair, found) = Pair::open(folder, NAME, BYTES_MAX).map_err(failed)?;
        let memory = match found {
            Found::Nothing => Ok(None),
            Found::Whole(bytes) => parse(&bytes).map(Some),
            Found::Torn => Err("it is torn".to_owned()),
        };
        let (pair, memory) = match memory {
            Ok(memory) => (pair, memory),
            Err(error) => {
                tracing::error!(
                    folder = %folder.display(),
                    error,
                    "the agent's memory is not readable and is set aside; going on with its retained report"
                );
                Pair::set_aside(folder, NAME).map_err(failed)?;
                (Pair::open(folder, NAME, BYTES_MAX).map_err(failed)?.0, None)
            }
        };
        Ok((Store { pair: Mutex::new(pair), _lock: lock }, memory))
    }

    /// Replaces the memory. When this returns, it survives a crash.
    pub(super) fn write(&self, memory: &Memory) -> Result<(), String> {
        let bytes = serde_json::to_vec(&Written { version: VERSION, memory })
            .map_err(|error| format!("cannot write the memory as JSON: {error}"))?;
        // A write that panicked has left the pair as one that failed does.
        let mut pair = self.pair.lock().unwrap_or_else(PoisonError::into_inner);
        pair.write(&bytes).map_err(|error| chain(&error))
    }
}

fn parse(bytes: &[u8]) -> Result<Memory, String> {
    // The version first: what another one holds is not ours to judge.
    let Version { version } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if version != VERSION {
        return Err(format!("it has version {version}, and this program reads version {VERSION}"));
    }
    let Read { memory, .. } = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        (folder, state)
    }

    #[test]
    fn what_was_written_is_read() {
        let (_folder, state) = folder();
        let mut expected = None;
        for started in [7, 8] {
            let (store, read) = Store::open(&state).unwrap();
            assert_eq!(read, expected);
            let memory = Memory { started, ..Memory::default() };
            store.write(&memory).unwrap();
            expected = Some(memory);
        }
        assert_eq!(Store::open(&state).unwrap().1, expected);
    }

    #[test]
    fn only_one_agent_may_use_it() {
        let (_folder, state) = folder();
        let (store, _) = Store::open(&state).unwrap();
        let second = Store::open(&state);
        assert!(matches!(second, Err(StateError::Locked { .. })), "{second:?}");
        drop(store);
        Store::open(&state).unwrap();
    }

    #[test]
    fn what_is_not_readable_is_set_aside() {
        for text in [
            "{\"version\":1,\"memory\":{\"started\":",
            "{\"version\":2,\"memory\":{\"anything\":1}}",
            "{\"version\":1,\"memory\":{\"started\":1}}",
            "[]",
        ] {
            let (_folder, state) = folder();
            let (store, _) = Store::open(&state).unwrap();
            store.pair.lock().unwrap().write(text.as_bytes()).unwrap();
            drop(store);
            let (store, read) = Store::open(&state).unwrap();
            assert_eq!(read, None, "{text}");
            let kept = std::fs::read_to_string(state.join("memory.a.bad")).unwrap();
            assert!(kept.contains(text), "{kept}");
            store.write(&Memory::default()).unwrap();
            drop(store);
            assert_eq!(Store::open(&state).unwrap().1, Some(Memory::default()));
        }
        let (_folder, state) = folder();
        std::fs::create_dir(&state).unwrap();
        std::fs::write(state.join("memory.b"), "torn").unwrap();
        assert_eq!(Store::open(&state).unwrap().1, None);
        assert_eq!(std::fs::read_to_string(state.join("memory.b.bad")).unwrap(), "torn");
    }
}
