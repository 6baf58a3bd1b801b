//! From files to the model: defaults, overrides, the commit, the schema and the reference.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::fs;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::str::FromStr;

use evenkeel::desired::{Document, load, reference, schema};
use evenkeel::model::{
    AppName, BackendName, ClusterName, DesiredApp, DesiredCluster, Expect, LoadBalancer, NotifyOn,
    NotifyPolicy, OnFailure, Revision, RolloutPolicy, ServerTemplate, SettlePolicy, Share, TakeOut,
};

use super::{directory, git, write_files};
use crate::parts::process::python;

fn app(dir: &Path, name: &str) -> DesiredApp {
    let snapshot = load(dir);
    assert_eq!(snapshot.all_faults().collect::<Vec<_>>(), Vec::<&_>::new());
    snapshot.apps[&AppName::new(name).unwrap()].clone().unwrap()
}

fn cluster(dir: &Path, app_name: &str, name: &str) -> DesiredCluster {
    app(dir, app_name).clusters[&ClusterName::new(name).unwrap()].clone()
}

fn set<T: Ord + FromStr<Err: Debug>>(names: &[&str]) -> BTreeSet<T> {
    names.iter().map(|name| name.parse().unwrap()).collect()
}

/// What a cluster is with nothing but what is required.
fn bare() -> DesiredCluster {
    DesiredCluster {
        revision: Revision::new("1.4.2").unwrap(),
        expect: Expect::Count(5),
        select: BTreeMap::from([("cluster".into(), "alfa".into())]),
        retry: String::new(),
        after: BTreeSet::new(),
        hold: BTreeSet::new(),
        paused: false,
        load_balancer: None,
        rollout: RolloutPolicy {
            take_out: TakeOut::Cluster,
            batch: Share::Count(2),
            tries: 2,
            upgrade_timeout_ms: 600_000,
            on_failure: OnFailure::Hold,
            max_failed: 0,
            max_missing: 0,
        },
        settle: SettlePolicy {
            checks: set(&["check_load"]),
            interval_ms: 10_000,
            timeout_ms: 100_000,
            soak_ms: 0,
        },
        notify: NotifyPolicy {
            recipients: BTreeSet::new(),
            on: [NotifyOn::Completed, NotifyOn::Failed, NotifyOn::Recovered].into(),
        },
    }
}

fn balancer() -> LoadBalancer {
    LoadBalancer {
        backend: BackendName::new("app").unwrap(),
        expect: Expect::Count(1),
        server: ServerTemplate("{node}".into()),
        drain_ms: 0,
        min_ready: Share::Percent(40),
    }
}

#[test]
fn defaults() {
    let dir =
        directory("-- shop/app.toml --\n-- shop/alfa.toml --\nrevision = \"1.4.2\"\nexpect = 5\n");
    assert_eq!(cluster(dir.path(), "shop", "alfa"), bare());
    write_files(dir.path(), "-- shop/app.toml --\n[load_balancer]\nbackend = \"app\"\n");
    let wanted = DesiredCluster { load_balancer: Some(balancer()), ..bare() };
    assert_eq!(cluster(dir.path(), "shop", "alfa"), wanted);
}

