//! A steady load of requests, every answer of which is looked at.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel::model::AdminBits;

use crate::parts::haproxy::{Haproxy, ask, states};
use crate::truth::{Answer, Look, Micros, hold_out};

/// A steady load of requests through a load balancer, which is looked at meanwhile.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    served: u64,
    failed: Vec<String>,
    answers: Vec<Answer>,
    looks: Vec<Look>,
}

/// Between two looks at the load balancer.
const LOOK: Duration = Duration::from_millis(5);

/// A test that runs longer than this many requests is stuck anyway.
const REQUESTS_MAX: u64 = 200_000;

impl Load {
    /// Begins to ask for what is behind the backend `app`.
    pub fn begin(haproxy: &Haproxy) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
        let watch = watch(haproxy.socket(), &stop, &seen);
        let address = haproxy.frontend("app");
        let (thread_stop, thread_seen) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            for _ in 0..REQUESTS_MAX {
                if thread_stop.load(Ordering::Relaxed) {
                    return;
                }
                let answer = whole_get(address, "/");
                let mut seen = thread_seen.lock().expect("the load's notes");
                seen.served += 1;
                match answer {
                    Ok((200, head, body)) => {
                        let sent = header(&head, "x-sent").parse().expect("a time by HAProxy");
                        let node = header(&head, "x-node");
                        seen.answers.push(Answer { node, revision: body, sent });
                    }
                    Ok((status, _, body)) => seen.failed.push(format!("{status} {body}")),
                    Err(error) => seen.failed.push(error.to_string()),
                }
                drop(seen);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Load { stop, seen, threads: vec![thread, watch] }
    }

    /// Ends; nothing may have failed, nor been answered by a node in maintenance. What was answered, and who was seen in
    /// maintenance.
    pub fn end(mut self) -> (Vec<Answer>, BTreeSet<String>) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().expect("the load"));
        let seen = self.seen.lock().expect("the load's notes");
        assert!(seen.served > 0, "no load was served");
        assert!(seen.failed.is_empty(), "requests failed: {:?}", seen.failed);
        assert!(!seen.looks.is_empty(), "the load balancer was never looked at");
        if let Err(broken) = hold_out(&seen.looks, &seen.answers) {
            panic!("{broken}");
        }
        let out = seen.looks.iter().flat_map(|look| look.out.iter().cloned()).collect();
        (seen.answers.clone(), out)
    }
}

/// Looks at the load balancer again and again.
fn watch(
    socket: PathBuf,
    stop: &Arc<AtomicBool>,
    seen: &Arc<Mutex<Seen>>,
) -> std::thread::JoinHandle<()> {
    let (stop, seen) = (Arc::clone(stop), Arc::clone(seen));
    std::thread::spawn(move || {
        for _ in 0..REQUESTS_MAX {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            if let Some(look) = look(&socket) {
                seen.lock().expect("the load's notes").looks.push(look);
            }
            std::thread::sleep(LOOK);
        }
    })
}

/// None while it is stopped, or has something else to do.
fn look(socket: &Path) -> Option<Look> {
    let asked = now();
    let text = ask(socket, "show info;show servers state app").ok()?;
    let answered = now();
    let process = text.lines().find_map(|line| line.strip_prefix("Pid: "))?.parse().ok()?;
    let mut servers = states(&text, "app");
    servers.retain(|_, state| AdminBits(state.admin).is_forced_maintenance());
    let out = servers.into_keys().collect();
    Some(Look { process, asked, answered, out })
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    Micros::try_from(since.as_micros()).expect("microseconds")
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A header by its name in lower case, or nothing.
fn header(head: &str, name: &str) -> String {
    let value = |line: &str| {
        let (key, value) = line.split_once(": ")?;
        (key.to_lowercase() == name).then(|| value.to_owned())
    };
    head.lines().find_map(value).unwrap_or_default()
}

/// One GET; status and body.
pub fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    whole_get(address, path).map(|(status, _, body)| (status, body))
}

fn whole_get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    Ok((status, head.to_owned(), body.to_owned()))
}
