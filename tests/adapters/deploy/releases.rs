//! Apps that are deployed by the built-in layout of releases.

use std::collections::BTreeSet;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::parts::process::eventually;

fn local(node: &Node, more: &str) -> App {
    node.app(&releases("file://FOLDER/{revision}.tar.gz", more))
}

/// What is on the disk of releases, complete or not.
fn on_disk(node: &Node) -> BTreeSet<String> {
    let folders = std::fs::read_dir(node.path("root/releases")).expect("releases");
    folders.flatten().map(|folder| folder.file_name().into_string().expect("a name")).collect()
}

#[tokio::test]
async fn a_release_is_unpacked_switched_to_and_restarted() {
    let node = Node::new();
    node.publish("1.4.2", &archive("1.4.2"));
    assert_eq!(upgrade(&local(&node, ""), "1.4.2").await, Ok(()));
    let target = std::fs::read_link(node.path("root/current")).expect("a link");
    assert_eq!(target, Path::new("releases/1.4.2"));
    assert_eq!(node.read("running").as_deref(), Some("1.4.2"));
    let about = std::fs::metadata(node.path("root/current/bin/serve")).expect("a file");
    assert_eq!((about.mode() & 0o7777, about.mtime()), (0o755, 1_700_000_000));
    let top = std::fs::metadata(node.path("root/current/")).expect("a folder");
    assert_eq!(top.mode() & 0o7777, 0o755);
    assert!(node.is_tidy());
}

#[tokio::test]
async fn releases_come_over_http_with_the_checksum_where_it_is_said_to_be() {
    let node = Node::new();
    let server = Server::start(|path| match path {
        "/shop-2.tgz?x=2" => Answer::Ok(archive("2")),
        "/SHA256SUMS" => {
            let other = sha256(b"another");
            let sums = format!("{other}  shop-1.tgz\n{}  shop-2.tgz\n", sha256(&archive("2")));
            Answer::Ok(sums.into_bytes())
        }
        _ => Answer::Status(404),
    });
    let url = server.url("/shop-{revision}.tgz?x={revision}");
    let sums = format!("sha256_url = '{}'", server.url("/SHA256SUMS"));
    let app = node.app(&releases(&url, &sums));
    assert_eq!(upgrade(&app, "2").await, Ok(()));
    assert_eq!(node.read("running").as_deref(), Some("2"));
}

