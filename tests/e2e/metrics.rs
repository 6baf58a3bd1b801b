//! Metrics, alerts and what is made of them, with the real Prometheus and Alertmanager.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::load::get;
use crate::parts::process::eventually;
use crate::parts::prometheus::{Prometheus, promtool};
use crate::parts::receiver::{Answer, Receiver};
use crate::scene::{Broker, Plot, Scene};

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).expect(path)
}

/// What is said of a metric: its type, and the names of its labels.
pub type Kind = (String, BTreeSet<String>);

/// The metrics of a table in docs/metrics.md: name, type, labels, meaning.
pub fn documented() -> BTreeMap<String, Kind> {
    let words = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let text = read("docs/metrics.md");
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `evenkeel_") || line.starts_with("| `process_"));
    rows.map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        (cells[1].replace('`', ""), (cells[2].to_owned(), words(cells[3])))
    })
    .collect()
}

/// The metrics of a scrape.
pub fn exposed(text: &str) -> BTreeMap<String, Kind> {
    let types: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let mut found: BTreeMap<String, Kind> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().expect("a name");
        let of_histogram = ["_bucket", "_sum", "_count"]
            .iter()
            .filter_map(|suffix| name.strip_suffix(suffix))
            .find(|base| types.get(base) == Some(&"histogram"));
        let base = of_histogram.unwrap_or(name);
        let kind = found
            .entry(base.to_owned())
            .or_insert_with(|| (types[base].to_owned(), BTreeSet::new()));
        kind.1.extend(labels(line).into_keys().filter(|label| label != "le"));
    }
    found
}

/// The labels of a sample; no value of ours has a comma or a quote in it.
fn labels(line: &str) -> BTreeMap<String, String> {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let pairs = inside.map_or("", |(inside, _)| inside).split(',');
    pairs
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned()))
        .collect()
}

/// The sum of a metric's samples that have these labels.
pub fn sum(text: &str, name: &str, wanted: &[(&str, &str)]) -> f64 {
    text.lines()
        .filter(|line| line.split(['{', ' ']).next() == Some(name))
        .filter(|line| {
            let labels = labels(line);
            wanted.iter().all(|(name, value)| labels.get(*name).is_some_and(|is| is == value))
        })
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number"))
        .sum()
}

fn scrape(scene: &Scene) -> String {
    let (status, text) = scene.get("/metrics").expect("metrics");
    assert_eq!(status, 200, "{text}");
    text
}

