//! The haproxy adapter against a real HAProxy.

mod peers;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::sync::mpsc;

use evenkeel::haproxy::{Config, Haproxy, Socket};
use evenkeel::model::{AdminBits, BackendName, Health, ServerName, ServerSeen};
use evenkeel::plan::ports::{
    Balancer, BalancerError, BalancerState, ProcessId, SetServer, SetState,
};
use tokio::net::TcpSocket;

use crate::parts::haproxy::{self as part, Setup, get};
use crate::parts::process::{DEADLINE, eventually};

/// Nothing listens there; unchecked servers do not mind.
const NOWHERE: u16 = 9;

fn config(socket: Socket) -> Config {
    // The deadline of the tests: none of them is about how fast HAProxy is.
    let timeout_ms = DEADLINE.as_millis() as u64;
    Config { socket, state_file: None, backends: Vec::new(), timeout_ms }
}

fn client(haproxy: &part::Haproxy) -> Haproxy {
    Haproxy::new(config(Socket::Unix(haproxy.socket())))
}

fn client_with_state_file(haproxy: &part::Haproxy) -> Haproxy {
    let state_file = Some(haproxy.state_file());
    Haproxy::new(Config { state_file, ..config(Socket::Unix(haproxy.socket())) })
}

fn backend(name: &str) -> BackendName {
    BackendName::new(name).unwrap()
}

fn set(server: &str, state: SetState) -> SetServer {
    set_in("app", server, state)
}

fn set_in(name: &str, server: &str, state: SetState) -> SetServer {
    SetServer { backend: backend(name), server: ServerName::new(server).unwrap(), state }
}

fn seen<'a>(state: &'a BalancerState, name: &str, server: &str) -> &'a ServerSeen {
    &state.backends[&backend(name)][&ServerName::new(server).unwrap()]
}

fn ready() -> ServerSeen {
    let (admin, health) = (AdminBits(0), Health::Up);
    ServerSeen { admin, health, weight: 1, backup: false, sessions: 0 }
}

fn shop() -> Setup {
    Setup::new()
        .backend("app")
        .server("web1", NOWHERE, "")
        .server("web2", NOWHERE, "disabled")
        .server("web3", NOWHERE, "weight 0")
        .server("web4", NOWHERE, "backup weight 7")
        .backend("other")
        .server("web1", NOWHERE, "")
        .backend("empty")
}

async fn reads_what_is_configured(haproxy: &part::Haproxy, mut client: Haproxy) {
    let state = client.read(&[]).await.unwrap();
    assert_eq!(state.process, ProcessId(haproxy.worker()));
    let names: Vec<&str> = state.backends.keys().map(BackendName::as_str).collect();
    assert_eq!(names, ["app", "empty", "other"]);
    assert!(state.backends[&backend("empty")].is_empty());
    assert_eq!(*seen(&state, "other", "web1"), ready());
    assert_eq!(*seen(&state, "app", "web1"), ready());
    let disabled = ServerSeen { admin: AdminBits(5), health: Health::Down, ..ready() };
    assert_eq!(*seen(&state, "app", "web2"), disabled);
    assert_eq!(*seen(&state, "app", "web3"), ServerSeen { weight: 0, ..ready() });
    assert_eq!(*seen(&state, "app", "web4"), ServerSeen { weight: 7, backup: true, ..ready() });

    let wanted = [backend("app"), backend("empty"), backend("absent")];
    let some = client.read(&wanted).await.unwrap();
    let names: Vec<&str> = some.backends.keys().map(BackendName::as_str).collect();
    assert_eq!(names, ["app", "empty"]);
    assert_eq!(some.backends[&backend("app")], state.backends[&backend("app")]);
}

#[tokio::test]
async fn reads_over_a_unix_socket() {
    let haproxy = shop().start();
    reads_what_is_configured(&haproxy, client(&haproxy)).await;
}

#[tokio::test]
async fn reads_over_tcp() {
    let haproxy = shop().with_tcp().start();
    let socket = Socket::Tcp(haproxy.tcp().to_string());
    reads_what_is_configured(&haproxy, Haproxy::new(config(socket))).await;
}

