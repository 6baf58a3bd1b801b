//! The dashboards: what Grafana would ask of a Prometheus, asked of a real one that has scraped a real rollout.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::parts::process::eventually;
use crate::parts::prometheus::Prometheus;
use crate::parts::receiver::{Answer, Receiver};
use crate::scene::{Broker, Plot};

const DASHBOARDS: [&str; 3] = ["controller", "fleet", "rollout"];

fn dashboard(name: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("dashboards/{name}.json"));
    serde_json::from_str(&fs::read_to_string(path).expect(name)).expect(name)
}

fn list<'a>(value: &'a Value, what: &str) -> &'a Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no {what}"))
}

/// The queries of all panels and variables, with the panel's title, and what stands for `$name` filled in.
fn queries(dashboard: &Value) -> Vec<(String, String)> {
    let mut queries = Vec::new();
    for panel in list(&dashboard["panels"], "panels") {
        for target in list(&panel["targets"], "targets") {
            let title = panel["title"].as_str().expect("a title");
            queries.push((title.to_owned(), target["expr"].as_str().expect("a query").to_owned()));
        }
    }
    for variable in list(&dashboard["templating"]["list"], "variables") {
        if variable["type"] == "query" {
            let query = variable["query"]["query"].as_str().expect("a query");
            let inside = query.strip_prefix("label_values(").and_then(|q| q.strip_suffix(')'));
            let (series, label) = inside.expect(query).rsplit_once(", ").expect(query);
            queries
                .push((format!("${}", variable["name"]), format!("group by ({label}) ({series})")));
        }
    }
    for (_, query) in &mut queries {
        for (name, value) in [("$app", "shop"), ("$cluster", "alfa"), ("$__rate_interval", "1m")] {
            *query = query.replace(name, value);
        }
        assert!(!query.contains('$'), "an unknown variable in {query}");
    }
    queries
}

/// Each parses, and each returns data.
#[test]
fn every_query_returns_data() {
    let scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let nobody = Receiver::answering(Answer::status(200, ""));
    let prometheus =
        Prometheus::start(&[("evenkeel", scene.http())], "groups: []\n", &nobody.url());
    eventually("a first scrape", || {
        let seen = prometheus.query("evenkeel_rollouts_total == 0").expect("a query");
        (!seen.is_empty()).then_some(())
    });
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");
    scene.told(&["shop/alfa is at 2"]);
    let mut asked = 0;
    for name in DASHBOARDS {
        for (title, query) in queries(&dashboard(name)) {
            eventually(&format!("data for {name}: {title}: {query}"), || {
                let values = prometheus.query(&query);
                let values =
                    values.unwrap_or_else(|error| panic!("{name}: {title}: {query}: {error}"));
                values.iter().any(|value| !value.is_nan()).then_some(())
            });
            asked += 1;
        }
    }
    assert!(asked > 40, "{asked} queries");
}

/// They can be imported as they are: nothing in them belongs to one Grafana.
#[test]
fn they_import_without_edits() {
    let mut uids = BTreeSet::new();
    for name in DASHBOARDS {
        let board = dashboard(name);
        assert!(uids.insert(board["uid"].as_str().expect("a uid").to_owned()), "{name}");
        assert!(board.get("id").is_none_or(Value::is_null), "{name} has another Grafana's number");
        assert!(board["schemaVersion"].as_u64().expect("a version") >= 39, "{name}");
        let variables = list(&board["templating"]["list"], "variables");
        assert_eq!(variables[0]["type"], "datasource", "{name}");
        assert_eq!(variables[0]["query"], "prometheus", "{name}");
        let source = serde_json::json!({ "type": "prometheus", "uid": "${datasource}" });
        for variable in variables.iter().skip(1) {
            assert_eq!(variable["datasource"], source, "{name}");
        }
        let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
        for panel in list(&board["panels"], "panels") {
            let title = &panel["title"];
            assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{name}: {title}");
            assert!(
                panel["description"].as_str().is_some_and(|d| !d.is_empty()),
                "{name}: {title}"
            );
            assert_eq!(panel["datasource"], source, "{name}: {title}");
            for target in list(&panel["targets"], "targets") {
                assert_eq!(target["datasource"], source, "{name}: {title}");
            }
            let at = |side: &str| panel["gridPos"][side].as_u64().expect("a place");
            assert!(at("x") + at("w") <= 24, "{name}: {title}");
            for x in at("x")..at("x") + at("w") {
                for y in at("y")..at("y") + at("h") {
                    assert!(places.insert((x, y)), "{name}: {title} lies over another panel");
                }
            }
        }
    }
}
