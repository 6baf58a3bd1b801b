//! What a command found, as an exit code, or why it found nothing, as a sentence.

use std::path::PathBuf;
use std::process::ExitCode;

use super::client::ClientError;
use super::select::Unknown;
use crate::bus::SignerError;
use crate::history::ReadError;

/// The answer of a command that asks the controller; its number is the exit code. The numbers mean
/// the same for every command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// As it should be, or done.
    Fine = 0,
    /// Not as it should be, and nothing is under way that changes that; or the controller, who would
    /// know, is out of reach.
    Amiss = 1,
    /// Something is under way, or is to be done.
    UnderWay = 2,
    /// What is to be done would end blocked.
    WouldBlock = 3,
    /// No answer: wrong use, an unknown name, something else than a controller.
    NoAnswer = 4,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        ExitCode::from(outcome as u8)
    }
}

/// Why a command has no answer.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The controller does not answer, or not usably.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something is named that is not there.
    #[error(transparent)]
    Unknown(#[from] Unknown),
    /// The desired directory has faults.
    #[error("{} has faults, and is not planned for:\n\n{faults}", dir.display())]
    Desired {
        /// The directory.
        dir: PathBuf,
        /// The faults, rendered.
        faults: String,
    },
    /// There is no plan yet to look at.
    #[error("{why}; ask again in some seconds")]
    NotReady {
        /// What is missing.
        why: String,
    },
    /// The planner does not come to an end.
    #[error(
        "planning for {app} did not end within {rounds} rounds, which is a fault of evenkeel; \
         please report it with the output of `curl` on /api/v1/apps/{app}/world"
    )]
    Endless {
        /// The app.
        app: String,
        /// The bound.
        rounds: usize,
    },
    /// The history of a state directory cannot be read.
    #[error(transparent)]
    History(#[from] ReadError),
    /// A signing key does not serve.
    #[error(transparent)]
    Key(#[from] SignerError),
    /// The answer cannot be written.
    #[error("cannot write the answer")]
    Output(#[source] std::io::Error),
}

impl Problem {
    /// What it amounts to: a controller that is out of reach is a fault of the fleet's, anything
    /// else one of the question's.
    pub fn outcome(&self) -> Outcome {
        match self {
            Self::Client(error) if error.is_passing() => Outcome::Amiss,
            Self::Client(_)
            | Self::Unknown(_)
            | Self::Desired { .. }
            | Self::NotReady { .. }
            | Self::Endless { .. }
            | Self::History(_)
            | Self::Key(_)
            | Self::Output(_) => Outcome::NoAnswer,
        }
    }
}
