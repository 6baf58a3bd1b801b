//! The page at `/`, in a real browser, over a real fleet.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::browser::Browser;
use crate::parts::process::DEADLINE;
use crate::parts::receiver::Answer;
use crate::scene::{Broker, Plot, Scene};

pub const LIVE: &str = "document.getElementById('link').dataset.live === 'yes'";

pub fn desk() -> Value {
    json!({ "viewport": { "width": 1280, "height": 900 }, "colorScheme": "light" })
}

pub fn dark() -> Value {
    json!({ "viewport": { "width": 1280, "height": 900 }, "colorScheme": "dark" })
}

pub fn phone() -> Value {
    json!({ "viewport": { "width": 390, "height": 844 }, "colorScheme": "light", "isMobile": true, "hasTouch": true,
        "reducedMotion": "reduce" })
}

/// An expression: the text of a node's cell has these words. Not `innerText`, which is empty for what
/// a browser has not laid out, as it is out of sight.
pub fn cell_says(node: &str, words: &str) -> String {
    format!(
        "[...document.querySelectorAll('.cell')].map(cell => [...cell.children].map(part => part.textContent))
            .some(texts => texts[0] === {node:?} && texts.join('\\n').includes({words:?}))"
    )
}

pub fn lane_says(cluster: &str, words: &str) -> String {
    format!(
        "[...document.querySelectorAll('.lane')].some(l => l.querySelector('h3').innerText === {cluster:?} && l.querySelector('.lane-head').innerText.includes({words:?}))"
    )
}

#[test]
fn a_rollout_from_start_to_end() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(LIVE);
    browser.until("document.querySelectorAll('.cell').length === 9");
    for cluster in ["alfa", "bravo"] {
        browser.until(&lane_says(cluster, "✓ converged"));
    }
    browser.until(&cell_says("web1", "✓ in service\nin service at 1"));

    scene.midway();
    browser.until(&lane_says("alfa", "↑ progressing"));
    browser.until(&lane_says("alfa", "rollout: 2 of 5 upgraded, 0 back in service"));
    browser.until(&lane_says("alfa", "(an estimate)"));
    browser.until(&cell_says(
        "web2",
        "runs 1, to be 2\n↑ upgrading\nwaiting for the upgrade to 2, attempt 1",
    ));
    browser.until(&cell_says("web1", "runs 2\n~ settling"));
    browser.until(&lane_says("bravo", "✓ converged"));
    browser.until("document.querySelector('.lb').innerText === 'backend app at lb1: 4 of 9 servers ready, floor 4'");
    browser.until("document.getElementById('events').innerText.includes('shop/alfa: rollout')");
    browser.is_fine();

    scene.remove("web2", "gate");
    scene.remove("web4", "gate");
    browser.until(&lane_says("alfa", "✓ converged"));
    browser.until(&cell_says("web2", "runs 2\n✓ in service\nin service at 2"));
    browser.until("document.querySelector('.lb').innerText.includes('9 of 9')");
    browser.until("document.getElementById('said').textContent.includes('converged on 2')");
    browser.is_fine();
}

#[test]
fn a_message_links_to_its_cluster() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.write_cluster("bravo", "revision = \"2\"");
    scene.told(&["shop/bravo is at 2"]);
    let message = scene.receiver.requests().remove(0).json();
    assert_eq!(message["link"], format!("{}#shop/bravo", scene.url()));
    let text = format!("All 4 nodes are in service.\n1 → 2\n{}#shop/bravo", scene.url());
    assert_eq!(message["text"], text);
    let mut browser = Browser::start();
    browser.open(message["link"].as_str().expect("a link"), &phone());
    browser.until("document.activeElement.textContent === 'bravo'");
    browser.until("document.activeElement.getBoundingClientRect().top < 200");
    browser.run("location.hash = '#shop/alfa'");
    browser.until("document.activeElement.textContent === 'alfa'");
    browser.is_fine();
}

#[test]
fn over_a_restart_of_the_controller() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(LIVE);
    scene.midway();
    browser.until(&cell_says("web2", "↑ upgrading"));

    scene.kill_controller();
    browser.until(
        "document.getElementById('link').innerText.startsWith('✗ not connected, last seen ')",
    );
    browser.until("document.getElementById('warning').innerText.startsWith('Not connected to the controller')");
    browser.until("document.title.startsWith('not connected')");
    assert!(
        browser.run(&cell_says("web2", "↑ upgrading")).as_bool().expect("a truth"),
        "what was seen stays"
    );
    browser.is_fine();

    scene.start_controller();
    browser.until(LIVE);
    browser.until("document.getElementById('warning').hidden");

    // One that is there and says nothing is as good as gone; its connections stay open.
    scene.controller.as_ref().expect("a controller").signal(Signal::STOP);
    browser.until(
        "document.getElementById('link').innerText.startsWith('✗ not connected, last seen ')",
    );
    scene.controller.as_ref().expect("a controller").signal(Signal::CONT);
    browser.until(LIVE);
    scene.remove("web2", "gate");
    scene.remove("web4", "gate");
    browser.until(&lane_says("alfa", "✓ converged"));
    browser.until(&cell_says("web2", "runs 2"));
}