#[tokio::test]
async fn configured_backends_limit_what_is_read() {
    let haproxy = shop().start();
    let backends = vec![backend("app")];
    let socket = Socket::Unix(haproxy.socket());
    let mut client = Haproxy::new(Config { backends, ..config(socket) });
    for wanted in [vec![], vec![backend("app")], vec![backend("app"), backend("other")]] {
        let state = client.read(&wanted).await.unwrap();
        assert!(state.backends.keys().eq([&backend("app")]), "{wanted:?}");
    }
    let none = client.read(&[backend("other")]).await.unwrap();
    assert!(none.backends.is_empty());
}

#[tokio::test]
async fn sets_every_state_and_reads_it_back() {
    let haproxy = shop().start();
    let mut client = client(&haproxy);
    for (server, state, admin, health) in [
        ("web1", SetState::Maint, 1, Health::Down),
        ("web1", SetState::Ready, 0, Health::Up),
        ("web1", SetState::Drain, 8, Health::Up),
        ("web1", SetState::Maint, 1, Health::Down), // it erases the drain
        ("web1", SetState::Drain, 8, Health::Up),   // and the other way round
        ("web1", SetState::Ready, 0, Health::Up),
        ("web2", SetState::Ready, 4, Health::Up), // disabled in the configuration, and lifted
        ("web2", SetState::Maint, 5, Health::Down),
    ] {
        let answers = client.set(&[set(server, state)]).await.unwrap();
        assert_eq!(answers, [Ok(())], "{server} {state:?}");
        let after = client.read(&[backend("app")]).await.unwrap();
        let seen = seen(&after, "app", server);
        assert_eq!((seen.admin.0, seen.health), (admin, health), "{server} {state:?}");
        assert_eq!(haproxy.admin_bits("app", server), admin, "{server} {state:?}");
    }
    assert_eq!(haproxy.admin_bits("other", "web1"), 0, "a namesake elsewhere is not touched");
}

#[tokio::test]
async fn errors_come_back_per_command() {
    let haproxy = shop().start();
    let mut client = client(&haproxy);
    let answers = client
        .set(&[
            set_in("absent", "web1", SetState::Maint),
            set("web1", SetState::Maint),
            set("absent", SetState::Maint),
            set("web3", SetState::Drain),
        ])
        .await
        .unwrap();
    let no = |text: &str| Err(text.to_owned());
    assert_eq!(answers, [no("No such backend."), Ok(()), no("No such server."), Ok(())]);
    assert_eq!((haproxy.admin_bits("app", "web1"), haproxy.admin_bits("app", "web3")), (1, 8));
    assert_eq!(client.set(&[]).await, Ok(vec![]));
}

#[tokio::test]
async fn a_socket_without_level_admin_refuses_to_set() {
    let haproxy = shop().level("operator").start();
    let mut client = client(&haproxy);
    assert_eq!(client.read(&[]).await.unwrap().backends.len(), 3);
    let answers = client.set(&[set("web1", SetState::Maint)]).await.unwrap();
    let error = answers[0].as_ref().unwrap_err();
    assert!(error.starts_with("Permission denied"), "{error}");
}

/// A server that answers each request when it is told to.
struct Web {
    listener: TcpListener,
}

impl Web {
    fn start() -> Web {
        Web { listener: TcpListener::bind(loopback(0)).expect("bind") }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }

    /// Takes one request in the background; it is answered when the sender speaks or is dropped.
    fn one_request(&self) -> mpsc::Sender<()> {
        let listener = self.listener.try_clone().unwrap();
        let (answer, wait) = mpsc::channel();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).unwrap();
            let _ = wait.recv();
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ndone")
                .unwrap();
        });
        answer
    }
}