#[tokio::test]
async fn a_bad_download_changes_nothing() {
    let node = Node::new();
    let mut large = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(5 << 20);
    header.set_mode(0o644);
    large.append_data(&mut header, "zeros", std::io::repeat(0).take(5 << 20)).expect("append");
    let large = gzip(&large.into_inner().expect("an archive"));
    let server = Server::start(move |path| match path {
        "/sum.tar.gz" => Answer::Ok(b"something else".to_vec()),
        "/cut.tar.gz" => Answer::Truncated(archive("cut")),
        "/large.tar.gz" => Answer::Ok(vec![0; 5 << 20]),
        "/endless.tar.gz" => Answer::Endless,
        "/bomb.tar.gz" => Answer::Ok(large.clone()),
        "/bomb.tar.gz.sha256" => Answer::Ok(sha256(&large).into_bytes()),
        "/unsummed.tar.gz" => Answer::Ok(archive("unsummed")),
        "/unsummed.tar.gz.sha256" => Answer::Ok(b"<html>soon</html>".to_vec()),
        "/none.tar.gz" | "/none.tar.gz.sha256" => Answer::Status(404),
        _ => Answer::Ok(sha256(&archive("cut")).into_bytes()),
    });
    node.publish("1", &archive("1"));
    assert_eq!(upgrade(&local(&node, ""), "1").await, Ok(()));
    let app = node.app(&releases(&server.url("/{revision}.tar.gz"), "size_max = '1 MiB'"));
    for (revision, needle) in [
        ("sum", "is announced"),
        ("cut", "end of file before message length reached"),
        ("large", "larger than"),
        ("endless", "larger than"),
        ("bomb", "larger than"),
        ("unsummed", "has no SHA-256"),
        ("none", "404"),
    ] {
        let words = words(upgrade(&app, revision).await);
        assert!(words.contains(needle), "{revision}: {words}");
        assert!(!node.path(&format!("root/releases/{revision}")).exists(), "{revision}");
        assert_eq!(node.read("root/current/REVISION").as_deref(), Some("1"), "{revision}");
    }
    assert_eq!(node.read("running").as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_is_stuck_ends_with_the_attempt() {
    let node = Node::new();
    let seen = Arc::new(AtomicBool::new(false));
    let server = Server::start({
        let seen = Arc::clone(&seen);
        move |path| match path {
            "/1.tar.gz" => {
                seen.store(true, Ordering::SeqCst);
                Answer::Stuck(archive("1"))
            }
            "/2.tar.gz" => Answer::Ok(archive("2")),
            "/2.tar.gz.sha256" => Answer::Ok(sha256(&archive("2")).into_bytes()),
            _ => Answer::Ok(sha256(&archive("1")).into_bytes()),
        }
    });
    let table = releases(&server.url("/{revision}.tar.gz"), "");
    let words = words(node.app(&table).upgrade(&revision("1"), 1_000).await);
    assert!(words.contains("took longer than 1s"), "{words}");

    // And with the future: a later attempt finds lock and disk free.
    seen.store(false, Ordering::SeqCst);
    let app = node.app(&table);
    let attempt = tokio::spawn(async move { upgrade(&app, "1").await });
    eventually("the download is under way", || seen.load(Ordering::SeqCst).then_some(()));
    attempt.abort();
    assert_eq!(upgrade(&node.app(&table), "2").await, Ok(()));
    assert!(node.is_tidy());
}

#[tokio::test]
async fn a_complete_release_is_reused_and_half_a_one_is_not() {
    let node = Node::new();
    for revision in ["1", "2"] {
        node.publish(revision, &archive(revision));
        assert_eq!(upgrade(&local(&node, ""), revision).await, Ok(()));
    }
    // Back to a release that nobody serves any more.
    std::fs::remove_file(node.path("1.tar.gz")).expect("remove");
    std::fs::remove_file(node.path("1.tar.gz.sha256")).expect("remove");
    assert_eq!(upgrade(&local(&node, ""), "1").await, Ok(()));
    assert_eq!(node.read("running").as_deref(), Some("1"));

    // What an agent that was killed while it unpacked leaves, and a release without its marker.
    std::fs::create_dir_all(node.path("root/releases/.new/tree/half")).expect("make");
    std::os::unix::fs::symlink("nowhere", node.path("root/current.evenkeel-new")).expect("link");
    std::fs::remove_file(node.path("root/releases/2/.evenkeel-complete")).expect("remove");
    node.write("root/releases/2/stale", "");
    assert_eq!(upgrade(&local(&node, ""), "2").await, Ok(()));
    assert!(!node.path("root/releases/2/stale").exists());
    assert!(node.path("root/releases/2/bin/serve").exists());
    assert!(node.is_tidy());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_last_releases_are_kept() {
    let node = Node::new();
    for revision in ["1", "2", "3", "4", "5"] {
        node.publish(revision, &archive(revision));
        assert_eq!(upgrade(&local(&node, "keep = 3"), revision).await, Ok(()));
    }
    let are = |wanted: &[&str]| {
        eventually(&format!("{wanted:?} are left"), || {
            on_disk(&node).iter().eq(wanted).then_some(())
        });
    };
    are(&["3", "4", "5"]);
    // The one before stays although it was switched to longest ago.
    assert_eq!(upgrade(&local(&node, "keep = 2"), "3").await, Ok(()));
    are(&["3", "5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn current_leads_to_a_release_at_every_instant() {
    let node = Node::new();
    for revision in ["1", "2"] {
        node.publish(revision, &archive(revision));
        assert_eq!(upgrade(&local(&node, ""), revision).await, Ok(()));
    }
    let over = Arc::new(AtomicBool::new(false));
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let reader = std::thread::spawn({
        let (over, seen) = (Arc::clone(&over), Arc::clone(&seen));
        let file = node.path("root/current/REVISION");
        move || {
            while !over.load(Ordering::SeqCst) {
                let revision = std::fs::read_to_string(&file).expect("current is there");
                seen.lock().expect("no panic").insert(revision);
            }
        }
    });
    for _ in 0..25 {
        assert_eq!(upgrade(&local(&node, ""), "1").await, Ok(()));
        assert_eq!(upgrade(&local(&node, ""), "2").await, Ok(()));
    }
    over.store(true, Ordering::SeqCst);
    reader.join().expect("the reader never saw it missing");
    assert_eq!(seen.lock().expect("no panic").len(), 2, "the reader saw both");
}

#[tokio::test]
async fn a_current_that_is_no_link_is_left_alone() {
    let node = Node::new();
    node.publish("1", &archive("1"));
    std::fs::create_dir_all(node.path("root/current")).expect("make");
    let words = words(upgrade(&local(&node, ""), "1").await);
    assert!(words.contains("is not a symbolic link"), "{words}");
    assert!(node.path("root/current").is_dir());
}
