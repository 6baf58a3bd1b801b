//! Shape: a header, a bounded length, names that say something, nothing unfinished, no sleep for luck.

use crate::lexer::paths;
use crate::tree::{File, Offence, Tree};

/// Beyond this a file holds more than one thing.
const LINES_MAX: usize = 600;

/// A name that fits everything says nothing.
const NAMES: &[&str] =
    &["common", "helper", "helpers", "manager", "misc", "shared", "util", "utils"];

/// What is not finished, or not meant to stay.
const UNFINISHED: &[&str] = &["todo!", "unimplemented!", "dbg!", "#[ignore"];

/// Tests that may sleep: file, function, and why. None of them hopes that something has happened meanwhile.
const SLEEPERS: &[(&str, &str, &str)] = &[
    ("tests/parts/process.rs", "eventually", "the wait that all others should use"),
    (
        "tests/e2e/scene/look.rs",
        "wait_for",
        "as `eventually`, and tells the whole scene when in vain",
    ),
    ("tests/e2e/load.rs", "watch", "it looks at the load balancer as often as that"),
    ("tests/e2e/load.rs", "begin", "the pace of customers' requests"),
    ("tests/adapters/haproxy.rs", "read_until", "asks an asynchronous client"),
    (
        "tests/adapters/bus.rs",
        "embedded_on",
        "starts an asynchronous broker until the port is free",
    ),
    (
        "tests/adapters/bus/hostile.rs",
        "topics_that_are_no_text_and_topics_of_nobody_are_passed_over",
        "waits for a counter while the runtime goes on",
    ),
    (
        "tests/adapters/desired/watching.rs",
        "a_cancelled_call_loses_nothing",
        "cancelling a call after some time is what it tests",
    ),
];

/// Files that do not open with a sentence that says what lives there.
pub fn headers(tree: &Tree) -> Vec<Offence> {
    let bare = tree.sources().filter(|file| !file.text.starts_with("//! "));
    bare.map(|file| Offence::at(file, 1, "does not open with `//! `")).collect()
}

/// Files that are too long.
pub fn lengths(tree: &Tree) -> Vec<Offence> {
    let count = |file: &File| file.text.lines().count();
    let long = tree.sources().filter(|file| count(file) > LINES_MAX);
    let offence = |file| {
        Offence::at(file, LINES_MAX + 1, format!("{} lines; {LINES_MAX} are enough", count(file)))
    };
    long.map(offence).collect()
}

/// Modules with a name that says nothing.
pub fn names(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.sources() {
        let parts = file.path.trim_end_matches(".rs").split('/');
        for part in parts.filter(|part| NAMES.contains(part)) {
            offences.push(Offence::at(file, 1, format!("a module named {part}")));
        }
        for (index, line) in file.code.lines().enumerate() {
            let Some((_, after)) = line.split_once("mod ") else { continue };
            let name = after.trim_end_matches([';', '{', ' ']);
            if NAMES.contains(&name) {
                offences.push(Offence::at(file, index + 1, format!("a module named {name}")));
            }
        }
    }
    offences
}

/// Macros and attributes of work that is not done.
pub fn unfinished(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.sources() {
        for (index, line) in file.code.lines().enumerate() {
            for word in UNFINISHED.iter().filter(|word| line.contains(*word)) {
                offences.push(Offence::at(file, index + 1, format!("{word} is left")));
            }
        }
    }
    offences
}

/// Sleeps in tests, but for those that are listed; and those that are listed and gone.
pub fn sleeps(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.sources() {
        let mut awake: Vec<&str> =
            SLEEPERS.iter().filter(|row| row.0 == file.path).map(|row| row.1).collect();
        let tests = tests_begin(file);
        for (line, path) in paths(&file.code) {
            let sleeps = path == "sleep" || path.ends_with("::sleep");
            if !sleeps || line < tests {
                continue;
            }
            let function = function_around(file, line);
            let listed = SLEEPERS.iter().any(|row| (row.0, row.1) == (&file.path, function));
            awake.retain(|name| *name != function);
            if !listed {
                let what = format!("{function} sleeps; wait on state with `eventually`");
                offences.push(Offence::at(file, line, what));
            }
        }
        for name in awake {
            offences.push(Offence::at(file, 1, format!("{name} may sleep and does not")));
        }
    }
    offences
}

/// The line from which on a file holds tests: a file of the tests, of a module `tests`, or what
/// follows `#[cfg(test)]`.
fn tests_begin(file: &File) -> usize {
    if file.path.starts_with("tests/") || file.path.contains("/tests/") || file.name() == "tests.rs"
    {
        return 1;
    }
    let mut lines = file.code.lines();
    lines.position(|line| line.trim() == "#[cfg(test)]").map_or(usize::MAX, |index| index + 1)
}

/// The name of the last function that begins at or above a line.
fn function_around(file: &File, line: usize) -> &str {
    let lines: Vec<&str> = file.code.lines().take(line).collect();
    let named = |line: &&str| line.split_once("fn ").map(|(_, after)| after.len());
    let Some(above) = lines.iter().rev().find(|line| named(line).is_some()) else { return "" };
    let after = above.split_once("fn ").expect("it was found").1;
    after.split(['(', '<']).next().expect("a part")
}
