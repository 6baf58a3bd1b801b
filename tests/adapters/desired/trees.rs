//! Faults of files together, of the directory, and of what cannot be read.

use std::os::unix::fs::symlink;

use evenkeel::desired::load;
use expect_test::expect;

use super::directory;
use super::faults::{ALFA, APP, check, check_cluster, check_dir};

#[test]
fn missing_keys() {
    check_cluster(
        "",
        expect![[r#"
        error: `expect` is missing: how many nodes must be there; or `nodes`: which ones
        --> shop/alfa.toml
        error: `revision` is missing
        --> shop/alfa.toml
    "#]],
    );
    check_cluster(
        "revision = \"1\"\n\
         expect = 1\n\
         nodes = [\"web1\"]\n\
         [load_balancer]\n\
         drain = \"1s\"\n\
         nodes = [\"lb1\"]\n\
         expect = 1\n",
        expect![[r#"
            error: `nodes` and `expect` (shop/alfa.toml:2) exclude each other
             --> shop/alfa.toml:3:1
              |
            3 | nodes = ["web1"]
              | ^^^^^
            error: `backend` is missing in this table
             --> shop/alfa.toml:4:2
              |
            4 | [load_balancer]
              |  ^^^^^^^^^^^^^
            error: `nodes` and `expect` (shop/alfa.toml:7) exclude each other
             --> shop/alfa.toml:6:1
              |
            6 | nodes = ["lb1"]
              | ^^^^^
        "#]],
    );
    // Located where the table is, though a cluster lacks the key, and told once for both clusters.
    check(
        &format!(
            "{APP}[load_balancer]\n{ALFA}-- shop/bravo.toml --\nrevision = \"1\"\nexpect = 4\n"
        ),
        expect![[r#"
            error: `backend` is missing in this table
             --> shop/app.toml:1:2
              |
            1 | [load_balancer]
              |  ^^^^^^^^^^^^^
        "#]],
    );
}

#[test]
fn after() {
    check(
        &format!(
            "{APP}{ALFA}after = [\"bravo\", \"brvo\"]\n\
             -- shop/bravo.toml --\n\
             revision = \"1\"\n\
             expect = 4\n\
             after = [\"gamma\", \"bravo\"]\n\
             -- shop/gamma.toml --\n\
             revision = \"1\"\n\
             expect = 4\n\
             after = [\n\
             \x20 \"alfa\",\n\
             ]\n"
        ),
        expect![[r#"
            error: `after`: this app has no cluster "brvo"; did you mean `bravo`?
             --> shop/alfa.toml:3:19
              |
            3 | after = ["bravo", "brvo"]
              |                   ^^^^^^
            error: `after` goes round in a circle: bravo after bravo
             --> shop/bravo.toml:3:19
              |
            3 | after = ["gamma", "bravo"]
              |                   ^^^^^^^
            error: `after` goes round in a circle: alfa after bravo after gamma after alfa
             --> shop/gamma.toml:4:3
              |
            4 |   "alfa",
              |   ^^^^^^
        "#]],
    );
}

#[test]
fn nodes_in_two_clusters() {
    check(
        &format!(
            "{APP}-- shop/alfa.toml --\n\
             revision = \"1\"\n\
             nodes = [\"web1\", \"web2\", \"web1\"]\n\
             -- shop/bravo.toml --\n\
             revision = \"1\"\n\
             nodes = [\"web3\", \"web4\"]\n\
             -- shop/gamma.toml --\n\
             revision = \"1\"\n\
             nodes = [\"web4\"]\n"
        ),
        expect![[r#"
            error: `nodes` lists this more than once
             --> shop/alfa.toml:2:26
              |
            2 | nodes = ["web1", "web2", "web1"]
              |                          ^^^^^^
            error: the node "web4" is in another cluster, too: shop/bravo.toml:2
             --> shop/gamma.toml:2:10
              |
            2 | nodes = ["web4"]
              |          ^^^^^^
        "#]],
    );
}

#[test]
fn two_apps_with_one_backend() {
    check(
        &format!(
            "{ALFA}{APP}[load_balancer]\n\
             backend = \"app\"\n\
             -- blog/app.toml --\n\
             -- blog/main.toml --\n\
             revision = \"7\"\n\
             expect = 1\n\
             load_balancer.backend = \"app\"\n\
             -- wiki/app.toml --\n\
             [load_balancer]\n\
             backend = \"wiki\"\n"
        ),
        expect![[r#"
            error: the backend "app" belongs to another app, too: shop/app.toml:2
             --> blog/main.toml:3:25
              |
            3 | load_balancer.backend = "app"
              |                         ^^^^^
            error: the backend "app" belongs to another app, too: blog/main.toml:3
             --> shop/app.toml:2:11
              |
            2 | backend = "app"
              |           ^^^^^
        "#]],
    );
}

#[test]
fn overrides_are_located_in_the_file_that_wrote_them() {
    check(
        &format!(
            "{APP}[rollout]\n\
             batch = 2\n\
             {ALFA}[rollout]\n\
             batch = \"two\"\n\
             -- shop/bravo.toml --\n\
             revision = \"1\"\n\
             expect = 4\n\
             [settle]\n\
             timeout = \"long\"\n"
        ),
        expect![[r#"
            error: `batch`: "two" is not a percentage such as "25%"
             --> shop/alfa.toml:4:9
              |
            4 | batch = "two"
              |         ^^^^^
            error: `timeout`: "long" is not a duration such as "10s", "500ms", "10m" or "1h 30m"
             --> shop/bravo.toml:4:11
              |
            4 | timeout = "long"
              |           ^^^^^^
        "#]],
    );
}

#[test]
fn files_in_the_wrong_place() {
    check(
        "-- app.toml --\n\
         -- my shop/app.toml --\n\
         -- shop/alfa.toml --\n\
         revision = \"1\"\n\
         expect = 5\n\
         -- README.md --\n\
         -- docs/deep/x.toml --\n\
         -- .hidden/app.toml --\n",
        expect![[r#"
            error: this file is in no app's folder; a folder beside it, named as the app, is where it belongs
            --> app.toml
            error: "my shop" is not a valid app name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 64 characters long
            --> my shop
            error: there is no such file; it says how the app of the files beside it is rolled out, and may be empty
            --> shop/app.toml
        "#]],
    );
    check(
        &format!(
            "{APP}-- shop/al fa.toml --\n\
             revision = \"1\"\n\
             expect = 5\n\
             -- shop/alfa.toml.bak --\n\
             -- shop/.#alfa.toml --\n"
        ),
        expect![[r#"
            error: "al fa" is not a valid cluster name: it must begin with a letter or digit, go on with letters, digits or any of "._-", and be 1 to 64 characters long
            --> shop/al fa.toml
        "#]],
    );
}

#[test]
fn what_cannot_be_read() {
    let dir = directory(APP);
    let shop = dir.path().join("shop");
    std::fs::create_dir(shop.join("folder.toml")).unwrap();
    std::fs::write(shop.join("latin.toml"), b"revision = \"1\"\nretry = \"sch\xf6n\"\n").unwrap();
    std::fs::write(shop.join("large.toml"), "#".repeat((1 << 20) + 1)).unwrap();
    symlink("nowhere", shop.join("dangling.toml")).unwrap();
    symlink("loop.toml", shop.join("loop.toml")).unwrap();
    symlink("nowhere", dir.path().join("blog")).unwrap();
    let pipe = shop.join("pipe.toml");
    let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
    rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, mode).unwrap();
    check_dir(
        dir.path(),
        expect![[r#"
            error: this cannot be read: No such file or directory (os error 2)
            --> blog
            error: this file cannot be read: No such file or directory (os error 2)
            --> shop/dangling.toml
            error: this file cannot be read: it is not a regular file
            --> shop/folder.toml
            error: this file cannot be read: it is larger than 1048576 bytes
            --> shop/large.toml
            error: this is not UTF-8, as TOML must be
             --> shop/latin.toml:2:13
              |
            2 | retry = "sch�n"
              |             ^
            error: this file cannot be read: Too many levels of symbolic links (os error 40)
            --> shop/loop.toml
            error: this file cannot be read: it is not a regular file
            --> shop/pipe.toml
        "#]],
    );
}

#[test]
fn a_missing_directory() {
    let dir = directory("");
    check_dir(
        &dir.path().join("desired"),
        expect![[r#"
        error: the directory DIR cannot be read: No such file or directory (os error 2)
        --> .
    "#]],
    );
}

#[test]
fn a_fault_stays_with_its_app() {
    let dir = directory(&format!("{APP}{ALFA}-- blog/app.toml --\nnonsense = 1\n"));
    let snapshot = load(dir.path());
    let good: Vec<bool> = snapshot.apps.values().map(Result::is_ok).collect();
    assert_eq!(good, [false, true]);
}

#[test]
fn many_faults_are_counted_and_long_lines_are_pointed_at() {
    let keys: String = (0..150).map(|n| format!("key{n} = 1\n")).collect();
    let dir = directory(&format!("{APP}{ALFA}{keys}"));
    let snapshot = load(dir.path());
    assert_eq!(snapshot.all_faults().count(), 101);
    assert_eq!(snapshot.all_faults().last().unwrap().message, "50 more faults are not shown");

    let long = "x".repeat(5000);
    let dir = directory(&format!("{APP}{ALFA}retry = \"{long}\"\n"));
    let faults: Vec<_> = load(dir.path()).all_faults().cloned().collect();
    assert_eq!((faults.len(), faults[0].line, faults[0].column), (1, 3, 9));
    assert!(faults[0].rendered.len() < 500, "{}", faults[0].rendered);
}

/// Files made to waste time: each within its limit, each with as many faults as it can hold. There
/// is no clock in this test; work that grows as the square of a file would take it hours.
#[test]
fn hostile_files_are_read_in_bounded_time() {
    let unknown: String = (0..90_000).map(|n| format!("k{n} = 1\n")).collect();
    let names: String = (0..100_000).map(|n| format!("\"n{}\",\n", n % 50_000)).collect();
    let circle: String = (0..500).map(|n| format!("\"c{n}\",")).collect();
    let mut archive = format!(
        "{APP}-- shop/unknown.toml --\n{unknown}-- shop/nodes.toml --\nnodes = [{names}]\n\
         -- shop/other.toml --\nnodes = [{names}]\n"
    );
    for n in 0..500 {
        archive += &format!("-- shop/c{n}.toml --\nafter = [{circle}]\n");
    }
    let dir = directory(&archive);
    assert_eq!(load(dir.path()).all_faults().count(), 101);
}