#[test]
fn everybody_can_use_it() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.midway();
    let mut browser = Browser::start();
    for options in [desk(), dark(), phone()] {
        browser.open(&scene.url(), &options);
        browser.until(&cell_says("web2", "↑ upgrading"));
        browser.is_fine();
        let wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
        assert_eq!(browser.run(wide), true, "it is wider than the screen: {options}");
        // One cell is reached by Tab, and the arrows go on.
        assert_eq!(browser.run("document.querySelectorAll('.cell[tabindex=\"0\"]').length"), 1);
        let focused = "document.activeElement.matches('.cell') ? document.activeElement.querySelector('b').innerText : document.activeElement.id";
        for _ in 0..20 {
            if browser.run(focused) == "web1" {
                break;
            }
            browser.press("Tab");
        }
        for (key, on) in [
            ("ArrowRight", "web2"),
            ("End", "web9"),
            ("ArrowLeft", "web8"),
            ("Home", "web1"),
            ("ArrowRight", "web2"),
        ] {
            browser.press(key);
            assert_eq!(browser.run(focused), on, "after {key}");
        }
        let column = "Math.round(document.activeElement.getBoundingClientRect().left)";
        browser.press("Home");
        let before = browser.run(column);
        browser.press("ArrowDown");
        assert_ne!(browser.run(focused), "web1", "it goes down");
        assert_eq!(browser.run(column), before, "and straight");
        browser.press("ArrowUp");
        assert_eq!(browser.run(focused), "web1", "and up again");
        browser.press("ArrowRight");
        browser.press("Enter");
        assert_eq!(browser.run(focused), "node-name");
        browser.until("document.getElementById('facts').innerText.includes('cluster = alfa')");
        let facts = browser.text("#facts");
        for words in [
            "waiting for the upgrade to 2, attempt 1",
            "↑ upgrading",
            "Server web2 at lb1\nmaintenance (ours)",
            "Last attempt\n2 #1 running",
            "Declared by\nfiles without a commit",
        ] {
            assert!(facts.contains(words), "{words}: {facts}");
        }
        browser.is_fine();
        browser.press("Escape");
        assert_eq!(browser.run(focused), "web2", "back to where it was opened");
        assert_eq!(browser.run("document.getElementById('node').hidden"), true);
        browser.click(".cells li:nth-child(3) .cell");
        assert_eq!(browser.text("#node-name"), "web3");
        browser.click("#close");
        assert_eq!(browser.run("document.getElementById('node').hidden"), true);
    }
}

/// The names of the cells that are shown.
const SHOWN: &str = "[...document.querySelectorAll('.cell')].filter(cell => !cell.closest('[hidden]')).map(cell => cell.node).join(' ')";

#[test]
fn a_filter_that_can_be_shared() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.midway();
    scene.write_cluster("bravo", "revision = \"1-hotfix\"");
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(&cell_says("web2", "↑ upgrading"));
    browser.until(&cell_says("web9", "to be 1-hotfix"));
    assert_eq!(browser.text("#shown"), "");
    assert_eq!(browser.text("#sum"), "2 clusters, 12 nodes");
    for (filter, nodes, count) in [
        ("upgrade", "web2 web4", 2),
        ("web1", "web1", 1),
        ("SHOP alfa", "web1 web2 web3 web4 web5", 5),
        ("hotfix", "web6 web7 web8 web9", 4),
        ("\"to 2, attempt\" web4", "web4", 1),
        ("nobody", "", 0),
        ("notify2", "", 1),
    ] {
        // What was typed before is selected, so that it is replaced.
        browser.run("document.activeElement.blur()");
        browser.press("/");
        assert_eq!(browser.run("document.activeElement.id"), "filter");
        browser.type_text(filter);
        browser.until(&format!("{SHOWN} === {nodes:?}"));
        assert_eq!(browser.text("#shown"), format!("{count} of 12 nodes shown"), "{filter}");
    }
    browser.is_fine();
    browser.press("Escape");
    browser.until("location.search === ''");
    assert_eq!(browser.text("#shown"), "");

    // By keyboard from there to the cell that was reached last, and only over those that are shown.
    browser.type_text("upgrade");
    browser.until("location.search === '?filter=upgrade'");
    let focused = "document.activeElement.node ?? document.activeElement.id";
    for _ in 0..5 {
        if browser.run(focused) == "web4" {
            break;
        }
        browser.press("Tab");
    }
    for (key, on) in [("ArrowLeft", "web2"), ("End", "web4"), ("Home", "web2"), ("End", "web4")] {
        browser.press(key);
        assert_eq!(browser.run(focused), on, "after {key}");
    }
    browser.is_fine();

    // It holds for what changes, but what has the focus stays until it is left.
    scene.remove("web2", "gate");
    scene.remove("web4", "gate");
    browser.until(&format!("{SHOWN}.split(' ').includes('web4')"));
    browser.until("document.getElementById('shown').textContent.startsWith('0 of 12')");
    assert_eq!(browser.run(focused), "web4");
    browser.press("/");
    browser.until(&format!("{SHOWN} === ''"));

    let link = format!("{}?filter=bravo%20%22web8%22", scene.url());
    browser.open(&link, &phone());
    browser.until(&format!("{SHOWN} === 'web8'"));
    assert_eq!(browser.run("document.getElementById('filter').value"), "bravo \"web8\"");
    let wide = "document.documentElement.scrollWidth <= document.documentElement.clientWidth";
    assert_eq!(browser.run(wide), true);
    browser.is_fine();
}

