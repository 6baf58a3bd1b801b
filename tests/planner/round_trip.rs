//! Whatever a desired file can say: it is accepted, it is read as what was meant, and what was read can be
//! written down and read again.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::path::Path;

use evenkeel::desired::load;
use evenkeel::model::*;
use proptest::prelude::*;
use proptest::sample::{Index, subsequence};

use crate::written::{files, head, render, tables};

/// The longest duration that a file may ask for, in milliseconds.
const DURATION_MS_MAX: u64 = 30 * 24 * 3600 * 1000;

/// A name of any kind: all of them allow this.
fn name() -> impl Strategy<Value = String> {
    "[A-Za-z0-9][A-Za-z0-9-]{0,9}"
}

fn names<T: Ord + Debug>(
    most: usize,
    make: impl Fn(&str) -> Result<T, NameError> + Clone,
) -> impl Strategy<Value = BTreeSet<T>> {
    prop::collection::btree_set(name(), 0..=most)
        .prop_map(move |names| names.iter().map(|name| make(name).unwrap()).collect())
}

/// One line of anything.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![Just(String::new()), "[ -~]{0,20}", "\\PC{0,20}"]
}

fn share(least: u32) -> impl Strategy<Value = Share> {
    prop_oneof![(least..=100_000).prop_map(Share::Count), (least..=100).prop_map(Share::Percent)]
}

fn expect(nodes: &'static str) -> impl Strategy<Value = Expect> {
    let named = prop::collection::btree_set(name(), 1..=4).prop_map(move |names| {
        let names = names.iter().map(|name| NodeName::new(format!("{nodes}{name}")).unwrap());
        Expect::Nodes(names.collect())
    });
    prop_oneof![(1..=100_000u32).prop_map(Expect::Count), named]
}

fn duration(least: u64) -> impl Strategy<Value = u64> {
    prop_oneof![
        least..=DURATION_MS_MAX,
        (least.div_ceil(1000)..=600).prop_map(|seconds| seconds * 1000)
    ]
}

fn load_balancer() -> impl Strategy<Value = LoadBalancer> {
    let server = prop_oneof!["[a-z]{0,4}\\{node\\}", "\\{[a-z]{1,5}\\}-[a-z]{1,3}", "[a-z]{1,9}"];
    (name(), expect("lb"), server, duration(0), share(0)).prop_map(
        |(backend, expect, server, drain_ms, min_ready)| LoadBalancer {
            backend: BackendName::new(backend).unwrap(),
            expect,
            server: ServerTemplate(server),
            drain_ms,
            min_ready,
        },
    )
}

fn rollout() -> impl Strategy<Value = RolloutPolicy> {
    let limits = (share(1), 1..=100_000u32, duration(10), 0..=100_000u32, 0..=100_000u32);
    (any::<bool>(), any::<bool>(), limits).prop_map(|(together, hold, limits)| {
        let (batch, tries, upgrade_timeout_ms, max_failed, max_missing) = limits;
        RolloutPolicy {
            take_out: if together { TakeOut::Cluster } else { TakeOut::Batch },
            batch,
            tries,
            upgrade_timeout_ms,
            on_failure: if hold { OnFailure::Hold } else { OnFailure::Rollback },
            max_failed,
            max_missing,
        }
    })
}

fn settle() -> impl Strategy<Value = SettlePolicy> {
    let checks = names(3, |name| CheckName::new(name));
    (checks, duration(10), duration(10), duration(0)).prop_map(
        |(checks, interval_ms, timeout_ms, soak_ms)| SettlePolicy {
            checks,
            interval_ms,
            timeout_ms,
            soak_ms,
        },
    )
}

fn notify() -> impl Strategy<Value = NotifyPolicy> {
    let on = vec![NotifyOn::Completed, NotifyOn::Failed, NotifyOn::Recovered];
    let on = subsequence(on, 0..=3).prop_map(|on| on.into_iter().collect());
    (names(3, |name| RecipientName::new(name)), on)
        .prop_map(|(recipients, on)| NotifyPolicy { recipients, on })
}

