//! Desired files: accepted or refused with words, and what is accepted is within its bounds and can be written down again.

use std::collections::BTreeSet;

use evenkeel::desired::{Snapshot, load_texts};
use evenkeel::model::*;

use super::{files_in, written};

/// What one app may say at most, and one more that counts the rest.
const FAULTS_MAX: usize = 101;

/// The highest count in a desired file.
const COUNT_MAX: u32 = 100_000;

/// Folders and files below lines `#: FOLDER/FILE`.
pub fn files(data: &[u8]) -> bool {
    let files = files_in(data);
    let files: Vec<(&str, &str, &[u8])> = files
        .iter()
        .filter_map(|(path, text)| path.split_once('/').map(|(folder, name)| (folder, name, *text)))
        .collect();
    let read = load_texts(files.iter().copied());
    assert_eq!(load_texts(files.iter().copied()), read, "read twice, it says two things");
    for faults in read.apps.values().filter_map(|app| app.as_ref().err()) {
        assert!(!faults.is_empty() && faults.len() <= FAULTS_MAX, "{} faults", faults.len());
    }
    for fault in read.all_faults() {
        located(fault);
    }
    for app in read.apps.values().filter_map(|app| app.as_ref().ok()) {
        for (name, cluster) in &app.clusters {
            within_bounds(cluster);
            assert!(!waits_for_itself(app, name), "{name} waits for itself");
        }
        again(app);
    }
    read.apps.values().any(Result::is_ok)
}

fn located(fault: &Fault) {
    assert!(!fault.message.is_empty() && fault.rendered.contains("error"), "{fault:?}");
    assert_eq!(fault.line == 0, fault.column == 0, "{fault:?}");
}

fn within_bounds(cluster: &DesiredCluster) {
    let DesiredCluster { rollout, settle, load_balancer, .. } = cluster;
    let drain_ms = load_balancer.as_ref().map_or(0, |balancing| balancing.drain_ms);
    for ms in [
        rollout.upgrade_timeout_ms,
        settle.interval_ms,
        settle.timeout_ms,
        settle.soak_ms,
        drain_ms,
    ] {
        assert!(ms <= DURATION_MS_MAX, "{ms} ms");
    }
    assert!(settle.interval_ms > 0 && settle.timeout_ms > 0 && rollout.upgrade_timeout_ms > 0);
    assert!((1..=COUNT_MAX).contains(&rollout.tries), "{} tries", rollout.tries);
    assert!(rollout.max_failed <= COUNT_MAX && rollout.max_missing <= COUNT_MAX);
    expects(&cluster.expect);
    share(rollout.batch, 1);
    if let Some(balancing) = load_balancer {
        expects(&balancing.expect);
        share(balancing.min_ready, 0);
    }
    assert!(!cluster.retry.contains(['\n', '\r']), "a retry of several lines");
}

fn expects(expect: &Expect) {
    match expect {
        Expect::Count(count) => assert!((1..=COUNT_MAX).contains(count), "expects {count}"),
        Expect::Nodes(names) => assert!(!names.is_empty(), "expects nobody"),
    }
}

fn share(share: Share, least: u32) {
    match share {
        Share::Count(count) => assert!((least..=COUNT_MAX).contains(&count), "{share:?}"),
        Share::Percent(percent) => assert!((least..=100).contains(&percent), "{share:?}"),
    }
}

fn waits_for_itself(app: &DesiredApp, name: &ClusterName) -> bool {
    let mut seen = BTreeSet::new();
    let mut next = vec![name];
    while let Some(cluster) = next.pop() {
        for after in &app.clusters[cluster].after {
            if after == name {
                return true;
            }
            if seen.insert(after) {
                next.push(after);
            }
        }
    }
    false
}

/// Written down and read again, the app is the same.
fn again(app: &DesiredApp) {
    let texts = written::files(&app.clusters);
    let folder = app.name.as_str();
    let files = texts.iter().map(|(name, text)| (folder, name.as_str(), text.as_bytes()));
    let Snapshot { apps, .. } = load_texts(files);
    assert_eq!(apps.get(&app.name), Some(&Ok(app.clone())), "{texts:#?}");
}
