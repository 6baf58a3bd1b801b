//! Desired clusters, written down as files that say the same: everything in the clusters' own files.

use std::collections::BTreeMap;
use std::fmt::Display;

use evenkeel::model::*;

/// The files of an app's folder, by name.
pub fn files(clusters: &BTreeMap<ClusterName, DesiredCluster>) -> BTreeMap<String, String> {
    let own = |(name, cluster): (&ClusterName, &DesiredCluster)| {
        (format!("{name}.toml"), render(&head(cluster), &tables(cluster)))
    };
    let app = ("app.toml".to_owned(), "version = 1\n".to_owned());
    clusters.iter().map(own).chain([app]).collect()
}

/// Lines of `key = value`, by table.
pub type Tables = BTreeMap<&'static str, BTreeMap<&'static str, String>>;

/// A string as JSON has it, which TOML reads as the same.
fn text(value: impl Display) -> String {
    word(value.to_string())
}

fn list<T: Display>(values: impl IntoIterator<Item = T>) -> String {
    let values: Vec<String> = values.into_iter().map(text).collect();
    format!("[{}]", values.join(", "))
}

fn written_share(share: Share) -> String {
    match share {
        Share::Count(count) => count.to_string(),
        Share::Percent(percent) => format!("\"{percent}%\""),
    }
}

fn written_expect(expect: &Expect) -> (&'static str, String) {
    match expect {
        Expect::Count(count) => ("expect", count.to_string()),
        Expect::Nodes(names) => ("nodes", list(names)),
    }
}

/// The word that stands for a choice in a file, which is the one in JSON, too.
fn word(choice: impl serde::Serialize) -> String {
    serde_json::to_string(&choice).unwrap()
}

fn millis(ms: u64) -> String {
    text(render_duration_ms(ms))
}

/// The tables that `app.toml` may have, too.
pub fn tables(cluster: &DesiredCluster) -> Tables {
    let DesiredCluster { load_balancer, rollout, settle, notify, .. } = cluster;
    let on: Vec<String> = notify.on.iter().map(word).collect();
    let mut tables = Tables::from([
        (
            "rollout",
            BTreeMap::from([
                ("take_out", word(rollout.take_out)),
                ("batch", written_share(rollout.batch)),
                ("tries", rollout.tries.to_string()),
                ("upgrade_timeout", millis(rollout.upgrade_timeout_ms)),
                ("on_failure", word(rollout.on_failure)),
                ("max_failed", rollout.max_failed.to_string()),
                ("max_missing", rollout.max_missing.to_string()),
            ]),
        ),
        (
            "settle",
            BTreeMap::from([
                ("checks", list(&settle.checks)),
                ("interval", millis(settle.interval_ms)),
                ("timeout", millis(settle.timeout_ms)),
                ("soak", millis(settle.soak_ms)),
            ]),
        ),
        (
            "notify",
            BTreeMap::from([
                ("recipients", list(&notify.recipients)),
                ("on", format!("[{}]", on.join(", "))),
            ]),
        ),
    ]);
    if let Some(balancing) = load_balancer {
        let mut keys = BTreeMap::from([
            ("backend", text(&balancing.backend)),
            ("server", text(&balancing.server.0)),
            ("drain", millis(balancing.drain_ms)),
            ("min_ready", written_share(balancing.min_ready)),
        ]);
        keys.extend([written_expect(&balancing.expect)]);
        tables.insert("load_balancer", keys);
    }
    tables
}

/// What stands before the tables.
pub fn head(cluster: &DesiredCluster) -> BTreeMap<&'static str, String> {
    let facts =
        cluster.select.iter().map(|(fact, value)| format!("{} = {}", text(fact), text(value)));
    let facts: Vec<String> = facts.collect();
    let mut keys = BTreeMap::from([
        ("revision", text(&cluster.revision)),
        ("select", format!("{{ {} }}", facts.join(", "))),
        ("retry", text(&cluster.retry)),
        ("after", list(&cluster.after)),
        ("hold", list(&cluster.hold)),
        ("paused", cluster.paused.to_string()),
    ]);
    keys.extend([written_expect(&cluster.expect)]);
    keys
}

/// The text of a file.
pub fn render(head: &BTreeMap<&str, String>, tables: &Tables) -> String {
    let lines = |keys: &BTreeMap<&str, String>| -> String {
        keys.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
    };
    let tables = tables.iter().map(|(name, keys)| format!("\n[{name}]\n{}", lines(keys)));
    lines(head) + &tables.collect::<String>()
}
