//! What `history` prints, and what it asks for.

use evenkeel::history::{Entry, Kind, Page, Rollout, RolloutOutcome, RolloutPage, Rollouts};
use evenkeel::model::Wall;
use expect_test::expect;

use crate::parts::receiver::{Answer, Receiver};
use crate::program::{ask, evenkeel, finish};
use crate::stage::{NOW, json};

const ROLLOUT: &str = "ff7b1eda183a";

fn entry(id: u64, kind: Kind, node: Option<&str>, name: &str, what: &str, cause: &str) -> Entry {
    let text = |text: &str| Some(text.to_owned());
    Entry {
        id: Some(id),
        at: Wall(NOW.0 + 1_234 * id),
        kind,
        name: name.to_owned(),
        what: what.to_owned(),
        cause: cause.to_owned(),
        app: text("shop"),
        cluster: text("alfa"),
        node: node.map(str::to_owned),
        rollout: text(ROLLOUT),
        epoch: Some(if id < 4 { 3 } else { 4 }),
        controller: text("c0ffee"),
        commit: text("0123456789abcdef0123456789abcdef01234567"),
        before: None,
        after: None,
        asked: None,
        generation: None,
    }
}

fn change(entry: Entry, before: Option<&str>, after: Option<&str>) -> Entry {
    Entry { before: before.map(str::to_owned), after: after.map(str::to_owned), ..entry }
}

fn entries() -> Vec<Entry> {
    let (event, decision, action) = (Kind::Event, Kind::Decision, Kind::Action);
    let web3 = Some("web3");
    let decided = "upgrading to 2, attempt 1 of 2";
    let begun = "rollout ff7b1eda183a to 2 has begun";
    let begun = entry(1, event, None, "rollout_begun", begun, "commit 0123456789ab: Bump alfa");
    let taken = "lb1 is asked to take out app/web3";
    let cause = "taking it out of the load balancer";
    let gap = Entry {
        app: None,
        cluster: None,
        rollout: None,
        epoch: None,
        controller: None,
        commit: None,
        ..entry(5, Kind::Gap, None, "lost", "17 entries could not be kept", "the disk is full")
    };
    vec![
        change(begun, Some("1"), Some("2")),
        change(entry(2, action, web3, "take_out", taken, cause), None, Some("out")),
        change(
            entry(3, decision, web3, "act.upgrade", decided, "present, runs 1, should run 2"),
            Some("wait.batch"),
            Some("act.upgrade"),
        ),
        change(
            entry(4, action, web3, "permit", "an upgrade is permitted", decided),
            None,
            Some("attempt 1 to 2"),
        ),
        gap,
        entry(6, event, web3, "node_failed", "failed: it \u{1b}[2J broke", "it \u{1b}[2J broke"),
    ]
}

fn rollout() -> Rollout {
    Rollout {
        rollout: ROLLOUT.to_owned(),
        app: "shop".to_owned(),
        cluster: "alfa".to_owned(),
        begun: Wall(NOW.0 + 1_234),
        id: 1,
        from: Some("1".to_owned()),
        to: Some("2".to_owned()),
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        cause: "commit 0123456789ab: Bump alfa".to_owned(),
        outcome: RolloutOutcome::Held,
        ended: Some(Wall(NOW.0 + 75_000)),
        failed: vec!["web3".to_owned()],
    }
}

