//! Faults in the keys and values of one file: where they are located, and how they read.

use evenkeel::desired::load;
use expect_test::{Expect, expect};

use super::directory;

pub const APP: &str = "-- shop/app.toml --\n";
pub const ALFA: &str = "-- shop/alfa.toml --\nrevision = \"1\"\nexpect = 5\n";

/// Compares all faults of a directory, as they are shown, with what is expected.
pub fn check(archive: &str, expected: Expect) {
    check_dir(directory(archive).path(), expected);
}

pub fn check_dir(dir: &std::path::Path, expected: Expect) {
    let snapshot = load(dir);
    let shown: Vec<&str> = snapshot.all_faults().map(|fault| &*fault.rendered).collect();
    for fault in snapshot.all_faults() {
        let place = format!("{}:{}:{}", fault.file, fault.line, fault.column);
        assert!(fault.line == 0 || fault.rendered.contains(&place), "{place} in {fault:#?}");
    }
    let shown = shown.join("\n").replace(&dir.display().to_string(), "DIR");
    expected.assert_eq(&(shown + "\n"));
}

/// Faults in one cluster's file, beside a good `app.toml`.
pub fn check_cluster(text: &str, expected: Expect) {
    check(&format!("{APP}-- shop/alfa.toml --\n{text}"), expected);
}

/// Faults in `app.toml`, beside a good cluster.
fn check_app(text: &str, expected: Expect) {
    check(&format!("{ALFA}{APP}{text}"), expected);
}

