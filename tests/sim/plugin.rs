//! A check plugin as a value: how it ends, and what the agent is told of it.

use evenkeel::model::{CheckResult, CheckStatus};
use fastrand::Rng;

/// A plugin that hangs is ended after this time, in milliseconds.
pub const TIMEOUT_MS: u64 = 10_000;

/// How a plugin ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Plugin {
    #[default]
    Fine,
    /// OK, and says nothing.
    Mute,
    Warns,
    Fails,
    /// It cannot tell.
    Unsure,
    /// With a code that is none of a plugin's.
    Strange,
    /// By a signal.
    Killed,
    Hangs,
}

impl Plugin {
    pub const ALL: [Plugin; 8] = [
        Self::Fine,
        Self::Mute,
        Self::Warns,
        Self::Fails,
        Self::Unsure,
        Self::Strange,
        Self::Killed,
        Self::Hangs,
    ];

    /// Any way of not being OK.
    pub fn bad(rng: &mut Rng) -> Self {
        let ways: Vec<Self> = Self::ALL.into_iter().filter(|plugin| !plugin.is_ok()).collect();
        ways[rng.usize(..ways.len())]
    }

    pub fn is_ok(self) -> bool {
        self.status() == CheckStatus::Ok
    }

    /// How long it takes, in milliseconds.
    pub fn takes_ms(self, rng: &mut Rng) -> u64 {
        if self == Self::Hangs { TIMEOUT_MS } else { rng.u64(5..400) }
    }

    fn status(self) -> CheckStatus {
        match self {
            Self::Fine | Self::Mute => CheckStatus::Ok,
            Self::Warns => CheckStatus::Warning,
            Self::Fails => CheckStatus::Critical,
            Self::Unsure | Self::Strange | Self::Killed | Self::Hangs => CheckStatus::Unknown,
        }
    }

    /// What the agent is told.
    pub fn result(self) -> CheckResult {
        let text = match self {
            Self::Fine | Self::Warns | Self::Fails | Self::Unsure => "LOAD",
            Self::Mute => "no output from the plugin",
            Self::Strange => "exit code 4 is none of a plugin's (0 to 3): LOAD",
            Self::Killed => "ended by signal 9",
            Self::Hangs => "timed out after 10s",
        };
        let performance = String::new();
        CheckResult { status: self.status(), text: text.to_owned(), performance, took_ms: 1 }
    }
}