fn loopback(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Reads until the server is as `wanted`.
async fn read_until(
    client: &mut Haproxy,
    server: &str,
    what: &str,
    wanted: impl Fn(&ServerSeen) -> bool,
) -> ServerSeen {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let state = client.read(&[backend("app")]).await.unwrap();
        let found = seen(&state, "app", server);
        if wanted(found) {
            return found.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "waited for {what}, last {found:?}");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// A port that refuses connections until it is listened on, and that nobody else can take before.
struct Held(TcpSocket);

impl Held {
    fn new() -> Held {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(loopback(0)).unwrap();
        Held(socket)
    }

    fn port(&self) -> u16 {
        self.0.local_addr().unwrap().port()
    }

    /// Accepts connections, and says nothing, until the test ends.
    fn listen(self) {
        let listener = self.0.listen(128).unwrap();
        tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    }
}

#[tokio::test]
async fn checks_show_as_health() {
    let (web1, web2) = (Held::new(), Held::new());
    let haproxy = Setup::new()
        .backend("app")
        .server("web1", web1.port(), "check inter 20ms fall 1 rise 1")
        .server("web2", web2.port(), "check inter 20ms fall 1 rise 1 slowstart 1h")
        .server("web3", NOWHERE, "track app/web1")
        .start();
    let mut client = client(&haproxy);
    let down = |server: &ServerSeen| server.health == Health::Down;
    read_until(&mut client, "web1", "DOWN", down).await;
    read_until(&mut client, "web2", "DOWN", down).await;
    let tracking = read_until(&mut client, "web3", "DOWN with web1", down).await;
    assert_eq!(tracking.admin, AdminBits(0));

    web1.listen();
    web2.listen();
    read_until(&mut client, "web1", "UP", |s| s.health == Health::Up).await;
    read_until(&mut client, "web3", "UP with web1", |s| s.health == Health::Up).await;
    let starting = |server: &ServerSeen| server.health == Health::Starting;
    let seen = read_until(&mut client, "web2", "the slow start", starting).await;
    assert!(seen.is_ready(), "{seen:?}");

    client.set(&[set("web1", SetState::Maint)]).await.unwrap();
    let follows =
        read_until(&mut client, "web3", "inherited maintenance", |s| s.admin.is_out()).await;
    assert_eq!((follows.admin, follows.health), (AdminBits(2), Health::Down));
}

#[tokio::test]
async fn what_a_checked_server_says_forges_nothing() {
    let web = Web::start();
    let listener = web.listener.try_clone().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            // MySQL's error packet: what it says comes into `last_chk` as it is.
            let text = b"\"\n> app,web1,0,0,0,0,,0,\n\n> ";
            let mut packet = vec![(text.len() + 9) as u8, 0, 0, 0, 0xff, 1, 4, b'#'];
            packet.extend(b"08004");
            packet.extend(text);
            let _ = stream.write_all(&packet);
            let _ = stream.read_to_end(&mut Vec::new()); // A close with bytes unread would reset it.
        }
    });
    let haproxy = Setup::new()
        .defaults("mode tcp")
        .defaults("option mysql-check")
        .backend("app")
        .server("web1", web.address().port(), "check inter 20ms fall 1")
        .start();
    let mut client = client(&haproxy);
    let down = |server: &ServerSeen| server.health == Health::Down;
    read_until(&mut client, "web1", "DOWN", down).await;
    // A check may also end in an error of its own; wait for one that brought the text.
    eventually("the check's text in HAProxy's answer", || {
        haproxy.command("show stat app 4 -1").contains("\n> ").then_some(())
    });
    assert_eq!(client.read(&[]).await.unwrap().backends[&backend("app")].len(), 1);
}

#[tokio::test]
async fn requests_in_flight_are_counted_and_finish_in_maintenance() {
    let web = Web::start();
    let haproxy = Setup::new().backend("app").server("web1", web.address().port(), "").start();
    let mut client = client(&haproxy);
    let answer = web.one_request();
    let in_flight = get(haproxy.frontend("app"), "/");
    read_until(&mut client, "web1", "one session", |s| s.sessions == 1).await;

    client.set(&[set("web1", SetState::Maint)]).await.unwrap();
    let refused = get(haproxy.frontend("app"), "/").join().unwrap().unwrap();
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    answer.send(()).unwrap();
    let finished = in_flight.join().unwrap().unwrap();
    assert!(finished.ends_with("done"), "{finished}");
    let seen = read_until(&mut client, "web1", "no session", |s| s.sessions == 0).await;
    assert_eq!(seen.admin, AdminBits(1));
}

