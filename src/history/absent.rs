//! In the place of the reader, in a build without the history's database.

use std::path::PathBuf;

use super::query::{Filter, Page, RolloutPage, Rollouts};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// This program cannot read it.
    #[error("this build has no history: its feature `history` is left out")]
    Absent,
}

impl ReadError {
    /// Whether there is no such rollout.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Absent => false,
        }
    }
}

/// Reads the history of a state directory: not in this build.
#[derive(Debug, Clone)]
pub struct Reader;

impl Reader {
    /// Of this state directory.
    pub fn new(_folder: PathBuf) -> Reader {
        Reader
    }

    /// The newest entries that fit.
    ///
    /// # Errors
    /// [`ReadError::Absent`]
    pub fn entries(&self, _filter: &Filter) -> Result<Page, ReadError> {
        Err(ReadError::Absent)
    }

    /// The newest rollouts that fit.
    ///
    /// # Errors
    /// [`ReadError::Absent`]
    pub fn rollouts(&self, _filter: &Filter) -> Result<Rollouts, ReadError> {
        Err(ReadError::Absent)
    }

    /// One rollout, with its entries.
    ///
    /// # Errors
    /// [`ReadError::Absent`]
    pub fn rollout(&self, _filter: &Filter) -> Result<RolloutPage, ReadError> {
        Err(ReadError::Absent)
    }
}
