//! HAProxy: administrative bits, hands, reloads with and without a state file.

use evenkeel::haproxy::{Config, Haproxy as Client, Socket};
use evenkeel::model::{AdminBits, BackendName, ServerName};
use evenkeel::plan::ports::{Balancer, BalancerState, ProcessId, SetServer, SetState};

use crate::haproxy::Haproxy as Simulated;
use crate::parts::haproxy::{Haproxy as Real, Setup};
use crate::parts::process::{DEADLINE, eventually};

/// Nothing listens there; unchecked servers do not mind.
const NOWHERE: u16 = 9;

/// What happens.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// The agent sets a state.
    Set(&'static str, SetState),
    /// A hand does.
    Hand(&'static str, &'static str),
    /// The agent writes the state file.
    Dump,
    Reload,
    /// HAProxy's checks have found out how the services are.
    Checked,
}

use SetState::{Drain, Maint, Ready};
use Step::{Checked, Dump, Hand, Reload, Set};

/// Every state from every other one, on a plain server and on one that is `disabled` in the configuration.
const STATES: &[Step] = &[
    Set("web1", Maint),
    Set("web1", Ready),
    Set("web1", Drain),
    Set("web1", Maint),
    Set("web1", Drain),
    Set("web1", Ready),
    Set("web2", Drain),
    Set("web2", Maint),
    Set("web2", Ready),
    Set("web2", Maint),
    Set("web1", Maint),
    Hand("web1", "drain"),
    Hand("web1", "maint"),
    Hand("web1", "ready"),
    Hand("web2", "ready"),
    Hand("web2", "maint"),
];

/// What a reload makes of it.
const RELOADS: &[Step] = &[
    Reload,
    Set("web1", Maint),
    Dump,
    Reload,
    Set("web1", Ready),
    Reload,
    Dump,
    Hand("web1", "drain"),
    Reload,
    Hand("web1", "drain"),
    Dump,
    Reload,
    Hand("web1", "ready"),
    Hand("web2", "ready"),
    Dump,
    Reload,
    Set("web2", Maint),
    Reload,
];

/// Nobody looks in between: the connection that the agent keeps says nothing while the process at its other end is
/// replaced, and what is asked next, be it a change, must reach the one that serves.
const IDLE: &[Step] = &[
    Set("web1", Maint),
    Dump,
    Reload,
    Set("web2", Drain),
    Reload,
    Reload,
    Dump,
    Hand("web1", "drain"),
    Reload,
    Set("web1", Maint),
    Reload,
];

fn backend() -> BackendName {
    BackendName::new("app").expect("a name")
}

fn server(name: &str) -> ServerName {
    ServerName::new(name).expect("a name")
}

fn command(name: &str, state: SetState) -> SetServer {
    SetServer { backend: backend(), server: server(name), state }
}

/// The bits of both servers, and whether another process serves.
fn line(step: &str, state: &BalancerState, process: ProcessId, before: ProcessId) -> String {
    let bits = |name: &str| state.backends[&backend()][&server(name)].admin.0;
    let same = process == before && state.process == process;
    format!("{step}: web1 {}, web2 {}, same process: {same}", bits("web1"), bits("web2"))
}

/// `looking`: after each step, and not only at the end.
fn of_the_simulated(steps: &[Step], state_file: bool, looking: bool) -> Vec<String> {
    let servers = vec![(server("web1"), false), (server("web2"), true)];
    let mut haproxy = Simulated::new(backend(), servers, state_file);
    let mut process = haproxy.process().expect("it is there");
    let mut story = vec![line("start", &haproxy.read().expect("it is there"), process, process)];
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Set(name, state) => haproxy.set(&command(name, state)).expect("a server"),
            Hand(name, word) => {
                let state = match word {
                    "maint" => Maint,
                    "drain" => Drain,
                    _ => Ready,
                };
                haproxy.set(&command(name, state)).expect("a server");
            }
            Dump => haproxy.dump_state().expect("it is there"),
            Reload => haproxy.reload(),
            Checked => haproxy.check(),
        }
        if !looking && number + 1 < steps.len() {
            continue;
        }
        let before = process;
        process = haproxy.process().expect("it is there");
        let state = haproxy.read().expect("it is there");
        story.push(line(&format!("{step:?}"), &state, process, before));
    }
    story
}

fn client(haproxy: &Real, state_file: bool) -> Client {
    Client::new(Config {
        socket: Socket::Unix(haproxy.socket()),
        state_file: state_file.then(|| haproxy.state_file()),
        backends: Vec::new(),
        timeout_ms: DEADLINE.as_millis() as u64,
    })
}

async fn of_the_real(steps: &[Step], state_file: bool, looking: bool) -> Vec<String> {
    let setup = Setup::new();
    let setup = if state_file { setup.with_state_file() } else { setup };
    let mut haproxy: Real = setup
        .backend("app")
        .server("web1", NOWHERE, "")
        .server("web2", NOWHERE, "disabled")
        .start();
    let mut client = client(&haproxy, state_file);
    let mut process = client.process().await.expect("it is there");
    let mut story =
        vec![line("start", &client.read(&[]).await.expect("it is there"), process, process)];
    for (number, step) in steps.iter().enumerate() {
        match *step {
            Set(name, state) => {
                let answers = client.set(&[command(name, state)]).await.expect("it is there");
                assert_eq!(answers, [Ok(())]);
            }
            Hand(name, word) => {
                haproxy.command(&format!("set server app/{name} state {word}"));
            }
            Dump => client.dump_state().await.expect("it is there"),
            Reload => haproxy.reload(),
            Checked => unreachable!("nothing is checked here"),
        }
        if !looking && number + 1 < steps.len() {
            continue;
        }
        let before = process;
        process = client.process().await.expect("it is there");
        let state = client.read(&[]).await.expect("it is there");
        story.push(line(&format!("{step:?}"), &state, process, before));
    }
    story
}