#[test]
fn unknown_keys() {
    check_cluster(
        "revison = \"1\"\nexpect = 5\nbatch = 2\ncolour = \"red\"\n[roll_out]\n",
        expect![[r#"
            error: `revision` is missing
            --> shop/alfa.toml
            error: unknown key "revison"; did you mean `revision`?
             --> shop/alfa.toml:1:1
              |
            1 | revison = "1"
              | ^^^^^^^
            error: unknown key "batch"; it belongs in [rollout]
             --> shop/alfa.toml:3:1
              |
            3 | batch = 2
              | ^^^^^
            error: unknown key "colour"
             --> shop/alfa.toml:4:1
              |
            4 | colour = "red"
              | ^^^^^^
            error: unknown key "roll_out"; did you mean `rollout`?
             --> shop/alfa.toml:5:2
              |
            5 | [roll_out]
              |  ^^^^^^^^
        "#]],
    );
    check_app(
        "revision = \"1\"\n\
         [load_balancer]\n\
         backend = \"app\"\n\
         backends = \"app\"\n\
         [settle.checks]\n",
        expect![[r#"
            error: unknown key "revision"; it belongs in the cluster's own file
             --> shop/app.toml:1:1
              |
            1 | revision = "1"
              | ^^^^^^^^
            error: unknown key "backends"; did you mean `backend`?
             --> shop/app.toml:4:1
              |
            4 | backends = "app"
              | ^^^^^^^^
            error: `checks` must be a list, each element a check name, not a table
             --> shop/app.toml:5:1
              |
            5 | [settle.checks]
              | ^^^^^^^^^^^^^^^
        "#]],
    );
}

#[test]
fn wrong_types() {
    check_cluster(
        "revision = 1\n\
         expect = \"5\"\n\
         select = \"alfa\"\n\
         paused = \"yes\"\n\
         after = \"bravo\"\n\
         rollout = 3\n\
         hold = [3]\n",
        expect![[r#"
            error: `revision` must be a revision, not a number; write it in quotes
             --> shop/alfa.toml:1:12
              |
            1 | revision = 1
              |            ^
            error: `expect` must be a whole number, at least 1, not a text; leave out the quotes
             --> shop/alfa.toml:2:10
              |
            2 | expect = "5"
              |          ^^^
            error: `select` must be a table of facts and their values, such as { rack = "r7" }, not a text
             --> shop/alfa.toml:3:10
              |
            3 | select = "alfa"
              |          ^^^^^^
            error: `paused` must be true or false, not a text
             --> shop/alfa.toml:4:10
              |
            4 | paused = "yes"
              |          ^^^^^
            error: `after` must be a list, each element a cluster name, not a text
             --> shop/alfa.toml:5:9
              |
            5 | after = "bravo"
              |         ^^^^^^^
            error: `rollout` must be a table, not a number
             --> shop/alfa.toml:6:11
              |
            6 | rollout = 3
              |           ^
            error: an element of `hold` must be a node name, not a number; write it in quotes
             --> shop/alfa.toml:7:9
              |
            7 | hold = [3]
              |         ^
        "#]],
    );
    check_cluster(
        "revision = 1.4\nexpect = 5.0\nselect = { rack = 7 }\nretry = true\n",
        expect![[r#"
            error: `revision` must be a revision, not a number with a point; write it in quotes
             --> shop/alfa.toml:1:12
              |
            1 | revision = 1.4
              |            ^^^
            error: `expect` must be a whole number, at least 1, not a number with a point
             --> shop/alfa.toml:2:10
              |
            2 | expect = 5.0
              |          ^^^
            error: a value in `select` must be one line of text, at most 200 characters, not a number; write it in quotes
             --> shop/alfa.toml:3:19
              |
            3 | select = { rack = 7 }
              |                   ^
            error: `retry` must be one line of text, at most 200 characters, not true or false; write it in quotes
             --> shop/alfa.toml:4:9
              |
            4 | retry = true
              |         ^^^^
        "#]],
    );
    check_app(
        "[rollout]\nbatch = true\ntries = \"two\"\n[settle]\ninterval = 10\nchecks = 2026-01-01\n",
        expect![[r#"
            error: `batch` must be a count, at least 1, or a percentage such as "25%", not true or false
             --> shop/app.toml:2:9
              |
            2 | batch = true
              |         ^^^^
            error: `tries` must be a whole number, at least 1, not a text
             --> shop/app.toml:3:9
              |
            3 | tries = "two"
              |         ^^^^^
            error: `interval` must be a duration such as "10s" or "1h 30m", at least 10 ms, not a number; write it in quotes and with a unit, as in "10s"
             --> shop/app.toml:5:12
              |
            5 | interval = 10
              |            ^^
            error: `checks` must be a list, each element a check name, not a date or time
             --> shop/app.toml:6:10
              |
            6 | checks = 2026-01-01
              |          ^^^^^^^^^^
        "#]],
    );
}

#[test]
fn syntax() {
    check_cluster(
        "revision = \"1\nexpect = 5\npaused = maybe\n",
        expect![[r#"
            error: this is not TOML: invalid basic string, expected `"`
             --> shop/alfa.toml:1:14
              |
            1 | revision = "1
              |              ^
            error: this is not TOML: string values must be quoted, expected literal string
             --> shop/alfa.toml:3:10
              |
            3 | paused = maybe
              |          ^^^^^
        "#]],
    );
    check_cluster(
        "revision = \nexpect = 5\nexpect = 6\n[settle\nchekcs = []\n",
        expect![[r#"
            error: this is not TOML: string values must be quoted, expected literal string
             --> shop/alfa.toml:1:12
              |
            1 | revision = 
              |            ^
            error: this is not TOML: duplicate key
             --> shop/alfa.toml:3:1
              |
            3 | expect = 6
              | ^^^^^^
            error: this is not TOML: unclosed table, expected `]`
             --> shop/alfa.toml:4:8
              |
            4 | [settle
              |        ^
            error: unknown key "chekcs"
             --> shop/alfa.toml:5:1
              |
            5 | chekcs = []
              | ^^^^^^
        "#]],
    );
}

#[test]
fn bad_names() {
    check_cluster(
        "revision = \"../etc\"\n\
         nodes = [\"web 1\", \"web2\"]\n\
         hold = [\"\", \"wéb3\"]\n\
         after = [\"a/b\"]\n",
        expect![[r#"
            error: `revision`: "../etc" is not a valid revision: it must begin with a letter or digit, go on with letters, digits or any of "._+-", and be 1 to 128 characters long
             --> shop/alfa.toml:1:12
              |
            1 | revision = "../etc"
              |            ^^^^^^^^
            error: `nodes`: "web 1" is not a valid node name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 128 characters long
             --> shop/alfa.toml:2:10
              |
            2 | nodes = ["web 1", "web2"]
              |          ^^^^^^^
            error: `hold`: "" is not a valid node name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 128 characters long
             --> shop/alfa.toml:3:9
              |
            3 | hold = ["", "wéb3"]
              |         ^^
            error: `hold`: "wéb3" is not a valid node name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 128 characters long
             --> shop/alfa.toml:3:13
              |
            3 | hold = ["", "wéb3"]
              |             ^^^^^^
            error: `after`: "a/b" is not a valid cluster name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 64 characters long
             --> shop/alfa.toml:4:10
              |
            4 | after = ["a/b"]
              |          ^^^^^
        "#]],
    );
    check_app(
        "[load_balancer]\n\
         backend = \"a pp\"\n\
         [settle]\n\
         checks = [\"check load\"]\n\
         [notify]\n\
         recipients = [\"me@example.org\"]\n\
         on = [\"complete\", \"failed\", \"failed\"]\n",
        expect![[r#"
            error: `backend`: "a pp" is not a valid backend name: it must begin with a letter or digit, go on with letters, digits or any of "._:-", and be 1 to 128 characters long
             --> shop/app.toml:2:11
              |
            2 | backend = "a pp"
              |           ^^^^^^
            error: `checks`: "check load" is not a valid check name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 128 characters long
             --> shop/app.toml:4:11
              |
            4 | checks = ["check load"]
              |           ^^^^^^^^^^^^
            error: `recipients`: "me@example.org" is not a valid recipient name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 64 characters long
             --> shop/app.toml:6:15
              |
            6 | recipients = ["me@example.org"]
              |               ^^^^^^^^^^^^^^^^
            error: `on`: "complete" is not one of "completed", "failed", "recovered"; did you mean `completed`?
             --> shop/app.toml:7:7
              |
            7 | on = ["complete", "failed", "failed"]
              |       ^^^^^^^^^^
            error: `on` lists this more than once
             --> shop/app.toml:7:29
              |
            7 | on = ["complete", "failed", "failed"]
              |                             ^^^^^^^^
        "#]],
    );
}

#[test]
fn out_of_range() {
    check_cluster(
        "revision = \"1\"\nexpect = 0\nversion = 2\n",
        expect![[r#"
        error: `expect` is 0; it must be at least 1 and at most 100000
         --> shop/alfa.toml:2:10
          |
        2 | expect = 0
          |          ^
        error: version 2 of the format is not known to this evenkeel, only version 1; a later evenkeel may know it
         --> shop/alfa.toml:3:11
          |
        3 | version = 2
          |           ^
    "#]],
    );
    check_cluster(
        "revision = \"1\"\nexpect = -1\nversion = \"1\"\n",
        expect![[r#"
        error: `expect` is -1; it must be at least 1 and at most 100000
         --> shop/alfa.toml:2:10
          |
        2 | expect = -1
          |          ^^
        error: `version` must be the whole number 1, not a text; leave out the quotes
         --> shop/alfa.toml:3:11
          |
        3 | version = "1"
          |           ^^^
    "#]],
    );
    check_cluster(
        "revision = \"1\"\nnodes = []\nselect = { \"\" = \"x\" }\nretry = \"two\\nlines\"\n",
        expect![[r#"
            error: `nodes` must list at least 1
             --> shop/alfa.toml:2:9
              |
            2 | nodes = []
              |         ^^
            error: `select`: "" cannot be the name of a fact
             --> shop/alfa.toml:3:12
              |
            3 | select = { "" = "x" }
              |            ^^
            error: `retry`: this must be one line of text, at most 200 characters
             --> shop/alfa.toml:4:9
              |
            4 | retry = "two\nlines"
              |         ^^^^^^^^^^^^
        "#]],
    );
    check_app(
        "[rollout]\nbatch = 0\ntries = 0\nmax_failed = 4_000_000\nmax_missing = 0x10\n",
        expect![[r#"
            error: `batch` is 0; it must be at least 1 and at most 100000
             --> shop/app.toml:2:9
              |
            2 | batch = 0
              |         ^
            error: `tries` is 0; it must be at least 1 and at most 100000
             --> shop/app.toml:3:9
              |
            3 | tries = 0
              |         ^
            error: `max_failed` is 4000000; it must be at least 0 and at most 100000
             --> shop/app.toml:4:14
              |
            4 | max_failed = 4_000_000
              |              ^^^^^^^^^
        "#]],
    );
}

#[test]
fn bad_shares_and_durations() {
    check_app(
        "[load_balancer]\n\
         backend = \"app\"\n\
         min_ready = \"101%\"\n\
         drain = \"-5s\"\n\
         [rollout]\n\
         batch = \"0%\"\n\
         upgrade_timeout = \"0s\"\n\
         [settle]\n\
         interval = \"soon\"\n\
         timeout = \"60\"\n\
         soak = \"90 days\"\n",
        expect![[r#"
            error: `min_ready`: "101%" is not between 0% and 100%
             --> shop/app.toml:3:13
              |
            3 | min_ready = "101%"
              |             ^^^^^^
            error: `drain`: "-5s" is negative; wanted a duration such as "10s", "500ms", "10m" or "1h 30m"
             --> shop/app.toml:4:9
              |
            4 | drain = "-5s"
              |         ^^^^^
            error: `batch`: "0%" is not between 1% and 100%
             --> shop/app.toml:6:9
              |
            6 | batch = "0%"
              |         ^^^^
            error: `upgrade_timeout`: "0s" is too short; it must be at least 10 ms
             --> shop/app.toml:7:19
              |
            7 | upgrade_timeout = "0s"
              |                   ^^^^
            error: `interval`: "soon" is not a duration such as "10s", "500ms", "10m" or "1h 30m"
             --> shop/app.toml:9:12
              |
            9 | interval = "soon"
              |            ^^^^^^
            error: `timeout`: "60" is not a duration such as "10s", "500ms", "10m" or "1h 30m"
              --> shop/app.toml:10:11
               |
            10 | timeout = "60"
               |           ^^^^
            error: `soak`: "90 days" is not a duration such as "10s", "500ms", "10m" or "1h 30m"
              --> shop/app.toml:11:8
               |
            11 | soak = "90 days"
               |        ^^^^^^^^^
        "#]],
    );
    check_app(
        "[load_balancer]\nbackend = \"app\"\nmin_ready = \"4\"\n[rollout]\nbatch = \"half\"\n",
        expect![[r#"
            error: `min_ready`: "4" is neither a count nor a percentage; write 4 for a count, or "4%"
             --> shop/app.toml:3:13
              |
            3 | min_ready = "4"
              |             ^^^
            error: `batch`: "half" is not a percentage such as "25%"
             --> shop/app.toml:5:9
              |
            5 | batch = "half"
              |         ^^^^^^
        "#]],
    );
}

#[test]
fn bad_choices_and_templates() {
    check_app(
        "[load_balancer]\n\
         backend = \"app\"\n\
         server = \"{node\"\n\
         [rollout]\n\
         take_out = \"clusters\"\n\
         on_failure = \"panic\"\n",
        expect![[r#"
            error: `server`: the server template "{node" has a brace that is not closed
             --> shop/app.toml:3:10
              |
            3 | server = "{node"
              |          ^^^^^^^
            error: `take_out`: "clusters" is not one of "cluster", "batch"; did you mean `cluster`?
             --> shop/app.toml:5:12
              |
            5 | take_out = "clusters"
              |            ^^^^^^^^^^
            error: `on_failure`: "panic" is not one of "hold", "rollback"
             --> shop/app.toml:6:14
              |
            6 | on_failure = "panic"
              |              ^^^^^^^
        "#]],
    );
    check_app(
        "[load_balancer]\nbackend = \"app\"\nserver = \"s {rack}\"\n",
        expect![[r#"
        error: `server`: "s x" is not a valid server name: it must begin with a letter or digit, go on with letters, digits or any of "._:-", and be 1 to 128 characters long
         --> shop/app.toml:3:10
          |
        3 | server = "s {rack}"
          |          ^^^^^^^^^^
    "#]],
    );
    check_app(
        "[load_balancer]\nbackend = \"app\"\nserver = \"{}\"\n",
        expect![[r#"
        error: `server`: "{}" has an empty pair of braces
         --> shop/app.toml:3:10
          |
        3 | server = "{}"
          |          ^^^^
    "#]],
    );
}
