//! How often a service may be asked.

use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use tokio::time::Instant;

/// So many requests at once, and then one each time that `every` has passed: what is not used comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests at once.
    pub burst: u32,
    /// One more comes after this time, in milliseconds; written as a duration.
    #[serde(rename = "every", deserialize_with = "super::config::duration")]
    pub every_ms: u64,
}

/// A service's rate, and how much of it has been used.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Rate,
    began: Instant,
    used: Mutex<Used>,
}

/// All that has to be known: when everything will have come back, in milliseconds (the generic cell rate algorithm,
/// ITU-T I.371, annex A).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Used {
    whole_at_ms: u64,
}

impl Pace {
    pub(super) fn new(rate: Rate) -> Pace {
        Pace { rate, began: Instant::now(), used: Mutex::default() }
    }

    /// Takes one request, or says in how many milliseconds there may be one.
    pub(super) fn take(&self) -> Result<(), u64> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.take(self.rate, self.now_ms())
    }

    /// The service wants to be left alone for so long.
    pub(super) fn rest(&self, for_ms: u64) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.rest(self.rate, self.now_ms().saturating_add(for_ms));
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Used {
    fn take(&mut self, rate: Rate, now_ms: u64) -> Result<(), u64> {
        let at_ms = self.whole_at_ms.saturating_sub(rate.at_once_ms());
        if at_ms > now_ms {
            return Err(at_ms - now_ms);
        }
        self.whole_at_ms = self.whole_at_ms.max(now_ms).saturating_add(rate.every_ms);
        Ok(())
    }

    /// Nothing before `until_ms`, and then one by one.
    fn rest(&mut self, rate: Rate, until_ms: u64) {
        self.whole_at_ms = self.whole_at_ms.max(until_ms.saturating_add(rate.at_once_ms()));
    }
}

impl Rate {
    /// As often as there is something to say, but when the service wants rest.
    pub(super) const ANY: Rate = Rate { burst: 1, every_ms: 0 };

    /// How far ahead of its time a request may be.
    fn at_once_ms(self) -> u64 {
        self.every_ms.saturating_mul(u64::from(self.burst.saturating_sub(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RATE: Rate = Rate { burst: 3, every_ms: 1_000 };

    #[test]
    fn a_burst_goes_and_the_rest_waits() {
        let mut used = Used::default();
        let taken: Vec<_> = (0..4).map(|_| used.take(RATE, 10_000)).collect();
        assert_eq!(taken, [Ok(()), Ok(()), Ok(()), Err(1_000)]);
        assert_eq!(used.take(RATE, 10_999), Err(1));
        assert_eq!(used.take(RATE, 11_000), Ok(()));
        assert_eq!(used.take(RATE, 11_000), Err(1_000));
    }

    #[test]
    fn what_is_not_used_comes_back_and_no_more() {
        let mut used = Used::default();
        assert_eq!(used.take(RATE, 0), Ok(()));
        let later = (0..4).map(|_| used.take(RATE, 3_600_000)).filter(Result::is_ok).count();
        assert_eq!(later, 3);
    }

    #[test]
    fn a_service_without_a_rate_has_the_rest_that_it_wants() {
        let mut used = Used::default();
        assert!((0..1_000).all(|_| used.take(Rate::ANY, 0).is_ok()));
        used.rest(Rate::ANY, 5_000);
        assert_eq!(used.take(Rate::ANY, 4_999), Err(1));
        assert!((0..1_000).all(|_| used.take(Rate::ANY, 5_000).is_ok()));
    }

    #[test]
    fn a_service_that_wants_rest_has_it() {
        let mut used = Used::default();
        used.rest(RATE, 5_000);
        assert_eq!(used.take(RATE, 1_000), Err(4_000));
        let after: Vec<_> = (0..2).map(|_| used.take(RATE, 5_000)).collect();
        assert_eq!(after, [Ok(()), Err(1_000)]);
    }
}