#[tokio::test]
async fn states() {
    assert_eq!(of_the_simulated(STATES, false, true), of_the_real(STATES, false, true).await);
}

#[tokio::test]
async fn reloads_with_a_state_file() {
    assert_eq!(of_the_simulated(RELOADS, true, true), of_the_real(RELOADS, true, true).await);
}

#[tokio::test]
async fn reloads_without_a_state_file() {
    assert_eq!(of_the_simulated(RELOADS, false, true), of_the_real(RELOADS, false, true).await);
}

#[tokio::test]
async fn a_connection_that_is_silent_over_reloads() {
    for state_file in [true, false] {
        let simulated = of_the_simulated(IDLE, state_file, false);
        assert_eq!(simulated.len(), 2, "the beginning and the end");
        assert_eq!(simulated, of_the_real(IDLE, state_file, false).await);
    }
}

/// A service that answers nobody, and one that does: what HAProxy thinks of them when they come out of maintenance, and
/// when it is reloaded with a state file. It takes a server for up until its next check has failed. After a reload without one it does
/// so until the first has, which may be at once, so that there is nothing to compare.
const HEALTH: &[Step] = &[
    Checked,
    Set("web1", Drain),
    Set("web1", Ready),
    Set("web1", Maint),
    Set("web2", Maint),
    Set("web1", Ready),
    Set("web2", Ready),
    Checked,
    Dump,
    Reload,
    Checked,
    Set("web1", Maint),
    Hand("web1", "drain"),
    Dump,
    Reload,
    Set("web1", Ready),
    Checked,
];

/// Bits and health of both.
fn healths(step: &str, state: &BalancerState) -> String {
    let of = |name: &str| {
        let seen = &state.backends[&backend()][&server(name)];
        format!("{name} {} {:?}", seen.admin.0, seen.health)
    };
    format!("{step}: {}, {}", of("web1"), of("web2"))
}

fn healths_of_the_simulated() -> Vec<String> {
    let servers = vec![(server("web1"), false), (server("web2"), false)];
    let mut haproxy = Simulated::new(backend(), servers, true);
    haproxy.servers.get_mut(&server("web1")).expect("a server").healthy = false;
    let mut story = Vec::new();
    for step in HEALTH {
        match *step {
            Set(name, state) => haproxy.set(&command(name, state)).expect("a server"),
            Hand(name, _) => haproxy.set(&command(name, Drain)).expect("a server"),
            Dump => haproxy.dump_state().expect("it is there"),
            Reload => haproxy.reload(),
            Checked => haproxy.check(),
        }
        story.push(healths(&format!("{step:?}"), &haproxy.read().expect("it is there")));
    }
    story
}

async fn healths_of_the_real() -> Vec<String> {
    let answers = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = answers.local_addr().expect("an address").port();
    // Whoever asks is let in, for as long as the test runs.
    std::thread::spawn(move || answers.incoming().for_each(drop));
    let setup = Setup::new().with_state_file();
    // Time to be seen up in, and then to be found out by the next check; in a new process the first server is checked at once.
    let check = "check inter 3s fall 1";
    let mut haproxy: Real =
        setup.backend("app").server("web2", port, check).server("web1", NOWHERE, check).start();
    let mut client = client(&haproxy, true);
    let mut story = Vec::new();
    for step in HEALTH {
        match *step {
            Set(name, state) => {
                let answers = client.set(&[command(name, state)]).await.expect("it is there");
                assert_eq!(answers, [Ok(())]);
            }
            Hand(name, word) => {
                haproxy.command(&format!("set server app/{name} state {word}"));
            }
            Dump => client.dump_state().await.expect("it is there"),
            Reload => haproxy.reload(),
            Checked => eventually("web1 is found out", || {
                let down = |line: &str| {
                    let row: Vec<&str> = line.split(' ').collect();
                    row.len() > 6 && row[3] == "web1" && row[5] == "0"
                };
                haproxy.command("show servers state app").lines().any(down).then_some(())
            }),
        }
        let state = client.read(&[]).await.expect("it is there");
        story.push(healths(&format!("{step:?}"), &state));
    }
    story
}

#[tokio::test]
async fn health_after_maintenance_and_reloads() {
    let simulated = healths_of_the_simulated();
    assert!(simulated.iter().any(|line| line.contains("web1 0 Up")), "{simulated:?}");
    assert_eq!(simulated, healths_of_the_real().await);
}

/// The bits that stories come by are those that the design names.
#[test]
fn the_stories_meet_every_bit() {
    let story = of_the_simulated(STATES, false, true).join("\n");
    for bits in [0, 1, 4, 5, 8, 12] {
        let of = |name: &str| story.contains(&format!("{name} {bits},"));
        assert!(of("web1") || of("web2"), "{:?} in\n{story}", AdminBits(bits));
    }
}
