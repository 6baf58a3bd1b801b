//! Apps that are deployed by a command of the operator's.

use std::process::{Command, Stdio};

use evenkeel::model::RevisionSeen;
use rustix::process::{Pid, Signal, kill_process};

use super::*;
use crate::parts::process::{Process, eventually};

/// A table whose deploy command is a script; `running` says what runs.
fn script(script: &str) -> String {
    format!(
        "command = ['sh', '-c', '''cd FOLDER; {script}''', 'deploy', '{{revision}}']\n\
         revision = {{ command = ['cat', 'FOLDER/running'] }}\n"
    )
}

const DEPLOYS: &str = "echo $1 > running";

fn kill(pid: &str) {
    let pid = Pid::from_raw(pid.trim().parse().expect("a process id")).expect("not 0");
    kill_process(pid, Signal::KILL).expect("kill");
}

#[tokio::test]
async fn the_command_gets_revision_and_app() {
    let node = Node::new();
    let table = script("echo $1 $EVENKEEL_REVISION $EVENKEEL_APP > args; echo $1 > running");
    let app = node.app(&table);
    assert_eq!(upgrade(&app, "1.4.2+b7").await, Ok(()));
    assert_eq!(node.read("args").as_deref(), Some("1.4.2+b7 1.4.2+b7 shop\n"));
    assert_eq!(app.revision().await, RevisionSeen::Running(revision("1.4.2+b7")));
}

#[tokio::test]
async fn failures_say_how_the_command_ended() {
    let node = Node::new();
    for (what, why) in
        [("exit 7", AttemptFailure::Exit(7)), ("kill -9 $$", AttemptFailure::Signal(9))]
    {
        let app = node.app(&script(&format!("echo out; echo err >&2; echo last; {what}")));
        let tail = "out\nerr\nlast\n".to_owned();
        assert_eq!(upgrade(&app, "1").await, Err(UpgradeError { why, tail }));
    }
    let app = node.app("command = ['/nowhere/deploy']\nrevision = { command = ['true'] }");
    let words = words(upgrade(&app, "1").await);
    assert!(words.contains("/nowhere/deploy") && words.contains("No such file"), "{words}");
}

#[tokio::test]
async fn a_failed_restart_is_a_failed_attempt() {
    let node = Node::new();
    let restart = "restart = ['sh', '-c', 'echo cannot restart; exit 5']\n";
    let app = node.app(&format!("{restart}{}", script(&format!("echo deployed; {DEPLOYS}"))));
    let failed = upgrade(&app, "1").await.unwrap_err();
    assert_eq!(failed.why, AttemptFailure::Exit(5));
    assert_eq!(failed.tail, "deployed\ncannot restart\n");
}

#[tokio::test]
async fn the_tail_is_the_end_bounded_and_clean() {
    let node = Node::new();
    let flood = "seq 1 200000; printf \"\\033[31mred\\007\\377\\n\"; exit 1";
    let failed = upgrade(&node.app(&script(flood)), "1").await.unwrap_err();
    assert!(failed.tail.len() <= 4096 && failed.tail.len() > 3000, "{}", failed.tail.len());
    assert!(failed.tail.ends_with("199999\n200000\n[31mred\u{fffd}\n"), "{}", failed.tail);
}

#[tokio::test]
async fn a_service_that_says_otherwise_has_failed() {
    let node = Node::new();
    let app = node.app(&script("echo 0.9 > running"));
    let failed = upgrade(&app, "1").await.unwrap_err();
    let running = RevisionSeen::Running(revision("0.9"));
    assert_eq!(failed.why, AttemptFailure::Lied(running));
}

