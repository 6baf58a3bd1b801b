//! A steady load of requests, every answer of which is looked at.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::truth::Answer;

/// A steady load of requests.
pub struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    served: u64,
    failed: Vec<String>,
    answers: Vec<Answer>,
}

/// A test that runs longer than this many requests is stuck anyway.
const REQUESTS_MAX: u64 = 200_000;

impl Load {
    /// Begins to ask at `address`.
    pub fn begin(address: SocketAddr) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::new(Mutex::new(Seen::default()));
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
        Load { stop, seen, thread: Some(thread) }
    }

    /// Ends; nothing may have failed. What was answered.
    pub fn end(mut self) -> Vec<Answer> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("a thread").join().expect("the load");
        let seen = self.seen.lock().expect("the load's notes");
        assert!(seen.served > 0, "no load was served");
        assert!(seen.failed.is_empty(), "requests failed: {:?}", seen.failed);
        seen.answers.clone()
    }
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
