//! Bad input: what comes from outside may be anything, and evenkeel keeps its word all the same.
//!
//! Each kind of input has seeds in `fuzz/seeds/`, and what a search has ever found in `fuzz/found/`. All of them, and seeds with
//! random changes, are handed in here; `make fuzz` searches on, led by what the code makes of it. `PROPTEST_CASES` asks
//! for another number of changed ones.

mod inputs;
mod mutation;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};

use inputs::{BYTES_MAX, Input};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

/// How much memory one input may take at its most, in bytes, with all that becomes of it.
const MEMORY_MAX: u64 = 1 << 20;

/// Seeds that are not taken, nor meant to be; by kind and name.
const REFUSED: &[(&str, &str)] = &[
    ("assignment", "forged.json"),
    ("desired", "faulty"),
    ("haproxy", "errors"),
    ("nrpe", "faulty"),
    ("plugin", "silent"),
    ("release", "links.tar"),
    ("release", "odd-kinds.tar"),
];

/// How many changed seeds are tried, where `PROPTEST_CASES` does not ask for another number.
const CASES: u32 = 400;

fn folder(of: &str, input: &Input) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz").join(of).join(input.name)
}

/// The files in a folder, by their names.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let Ok(entries) = std::fs::read_dir(folder) else { return BTreeMap::new() };
    let entries = entries.map(|entry| entry.expect("an entry"));
    let name = |entry: &std::fs::DirEntry| entry.file_name().into_string().expect("a name");
    let read = |entry: &std::fs::DirEntry| std::fs::read(entry.path()).expect("a readable file");
    entries.map(|entry| (name(&entry), read(&entry))).collect()
}

fn try_out(input: &Input) {
    let most = Cell::new(0);
    let hand_in = |bytes: &[u8]| {
        let mut taken = Ok(false);
        // A count that is not ended would end the process, and the input would not be shown.
        let hand_in = AssertUnwindSafe(|| (input.hand_in)(bytes));
        let memory = allocation_counter::measure(|| taken = catch_unwind(hand_in));
        let taken = taken.unwrap_or_else(|panic| resume_unwind(panic));
        most.set(memory.bytes_max.max(most.get()));
        assert!(memory.bytes_max <= MEMORY_MAX, "{} bytes take {memory:?}", bytes.len());
        taken
    };
    let seeds = files(&folder("seeds", input));
    assert!(seeds.len() >= 2, "{} has no seeds", input.name);
    // One that has been left behind by the format tries nothing any more.
    let refused: Vec<&String> =
        seeds.iter().filter(|(_, bytes)| !hand_in(bytes)).map(|(name, _)| name).collect();
    let meant: Vec<&str> = REFUSED.iter().filter(|of| of.0 == input.name).map(|of| of.1).collect();
    assert_eq!(refused, meant, "seeds of {} that are refused", input.name);
    let found = files(&folder("found", input));
    let known: Vec<Vec<u8>> = seeds.into_values().chain(found.into_values()).collect();
    for bytes in &known {
        assert!(bytes.len() <= BYTES_MAX, "it is too long to be tried by a search");
        hand_in(bytes);
    }
    hand_in(b"");
    let config = match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(CASES),
    };
    let config = Config { failure_persistence: None, ..config };
    // The same ones each time: what fails for one, fails for all.
    let mut runner =
        TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let taken = Cell::new(0);
    let tried = runner.run(&mutation::mutated(known, BYTES_MAX), |bytes| {
        taken.set(taken.get() + u32::from(hand_in(&bytes)));
        Ok(())
    });
    if let Err(error) = tried {
        panic!("{error}\nPut it into {}", folder("found", input).display());
    }
    assert!(taken.get() > 0, "nothing that was changed is taken any more");
    println!("{}: {} KiB of memory at most", input.name, most.get() >> 10);
}

#[test]
fn reports() {
    try_out(&inputs::REPORT);
}

#[test]
fn assignments() {
    try_out(&inputs::ASSIGNMENT);
}

#[test]
fn documents() {
    try_out(&inputs::DOCUMENT);
}

#[test]
fn desired_files() {
    try_out(&inputs::DESIRED);
}

#[test]
fn answers_of_haproxy() {
    try_out(&inputs::HAPROXY);
}

#[test]
fn configuration_of_nrpe() {
    try_out(&inputs::NRPE);
}

#[test]
fn output_of_plugins() {
    try_out(&inputs::PLUGIN);
}

#[test]
fn archives_of_releases() {
    try_out(&inputs::RELEASE);
}