#[tokio::test]
async fn a_service_that_does_not_say_is_asked_again_for_a_while() {
    let node = Node::new();
    // Asked for the second time it hangs. The time's end tells less than its first answer.
    let hangs = "revision = { command = ['sh', '-c', 'cd FOLDER; [ -e asked ] && exec sleep 1000; \
                 touch asked; cat running'], timeout = '2s' }\ncommand = ['true']";
    let failed = upgrade(&node.app(hangs), "1").await.unwrap_err();
    let AttemptFailure::Lied(RevisionSeen::Unknown(why)) = failed.why else { panic!("{failed:?}") };
    assert!(why.contains("exit code 1") && why.contains("No such file"), "{why}");

    // It starts only when it has been asked twice.
    let node = Node::new();
    let asked = "revision = { command = ['sh', '-c', 'cd FOLDER; echo x >> asked; \
                 [ $(wc -l < asked) -gt 2 ] && echo 1'] }\ncommand = ['true']";
    assert_eq!(upgrade(&node.app(asked), "1").await, Ok(()));
    assert_eq!(node.read("asked").as_deref(), Some("x\nx\nx\n"));
}

#[tokio::test]
async fn revisions_are_read_back_over_http_within_bounds() {
    let node = Node::new();
    let server = Server::start(|path| match path {
        "/plain" => Answer::Ok(b" 1.2 \n".to_vec()),
        "/json" => Answer::Ok(br#"{"build": {"revision": "1.3"}}"#.to_vec()),
        "/evil" => Answer::Ok(b"../../etc".to_vec()),
        "/stuck" => Answer::Stuck(b"1.2".to_vec()),
        "/endless" => Answer::Endless,
        _ => Answer::Status(503),
    });
    let read = async |path: &str, more: &str| {
        let url = server.url(path);
        let app = node.app(&format!(
            "command = ['true']\nrevision = {{ url = '{url}', timeout = '1s'{more} }}"
        ));
        app.revision().await
    };
    assert_eq!(read("/plain", "").await, RevisionSeen::Running(revision("1.2")));
    let json = read("/json", ", json = '/build/revision'").await;
    assert_eq!(json, RevisionSeen::Running(revision("1.3")));
    for (path, needle) in [
        ("/evil", "not a valid revision"),
        ("/stuck", "no answer in time"),
        ("/endless", "longer than"),
        ("/down", "503"),
    ] {
        match read(path, "").await {
            RevisionSeen::Unknown(why) => assert!(why.contains(needle), "{path}: {why}"),
            RevisionSeen::Running(revision) => panic!("{path}: {revision}"),
        }
    }
}

#[tokio::test]
async fn the_probe_is_asked_until_it_succeeds() {
    let node = Node::new();
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let server = Server::start({
        let asked = Arc::clone(&asked);
        move |_| match asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst) {
            0..3 => Answer::Status(503),
            _ => Answer::Status(204),
        }
    });
    let probe = format!("probe = '{}'\n{}", server.url("/healthz"), script(DEPLOYS));
    assert_eq!(upgrade(&node.app(&probe), "1").await, Ok(()));
    assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), 4);
}

#[tokio::test]
async fn a_probe_that_never_succeeds_uses_up_the_attempt() {
    let node = Node::new();
    let server = Server::start(|_| Answer::Status(302));
    let probe = format!("probe = '{}'\n{}", server.url("/healthz"), script(DEPLOYS));
    let words = words(node.app(&probe).upgrade(&revision("1"), 1_000).await);
    assert!(words.contains("/healthz") && words.contains("302"), "{words}");
}

/// A script that ignores SIGTERM, as do its child and grandchild, and notes who they are.
const STUBBORN: &str = "trap \"\" TERM; \
     sh -c \"sleep 1000 & echo \\$! > grandchild.new; mv grandchild.new grandchild; wait\" & \
     echo $! > child; echo $$ > leader; wait";

