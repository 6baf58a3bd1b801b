//! The planner, by golden scripts: a script of a fleet's events in, the plan's decisions out.
//!
//! A script in `scripts/` is a text of commands (lines that begin with `> `), each followed by what
//! the planner made of it. `UPDATE_GOLDEN=1` writes the answers anew; read the difference before you commit it.

/// Asserts that what an invariant promises holds, and says by its name that it does not.
macro_rules! keeps {
    ($invariant:ident, $holds:expr, $($words:tt)+) => {
        assert!($holds, "{} broke: {}", evenkeel::checker::Invariant::$invariant, format_args!($($words)+))
    };
}

mod fleet;
mod properties;
mod random;
mod round_trip;
mod script;
mod written;

use std::fs;
use std::path::Path;

use proptest::test_runner::Config;

/// So many cases, where `PROPTEST_CASES` does not ask for another number.
fn cases(number: u32) -> Config {
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => Config::default(),
        None => Config::with_cases(number),
    }
}

#[test]
fn scripts_say_what_they_said() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/planner/scripts");
    let mut files: Vec<_> =
        fs::read_dir(&folder).expect("scripts").map(|entry| entry.expect("entry").path()).collect();
    files.sort();
    assert!(files.len() >= 20, "the scripts are in {}", folder.display());
    let mut differing = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).expect("a readable script");
        let played = script::play(&text);
        if played == text {
            continue;
        }
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(file, &played).expect("write the script");
        } else {
            differing.push(format!("{}:\n{}", file.display(), script::difference(&text, &played)));
        }
    }
    assert!(
        differing.is_empty(),
        "{}\nIf that is right: UPDATE_GOLDEN=1 cargo test --test planner",
        differing.join("\n")
    );
}