#[test]
fn every_key_reaches_the_model() {
    let dir = directory(
        r#"
-- shop/app.toml --
version = 1
[load_balancer]
backend = "be_shop"
nodes = ["lb1", "lb2"]
server = "{node}-{rack}"
drain = "1m 30s"
min_ready = 3
[rollout]
take_out = "batch"
batch = "25%"
tries = 3
upgrade_timeout = "1h"
on_failure = "rollback"
max_failed = 1
max_missing = 2
[settle]
checks = ["check_load", "check_http"]
interval = "5s"
timeout = "2m"
soak = "30s"
[notify]
recipients = ["oncall", "boss"]
on = ["failed"]
-- shop/alfa.toml --
version = 1
revision = "1.4.2"
nodes = ["web1", "web2"]
select = { role = "web", "os.family" = "debian" }
retry = "disk was full"
after = ["bravo"]
hold = ["web2"]
paused = true
-- shop/bravo.toml --
revision = "1.4.2"
expect = 1
"#
        .trim_start(),
    );
    let wanted = DesiredCluster {
        revision: Revision::new("1.4.2").unwrap(),
        expect: Expect::Nodes(set(&["web1", "web2"])),
        select: BTreeMap::from([
            ("role".into(), "web".into()),
            ("os.family".into(), "debian".into()),
        ]),
        retry: "disk was full".into(),
        after: set(&["bravo"]),
        hold: set(&["web2"]),
        paused: true,
        load_balancer: Some(LoadBalancer {
            backend: BackendName::new("be_shop").unwrap(),
            expect: Expect::Nodes(set(&["lb1", "lb2"])),
            server: ServerTemplate("{node}-{rack}".into()),
            drain_ms: 90_000,
            min_ready: Share::Count(3),
        }),
        rollout: RolloutPolicy {
            take_out: TakeOut::Batch,
            batch: Share::Percent(25),
            tries: 3,
            upgrade_timeout_ms: 3_600_000,
            on_failure: OnFailure::Rollback,
            max_failed: 1,
            max_missing: 2,
        },
        settle: SettlePolicy {
            checks: set(&["check_load", "check_http"]),
            interval_ms: 5_000,
            timeout_ms: 120_000,
            soak_ms: 30_000,
        },
        notify: NotifyPolicy {
            recipients: set(&["oncall", "boss"]),
            on: [NotifyOn::Failed].into(),
        },
    };
    assert_eq!(cluster(dir.path(), "shop", "alfa"), wanted);
    accepts(Document::App, &dir.path().join("shop/app.toml"), true);
    accepts(Document::Cluster, &dir.path().join("shop/alfa.toml"), true);
}

#[test]
fn a_cluster_overrides_key_by_key() {
    let dir = directory(
        r#"
-- shop/app.toml --
[load_balancer]
backend = "app"
expect = 2
drain = "5s"
[rollout]
batch = 3
tries = 5
[notify]
recipients = ["oncall"]
-- shop/alfa.toml --
revision = "1.4.2"
expect = 5
[load_balancer]
nodes = ["lb1"]
[rollout]
batch = "50%"
[notify]
recipients = []
-- shop/bravo.toml --
revision = "1.4.2"
expect = 5
"#
        .trim_start(),
    );
    let alfa = cluster(dir.path(), "shop", "alfa");
    let bravo = cluster(dir.path(), "shop", "bravo");
    let nodes = Expect::Nodes(set(&["lb1"]));
    let of_app = LoadBalancer { drain_ms: 5_000, ..balancer() };
    assert_eq!(alfa.load_balancer, Some(LoadBalancer { expect: nodes, ..of_app.clone() }));
    assert_eq!(bravo.load_balancer, Some(LoadBalancer { expect: Expect::Count(2), ..of_app }));
    assert_eq!((alfa.rollout.batch, alfa.rollout.tries), (Share::Percent(50), 5));
    assert_eq!((bravo.rollout.batch, bravo.rollout.tries), (Share::Count(3), 5));
    assert_eq!((alfa.notify.recipients.len(), bravo.notify.recipients.len()), (0, 1));
    accepts(Document::Cluster, &dir.path().join("shop/alfa.toml"), true);
}

#[test]
fn the_model_survives_a_round_trip() {
    let shop = app(Path::new("desired"), "shop");
    let json = serde_json::to_string(&shop).unwrap();
    assert_eq!(serde_json::from_str::<DesiredApp>(&json).unwrap(), shop);
}

#[test]
fn the_reference_scenario() {
    for (name, nodes) in [("alfa", 5), ("bravo", 4)] {
        let wanted = DesiredCluster {
            revision: Revision::new("1").unwrap(),
            expect: Expect::Count(nodes),
            select: BTreeMap::from([("cluster".into(), name.into())]),
            load_balancer: Some(balancer()),
            notify: NotifyPolicy { recipients: set(&["oncall"]), ..bare().notify },
            ..bare()
        };
        assert_eq!(cluster(Path::new("desired"), "shop", name), wanted);
        accepts(Document::Cluster, Path::new(&format!("desired/shop/{name}.toml")), true);
    }
    accepts(Document::App, Path::new("desired/shop/app.toml"), true);
}