#[test]
fn what_does_not_arrive_is_shown() {
    let answers = |_: &_| Answer::status(403, "");
    let plot = Plot { clusters: vec![("alfa", 2)], answers, ..Plot::new(Broker::Embedded) };
    let scene = plot.start();
    scene.converged("alfa", "1");
    let mut browser = Browser::start();
    browser.open(&scene.url(), &desk());
    browser.until(&lane_says("alfa", "✓ converged"));
    scene.write_cluster("alfa", "revision = \"2\"");
    browser.until(&lane_says("alfa", "undelivered: notify"));
    browser.is_fine();
}

/// Writes the screenshots of `docs/`, where `EVENKEEL_SCREENSHOTS` says; `make screenshots` does.
#[test]
fn screenshots() {
    let scene = Plot::new(Broker::Embedded).start();
    scene.commit("Begin with revision 1");
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    for node in ["web2", "web4"] {
        scene.touch(node, "gate");
    }
    scene.pull("shop/alfa.toml", "expect = 5\nrevision = \"2\"\n", "Bump alfa to 2");
    scene.midway();
    let folder = std::env::var_os("EVENKEEL_SCREENSHOTS");
    let folder = folder.map_or_else(|| scene.folder.clone(), Into::into);
    let mut browser = Browser::start();
    for (name, options) in [("page", desk()), ("page-dark", dark()), ("page-phone", phone())] {
        browser.open(&scene.url(), &options);
        browser.until(&cell_says("web2", "↑ upgrading"));
        browser.until("document.querySelector('.commit').innerText.endsWith(': Bump alfa to 2')");
        browser.until("document.getElementById('rollouts').innerText.endsWith(': Bump alfa to 2')");
        let path = Path::new(&folder).join(format!("{name}.png"));
        browser.picture(&path, false);
        let picture = std::fs::read(&path).expect("a screenshot");
        assert!(
            picture.starts_with(b"\x89PNG") && picture.len() < 300_000,
            "{} bytes",
            picture.len()
        );
    }
}

/// The head of an answer, and a connection that is still open.
fn head(scene: &Scene, path: &str, more: &str) -> (String, TcpStream) {
    let address = scene.url().trim_start_matches("http://").trim_end_matches('/').to_owned();
    let mut stream = TcpStream::connect(&address).expect("connect");
    stream.set_read_timeout(Some(DEADLINE)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\n{more}\r\n").expect("ask");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    (String::from_utf8(head).expect("text"), stream)
}

#[test]
fn files_and_followers_are_bounded() {
    let scene = Plot { clusters: vec![("alfa", 1)], ..Plot::new(Broker::Embedded) }.start();
    let mut whole = 0;
    for path in ["/", "/page.css", "/page.js", "/filter.js", "/history.js", "/page.svg"] {
        let (first, _) = head(&scene, path, "");
        let length = first.lines().find_map(|line| line.strip_prefix("content-length: "));
        whole += length.expect("a length").parse::<usize>().expect("a number");
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        assert!(
            first.contains("content-security-policy: default-src 'none'; script-src 'self'"),
            "{first}"
        );
        let tag = first.lines().find_map(|line| line.strip_prefix("etag: ")).expect("a tag");
        let (again, _) = head(&scene, path, &format!("If-None-Match: {tag}\r\n"));
        assert!(again.starts_with("HTTP/1.1 304"), "{again}");
        let (other, _) = head(&scene, path, "If-None-Match: \"other\"\r\n");
        assert!(other.starts_with("HTTP/1.1 200"), "{other}");
    }
    assert!(whole < 64 << 10, "the page has {whole} bytes");
    let follow = || head(&scene, "/api/v1/stream", "");
    let followers: Vec<_> = (0..64).map(|_| follow()).collect();
    assert!(followers.iter().all(|(head, _)| head.starts_with("HTTP/1.1 200")));
    assert!(followers[0].0.contains("content-type: text/event-stream"), "{}", followers[0].0);
    assert!(follow().0.starts_with("HTTP/1.1 503"), "one too many");
    drop(followers);
    scene.wait_for("their places are free again", |_| follow().0.starts_with("HTTP/1.1 200"));
}
