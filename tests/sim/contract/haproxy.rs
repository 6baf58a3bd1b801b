//! HAProxy: administrative bits, hands, reloads with and without a state file.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use evenkeel::haproxy::{Config, Haproxy as Client, Socket};
use evenkeel::model::{AdminBits, BackendName, ServerName};
use evenkeel::plan::ports::{Balancer, BalancerState, ProcessId, SetServer, SetState};

use crate::haproxy::Haproxy as Simulated;
use crate::parts::haproxy::{Haproxy as Real, Setup, states};
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

/// The simulated one does, or is done to, what the step says.
fn simulated(haproxy: &mut Simulated, step: Step) {
    match step {
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
}

/// So does the real one; `ill` is what is checked.
async fn real(haproxy: &mut Real, client: &mut Client, ill: Option<&Ill>, step: Step) {
    match step {
        Set(name, state) => {
            let answers = client.set(&[command(name, state)]).await.expect("it is there");
            assert_eq!(answers, [Ok(())]);
        }
        Hand(name, word) => {
            haproxy.command(&format!("set server app/{name} state {word}"));
        }
        Dump => client.dump_state().await.expect("it is there"),
        Reload => haproxy.reload(),
        Checked => ill.expect("something to check").is_found_out(haproxy),
    }
}

/// `looking`: after each step, and not only at the end.
fn of_the_simulated(steps: &[Step], state_file: bool, looking: bool) -> Vec<String> {
    let servers = vec![(server("web1"), false), (server("web2"), true)];
    let mut haproxy = Simulated::new(backend(), servers, state_file);
    let mut process = haproxy.process().expect("it is there");
    let mut story = vec![line("start", &haproxy.read().expect("it is there"), process, process)];
    for (number, step) in steps.iter().enumerate() {
        simulated(&mut haproxy, *step);
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

fn setup(state_file: bool) -> Setup {
    if state_file { Setup::new().with_state_file() } else { Setup::new() }
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
    let mut haproxy: Real = setup(state_file)
        .backend("app")
        .server("web1", NOWHERE, "")
        .server("web2", NOWHERE, "disabled")
        .start();
    let mut client = client(&haproxy, state_file);
    let mut process = client.process().await.expect("it is there");
    let mut story =
        vec![line("start", &client.read(&[]).await.expect("it is there"), process, process)];
    for (number, step) in steps.iter().enumerate() {
        real(&mut haproxy, &mut client, None, *step).await;
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
async fn administrative_states() {
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

/// A service that is not well, and one that is: what HAProxy thinks of them when they come out of maintenance, and when it is
/// reloaded. It takes a server for up until its next check has failed.
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
fn healths(step: Step, state: &BalancerState) -> String {
    let of = |name: &str| {
        let seen = &state.backends[&backend()][&server(name)];
        format!("{name} {} {:?}", seen.admin.0, seen.health)
    };
    format!("{step:?}: {}, {}", of("web1"), of("web2"))
}

fn healths_of_the_simulated(state_file: bool) -> Vec<String> {
    let servers = vec![(server("web1"), false), (server("web2"), false)];
    let mut haproxy = Simulated::new(backend(), servers, state_file);
    haproxy.servers.get_mut(&server("web1")).expect("a server").healthy = false;
    let mut story = Vec::new();
    for step in HEALTH {
        simulated(&mut haproxy, *step);
        story.push(healths(*step, &haproxy.read().expect("it is there")));
    }
    story
}

/// What `web1` is: whoever asks waits for an answer, and gets none when the test says so. So no check fails before.
struct Ill {
    port: u16,
    asks: Arc<Mutex<Asks>>,
}

/// Whoever waits, and whether anybody is to.
#[derive(Default)]
struct Asks {
    waiting: Vec<TcpStream>,
    turned_away: bool,
}

impl Ill {
    fn start() -> Ill {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let asks = Arc::new(Mutex::new(Asks::default()));
        let kept = Arc::clone(&asks);
        std::thread::spawn(move || {
            for ask in listener.incoming().flatten() {
                let mut asks = kept.lock().expect("the asks");
                if !asks.turned_away {
                    asks.waiting.push(ask);
                }
            }
        });
        Ill { port, asks }
    }

    /// Turns everybody away until HAProxy has it down, and lets them wait again.
    fn is_found_out(&self, haproxy: &Real) {
        let turn_away = |turned_away| {
            let waiting = Vec::new();
            *self.asks.lock().expect("the asks") = Asks { waiting, turned_away };
        };
        turn_away(true);
        eventually("web1 is found out", || {
            let states = states(&haproxy.command("show servers state app"), "app");
            (!states["web1"].is_up).then_some(())
        });
        turn_away(false);
    }
}

/// What `web2` is.
fn well() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for mut ask in listener.incoming().flatten() {
            let _ = ask.read(&mut [0; 1024]); // Whoever has gone needs no answer.
            let _ = ask.write_all(b"HTTP/1.0 200 OK\r\n\r\n");
        }
    });
    port
}

async fn healths_of_the_real(state_file: bool) -> Vec<String> {
    let ill = Ill::start();
    let mut haproxy: Real = setup(state_file)
        .backend("app")
        .backend_line("option httpchk GET /")
        .backend_line("timeout check 60s")
        .server("web1", ill.port, "check inter 50ms fall 1")
        .server("web2", well(), "check inter 50ms fall 1")
        .start();
    let mut client = client(&haproxy, state_file);
    let mut story = Vec::new();
    for step in HEALTH {
        real(&mut haproxy, &mut client, Some(&ill), *step).await;
        story.push(healths(*step, &client.read(&[]).await.expect("it is there")));
    }
    story
}

#[tokio::test]
async fn health_after_maintenance_and_reloads() {
    for state_file in [true, false] {
        let simulated = healths_of_the_simulated(state_file);
        assert!(simulated.iter().any(|line| line.contains("web1 0 Up")), "{simulated:?}");
        assert_eq!(simulated, healths_of_the_real(state_file).await);
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