/// The documented metrics are those that are exposed, with their types and labels, after a scenario that touches all.
#[test]
fn every_metric_is_documented_and_clean() {
    let shown = ["lb1", "notify1", "notify2", "web1"];
    let mut scene = Plot { absent: shown.to_vec(), ..Plot::new(Broker::Mosquitto) }.start();
    let shown = shown.map(|node| scene.start_shown(node));
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");
    scene.told(&["shop/alfa is at 2"]);
    let text = scrape(&scene);
    let alfa = [("app", "shop"), ("cluster", "alfa")];
    let with = |more: (&'static str, &'static str)| [alfa[0], alfa[1], more];
    assert_eq!(sum(&text, "evenkeel_rollouts_total", &alfa), 1.0, "{text}");
    assert_eq!(sum(&text, "evenkeel_rollouts_total", &with(("outcome", "completed"))), 1.0);
    assert_eq!(sum(&text, "evenkeel_rollout_duration_seconds_count", &alfa), 1.0);
    for (phase, least) in
        [("taking_out", 5.0), ("upgrading", 5.0), ("settling", 5.0), ("returning", 5.0)]
    {
        let count =
            sum(&text, "evenkeel_rollout_phase_duration_seconds_count", &with(("phase", phase)));
        assert!(count >= least, "{phase}: {count}\n{text}");
    }
    assert_eq!(sum(&text, "evenkeel_backend_servers", &[("state", "ready")]), 9.0);
    assert_eq!(sum(&text, "evenkeel_backend_servers", &[]), 9.0, "each is in one state");
    assert_eq!(sum(&text, "evenkeel_cluster_decisions", &alfa), 5.0);
    assert_eq!(sum(&text, "evenkeel_cluster_diverged_seconds", &[]), 0.0);
    assert_eq!(sum(&text, "evenkeel_notifications_total", &[("outcome", "delivered")]), 1.0);
    assert_eq!(sum(&text, "evenkeel_cluster_observed_nodes", &with(("revision", "2"))), 5.0);
    let per_node: Vec<&str> = text.lines().filter(|line| line.contains("web")).collect();
    assert!(per_node.is_empty(), "no series of a node unless asked for: {per_node:#?}");

    let agents: Vec<String> = shown
        .map(|address| {
            assert_eq!(get(address, "/healthz").expect("health"), (200, "ok\n".to_owned()));
            get(address, "/metrics").expect("metrics").1
        })
        .to_vec();
    let all = |name: &str, wanted: &[(&str, &str)]| -> f64 {
        agents.iter().map(|text| sum(text, name, wanted)).sum()
    };
    let succeeded = [("app", "shop"), ("outcome", "succeeded")];
    assert_eq!(all("evenkeel_agent_attempts_total", &succeeded), 1.0, "{agents:#?}");
    assert_eq!(all("evenkeel_agent_attempt_duration_seconds_count", &[]), 1.0);
    assert!(
        all("evenkeel_agent_checks_total", &[("check", "check_load"), ("result", "ok")]) >= 1.0
    );
    assert!(all("evenkeel_agent_haproxy_commands_total", &[("outcome", "done")]) >= 10.0);
    assert_eq!(all("evenkeel_agent_deliveries_total", &[("outcome", "delivered")]), 1.0);
    assert_eq!(all("evenkeel_agent_bus_connected", &[]), 4.0);

    // The same with a series per node, too.
    scene.kill_controller();
    let mut command = scene.controller_command();
    scene.controller = Some(scene.spawn("controller", command.arg("--node-metrics")));
    scene.converged("alfa", "2");
    scene.wait_for("all are there", |scene| {
        scene.get("/metrics").is_ok_and(|(_, text)| sum(&text, "evenkeel_node_up", &[]) == 12.0)
    });
    let text = scrape(&scene);
    let mut found = exposed(&text);
    for text in agents.iter().chain([&text]) {
        let said = promtool(&["check", "metrics"], text);
        assert_eq!(said, "", "promtool finds nothing to say");
        found.extend(exposed(text));
    }
    assert_eq!(documented(), found);
}

/// What comes of rollouts other than success, and what stays of a divergence over a restart.
#[test]
fn outcomes_and_divergence_are_counted() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.begin();
    let diverged = |scene: &Scene| {
        scene.get("/metrics").map_or(0.0, |(_, text)| {
            sum(&text, "evenkeel_cluster_diverged_seconds", &[("cluster", "alfa")])
        })
    };
    scene.wait_for("it diverges", |scene| diverged(scene) > 1.0);
    scene.kill_controller();
    scene.start_controller();
    scene.wait_for("the rollout is known", |scene| {
        scene.cluster("alfa").is_some_and(|cluster| cluster.begun.is_some())
    });
    assert!(diverged(&scene) > 1.0, "the ledger knows since when");
    scene.touch("web3", "fail");
    scene.write_cluster("alfa", "revision = \"3\"");
    scene.remove("web2", "gate");
    scene.degraded("alfa", "3");
    let text = scrape(&scene);
    let outcome =
        |name| sum(&text, "evenkeel_rollouts_total", &[("cluster", "alfa"), ("outcome", name)]);
    assert_eq!(outcome("superseded"), 1.0, "{text}");
    assert_eq!(outcome("held"), 1.0, "{text}");
    let failed = [("cluster", "alfa"), ("cause", "failed")];
    assert_eq!(sum(&text, "evenkeel_cluster_cause", &failed), 1.0);
    let blocked = [("decision", "blocked"), ("reason", "failed")];
    assert_eq!(sum(&text, "evenkeel_cluster_decision_reasons", &blocked), 1.0, "{text}");
}

/// The name of a metric, labels of it, and their sum.
type Sample = (&'static str, &'static [(&'static str, &'static str)], f64);