#[tokio::test]
async fn a_reload_is_noticed_though_the_old_process_answers() {
    let mut haproxy = shop().start();
    let mut client = client(&haproxy);
    client.set(&[set("web1", SetState::Maint)]).await.unwrap();
    let before = client.process().await.unwrap();
    haproxy.reload();
    let after = client.process().await.unwrap();
    assert_ne!(before, after);
    assert_eq!(after, ProcessId(haproxy.worker()));
    let state = client.read(&[]).await.unwrap();
    assert_eq!(state.process, after);
    assert_eq!(seen(&state, "app", "web1").admin, AdminBits(0), "lost without a state file");

    // Each call notices by itself, not only `process`.
    haproxy.reload();
    let state = client.read(&[]).await.unwrap();
    assert_eq!(state.process, ProcessId(haproxy.worker()));
    haproxy.reload();
    assert_eq!(client.set(&[set("web1", SetState::Maint)]).await, Ok(vec![Ok(())]));
    assert_eq!(haproxy.admin_bits("app", "web1"), 1);
}

#[tokio::test]
async fn the_state_file_carries_everything_over_a_reload_and_a_restart() {
    let mut haproxy = shop().with_state_file().start();
    let mut client = client_with_state_file(&haproxy);
    let commands = [
        set("web1", SetState::Maint),
        set("web2", SetState::Ready),
        set("web3", SetState::Drain),
        set_in("other", "web1", SetState::Drain),
    ];
    assert_eq!(client.set(&commands).await.unwrap(), [Ok(()), Ok(()), Ok(()), Ok(())]);
    haproxy.command("set server app/web4 weight 3");
    let before = client.read(&[]).await.unwrap();
    client.dump_state().await.unwrap();
    let mode = std::fs::metadata(haproxy.state_file()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o644);

    haproxy.reload();
    let after = client.read(&[]).await.unwrap();
    assert_ne!(after.process, before.process);
    assert_eq!(after.backends, before.backends);
    haproxy.restart();
    let after = client.read(&[]).await.unwrap();
    assert_eq!(after.backends, before.backends);
}

#[tokio::test]
async fn an_old_process_is_never_dumped() {
    let mut haproxy = shop().with_state_file().start();
    let mut client = client_with_state_file(&haproxy);
    client.set(&[set("web1", SetState::Maint)]).await.unwrap();
    haproxy.reload(); // Nothing was dumped: the new process has no maintenance.
    client.dump_state().await.unwrap();
    let dumped = std::fs::read_to_string(haproxy.state_file()).unwrap();
    let row = dumped.lines().find(|line| line.contains(" app 1 web1 ")).unwrap();
    assert_eq!(row.split(' ').nth(6), Some("0"), "{row}");
}

#[tokio::test]
async fn dumping_without_a_state_file_does_nothing_and_a_bad_one_is_named() {
    let haproxy = shop().start();
    assert_eq!(client(&haproxy).dump_state().await, Ok(()));
    let state_file = Some(haproxy.state_file().join("no/such"));
    let socket = Socket::Unix(haproxy.socket());
    let mut client = Haproxy::new(Config { state_file, ..config(socket) });
    let error = client.dump_state().await.unwrap_err();
    assert!(matches!(&error, BalancerError::StateFile { path, .. } if path.ends_with("no/such")));
    client.process().await.expect("the connection is none the worse");
}

#[tokio::test]
async fn a_restart_is_survived_and_an_absence_told() {
    let mut haproxy = shop().start();
    let mut client = client(&haproxy);
    let before = client.process().await.unwrap();
    haproxy.restart();
    let after = client.process().await.unwrap();
    assert_ne!(before, after);

    haproxy.stop();
    for _ in 0..2 {
        let error = client.read(&[]).await.unwrap_err();
        assert!(matches!(&error, BalancerError::Connect { .. }), "{error}");
        assert!(error.to_string().contains("does HAProxy run"), "{error}");
    }
    haproxy.start_again();
    assert_eq!(client.process().await, Ok(ProcessId(haproxy.worker())));
}

