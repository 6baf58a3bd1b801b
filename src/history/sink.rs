//! A place that entries are written to, with a bounded memory of those that it does not take yet.
//!
//! Principle: entries wait, and the oldest are given up and counted; nobody else ever waits for them.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::entry::Entry;
use crate::model::Wall;

/// Entries that wait, at most: some 10 MB, and the rollout of a thousand nodes.
const PENDING_MAX: usize = 20_000;

/// Entries of one write, at most: so many take well under a second.
const WRITE_MAX: usize = 5_000;

/// How long a place that took nothing is left alone: not to hammer a full disk.
const RETRY: Duration = Duration::from_secs(5);

/// What entries are written to.
pub(super) trait Place {
    /// Its name, for the log.
    const NAME: &'static str;

    /// Writes all of them, or none.
    ///
    /// # Errors
    /// In words.
    fn write(&mut self, entries: &[Entry]) -> Result<(), String>;

    /// One bounded step of what keeps it small; says whether another one is due.
    ///
    /// # Errors
    /// In words.
    fn tend(&mut self, now: Wall) -> Result<bool, String>;
}

/// What became of entries at one place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SinkCounters {
    /// Written.
    pub written: u64,
    /// Given up, as they could not be written for too long.
    pub lost: u64,
    /// Waiting.
    pub pending: u64,
    /// Writes that failed.
    pub failures: u64,
    /// Why the last write failed, if it did.
    pub failing: Option<String>,
}

/// The counters of a place, for whoever looks.
pub(super) type Shown = Arc<Mutex<SinkCounters>>;

/// A place, and what waits for it.
pub(super) struct Sink<P> {
    place: P,
    pending: VecDeque<Arc<Entry>>,
    /// Given up since the last write.
    lost: u64,
    failing: Option<(String, Instant)>,
    shown: Shown,
}

impl<P: Place> Sink<P> {
    pub fn new(place: P, shown: Shown) -> Self {
        Self { place, pending: VecDeque::new(), lost: 0, failing: None, shown }
    }

    /// Takes in entries; the oldest that wait give way.
    pub fn push(&mut self, entries: &[Arc<Entry>], lost_before: u64) {
        self.lose(lost_before);
        self.pending.extend(entries.iter().cloned());
        let too_many = self.pending.len().saturating_sub(PENDING_MAX);
        self.pending.drain(..too_many);
        self.lose(too_many as u64);
    }

    fn lose(&mut self, count: u64) {
        self.lost += count;
        self.show(|shown| shown.lost += count);
    }

    /// Writes what waits, unless it was tried in vain a short while ago.
    pub fn flush(&mut self, now: Instant, wall: Wall) {
        let rests = self.failing.as_ref().is_some_and(|(_, at)| now < *at + RETRY);
        let tries = self.failing.is_some() && !rests;
        if tries && self.pending.is_empty() && self.lost == 0 {
            // Nothing waits: it is enough to look whether the place is there again.
            match self.place.tend(wall) {
                Ok(_) => self.wrote(0, 0),
                Err(error) => self.failed(error, now),
            }
        }
        while !rests && (self.lost > 0 || !self.pending.is_empty()) {
            let mut batch: Vec<Entry> = Vec::new();
            if self.lost > 0 {
                let why = self.failing.as_ref().map_or("more came than could be written", |f| &f.0);
                batch.push(Entry::gap(wall, self.lost, why));
            }
            let count = self.pending.len().min(WRITE_MAX);
            batch.extend(self.pending.iter().take(count).map(|entry| Entry::clone(entry)));
            match self.place.write(&batch) {
                Ok(()) => self.wrote(count, batch.len()),
                Err(error) => {
                    self.failed(error, now);
                    break;
                }
            }
        }
        let waiting = self.pending.len() as u64;
        self.show(|shown| shown.pending = waiting);
    }

    fn wrote(&mut self, count: usize, written: usize) {
        self.pending.drain(..count);
        self.lost = 0;
        if self.failing.take().is_some() {
            tracing::info!(place = P::NAME, "the history is written again");
        }
        self.show(|shown| {
            shown.written += written as u64;
            shown.failing = None;
        });
    }

    fn failed(&mut self, error: String, now: Instant) {
        if self.failing.as_ref().is_none_or(|(known, _)| *known != error) {
            tracing::error!(
                place = P::NAME,
                error,
                "the history cannot be written; the fleet is looked after all the same"
            );
        }
        self.show(|shown| {
            shown.failures += 1;
            shown.failing = Some(error.clone());
        });
        self.failing = Some((error, now));
    }

    /// One step of what keeps the place small; says whether another one is due.
    pub fn tend(&mut self, now: Instant, wall: Wall) -> bool {
        if self.failing.is_some() {
            return false;
        }
        let tended = self.place.tend(wall);
        tended.unwrap_or_else(|error| {
            self.failed(error, now);
            false
        })
    }

    /// When [`Self::flush`] is worth a call though nothing comes.
    pub fn due(&self) -> Option<Instant> {
        self.failing.as_ref().map(|(_, at)| *at + RETRY)
    }

    fn show(&self, change: impl FnOnce(&mut SinkCounters)) {
        change(&mut self.shown.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes nothing while it is full.
    #[derive(Default)]
    struct Box_ {
        full: bool,
        taken: Vec<Entry>,
    }

    impl Place for Box_ {
        const NAME: &'static str = "box";

        fn write(&mut self, entries: &[Entry]) -> Result<(), String> {
            if self.full {
                return Err("it is full".to_owned());
            }
            self.taken.extend_from_slice(entries);
            Ok(())
        }

        fn tend(&mut self, _now: Wall) -> Result<bool, String> {
            Ok(true)
        }
    }

    fn entries(count: usize) -> Vec<Arc<Entry>> {
        let numbered =
            |n: usize| Arc::new(Entry { name: n.to_string(), ..Entry::gap(Wall(0), 0, "") });
        (0..count).map(numbered).collect()
    }

    #[test]
    fn what_is_not_taken_waits_and_is_taken_later() {
        let shown = Shown::default();
        let mut sink = Sink::new(Box_ { full: true, ..Box_::default() }, Arc::clone(&shown));
        let start = Instant::now();
        sink.push(&entries(3), 0);
        sink.flush(start, Wall(1));
        assert_eq!(sink.due(), Some(start + RETRY));
        assert!(!sink.tend(start, Wall(1)), "what is full is left alone");
        sink.place.full = false;
        sink.flush(start, Wall(1));
        assert_eq!(sink.place.taken, [], "it rests");
        sink.flush(start + RETRY, Wall(1));
        assert_eq!(sink.place.taken.len(), 3);
        let counters = shown.lock().unwrap().clone();
        let expected = SinkCounters { written: 3, failures: 1, ..SinkCounters::default() };
        assert_eq!(counters, expected);
    }

    #[test]
    fn the_oldest_are_given_up_and_their_number_is_told() {
        let shown = Shown::default();
        let mut sink = Sink::new(Box_ { full: true, ..Box_::default() }, Arc::clone(&shown));
        let start = Instant::now();
        sink.push(&entries(PENDING_MAX + 10), 0);
        sink.flush(start, Wall(1));
        sink.push(&entries(5), 2);
        sink.place.full = false;
        sink.flush(start + RETRY, Wall(9));
        let taken = &sink.place.taken;
        assert_eq!(taken.len(), PENDING_MAX + 1);
        assert_eq!(taken[0], Entry::gap(Wall(9), 17, "it is full"));
        assert_eq!(taken[1].name, "15");
        assert_eq!(shown.lock().unwrap().lost, 17);
    }
}