/// Asks a JSON Schema validator that shares no code with evenkeel.
fn accepts(document: Document, file: &Path, wanted: bool) {
    let text = std::fs::read_to_string(file).expect("read a desired file");
    let value: serde_json::Value = toml::from_str(&text).expect("it is TOML");
    accepts_value(document, &value, wanted);
}

fn accepts_value(document: Document, value: &serde_json::Value, wanted: bool) {
    const VALIDATE: &str = "import json, sys
from jsonschema import Draft202012Validator as Validator
schema, value = json.load(sys.stdin)
Validator.check_schema(schema)
print([error.message for error in Validator(schema).iter_errors(value)])";
    let mut python = Command::new(python("jsonschema", "python3-jsonschema"))
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("start python3");
    let input = serde_json::to_vec(&(schema(document), value)).unwrap();
    python.stdin.take().unwrap().write_all(&input).unwrap();
    let output = python.wait_with_output().unwrap();
    assert!(output.status.success(), "python3 failed: {}", output.status);
    let errors = String::from_utf8(output.stdout).unwrap();
    assert_eq!(errors.trim() == "[]", wanted, "{document:?} {value}: {errors}");
}

#[test]
fn the_schema_refuses_what_the_decoder_refuses() {
    for (document, text) in [
        (Document::App, "colour = 1"),
        (Document::App, "revision = \"1\""),
        (Document::App, "version = 2"),
        (Document::App, "[rollout]\nbatch = 0"),
        (Document::App, "[rollout]\ntake_out = \"all\""),
        (Document::App, "[load_balancer]\nbackend = \"a b\""),
        (Document::App, "[load_balancer]\nexpect = 1\nnodes = [\"lb1\"]"),
        (Document::App, "[settle]\ntimeout = \"100\""),
        (Document::Cluster, "expect = 5"),
        (Document::Cluster, "revision = \"1\""),
        (Document::Cluster, "revision = \"1\"\nexpect = 5\nnodes = [\"web1\"]"),
        (Document::Cluster, "revision = \"1\"\nnodes = []"),
        (Document::Cluster, "revision = \"1\"\nexpect = 5\nroll_out = {}"),
        (Document::Cluster, "revision = \"-1\"\nexpect = 5"),
    ] {
        let value: serde_json::Value = toml::from_str(text).unwrap();
        accepts_value(document, &value, false);
        let dir = match document {
            Document::App => directory(&format!("-- shop/app.toml --\n{text}\n")),
            Document::Cluster => {
                directory(&format!("-- shop/app.toml --\n-- shop/alfa.toml --\n{text}\n"))
            }
        };
        assert_ne!(load(dir.path()).all_faults().count(), 0, "{text}");
    }
}

#[test]
fn the_reference_has_every_key() {
    let docs = std::fs::read_to_string("docs/desired.md").expect("read docs/desired.md");
    let reference = reference();
    assert!(
        docs.contains(&reference),
        "docs/desired.md must contain, word for word, what the table of keys says:\n\n{reference}"
    );
}

#[test]
fn kubernetes_mounts_are_followed() {
    let dir = directory(
        "-- ..2026_1/shop/app.toml --\n-- ..2026_1/shop/alfa.toml --\nrevision = \"1.4.2\"\nexpect = 5\n\
         -- blog/..2026_1/app.toml --\n-- blog/..2026_1/main.toml --\nrevision = \"1\"\nexpect = 1\n",
    );
    symlink("..2026_1", dir.path().join("..data")).unwrap();
    symlink("..data/shop", dir.path().join("shop")).unwrap();
    let blog = dir.path().join("blog");
    symlink("..2026_1", blog.join("..data")).unwrap();
    symlink("..data/app.toml", blog.join("app.toml")).unwrap();
    symlink("..data/main.toml", blog.join("main.toml")).unwrap();
    assert_eq!(cluster(dir.path(), "shop", "alfa"), bare());
    assert_eq!(app(dir.path(), "blog").clusters.len(), 1);
    assert_eq!(load(dir.path()).apps.len(), 2);
}