/// What alerts rest on says so when something is wrong, and when it is over.
#[test]
fn what_is_wrong_is_shown_while_it_lasts() {
    let answers = |_: &_| Answer::status(403, "");
    let plot = Plot { clusters: vec![("alfa", 2)], answers, ..Plot::new(Broker::Mosquitto) };
    let mut scene = plot.start();
    scene.converged("alfa", "1");
    let is = |scene: &Scene, name: &str, labels: &[(&str, &str)], wanted: f64| {
        let (_, text) = scene.get("/metrics").expect("metrics");
        // A load balancer that has not read its backends yet has no series.
        text.contains(&format!("\n{name}")) && sum(&text, name, labels) == wanted
    };
    let shows = |scene: &Scene, name: &str, labels: &[(&str, &str)], wanted: f64| {
        let what = format!("{name} {labels:?} is {wanted}");
        scene.wait_for(&what, |scene| is(scene, name, labels, wanted));
    };
    const ALFA: (&str, &str) = ("cluster", "alfa");
    let alfa = ALFA;
    let fine: &[Sample] = &[
        ("evenkeel_app_leads", &[("app", "shop")], 1.0),
        ("evenkeel_desired_read", &[], 1.0),
        ("evenkeel_desired_faults", &[], 0.0),
        ("evenkeel_bus_connected", &[], 1.0),
        ("evenkeel_backend_up", &[("lb", "lb1")], 1.0),
        ("evenkeel_backend_floor_servers", &[("lb", "lb1")], 1.0),
        ("evenkeel_agents", &[("presence", "present")], 5.0),
        ("evenkeel_agents", &[("presence", "departed")], 0.0),
        ("evenkeel_cluster_nodes", &[ALFA, ("state", "expected")], 2.0),
        ("evenkeel_cluster_nodes", &[ALFA, ("state", "present")], 2.0),
        ("evenkeel_cluster_nodes", &[ALFA, ("state", "converged")], 2.0),
        ("evenkeel_cluster_phase", &[ALFA, ("phase", "converged")], 1.0),
        ("evenkeel_cluster_phase", &[ALFA], 1.0),
        ("evenkeel_cluster_observed_nodes", &[ALFA, ("revision", "1")], 2.0),
        ("evenkeel_cluster_observed_revision_info", &[ALFA, ("revision", "1")], 1.0),
        ("evenkeel_cluster_desired_files", &[ALFA, ("standing", "current")], 1.0),
        ("evenkeel_cluster_cause", &[ALFA], 0.0),
        ("evenkeel_cluster_undelivered", &[ALFA], 0.0),
        ("evenkeel_cluster_messages_pending", &[ALFA], 0.0),
        ("evenkeel_cluster_rollout_age_seconds", &[ALFA], 0.0),
        ("evenkeel_reconcile_queue_depth", &[], 0.0),
        ("evenkeel_bus_unconfirmed_publishes", &[], 0.0),
    ];
    for (name, labels, wanted) in fine {
        shows(&scene, name, labels, *wanted);
    }
    let started = sum(&scrape(&scene), "process_start_time_seconds", &[]);
    let now = std::time::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs_f64();
    assert!((now - 600.0..now).contains(&started), "{started} is in seconds, shortly before {now}");

    scene.write_desired("alfa", "revision = \nexpect = 2\n");
    shows(&scene, "evenkeel_desired_faults", &[], 1.0);
    shows(&scene, "evenkeel_cluster_desired_files", &[alfa, ("standing", "last_good")], 1.0);
    scene.write_cluster("alfa", "");
    shows(&scene, "evenkeel_desired_faults", &[], 0.0);

    scene.agent("lb1").kill();
    shows(&scene, "evenkeel_backend_up", &[("lb", "lb1")], 0.0);
    shows(&scene, "evenkeel_cluster_cause", &[alfa, ("cause", "unreachable")], 1.0);
    scene.start_agent("lb1");
    shows(&scene, "evenkeel_backend_up", &[("lb", "lb1")], 1.0);

    scene.agent("web2").kill();
    shows(&scene, "evenkeel_agents", &[("presence", "departed")], 1.0);
    shows(&scene, "evenkeel_cluster_nodes", &[alfa, ("state", "present")], 1.0);
    shows(&scene, "evenkeel_cluster_phase", &[alfa, ("phase", "degraded")], 1.0);
    shows(&scene, "evenkeel_cluster_observed_nodes", &[alfa, ("revision", "unknown")], 1.0);
    scene.start_agent("web2");
    scene.converged("alfa", "1");

    // The service refuses every message, and one node is at work for a while.
    scene.begin();
    shows(&scene, "evenkeel_cluster_phase", &[alfa, ("phase", "progressing")], 1.0);
    scene.wait_for("its age is told", |scene| {
        let text = scrape(scene);
        sum(&text, "evenkeel_cluster_rollout_age_seconds", &[alfa]) > 0.0
            && sum(&text, "evenkeel_cluster_diverged_seconds", &[alfa]) > 0.0
    });
    scene.remove("web2", "gate");
    scene.converged("alfa", "2");
    shows(&scene, "evenkeel_cluster_undelivered", &[alfa], 1.0);
    shows(&scene, "evenkeel_cluster_messages_pending", &[alfa], 1.0);
    scene.wait_for("nothing is decided any more", |scene| {
        sum(&scrape(scene), "evenkeel_cluster_quiet_seconds", &[alfa]) > 1.0
    });

    scene.mosquitto().kill();
    shows(&scene, "evenkeel_bus_connected", &[], 0.0);
    scene.mosquitto().start_again();
    shows(&scene, "evenkeel_bus_connected", &[], 1.0);

    scene.kill_controller();
    fs::rename(scene.folder.join("desired"), scene.folder.join("elsewhere")).expect("rename");
    fs::create_dir(scene.folder.join("desired")).expect("make a folder");
    scene.controller = Some(scene.spawn("controller", &mut scene.controller_command()));
    scene.wait_for("no files are found", |scene| {
        scene.get("/metrics").is_ok_and(|(_, text)| text.contains("\nevenkeel_desired_read 0\n"))
    });
}

