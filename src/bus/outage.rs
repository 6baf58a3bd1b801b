//! When another line about a broker that cannot be reached is worth writing: at once, when the
//! reason changes, and then ever more rarely.

use std::time::{Duration, Instant};

/// The wait before the same is said again; it doubles each time. Longer than a broker's restart takes.
const AGAIN_FIRST: Duration = Duration::from_secs(10);

/// The longest wait, so that the end of a log says what is wrong even after days.
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// What was said of an outage so far.
#[derive(Debug, Default)]
pub(super) struct Outage {
    said: Option<Said>,
}

#[derive(Debug)]
struct Said {
    reason: String,
    /// From when on it may be said again.
    again: Instant,
    wait: Duration,
}

impl Outage {
    /// A try has failed, or a connection was lost. Whether that is worth a line.
    pub fn is_news(&mut self, reason: &str, now: Instant) -> bool {
        let before = self.said.take_if(|said| said.reason != reason || now >= said.again);
        if self.said.is_some() {
            return false;
        }
        let wait = match before {
            Some(said) if said.reason == reason => (said.wait * 2).min(AGAIN_MAX),
            Some(_) | None => AGAIN_FIRST,
        };
        self.said = Some(Said { reason: reason.to_owned(), again: now + wait, wait });
        true
    }

    /// A connection has stood: what comes next is another outage.
    pub fn ended(&mut self) {
        self.said = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_told_at_once_and_then_ever_more_rarely() {
        let start = Instant::now();
        let mut outage = Outage::default();
        let told: Vec<u64> = (0..=2400)
            .filter(|s| outage.is_news("refused", start + Duration::from_secs(*s)))
            .collect();
        assert_eq!(told, [0, 10, 30, 70, 150, 310, 630, 1230, 1830]);
    }

    #[test]
    fn another_reason_and_another_outage_are_told_at_once() {
        let now = Instant::now();
        let mut outage = Outage::default();
        assert!(outage.is_news("refused", now));
        assert!(outage.is_news("no route", now));
        assert!(!outage.is_news("no route", now));
        outage.ended();
        assert!(outage.is_news("no route", now));
    }
}
