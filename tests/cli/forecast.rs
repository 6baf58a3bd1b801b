//! What `plan` prints.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel::cli::plan::Forecast;
use evenkeel::model::{AttemptOutcome, BackendSeen, Health, Presence};
use expect_test::expect;

use crate::fleet::{node, revision};
use crate::program::ask;
use crate::stage::{converged, declare, midway, run, showing};

#[test]
fn nothing_to_do() {
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop: nothing to do
        shop ends converged:
          alfa converged, 5 of 5 at 1: every node serves 1
          bravo converged, 4 of 4 at 1: every node serves 1
        exit code 0
    "#]].assert_eq(&ask(&showing(&converged()), &["plan"]).quiet());
}

#[test]
fn a_rollout() {
    let mut world = converged();
    declare(&mut world, "alfa", "2");
    let controller = showing(&world);
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop:
          1  ask to answer: web1 web2 web3 web4 web5
          2  take out: web1 web2 web3 web4 web5
             * alfa: rollout ff7b1eda183a to 2 has begun
          3  upgrade to 2 (attempt 1 of 2): web1 web2
          4  withdraw the permit: web1 web2; upgrade to 2 (attempt 1 of 2): web3 web4
          5  withdraw the permit: web3 web4; upgrade to 2 (attempt 1 of 2): web5
          6  withdraw the permit: web5
          7  put back: web1 web2 web3 web4 web5
          8  end the soak: web1 web2 web3 web4 web5
          9  -
             * alfa: converged on 2 (rollout ff7b1eda183a)
        shop ends converged:
          alfa converged, 5 of 5 at 2: every node serves 2
          bravo converged, 4 of 4 at 1: every node serves 1
        exit code 2
    "#]].assert_eq(&ask(&controller, &["plan", "shop"]).quiet());
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop:
          1  ask to answer: web1 web2 web3 web4 web5
          2  take out: web1 web2 web3 web4 web5
             * alfa: rollout ff7b1eda183a to 2 has begun
          3  upgrade to 2 (attempt 1 of 2): web1 web2
          4  withdraw the permit: web1 web2; upgrade to 2 (attempt 1 of 2): web3 web4
          5  withdraw the permit: web3 web4; upgrade to 2 (attempt 1 of 2): web5
          6  withdraw the permit: web5; upgrade to 2 (attempt 2 of 2): web4
          7  withdraw the permit: web4
             * alfa web4: failed: every attempt has failed: the command ended with exit code 1
             * alfa: 2 is rejected; holding
          8  put back: web1 web2 web3 web5
          9  end the soak: web1 web2 web3 web5
        shop ends blocked:
          alfa degraded, 4 of 5 at 2: 2 was rejected
          bravo converged, 4 of 4 at 1: every node serves 1
          web4: blocked: every attempt has failed: the command ended with exit code 1
        exit code 3
    "#]].assert_eq(&ask(&controller, &["plan", "--fail", "web4"]).quiet());
}

#[test]
fn a_rollout_that_is_under_way() {
    let mut world = midway();
    // As an agent reports it while the upgrade runs.
    for name in ["web1", "web2"] {
        let report = world.nodes.get_mut(&node(name)).unwrap().report.as_mut().unwrap();
        let shop = Arc::make_mut(report).apps.values_mut().next().unwrap();
        shop.attempt.as_mut().unwrap().outcome = AttemptOutcome::Running;
        shop.revision = evenkeel::model::RevisionSeen::Running(revision("1"));
        shop.settle = None;
    }
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop:
             what is under way ends well: alfa
          1  withdraw the permit: web1 web2; upgrade to 2 (attempt 1 of 2): web3 web4
          2  withdraw the permit: web3 web4; upgrade to 2 (attempt 1 of 2): web5
          3  withdraw the permit: web5
          4  put back: web1 web2 web3 web4 web5
          5  end the soak: web1 web2 web3 web4 web5
          6  -
             * alfa: converged on 2 (rollout ff7b1eda183a)
        shop ends converged:
          alfa converged, 5 of 5 at 2: every node serves 2
          bravo converged, 4 of 4 at 1: every node serves 1
        exit code 2
    "#]].assert_eq(&ask(&showing(&world), &["plan"]).quiet());
}

#[test]
fn a_server_that_has_just_been_put_back() {
    let mut world = converged();
    declare(&mut world, "alfa", "2");
    run(&mut world, 7);
    // As HAProxy shows it until its health checks have passed.
    let report = world.nodes.get_mut(&node("lb1")).unwrap().report.as_mut().unwrap();
    let balancer = Arc::make_mut(report).balancer.as_mut().unwrap();
    let Some(BackendSeen::Servers(servers)) = balancer.backends.values_mut().next() else {
        panic!("no servers")
    };
    let server = servers.values_mut().next().unwrap();
    (server.seen.health, server.steady_for_ms) = (Health::Down, 0);
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop:
          1  end the soak: web1 web2 web3 web4 web5
          2  -
             * alfa: converged on 2 (rollout ff7b1eda183a)
        shop ends converged:
          alfa converged, 5 of 5 at 2: every node serves 2
          bravo converged, 4 of 4 at 1: every node serves 1
        exit code 2
    "#]].assert_eq(&ask(&showing(&world), &["plan"]).quiet());
}

