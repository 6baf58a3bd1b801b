//! The demo, as a new user runs it.

use std::process::Command;

fn demo(arguments: &[&str]) -> serde_json::Value {
    // It wants the real parts; a missing one would be told by the demo itself, with how to get it.
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["demo", "--json"])
        .args(arguments)
        .output()
        .expect("run the demo");
    let story = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{story}", output.status);
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}\n{story}"))
}

#[test]
fn the_reference_scenario() {
    let summary = demo(&[]);
    assert_eq!(summary["problems"], serde_json::json!([]), "{summary:#}");
}

#[test]
fn with_releases_on_mosquitto() {
    let summary = demo(&["--release-layout", "--broker", "mosquitto"]);
    assert_eq!(summary["problems"], serde_json::json!([]), "{summary:#}");
}

/// Nobody serves while all of them are upgraded: that is what was asked for, and is told apart from failures.
#[test]
fn nine_at_once_without_a_floor() {
    let summary = demo(&["--no-git", "--one-cluster", "--min-ready", "0"]);
    assert_eq!(summary["problems"], serde_json::json!([]), "{summary:#}");
    assert!(summary["requests"]["unserved"].as_u64() > Some(0), "{summary:#}");
}