/// A cluster whose file has gone is shown while it has nodes, and then no more.
#[test]
fn the_series_of_a_cluster_go_with_it() {
    let mut scene =
        Plot { clusters: vec![("alfa", 2), ("bravo", 2)], ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("bravo", "1");
    fs::remove_file(scene.folder.join("desired/shop/bravo.toml")).expect("remove");
    let vanished = [("cluster", "bravo"), ("standing", "vanished")];
    scene.wait_for("it is shown as vanished", |scene| {
        sum(&scrape(scene), "evenkeel_cluster_desired_files", &vanished) == 1.0
    });
    let controller = format!("http://127.0.0.1:{}", scene.http());
    for node in ["web3", "web4"] {
        scene.agent(node).signal(rustix::process::Signal::TERM);
        scene.wait_for("it has departed", |scene| scene.presence(node) == "departed");
        let mut forget = std::process::Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        let forgotten = forget.args(["forget", node, "--controller", &controller]).output();
        assert!(forgotten.expect("run evenkeel forget").status.success());
    }
    scene.wait_for("nothing is said of it", |scene| !scrape(scene).contains("bravo"));
    assert!(scrape(&scene).contains("cluster=\"alfa\""));
}

/// What the alert on the floor rests on: a floor of all servers binds nobody until something is asked for.
#[test]
fn a_floor_shows_only_where_it_is_in_the_way() {
    let app = vec![("load_balancer", "min_ready = \"100%\"")];
    let scene = Plot { app, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let kept = |scene: &Scene, cluster| {
        let floor = [("cluster", cluster), ("decision", "blocked"), ("reason", "floor")];
        sum(&scrape(scene), "evenkeel_cluster_decision_reasons", &floor)
    };
    let text = scrape(&scene);
    let at_floor = sum(&text, "evenkeel_backend_floor_servers", &[]);
    assert_eq!(at_floor, sum(&text, "evenkeel_backend_servers", &[("state", "ready")]), "{text}");
    assert!(!text.contains("reason=\"floor\""), "{text}");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.wait_for("it is in the way", |scene| kept(scene, "alfa") == 5.0);
    assert_eq!(kept(&scene, "bravo"), 0.0);
    scene.write_cluster("alfa", "revision = \"1\"");
    scene.wait_for("and no more", |scene| !scrape(scene).contains("reason=\"floor\""));
}

/// Every alert is sound, tested both ways, and has a section in the runbook.
#[test]
fn every_alert_is_tested_and_in_the_runbook() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards");
    let path = |name: &str| folder.join(name).to_str().expect("UTF-8").to_owned();
    promtool(&["check", "rules", &path("alerts.yml")], "");
    promtool(&["test", "rules", &path("alerts_test.yml")], "");
    let (rules, tests) = (read("dashboards/alerts.yml"), read("dashboards/alerts_test.yml"));
    let runbook = read("docs/runbook.md");
    let mut alerts = 0;
    for rule in rules.split("- alert: ").skip(1) {
        let name = rule.lines().next().expect("a name");
        let of = |test: &&str| test.contains(&format!("alertname: {name}\n"));
        let (quiet, firing): (Vec<&str>, Vec<&str>) =
            tests.split("  - name: ").filter(of).partition(|test| test.contains("exp_alerts: []"));
        assert!(!quiet.is_empty(), "{name} has no test in which it does not fire");
        assert!(!firing.is_empty(), "{name} has no test in which it fires");
        for part in ["severity: ", "summary: "] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
        let section = rule.split("runbook: docs/runbook.md#").nth(1).expect(name).trim();
        let heading = format!("## {}", section.replace('-', " "));
        let found = runbook.lines().any(|line| line.to_lowercase() == heading);
        assert!(found, "docs/runbook.md has no section {heading:?} for {name}");
        let metrics = rule.split(|c: char| !c.is_alphanumeric() && c != '_');
        for metric in metrics.filter(|word| word.starts_with("evenkeel_")) {
            assert!(documented().contains_key(metric), "{name} rests on an unknown {metric}");
        }
        alerts += 1;
    }
    assert!(alerts > 10, "{alerts} alerts");
}

/// A rollout that does not get on reaches a person, by way of Prometheus and Alertmanager; its end does, too.
#[test]
fn a_stuck_rollout_becomes_an_alert_that_arrives() {
    let app = vec![("settle", "checks = [\"check_busy\"]")];
    let scene = Plot { app, ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    // The same rules, but that a second stands for 20 minutes.
    let mut rules = read("dashboards/alerts.yml");
    for (real, scaled) in [("quiet_seconds > 1200", "quiet_seconds > 1"), ("for: 1m", "for: 0s")] {
        assert!(rules.contains(real), "{real}");
        rules = rules.replace(real, scaled);
    }
    let person = Receiver::answering(Answer::status(200, ""));
    let url = format!("{}/alerts", person.url());
    let _prometheus = Prometheus::start(&[("evenkeel", scene.http())], &rules, &url);
    // Its checks are not OK, for as long as nobody knows.
    scene.touch("web2", "busy");
    scene.write_cluster("alfa", "revision = \"2\"");
    let stuck = |status: &str| {
        let mut alerts = Vec::new();
        for request in person.requests() {
            let document = request.json();
            alerts.extend(document["alerts"].as_array().expect("alerts").clone());
        }
        let labels = serde_json::json!({
            "alertname": "EvenkeelRolloutStuck", "app": "shop", "cluster": "alfa",
            "instance": format!("127.0.0.1:{}", scene.http()), "job": "evenkeel", "severity": "warning",
        });
        alerts.into_iter().find(|alert| alert["labels"] == labels && alert["status"] == status)
    };
    let alert = eventually("the alert arrives", || stuck("firing"));
    assert_eq!(alert["annotations"]["summary"], "The rollout of shop/alfa does not get on.");
    assert_eq!(alert["annotations"]["runbook"], "docs/runbook.md#rollout-stuck");
    scene.remove("web2", "busy");
    scene.converged("alfa", "2");
    eventually("its end arrives", || stuck("resolved"));
}