#[test]
fn a_fleet_that_is_blocked() {
    let mut world = converged();
    world.nodes.get_mut(&node("web4")).unwrap().presence = Presence::Unknown;
    declare(&mut world, "alfa", "2");
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop: nothing can be done
        shop ends blocked:
          alfa degraded, 0 of 5 at 2: 1 expected nodes are not there, 0 may be absent: web4
          bravo converged, 4 of 4 at 1: every node serves 1
          web1 web2 web3 web5: blocked: 1 expected nodes are not there, 0 may be absent: web4
          web4: blocked: its agent is not heard
        exit code 3
    "#]].assert_eq(&ask(&showing(&world), &["plan"]).quiet());
}

/// A desired directory as in the reference scenario, with some files written anew.
fn desired(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("shop")).expect("a folder");
    let common = "[load_balancer]\nbackend = \"app\"\nexpect = 1\nmin_ready = \"40%\"\n\
                  [rollout]\nbatch = 2\n[settle]\nchecks = [\"check_load\"]\n";
    let write = |name: &str, text: &str| {
        let path: PathBuf = dir.path().join(Path::new(name));
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, text).expect("write a file");
    };
    write("shop/app.toml", common);
    write("shop/alfa.toml", "revision = \"1\"\nexpect = 5\n");
    for (name, text) in files {
        write(name, text);
    }
    dir
}

#[test]
fn files_that_are_not_committed_yet() {
    let controller = showing(&converged());
    let plan = |dir: &tempfile::TempDir| {
        let dir = dir.path().to_str().expect("UTF-8").to_owned();
        let ended = ask(&controller, &["plan", "--desired", &dir]);
        (ended.code, ended.out, ended.err.replace(&dir, "DIR"))
    };
    // bravo has no file here: it would be left alone, and told.
    let (code, out, err) = plan(&desired(&[]));
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop: nothing to do
        shop ends converged:
          alfa converged, 5 of 5 at 1: every node serves 1
          bravo converged, 4 of 4 at 1: its desired file has gone
        exit code 0
    "#]].assert_eq(&format!("{out}{err}exit code {code}\n"));
    let bravo = ("shop/bravo.toml", "revision = \"2\"\nexpect = 4\n");
    let (code, out, err) = plan(&desired(&[bravo]));
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        shop:
          1  ask to answer: web6 web7 web8 web9
          2  take out: web6 web7 web8 web9
             * bravo: rollout 600b44cc18cf to 2 has begun
          3  upgrade to 2 (attempt 1 of 2): web6 web7
          4  withdraw the permit: web6 web7; upgrade to 2 (attempt 1 of 2): web8 web9
          5  withdraw the permit: web8 web9
          6  put back: web6 web7 web8 web9
          7  end the soak: web6 web7 web8 web9
          8  -
             * bravo: converged on 2 (rollout 600b44cc18cf)
        shop ends converged:
          alfa converged, 5 of 5 at 1: every node serves 1
          bravo converged, 4 of 4 at 2: every node serves 2
        exit code 2
    "#]].assert_eq(&format!("{out}{err}exit code {code}\n"));
    let (code, out, err) = plan(&desired(&[("shop/bravo.toml", "revision = 2\nexpect = 4\n")]));
    expect![[r#"
        evenkeel: DIR has faults, and is not planned for:

        error: `revision` must be a revision, not a number; write it in quotes
         --> shop/bravo.toml:1:12
          |
        1 | revision = 2
          |            ^
        exit code 4
    "#]]
    .assert_eq(&format!("{out}{err}exit code {code}\n"));
}

#[test]
fn an_app_that_is_new() {
    let controller = showing(&converged());
    let bravo = ("shop/bravo.toml", "revision = \"1\"\nexpect = 4\n");
    let app = ("cart/app.toml", "[rollout]\nbatch = 1\n");
    let dir = desired(&[bravo, app, ("cart/main.toml", "revision = \"1\"\nexpect = 1\n")]);
    let dir = dir.path().to_str().expect("UTF-8");
    expect![[r#"
        This assumes that every act and every check succeeds, and that whoever is silent stays silent
        and maintenance set by others stays set. Nothing is touched.

        cart: nothing can be done
        cart ends blocked:
          main degraded, 0 of 1 at 1: 1 expected nodes are not there, 0 may be absent
        exit code 3
    "#]].assert_eq(&ask(&controller, &["plan", "cart", "--desired", dir]).quiet());
}

#[test]
fn json_reads_back() {
    let mut world = converged();
    declare(&mut world, "alfa", "2");
    let told = ask(&showing(&world), &["plan", "--output", "json", "--fail", "web4"]);
    assert_eq!((told.code, told.err.as_str()), (3, ""));
    let forecasts: Vec<Forecast> = serde_json::from_str(&told.out).unwrap();
    let [forecast] = forecasts.as_slice() else { panic!("{forecasts:?}") };
    assert!(!forecast.converged);
    assert!(forecast.blocked[&node("web4")].contains("every attempt has failed"));
    assert_eq!(forecast.rounds[0].acts[0].nodes.len(), 5);
}