#[tokio::test]
async fn a_changed_configuration_is_seen_after_its_reload() {
    let mut haproxy = shop().start();
    let mut client = client(&haproxy);
    client.read(&[]).await.unwrap();
    let address = haproxy.frontend("app");
    haproxy.reload_with(Setup::new().backend("new").backend("app").server("web9", NOWHERE, ""));
    assert_eq!(haproxy.frontend("app"), address);
    let state = client.read(&[backend("app"), backend("other")]).await.unwrap();
    assert_eq!(state.backends.len(), 1);
    assert_eq!(*seen(&state, "app", "web9"), ready());
}

#[tokio::test]
async fn a_thousand_servers_are_set_and_read() {
    let names: Vec<String> = (1..=1000).map(|n| format!("web{n}")).collect();
    let setup = names
        .iter()
        .fold(Setup::new().backend("app"), |setup, name| setup.server(name, NOWHERE, ""));
    let haproxy = setup.start();
    let mut client = client(&haproxy);
    let commands: Vec<SetServer> = names.iter().map(|name| set(name, SetState::Maint)).collect();
    let answers = client.set(&commands).await.unwrap();
    assert_eq!(answers, vec![Ok(()); 1000]);
    for wanted in [vec![], vec![backend("app")]] {
        let state = client.read(&wanted).await.unwrap();
        let servers = &state.backends[&backend("app")];
        assert_eq!(servers.len(), 1000);
        assert!(servers.values().all(|server| server.admin == AdminBits(1)));
    }
}

#[tokio::test]
async fn names_that_cannot_be_used_are_left_out() {
    let haproxy = Setup::new()
        .backend("app")
        .server("_hidden", NOWHERE, "")
        .server("host.example:80", NOWHERE, "")
        .backend_line("server-template web 1-3 127.0.0.1:9")
        .backend("-odd")
        .server("web1", NOWHERE, "")
        .start();
    let state = client(&haproxy).read(&[]).await.unwrap();
    assert!(state.backends.keys().eq([&backend("app")]));
    let names: Vec<&str> = state.backends[&backend("app")].keys().map(ServerName::as_str).collect();
    assert_eq!(names, ["host.example:80", "web1", "web2", "web3"]);
}

#[tokio::test]
async fn a_frontend_of_the_same_name_does_not_hide_a_backend() {
    let haproxy = Setup::new()
        .section(&format!("frontend app\n  bind abns@evenkeel-{}", std::process::id()))
        .backend("app")
        .server("web1", NOWHERE, "")
        .start();
    let wanted = haproxy.command("show servers state app");
    assert!(wanted.contains(" app 1 web1 "), "{wanted}");
    let state = client(&haproxy).read(&[backend("app")]).await.unwrap();
    assert_eq!(*seen(&state, "app", "web1"), ready());
}

#[tokio::test]
async fn a_dropped_call_does_not_mix_up_the_next() {
    let haproxy = shop().start();
    let mut client = client(&haproxy);
    let whole = client.read(&[]).await.unwrap();
    for polls in 1..20 {
        // Polled a few times and let go of, wherever that was.
        let wanted = [backend("other")];
        let mut call = Box::pin(client.read(&wanted));
        for _ in 0..polls {
            tokio::select! {
                biased;
                _ = &mut call => break,
                () = tokio::task::yield_now() => {}
            }
        }
        drop(call);
        assert_eq!(client.read(&[]).await.as_ref(), Ok(&whole));
    }
}

#[tokio::test]
async fn the_test_part_leaves_no_process() {
    let mut haproxy = shop().start();
    let mut client = client(&haproxy);
    let old = client.process().await.unwrap().0;
    haproxy.reload();
    let new = haproxy.worker();
    drop(haproxy);
    for worker in [old, new] {
        eventually("the worker ends", || {
            let state = std::fs::read_to_string(format!("/proc/{worker}/stat")).unwrap_or_default();
            // A zombie waits for whoever inherited it.
            (state.is_empty() || state.contains(") Z ")).then_some(())
        });
    }
}
