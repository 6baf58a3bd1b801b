//! Times as plain numbers: monotonic milliseconds to decide by, wall milliseconds to show.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Milliseconds of one process's monotonic clock. Only differences mean anything, and only within
/// one process; it is never sent or stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Mono(pub u64);

impl Mono {
    /// Milliseconds since `earlier`; 0 if that lies in the future.
    pub fn since_ms(self, earlier: Mono) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The instant `ms` milliseconds later.
    pub fn plus_ms(self, ms: u64) -> Mono {
        Mono(self.0.saturating_add(ms))
    }
}

/// Milliseconds since the Unix epoch, UTC. For people only: nothing is decided by it.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Wall(pub u64);

impl fmt::Display for Wall {
    /// RFC 3339, UTC, to the second.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(i64::try_from(self.0).unwrap_or(i64::MAX)) {
            Ok(time) => write!(f, "{time:.0}"),
            Err(_) => write!(f, "{} ms", self.0),
        }
    }
}

/// The present, on both clocks; handed into the pure cores by whoever drives them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Now {
    /// To decide by.
    pub mono: Mono,
    /// To show.
    pub wall: Wall,
}

/// The longest duration that a file may ask for: 30 days. Longer ones are slips of the pen, and
/// with it no sum of durations can overflow.
pub const DURATION_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// Reads a duration such as `"100s"`, `"10m"` or `"1h 30m"` (jiff's friendly format) as milliseconds.
///
/// # Errors
/// A sentence that says what is wrong: no unit, negative, or above [`DURATION_MS_MAX`].
pub fn parse_duration_ms(text: &str) -> Result<u64, String> {
    let wanted = "a duration such as \"10s\", \"500ms\", \"10m\" or \"1h 30m\"";
    let duration: jiff::SignedDuration =
        text.parse().map_err(|_| format!("{text:?} is not {wanted}"))?;
    let ms = u64::try_from(duration.as_millis())
        .map_err(|_| format!("{text:?} is negative; wanted {wanted}"))?;
    if ms > DURATION_MS_MAX {
        return Err(format!("{text:?} is longer than the 30 days that are allowed"));
    }
    Ok(ms)
}

/// Writes milliseconds as people read them, and as [`parse_duration_ms`] reads them back.
pub fn render_duration_ms(ms: u64) -> String {
    if ms == 0 {
        return "0s".to_owned();
    }
    format!("{:#}", jiff::SignedDuration::from_millis(i64::try_from(ms).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_survive_a_round_trip() {
        for (text, ms) in [
            ("0s", 0),
            ("10s", 10_000),
            ("100s", 100_000),
            ("10m", 600_000),
            ("1h 30m", 5_400_000),
            ("250ms", 250),
        ] {
            assert_eq!(parse_duration_ms(text), Ok(ms), "{text}");
            assert_eq!(parse_duration_ms(&render_duration_ms(ms)), Ok(ms), "{text}");
        }
        for text in ["", "10", "-5s", "soon", "900h"] {
            assert!(parse_duration_ms(text).is_err(), "{text}");
        }
    }
}
