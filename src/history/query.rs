//! What can be asked of the history, and the answers: the documents of the JSON API.

use serde::{Deserialize, Serialize};

use super::entry::{Entry, Kind};
use crate::model::Wall;

/// Entries, or rollouts, of one answer, at most.
pub const LIMIT_MAX: usize = 5_000;

/// Which entries are asked for. Everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this app.
    pub app: Option<String>,
    /// Of this cluster.
    pub cluster: Option<String>,
    /// About this node.
    pub node: Option<String>,
    /// Of this rollout.
    pub rollout: Option<String>,
    /// Of these kinds; of all of them, if empty.
    pub kinds: Vec<Kind>,
    /// Not before this.
    pub since: Option<Wall>,
    /// With a lower number than this.
    pub before: Option<u64>,
    /// With a higher number than this.
    pub after: Option<u64>,
    /// So many at most; no more than [`LIMIT_MAX`].
    pub limit: usize,
}

/// The document at `/api/v1/history`: the newest entries that fit, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Ask with this `before` for the ones before; none if there are none.
    pub before: Option<u64>,
}

/// What has become of a rollout, by what the history says of it and of later ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutOutcome {
    /// The cluster has converged.
    Completed,
    /// Its revision was rejected; the cluster is held.
    Held,
    /// Its revision was rejected; the cluster goes back.
    RolledBack,
    /// Another one took its place.
    Superseded,
    /// None of these yet.
    UnderWay,
}

impl RolloutOutcome {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Held => "held",
            Self::RolledBack => "rolled back",
            Self::Superseded => "superseded",
            Self::UnderWay => "under way",
        }
    }
}

/// One rollout, in short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollout {
    /// Its id.
    pub rollout: String,
    /// Where.
    pub app: String,
    /// Where.
    pub cluster: String,
    /// When it began.
    pub begun: Wall,
    /// The number of the entry that says so.
    pub id: u64,
    /// The revision that the cluster had converged on before; none if it never had.
    pub from: Option<String>,
    /// The revision that it brings.
    pub to: Option<String>,
    /// The commit that asked for it.
    pub commit: Option<String>,
    /// That commit's first line, as the history tells it.
    pub cause: String,
    /// What has become of it.
    pub outcome: RolloutOutcome,
    /// When that was.
    pub ended: Option<Wall>,
    /// Nodes that have failed in it, and not recovered.
    pub failed: Vec<String>,
}

/// The document at `/api/v1/rollouts`: the newest rollouts that fit, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollouts {
    /// Newest first.
    pub rollouts: Vec<Rollout>,
    /// Ask with this `before` for the ones before; none if there are none.
    pub before: Option<u64>,
}

/// The document at `/api/v1/history/<rollout>`: one rollout, with its entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutPage {
    /// In short.
    pub rollout: Rollout,
    /// Oldest first.
    pub entries: Vec<Entry>,
    /// Ask with this `after` for the ones after; none if there are none.
    pub after: Option<u64>,
}

/// Reads an age such as `2d`, `36h` or `90m` as milliseconds; a day has 24 hours.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn age_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not an age such as \"2d\", \"36h\" or \"90m\"");
    let span: jiff::Span = text.parse().map_err(|_| wrong())?;
    let days = jiff::SpanRelativeTo::days_are_24_hours();
    let ms = span.total((jiff::Unit::Millisecond, days)).map_err(|_| wrong())?;
    if ms < 0.0 {
        return Err(format!("{text:?} is negative; wanted an age such as \"2d\""));
    }
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // whole, and not negative
    Ok(ms as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_read_with_days() {
        for (text, ms) in [
            ("2d", 172_800_000),
            ("90d", 7_776_000_000),
            ("36h", 129_600_000),
            ("1d 1m", 86_460_000),
        ] {
            assert_eq!(age_ms(text), Ok(ms), "{text}");
        }
        for text in ["", "2", "soon", "-2d", "1mo"] {
            assert!(age_ms(text).is_err(), "{text}");
        }
    }
}
