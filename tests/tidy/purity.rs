//! What is pure knows no file, socket, process, clock, task or order of a hash.

use crate::lexer::paths;
use crate::tree::{Offence, Tree};

/// The world outside. `std::time::Duration` is a value and stays allowed, and so does chance with a
/// given seed.
const WORLD: &[&str] = &[
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::env",
    "std::io",
    "Instant",
    "SystemTime",
    "Timestamp::now",
    "Zoned::now",
    "Rng::new",
    "rustix",
    "tempfile",
    "tokio",
    "reqwest",
    "rumqttc",
    "mqtt5",
];

/// Their order differs from run to run.
const UNORDERED: &[&str] = &["HashMap", "HashSet"];

/// Folders, and what they do not know beside [`WORLD`] and [`UNORDERED`].
const PURE: &[(&str, &[&str])] = &[
    ("src/model/", &["tracing"]),
    ("src/plan/", &["tracing"]),
    // It must not believe whom it judges: no word of the planner, nor of anything above.
    ("src/checker/", &["tracing", "plan", "controller", "agent"]),
    ("src/controller/core/", &[]),
    ("src/agent/core/", &[]),
];

/// Words of the world in what is pure.
pub fn impure(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.program() {
        for (folder, more) in PURE.iter().filter(|(folder, _)| file.path.starts_with(folder)) {
            for (line, path) in paths(&file.code) {
                let banned = WORLD.iter().chain(UNORDERED).chain(*more);
                if let Some(word) = banned.copied().find(|word| contains(&path, word)) {
                    let what = format!("{word} has no place in {folder}");
                    offences.push(Offence::at(file, line, what));
                }
            }
        }
    }
    offences
}

/// Whether `word` is one or more whole parts of the path.
fn contains(path: &str, word: &str) -> bool {
    format!("::{path}::").contains(&format!("::{word}::"))
}