/// A server with this history; of a rollout it tells no more than two entries at once.
fn remembering() -> Receiver {
    Receiver::start(move |request| {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        match path {
            "/api/v1/history" => {
                let decisions = !query.contains("kind=");
                let wanted = |entry: &Entry| decisions || entry.kind != Kind::Decision;
                let entries = entries().into_iter().filter(wanted).collect();
                json(&Page { entries, before: Some(1) })
            }
            "/api/v1/rollouts" => json(&Rollouts { rollouts: vec![rollout()], before: None }),
            "/api/v1/history/ff7b1eda183a" => {
                let after = query.split('&').find_map(|pair| pair.strip_prefix("after="));
                let after: u64 = after.map_or(0, |after| after.parse().expect("a number"));
                let of_it = |entry: &Entry| entry.rollout.is_some() && entry.id > Some(after);
                let mut entries: Vec<Entry> = entries().into_iter().filter(of_it).collect();
                let more = entries.len() > 2;
                entries.truncate(2);
                let after = entries.last().and_then(|entry| entry.id).filter(|_| more);
                json(&RolloutPage { rollout: rollout(), entries, after })
            }
            _ => Answer::status(404, r#"{"error": "no rollout of that id is known"}"#),
        }
    })
}

#[test]
fn what_happened_in_a_table() {
    let controller = remembering();
    expect![[r#"
        TIME                  ROLLOUT       WHERE           WHAT                                 CHANGE                     BECAUSE
        2027-01-15T08:00:01Z  ff7b1eda183a  shop/alfa       rollout ff7b1eda183a to 2 has begun  1 -> 2                     commit 0123456789ab: Bump alfa
        2027-01-15T08:00:02Z  ff7b1eda183a  shop/alfa/web3  lb1 is asked to take out app/web3    nothing -> out             taking it out of the load balancer
        2027-01-15T08:00:04Z  ff7b1eda183a  shop/alfa/web3  an upgrade is permitted              nothing -> attempt 1 to 2  upgrading to 2, attempt 1 of 2
        2027-01-15T08:00:06Z  -             -               17 entries could not be kept         -                          the disk is full
        2027-01-15T08:00:07Z  ff7b1eda183a  shop/alfa/web3  failed: it �[2J broke                -                          it �[2J broke

        older ones: --before 1
        exit code 0
    "#]].assert_eq(&ask(&controller, &["history"]).quiet());
    let all = ask(&controller, &["history", "shop/alfa", "--all"]).quiet();
    assert!(all.contains("upgrading to 2, attempt 1 of 2"), "{all}");
}

#[test]
fn rollouts_in_a_table() {
    expect![[r#"
        BEGUN                 ROLLOUT       CLUSTER    REVISION  OUTCOME  TOOK    FAILED  BY
        2027-01-15T08:00:01Z  ff7b1eda183a  shop/alfa  1 -> 2    held     1m 13s  web3    commit 0123456789ab: Bump alfa
        exit code 0
    "#]].assert_eq(&ask(&remembering(), &["history", "--rollouts"]).quiet());
}

#[test]
fn one_rollout_node_by_node() {
    let controller = remembering();
    expect![[r#"
        rollout ff7b1eda183a of shop/alfa: 1 -> 2, held
          begun         2027-01-15T08:00:01Z
          ended         2027-01-15T08:01:15Z, after 1m 13s
          declared by   commit 0123456789ab: Bump alfa
          epochs        3 of controller c0ffee, then 4 of controller c0ffee
          failed        web3

        alfa
          +   0.000s  rollout ff7b1eda183a to 2 has begun (1 -> 2); commit 0123456789ab: Bump alfa

        web3
          +   1.234s  lb1 is asked to take out app/web3 (nothing -> out); taking it out of the load balancer
          +   2.468s  upgrading to 2, attempt 1 of 2; present, runs 1, should run 2
          +   3.702s  an upgrade is permitted (nothing -> attempt 1 to 2); upgrading to 2, attempt 1 of 2
          +   6.170s  failed: it �[2J broke
        exit code 0
    "#]].assert_eq(&ask(&controller, &["history", "show", ROLLOUT]).quiet());
    let told = ask(&controller, &["history", "show", ROLLOUT, "--output", "json"]);
    let read: RolloutPage = serde_json::from_str(&told.out).unwrap();
    let of_it: Vec<Entry> = entries().into_iter().filter(|e| e.rollout.is_some()).collect();
    assert_eq!((read.entries, read.after), (of_it, None), "all of its pages");
}

#[test]
fn what_is_asked_for_is_in_the_address() {
    let controller = remembering();
    let asked = |arguments: &[&str]| {
        let all: Vec<&str> = ["history"].iter().chain(arguments).copied().collect();
        assert_eq!(ask(&controller, &all).code, 0, "{arguments:?}");
        controller.requests().pop().expect("a request").path
    };
    assert_eq!(asked(&[]), "/api/v1/history?kind=event,action,gap&limit=200");
    assert_eq!(
        asked(&[
            "shop/alfa",
            "--since",
            "2027-01-15T08:00:00Z",
            "--node",
            "web3",
            "--limit",
            "5",
            "--before",
            "9"
        ]),
        "/api/v1/history?app=shop&cluster=alfa&node=web3&kind=event,action,gap&since=1800000000000&before=9&limit=5"
    );
    assert_eq!(asked(&["shop", "--all"]), "/api/v1/history?app=shop&limit=200");
    assert!(asked(&["--since", "2d"]).contains("&since="));
}

#[test]
fn what_cannot_be_told_is_said() {
    let controller = remembering();
    let said = |arguments: &[&str]| ask(&controller, arguments).failed(&controller.url());
    expect![[r#"
        evenkeel: http://controller/api/v1/history/r9?limit=5000 answers 404 Not Found: no rollout of that id is known
        exit code 4
    "#]].assert_eq(&said(&["history", "show", "r9"]));
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().to_str().expect("UTF-8");
    let read = |arguments: &[&str]| {
        let ended = finish(evenkeel(&["history"]).args(arguments).args(["--state-dir", path]));
        ended.failed("-").replace(path, "FOLDER")
    };
    expect![[r#"
        evenkeel: there is no history at FOLDER/history.db; is this a controller's state directory, and was it kept?
        exit code 4
    "#]].assert_eq(&read(&[]));
    expect![[r#"
        evenkeel: there is no history at FOLDER/history.db; is this a controller's state directory, and was it kept?
        exit code 4
    "#]].assert_eq(&read(&["--rollouts"]));
    for wrong in [
        &["--since", "soon"][..],
        &["--limit", "0"],
        &["--limit", "5001"],
        &["--rollouts", "--all"],
        &["show"],
        &["shop", "show", "r9"],
    ] {
        assert_eq!(finish(evenkeel(&["history"]).args(wrong)).code, 4, "{wrong:?}");
    }
}
