//! HAProxy: administrative bits, hands, reloads with and without a state file.

use evenkeel::haproxy::{Config, Haproxy as Client, Socket};
use evenkeel::model::{AdminBits, BackendName, ServerName};
use evenkeel::plan::ports::{Balancer, BalancerState, ProcessId, SetServer, SetState};

use crate::haproxy::Haproxy as Simulated;
use crate::parts::haproxy::{Haproxy as Real, Setup};
use crate::parts::process::DEADLINE;

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
}

use SetState::{Drain, Maint, Ready};
use Step::{Dump, Hand, Reload, Set};

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

async fn of_the_real(steps: &[Step], state_file: bool, looking: bool) -> Vec<String> {
    let setup = Setup::new();
    let setup = if state_file { setup.with_state_file() } else { setup };
    let mut haproxy: Real = setup
        .backend("app")
        .server("web1", NOWHERE, "")
        .server("web2", NOWHERE, "disabled")
        .start();
    let mut client = Client::new(Config {
        socket: Socket::Unix(haproxy.socket()),
        state_file: state_file.then(|| haproxy.state_file()),
        backends: Vec::new(),
        timeout_ms: DEADLINE.as_millis() as u64,
    });
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

/// The bits that stories come by are those that the design names.
#[test]
fn the_stories_meet_every_bit() {
    let story = of_the_simulated(STATES, false, true).join("\n");
    for bits in [0, 1, 4, 5, 8, 12] {
        let of = |name: &str| story.contains(&format!("{name} {bits},"));
        assert!(of("web1") || of("web2"), "{:?} in\n{story}", AdminBits(bits));
    }
}
