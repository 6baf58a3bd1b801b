//! The page at `/` with a thousand nodes.

use std::collections::BTreeMap;

use evenkeel::bus::session::{Event, Handle};
use evenkeel::bus::topics::Topic;
use evenkeel::bus::wire::encode;
use evenkeel::model::{Alive, AppName, AppReport, Boot, NodeName, Report, Revision, RevisionSeen};
use serde_json::Value;

use crate::browser::Browser;
use crate::page::{LIVE, cell_says, dark, desk, lane_says, phone};
use crate::scene::{Broker, Plot};

/// So many nodes, told by one who speaks for all of their agents.
const CROWD: usize = 1_000;

fn crowd_report(number: usize, sequence: u64, revision: RevisionSeen) -> Report {
    let node = NodeName::new(format!("n{number}")).expect("a name");
    let boot = Boot { started: 1, connection: 1 };
    let app = AppReport { revision, attempt: None, settle: None };
    Report {
        sequence,
        facts: BTreeMap::from([("cluster".to_owned(), "big".to_owned())]),
        apps: BTreeMap::from([(AppName::new("crowd").expect("a name"), app)]),
        ..Report::first(node, boot)
    }
}

fn tell(bus: &Handle, report: &Report) {
    let (node, boot) = (report.node.clone(), report.boot);
    let alive = Alive { node: node.clone(), boot, alive: true };
    for (topic, payload) in
        [(Topic::Alive(node.clone()), encode(&alive)), (Topic::Report(node), encode(report))]
    {
        bus.publish(&topic, payload.expect("a document"), true).expect("publish");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_nodes() {
    let scene = Plot { clusters: vec![("alfa", 1)], ..Plot::new(Broker::Mosquitto) }.start();
    scene.write_other("crowd/app.toml", "[rollout]\nbatch = 10\n");
    scene.write_other("crowd/big.toml", &format!("revision = \"1\"\nexpect = {CROWD}\n"));
    let (bus, mut events) = scene.on_the_bus("crowd");
    let connected = events.next().await;
    assert!(matches!(connected, Some(Event::Connected { .. })), "{connected:?}");
    let runs = |revision: &str| RevisionSeen::Running(Revision::new(revision).expect("a revision"));
    for number in 1..=CROWD {
        tell(&bus, &crowd_report(number, 1, runs("1")));
    }
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(LIVE);
    browser.until(&format!("document.querySelectorAll('.cell').length === {}", CROWD + 1));
    browser.until(&lane_says("big", &format!("✓ converged\nrevision 1, {CROWD} of {CROWD} nodes")));
    let elements = browser.run("document.querySelectorAll('*').length").as_u64().expect("a number");
    assert!(elements < 7 * CROWD as u64 + 500, "{elements} elements");
    let whole = browser.run(
        "fetch('api/v1/stream').then(async answer => {
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            let text = '';
            while (!(text.includes('data: ') && text.endsWith('\\n\\n'))) text += (await reader.read()).value;
            await reader.cancel();
            return text.length;
        })",
    );
    let whole = whole.as_u64().expect("a number");
    assert!(whole < 250_000, "{whole} bytes");

    // What is sent when one changes: that one, and the events that are new.
    browser.run(
        "window.pieces = [];
        fetch('api/v1/stream').then(async answer => {
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            for (let text = ''; ; ) {
                text += (await reader.read()).value;
                const parts = text.split('\\n\\n');
                text = parts.pop();
                window.pieces.push(...parts);
            }
        });
        true",
    );
    browser.until("window.pieces.some(piece => piece.startsWith('event: state'))");

    // One changes, and says something wicked.
    let wicked = "<img src=x onerror=alert(1)>";
    let mut report = crowd_report(500, 2, RevisionSeen::Unknown(wicked.to_owned()));
    report.facts.insert("rack".to_owned(), wicked.to_owned());
    tell(&bus, &report);
    browser.until(&cell_says("n500", "revision unknown, to be 1\n… waiting"));
    let mut sizes = "window.pieces.filter(piece => piece.startsWith('event: change')".to_owned();
    sizes += " && piece.includes('n500')).map(piece => piece.length)";
    let sizes = browser.run(&sizes);
    let largest = sizes.as_array().expect("sizes").iter().filter_map(Value::as_u64).max();
    assert!(largest.expect("a change") < 2_500, "{sizes}");
    browser
        .run("[...document.querySelectorAll('.cell')].find(cell => cell.node === 'n500').click()");
    browser.until(&format!(
        "document.getElementById('facts').innerText.includes({:?})",
        format!("rack = {wicked}")
    ));
    assert_eq!(browser.run("document.querySelectorAll('img').length"), 0);
    browser.press("Escape");
    tell(&bus, &crowd_report(500, 3, runs("1")));
    browser.until(&cell_says("n500", "✓ in service"));
    browser.press("End");
    assert_eq!(browser.text(":focus b"), "web1", "the last cell");
    browser.nothing_went_wrong();

    // A filter touches those that it shows or hides, and nothing else.
    browser.press("/");
    browser.type_text("n50");
    let all = CROWD + 1 + 3;
    browser.until(&format!(
        "document.getElementById('shown').textContent === '11 of {all} nodes shown'"
    ));
    browser.run(
        "window.touched = 0;
        new MutationObserver(seen => { window.touched += seen.length; })
            .observe(document.getElementById('fleet'), { subtree: true, attributes: true, childList: true });
        true",
    );
    browser.type_text("0");
    browser.until(&format!(
        "document.getElementById('shown').textContent === '1 of {all} nodes shown'"
    ));
    let touched = browser.run("window.touched").as_u64().expect("a number");
    assert!((10..20).contains(&touched), "{touched}");
    for options in [desk(), dark(), phone()] {
        browser.open(&scene.url(), &options);
        browser.until(&format!("document.querySelectorAll('.cell').length === {}", CROWD + 1));
        browser.is_fine();
    }
}
