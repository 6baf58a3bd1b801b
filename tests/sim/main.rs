//! The fault simulator: the real controller's core and the real agents' cores in a world that a seed makes up. A phase
//! with faults in which no invariant may break, then one without, at the end of which all is well, or
//! blocked by just what stays wrong.
//!
//! `SEED=17 cargo test --profile simulate --test sim seeds -- --nocapture` plays one seed and tells all of it; `SEEDS=10000`
//! more of them, and `FIRST=500` others.

#[path = "../parts/mod.rs"]
mod parts;

mod agents;
mod broker;
mod contract;
mod control;
mod disk;
mod ending;
mod fault;
mod haproxy;
mod mutant;
mod plot;
mod plugin;
mod presence;
mod reason;
mod service;
mod trace;
mod wire;
mod world;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use ending::play;
use evenkeel::checker::Invariant;

/// Seeds that are played where nobody asks for others.
const SEEDS: u64 = 500;

/// Seeds within which a broken rule must show.
const MUTANT_SEEDS: u64 = 40;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// What went wrong with a seed.
fn broken(seed: u64, loud: bool) -> Option<String> {
    match std::panic::catch_unwind(|| play(seed, None, loud, false)) {
        Ok(outcome) => outcome.breach.map(|breach| breach.to_string()),
        Err(_) => Some("a panic".to_owned()),
    }
}

/// Plays seeds on all cores; those that broke.
fn play_all(seeds: std::ops::Range<u64>, loud: bool) -> BTreeSet<u64> {
    let next = AtomicU64::new(seeds.start);
    let worker = || {
        let mut found = BTreeSet::new();
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end {
                return found;
            }
            if seed > seeds.start && seed.is_multiple_of(1_000) {
                eprintln!("seeds {}..{seed} are played or under way", seeds.start);
            }
            if let Some(what) = broken(seed, loud) {
                eprintln!(
                    "seed {seed}: {what}\n  SEED={seed} cargo test --profile simulate --test sim seeds -- --nocapture"
                );
                found.insert(seed);
            }
        }
    };
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..workers).map(|_| scope.spawn(worker)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a worker")).collect()
    })
}

#[test]
fn seeds_hold() {
    let seeds = match number("SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let first = number("FIRST").unwrap_or(0);
            first..first + number("SEEDS").unwrap_or(SEEDS)
        }
    };
    let loud = number("SEED").is_some();
    let broken = play_all(seeds, loud);
    assert!(broken.is_empty(), "seeds that broke: {broken:?}");
}

#[test]
fn a_seed_replays_to_the_byte() {
    for seed in 0..4 {
        let (one, other) = (play(seed, None, false, true), play(seed, None, false, true));
        assert!(one.text.len() > 10_000, "seed {seed} has a story");
        assert_eq!(one.digest, other.digest, "seed {seed}");
        assert!(one.text == other.text, "seed {seed}");
    }
}

#[test]
fn every_broken_rule_is_caught_by_name() {
    let missed: Vec<Invariant> =
        Invariant::ALL.into_iter().filter(|rule| !is_caught(*rule)).collect();
    assert!(missed.is_empty(), "not caught: {missed:?}");
}

/// A controller, or an agent, that does not keep `rule` is found to break just that in one of the first seeds.
fn is_caught(rule: Invariant) -> bool {
    let caught = |seed| {
        let breach = play(seed, Some(rule), false, false).breach;
        breach.is_some_and(|breach| breach.invariant == rule)
    };
    let first = (0..MUTANT_SEEDS).find(|seed| caught(*seed));
    eprintln!("{rule}: {first:?}");
    first.is_some()
}