fn family(node: &Node) -> Option<[String; 3]> {
    Some([node.read("leader")?, node.read("child")?, node.read("grandchild")?])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_limit_ends_the_whole_group() {
    let node = Node::new();
    let failed = node.app(&script(STUBBORN)).upgrade(&revision("1"), 3_000).await.unwrap_err();
    assert_eq!(failed.why, AttemptFailure::TimedOut(3_000));
    for pid in family(&node).expect("they had begun") {
        eventually("it is dead", || (!is_alive(&pid)).then_some(()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_future_ends_the_whole_group() {
    let node = Node::new();
    let app = node.app(&script(STUBBORN));
    let attempt = tokio::spawn(async move { upgrade(&app, "1").await });
    let family = eventually("they have begun", || family(&node));
    assert!(family.iter().all(|pid| is_alive(pid)));
    attempt.abort();
    for pid in family {
        eventually("it is dead", || (!is_alive(&pid)).then_some(()));
    }
    // And its lock is free again.
    assert_eq!(upgrade(&node.app(&script(DEPLOYS)), "2").await, Ok(()));
}

#[tokio::test]
async fn what_a_command_leaves_behind_is_neither_awaited_nor_ended() {
    let node = Node::new();
    let leaves = format!("sleep 1000 & echo $! > daemon; {DEPLOYS}");
    assert_eq!(upgrade(&node.app(&script(&leaves)), "1").await, Ok(()));
    let daemon = node.read("daemon").unwrap();
    assert!(is_alive(&daemon));
    // It does not hold up the next attempt.
    assert_eq!(upgrade(&node.app(&script(DEPLOYS)), "2").await, Ok(()));
    kill(&daemon);
}

#[tokio::test]
async fn only_the_deploy_command_inherits_the_lock() {
    let node = Node::new();
    // The shell's own look into the folder is over by the time it is asked for.
    let list = "for fd in /proc/$$/fd/*; do readlink $fd || true; done";
    let restart = format!("restart = ['sh', '-c', '''cd FOLDER; {list} > restart''']\n");
    let app = node.app(&format!("{restart}{}", script(&format!("{list} > deploy; {DEPLOYS}"))));
    assert_eq!(upgrade(&app, "1").await, Ok(()));
    assert!(node.read("deploy").unwrap().contains("/state/apps/shop.lock"));
    assert!(!node.read("restart").unwrap().contains("shop.lock"));
}

/// In the environment of the process that plays the agent that is killed.
const AGENT: &str = "EVENKEEL_TEST_AGENT_FOLDER";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlives_its_agent_holds_up_the_next_attempt() {
    let slow = script(
        "echo $$ > first.new; mv first.new first; \
         until [ -e go ]; do sleep 0.01; done; echo $1 >> ended",
    );
    if let Ok(folder) = std::env::var(AGENT) {
        let _ = upgrade(&app(std::path::Path::new(&folder), &slow), "1").await;
        unreachable!("this agent is killed");
    }

    let node = Node::new();
    let name =
        concat!(module_path!(), "::a_command_that_outlives_its_agent_holds_up_the_next_attempt");
    let name = name.split_once("::").expect("the crate's name").1;
    let mut agent = Process::start(
        "an agent",
        Command::new(std::env::current_exe().expect("this test"))
            .args(["--exact", name])
            .env(AGENT, node.folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let first = eventually("the first command runs", || node.read("first"));
    agent.kill();
    assert!(is_alive(&first), "the command outlives its agent");

    let next = node.app(&script(&format!("echo $1 >> ended; {DEPLOYS}")));
    let held = words(next.upgrade(&revision("2"), 200).await);
    assert!(held.contains("shop.lock") && held.contains("has not ended"), "{held}");

    let pause = std::time::Duration::from_millis(200);
    let alone = tokio::time::timeout(pause, next.left_alone()).await;
    assert!(alone.is_err(), "somebody is still at work");
    let waiting = tokio::spawn(async move {
        next.left_alone().await;
        upgrade(&next, "3").await
    });
    node.write("go", "");
    assert_eq!(waiting.await.expect("no panic"), Ok(()));
    assert_eq!(node.read("ended").as_deref(), Some("1\n3\n"));
}