/// A cluster by itself: whom it waits for is decided where the others are known.
fn one() -> impl Strategy<Value = DesiredCluster> {
    let select = prop::collection::btree_map("[ -~]{1,9}", line(), 0..=3);
    let own = (
        "[A-Za-z0-9][A-Za-z0-9._+-]{0,127}",
        select,
        line(),
        names(3, |name| NodeName::new(name)),
        any::<bool>(),
    );
    let tables = (prop::option::of(load_balancer()), rollout(), settle(), notify());
    (own, expect("web"), tables).prop_map(|(own, expect, tables)| {
        let (revision, select, retry, hold, paused) = own;
        let (load_balancer, rollout, settle, notify) = tables;
        DesiredCluster {
            revision: Revision::new(revision).unwrap(),
            expect,
            select,
            retry,
            after: BTreeSet::new(),
            hold,
            paused,
            load_balancer,
            rollout,
            settle,
            notify,
        }
    })
}

/// An app: clusters wait only for those before them, and no node is named twice.
fn clusters() -> impl Strategy<Value = BTreeMap<ClusterName, DesiredCluster>> {
    let one = (one(), prop::collection::vec(any::<Index>(), 0..=2));
    prop::collection::btree_map(name().prop_map(|name| format!("c{name}")), one, 0..=4).prop_map(
        |drafts| {
            let mut made: BTreeMap<ClusterName, DesiredCluster> = BTreeMap::new();
            for (number, (name, (mut cluster, after))) in drafts.into_iter().enumerate() {
                let before: Vec<ClusterName> = made.keys().cloned().collect();
                if !before.is_empty() {
                    cluster.after = after.iter().map(|i| i.get(&before).clone()).collect();
                }
                if let Expect::Nodes(names) = &mut cluster.expect {
                    let own = |name: &NodeName| NodeName::new(format!("{name}-{number}")).unwrap();
                    *names = names.iter().map(own).collect();
                }
                made.insert(ClusterName::new(name).unwrap(), cluster);
            }
            made
        },
    )
}

// -- on a disk

/// Everything in the clusters' own files.
fn write(folder: &Path, clusters: &BTreeMap<ClusterName, DesiredCluster>) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files(clusters) {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// What the clusters have in common is in `app.toml`, and so is much that they override.
fn write_shared(folder: &Path, clusters: &BTreeMap<ClusterName, DesiredCluster>) {
    fs::create_dir_all(folder).unwrap();
    let mut app = clusters.values().next().map(tables).unwrap_or_default();
    if clusters.values().any(|cluster| cluster.load_balancer.is_none()) {
        app.remove("load_balancer");
    }
    fs::write(folder.join("app.toml"), render(&BTreeMap::new(), &app)).unwrap();
    for (name, cluster) in clusters {
        let mut own = tables(cluster);
        for (table, keys) in &mut own {
            keys.retain(|key, value| app.get(table).and_then(|keys| keys.get(key)) != Some(value));
        }
        fs::write(folder.join(format!("{name}.toml")), render(&head(cluster), &own)).unwrap();
    }
}

fn read(folder: &Path) -> Result<BTreeMap<ClusterName, DesiredCluster>, String> {
    let snapshot = load(folder.parent().unwrap());
    let faults: Vec<String> = snapshot.all_faults().map(|fault| fault.rendered.clone()).collect();
    if !faults.is_empty() {
        return Err(faults.join("\n"));
    }
    let app = snapshot.apps.into_values().next();
    Ok(app.and_then(Result::ok).map(|app| app.clusters).unwrap_or_default())
}

proptest! {
    #![proptest_config(crate::cases(150))]

    #[test]
    fn desired_files_survive_a_round_trip(meant in clusters()) {
        let folder = tempfile::tempdir().unwrap();
        let (first, second) = (folder.path().join("a/shop"), folder.path().join("b/shop"));
        write_shared(&first, &meant);
        let accepted = read(&first);
        prop_assert_eq!(accepted.as_ref(), Ok(&meant));
        write(&second, &accepted.unwrap());
        prop_assert_eq!(read(&second), Ok(meant));
    }
}