#[test]
fn the_digest_is_of_the_content() {
    let files = "-- shop/app.toml --\n-- shop/alfa.toml --\nrevision = \"1\"\nexpect = 5\n";
    let (one, other) = (directory(files), directory(files));
    assert_eq!(load(one.path()).digest, load(other.path()).digest);
    write_files(other.path(), "-- shop/README --\nnothing\n-- shop/.alfa.toml.swp --\n");
    assert_eq!(load(one.path()).digest, load(other.path()).digest);
    write_files(other.path(), "-- shop/bravo.toml --\n");
    assert_ne!(load(one.path()).digest, load(other.path()).digest);
}

#[test]
fn the_commit_is_told() {
    let dir = directory(
        "-- desired/shop/app.toml --\n-- desired/shop/alfa.toml --\nrevision = \"1\"\nexpect = 5\n",
    );
    let desired = dir.path().join("desired");
    assert_eq!(app(&desired, "shop").commit, None);
    git(dir.path(), &["init", "-q", "-b", "main"]);
    assert_eq!(app(&desired, "shop").commit, None, "there is no commit yet");
    git(dir.path(), &["add", "."]);
    git(dir.path(), &["commit", "-q", "-m", "Begin with alfa\n\nAnd say no more."]);

    let head = git(dir.path(), &["rev-parse", "HEAD"]);
    let commit = app(&desired, "shop").commit.expect("a commit");
    assert_eq!((commit.id.as_str(), commit.subject.as_str()), (head.as_str(), "Begin with alfa"));
    git(dir.path(), &["pack-refs", "--all"]);
    assert_eq!(app(&desired, "shop").commit, Some(commit.clone()), "from packed-refs");
    git(dir.path(), &["checkout", "-q", "--detach"]);
    assert_eq!(app(&desired, "shop").commit, Some(commit.clone()), "with a detached HEAD");
    let linked = tempfile::tempdir().unwrap();
    let tree = linked.path().join("tree");
    git(dir.path(), &["worktree", "add", "-q", "-b", "other", tree.to_str().unwrap()]);
    assert_eq!(app(&tree.join("desired"), "shop").commit, Some(commit), "in a linked work tree");

    let modified = || app(&desired, "shop").commit.expect("a commit").modified;
    fs::write(dir.path().join("README"), "No desired file.").unwrap();
    fs::write(desired.join("shop/.alfa.toml.swp"), "An editor's.").unwrap();
    assert!(!modified());
    let alfa = desired.join("shop/alfa.toml");
    let committed = fs::read(&alfa).unwrap();
    fs::write(&alfa, "revision = \"2\"\nexpect = 5\n").unwrap();
    assert!(modified(), "a file that differs");
    fs::write(&alfa, committed).unwrap();
    assert!(!modified(), "it is as it was");
    fs::write(desired.join("shop/bravo.toml"), "revision = \"1\"\nexpect = 4\n").unwrap();
    assert!(modified(), "one that was never committed");
    git(dir.path(), &["add", "desired/shop/bravo.toml"]);
    assert!(modified(), "nor is it by this");
    git(dir.path(), &["commit", "-q", "-m", "Bravo joins"]);
    assert_eq!(app(&desired, "shop").commit.unwrap().to_string()[19..], *": Bravo joins");
}

#[test]
fn files_from_other_systems_are_read() {
    let dir = directory("-- shop/app.toml --\n");
    let file = dir.path().join("shop/alfa.toml");
    std::fs::write(&file, "\u{feff}revision = \"1.4.2\"\r\nexpect = 5\r\n").unwrap();
    assert_eq!(cluster(dir.path(), "shop", "alfa"), bare());
    std::fs::write(&file, "revision = \"1.4.2\"\r\nexpect = 0\r\n").unwrap();
    let faults: Vec<_> = load(dir.path()).all_faults().cloned().collect();
    assert_eq!((faults.len(), faults[0].line, faults[0].column), (1, 2, 10));
    assert!(!faults[0].rendered.contains('\r'));
}
