//! The history: what is told of a rollout afterwards, over the death of a controller, and with nowhere to write it.

use std::fs;
use std::process::Command;

use evenkeel::history::{Entry, Kind, Page, RolloutOutcome, RolloutPage, Rollouts};
use serde_json::Value;

use crate::browser::Browser;
use crate::page::{LIVE, dark, desk, phone};
use crate::scene::{Broker, Plot, Scene};

/// What `evenkeel history` prints, asked of the running controller, or of its state directory.
fn history(scene: &Scene, live: bool, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("history").args(arguments);
    if live {
        command.arg("--controller").arg(scene.url());
    } else {
        command.arg("--state-dir").arg(scene.folder.join("state/controller"));
    }
    let output = command.output().expect("run evenkeel history");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn read<T: serde::de::DeserializeOwned>(text: &str) -> T {
    serde_json::from_str(text).expect("a document")
}

/// The id of the newest rollout of alfa.
fn newest(scene: &Scene, live: bool) -> String {
    let arguments = ["shop/alfa", "--rollouts", "--output", "json"];
    let list: Rollouts = read(&history(scene, live, &arguments));
    list.rollouts.first().expect("a rollout").rollout.clone()
}

/// The names of what is told of a node, without decisions.
fn way(page: &RolloutPage, node: &str) -> Vec<String> {
    let of = |entry: &&Entry| entry.node.as_deref() == Some(node) && entry.kind != Kind::Decision;
    page.entries.iter().filter(of).map(|entry| entry.name.clone()).collect()
}

/// Whether these come in this order, with whatever between them.
fn in_order(all: &[String], wanted: &[&str]) -> bool {
    let mut rest = all.iter();
    wanted.iter().all(|name| rest.any(|other| other == name))
}

/// Two records of the same, of which a killed writer may have finished one only: then one has something at that place,
/// and the other has not.
fn agree(one: &[Value], other: &[Value]) {
    let same = one.iter().zip(other).take_while(|(one, other)| one == other).count();
    let (long, short) = if one.len() < other.len() { (other, one) } else { (one, other) };
    let more = long.len() - short.len();
    assert_eq!(long[same + more..], short[same..], "beyond what was being written");
}

on_both_brokers! {
    fn a_rollout_with_a_failed_node_is_told_over_a_restart(broker) {
        let plot = Plot { audit_log: Some("audit.log"), ..Plot::new(broker) };
        let mut scene = plot.start();
        scene.converged("alfa", "1");
        scene.converged("bravo", "1");
        scene.commit("Begin with revision 1");
        scene.touch("web3", "fail");
        scene.begin();
        scene.kill_controller();
        scene.remove("web2", "gate");
        scene.start_controller();
        scene.degraded("alfa", "2");
        scene.told(&["shop/alfa: nodes failed"]);

        let rollout = newest(&scene, true);
        let show = ["show", &rollout, "--output", "json"];
        let page: RolloutPage = read(&history(&scene, true, &show));
        let told = &page.rollout;
        assert_eq!((told.from.as_deref(), told.to.as_deref()), (Some("1"), Some("2")));
        assert_eq!((told.outcome, &told.failed), (RolloutOutcome::Held, &vec!["web3".to_owned()]));
        assert!(told.commit.is_some(), "{told:?}");
        assert!(page.entries.windows(2).all(|pair| pair[0].id < pair[1].id), "oldest first");
        // What was permitted before the first controller died was ended by the second.
        let web2 = way(&page, "web2");
        assert!(in_order(&web2, &["take_out", "permit", "withdraw", "put_back"]), "{web2:?}");
        let web3 = way(&page, "web3");
        let tried = ["take_out", "permit", "withdraw", "permit", "withdraw", "node_failed"];
        assert!(in_order(&web3, &tried[..2]) && web3.contains(&"node_failed".to_owned()), "{web3:?}");
        assert_eq!(web3.iter().filter(|name| *name == "permit").count(), 2, "{web3:?}");
        assert!(!web3.contains(&"put_back".to_owned()), "{web3:?}");
        let epoch = |name: &str| {
            let of = |entry: &&Entry| entry.node.as_deref() == Some("web2") && entry.name == name;
            page.entries.iter().find(of).expect(name).epoch.expect("an epoch")
        };
        assert!(epoch("permit") < epoch("withdraw"), "two controllers' lives");
        let permit = page.entries.iter().find(|entry| entry.name == "permit").expect("a permit");
        assert_eq!((permit.before.as_deref(), permit.after.as_deref()), (None, Some("attempt 1 to 2")));
        assert!(permit.cause.starts_with("upgrading to 2, attempt 1"), "{permit:?}");

        let words = history(&scene, true, &["show", &rollout]);
        for part in ["shop/alfa: 1 -> 2, held", "failed        web3", "\nweb3\n", "lb1 is asked to take out app/web3"] {
            assert!(words.contains(part), "{part}: {words}");
        }
        let list = history(&scene, true, &["shop/alfa", "--since", "1h"]);
        assert!(list.contains(&format!("rollout {rollout} to 2 has begun")), "{list}");

        // The audit trail says the same as the database.
        let all: Page = read(&history(&scene, true, &["--all", "--limit", "5000", "--output", "json"]));
        assert_eq!(all.before, None);
        let stored: Vec<Value> = all
            .entries
            .into_iter()
            .map(|entry| serde_json::to_value(Entry { id: None, ..entry }).expect("JSON"))
            .collect();
        let mut written = scene.lines("audit.log");
        for line in &mut written {
            let time = line.as_object_mut().expect("an object").remove("time");
            assert!(time.is_some_and(|time| time.as_str().is_some_and(|time| time.ends_with('Z'))));
        }
        agree(&stored, &written);

        // Each agent says what it was told, by the same numbers, and what it did.
        let web3 = scene.lines("state/web3/audit.log");
        let asked = page.entries.iter().filter(|entry| {
            entry.asked.as_deref() == Some("web3") && entry.name == "permit"
        });
        for entry in asked {
            let told = |line: &&Value| {
                line["what"] == "told"
                    && line["epoch"].as_u64() == entry.epoch
                    && line["controller"].as_str() == entry.controller.as_deref()
                    && line["generation"].as_u64() == entry.generation
            };
            let line = web3.iter().find(told).expect("a line for every permit");
            let asked = line["asked"].as_array().expect("a list");
            assert!(asked.iter().any(|asked| asked["what"] == "permit"), "{line}");
        }
        let ended: Vec<&Value> = web3.iter().filter(|line| line["what"] == "upgrade_ended").collect();
        assert_eq!(ended.len(), 2, "{ended:?}");
        assert!(ended.iter().all(|line| line["outcome"] == "failed" && line["epoch"].is_u64()));
        let lb1 = scene.lines("state/lb1/audit.log");
        let out = |line: &Value| line["what"] == "takes_out" && line["server"] == "app/web3";
        assert!(lb1.iter().any(out), "{lb1:?}");

        // With nobody running, the directory says it.
        scene.kill_controller();
        let stopped: RolloutPage = read(&history(&scene, false, &show));
        assert_eq!((newest(&scene, false), stopped), (rollout, page));
    }
}

#[test]
fn a_history_that_cannot_be_written_stops_nobody() {
    let plot = Plot { audit_log: Some("/dev/full"), ..Plot::new(Broker::Mosquitto) };
    let mut scene = plot.start();
    scene.converged("alfa", "1");
    scene.kill_controller();
    let state = scene.folder.join("state/controller");
    for name in ["history.db", "history.db-wal", "history.db-shm"] {
        // The last two are not there after a clean end, or before the first write.
        let _ = fs::remove_file(state.join(name));
    }
    fs::create_dir(state.join("history.db")).expect("make a folder");
    scene.start_controller();
    scene.begin_load();
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.converged("alfa", "2");
    scene.end_load();
    let failing = |scene: &Scene, place: &str| {
        let (_, text) = scene.get("/metrics").expect("metrics");
        text.contains(&format!("evenkeel_history_failing{{place=\"{place}\"}} 1"))
    };
    for place in ["database", "audit_log"] {
        scene.wait_for("it is shown", |scene| failing(scene, place));
    }
    for place in ["database", "audit trail"] {
        let said = scene.logged("controller", "the history cannot be written");
        assert!(said.iter().any(|line| line.contains(&format!("place=\"{place}\""))), "{said:?}");
    }
    let (status, body) = scene.get("/api/v1/history").expect("an answer");
    assert_eq!(status, 503, "{body}");
    assert!(body.contains("cannot read the history"), "{body}");

    // What waited is written when there is room again.
    fs::remove_dir(state.join("history.db")).expect("remove a folder");
    scene.wait_for("it is written again", |scene| !failing(scene, "database"));
    let rollout = newest(&scene, true);
    let page: RolloutPage = read(&history(&scene, true, &["show", &rollout, "--output", "json"]));
    assert_eq!(page.rollout.outcome, RolloutOutcome::Completed);
    let web1 = way(&page, "web1");
    assert!(in_order(&web1, &["take_out", "permit", "withdraw", "put_back"]), "{web1:?}");
}

#[test]
fn the_page_tells_a_rollout() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(LIVE);
    scene.touch("web3", "fail_once");
    scene.begin();
    let first = "document.querySelector('.rollout')?.innerText ?? ''";
    browser.until(&format!("({first}).includes('↑ under way')"));
    browser.click(".rollout");
    browser.until("document.getElementById('ways').innerText.includes('web2')");
    scene.remove("web2", "gate");
    scene.converged("alfa", "2");
    // The one that is looked at goes on.
    browser
        .until("document.getElementById('rollout-facts').innerText.includes('✓ completed, after')");
    browser.until(&format!("({first}).includes('shop/alfa 1 → 2')"));
    browser.is_fine();

    let focused = "document.activeElement.className || document.activeElement.id";
    for options in [desk(), dark(), phone()] {
        browser.open(&scene.url(), &options);
        browser.until(&format!("({first}).includes('✓ completed')"));
        for _ in 0..60 {
            if browser.run(focused) == "rollout" {
                break;
            }
            browser.press("Tab");
        }
        browser.press("Enter");
        assert_eq!(browser.run(focused), "rollout-name");
        browser.until("document.getElementById('ways').innerText.includes('in service at 2')");
        let ways = browser.text("#ways");
        for words in [
            "web3",
            "lb1 is asked to take out app/web3",
            "an upgrade is permitted (nothing → attempt 2 to 2)",
        ] {
            assert!(ways.contains(words), "{words}: {ways}");
        }
        assert_eq!(browser.run("document.querySelectorAll('#ways details').length >= 6"), true);
        browser.is_fine();
        let wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        assert_eq!(browser.run(wide), true, "it is wider than the screen: {options}");
        browser.press("Escape");
        assert_eq!(browser.run(focused), "rollout", "back to where it was opened");
        assert_eq!(browser.run("document.getElementById('rollout').hidden"), true);
    }
}
