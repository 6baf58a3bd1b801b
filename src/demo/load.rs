//! The customers: a steady load of requests, each answer counted, each failure told.
//!
//! It speaks HTTP itself: client libraries quietly repeat requests that fail, and those are just
//! what is looked for.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::web::REVISION_HEADER;

/// Requests a second, over all connections; enough that a gap of a few milliseconds in the service
/// is hit, and nothing that a small machine feels.
pub const RATE: u32 = 200;

/// Connections, each with one request at a time.
const CONNECTIONS: u32 = 4;

/// An answer that takes longer is a failure, too.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// A header section that is longer comes from no server of ours.
const HEAD_BYTES_MAX: u64 = 16 * 1024;
const BODY_BYTES_MAX: usize = 1 << 20;

/// What came of the requests.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answers with status 200, by the revision that gave them.
    pub served: BTreeMap<String, u64>,
    /// Answers of a load balancer that has no server for them, where that is to be expected.
    pub unserved: u64,
    /// Everything else.
    pub failed: u64,
    /// The longest time that an answer took.
    pub longest: Duration,
}

/// A load under way.
pub struct Load {
    counts: Arc<Mutex<Counts>>,
    stop: watch::Sender<bool>,
    workers: JoinSet<()>,
}

impl Load {
    /// Starts to ask 127.0.0.1:`port`; `tell` hears of every failure at once. `may_be_empty`: the
    /// floor lets every server be out at once, and an answer that says so is no failure.
    pub fn start(
        port: u16,
        may_be_empty: bool,
        tell: impl Fn(&str) + Send + Sync + 'static,
    ) -> Load {
        let counts = Arc::new(Mutex::new(Counts::default()));
        let tell: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(tell);
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for number in 0..CONNECTIONS {
            let worker = Worker {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                counts: Arc::clone(&counts),
                may_be_empty,
                tell: Arc::clone(&tell),
                stopped: stopped.clone(),
            };
            // Evenly spread, so that there is a request every 1/RATE s.
            let first = Duration::from_secs(1) * number / RATE;
            workers.spawn(worker.work(first));
        }
        Load { counts, stop, workers }
    }

    /// What came of the requests so far.
    pub fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }

    /// Ends it when the requests under way have been answered.
    pub async fn end(mut self) -> Counts {
        self.stop.send_replace(true);
        while self.workers.join_next().await.is_some() {}
        lock(&self.counts).clone()
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Worker {
    address: SocketAddr,
    counts: Arc<Mutex<Counts>>,
    may_be_empty: bool,
    tell: Arc<dyn Fn(&str) + Send + Sync>,
    stopped: watch::Receiver<bool>,
}

impl Worker {
    async fn work(mut self, first: Duration) {
        let period = Duration::from_secs(1) * CONNECTIONS / RATE;
        let mut ticks = interval_at(tokio::time::Instant::now() + first, period);
        // After a pause the rate stays what it is: no burst makes up for what was missed.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut connection = None;
        loop {
            tokio::select! {
                biased;
                _ = self.stopped.wait_for(|stopped| *stopped) => return,
                _ = ticks.tick() => {}
            }
            let began = Instant::now();
            let answer = timeout(ANSWER_MAX, ask(&mut connection, self.address)).await;
            let answer = answer.unwrap_or(Err(Failure::Late));
            if answer.is_err() {
                connection = None;
            }
            self.count(answer, began.elapsed());
        }
    }

    fn count(&self, answer: Result<String, Failure>, took: Duration) {
        let mut counts = lock(&self.counts);
        counts.longest = counts.longest.max(took);
        match answer {
            Ok(revision) => *counts.served.entry(revision).or_default() += 1,
            Err(Failure::Status(503, _)) if self.may_be_empty => counts.unserved += 1,
            Err(failure) => {
                counts.failed += 1;
                drop(counts);
                (self.tell)(&failure.to_string());
            }
        }
    }
}

/// Why a request has failed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Failure {
    #[error("no answer in {ANSWER_MAX:?}")]
    Late,
    #[error("{0}")]
    Broken(String),
    #[error("status {0}: {1}")]
    Status(u16, String),
}

/// One request over a connection that is kept; the revision that answered it.
async fn ask(
    kept: &mut Option<BufReader<TcpStream>>,
    address: SocketAddr,
) -> Result<String, Failure> {
    let mut connection = match kept.take() {
        Some(connection) if !has_ended(&connection) => connection,
        Some(_) | None => {
            let stream = TcpStream::connect(address).await;
            let stream =
                stream.map_err(|error| Failure::Broken(format!("no connection: {error}")))?;
            stream.set_nodelay(true).map_err(|error| Failure::Broken(error.to_string()))?;
            BufReader::new(stream)
        }
    };
    let request = format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n");
    let sent = connection.get_mut().write_all(request.as_bytes()).await;
    sent.map_err(|error| Failure::Broken(format!("cannot send: {error}")))?;
    let answer = read_answer(&mut connection).await.map_err(Failure::Broken)?;
    if !answer.closes {
        *kept = Some(connection);
    }
    match answer.status {
        200 => Ok(answer.revision),
        status => {
            let first = answer.body.lines().next().unwrap_or_default();
            Err(Failure::Status(status, first.to_owned()))
        }
    }
}

/// A server may close a connection that nothing is under way on; that fails no request.
fn has_ended(connection: &BufReader<TcpStream>) -> bool {
    let peek = connection.get_ref().try_read(&mut [0]);
    !matches!(peek, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}

struct Answer {
    status: u16,
    revision: String,
    closes: bool,
    body: String,
}

async fn read_answer(connection: &mut BufReader<TcpStream>) -> Result<Answer, String> {
    let broken = |error: std::io::Error| format!("the answer broke off: {error}");
    let mut head = connection.take(HEAD_BYTES_MAX);
    let mut line = String::new();
    head.read_line(&mut line).await.map_err(broken)?;
    if line.is_empty() {
        return Err("the connection was closed instead of an answer".to_owned());
    }
    let status = line.split(' ').nth(1).and_then(|word| word.parse().ok());
    let status = status.ok_or_else(|| format!("not HTTP: {line:?}"))?;
    let mut answer = Answer {
        status,
        revision: String::new(),
        closes: line.starts_with("HTTP/1.0"),
        body: String::new(),
    };
    let mut length = None;
    loop {
        line.clear();
        head.read_line(&mut line).await.map_err(broken)?;
        if !line.ends_with('\n') {
            return Err("the answer broke off in its headers".to_owned());
        }
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            REVISION_HEADER => answer.revision = value.to_owned(),
            "content-length" => length = value.parse::<usize>().ok(),
            "connection" => answer.closes |= value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
    let mut body = Vec::new();
    match length {
        Some(length) if length <= BODY_BYTES_MAX => {
            body.resize(length, 0);
            connection.read_exact(&mut body).await.map_err(broken)?;
        }
        // HAProxy's own error pages: the end of the connection is the end of the answer.
        None if answer.closes => {
            let mut rest = connection.take(BODY_BYTES_MAX as u64);
            rest.read_to_end(&mut body).await.map_err(broken)?;
        }
        Some(_) | None => return Err("an answer without a usable length".to_owned()),
    }
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers the first request on a connection with the first of `answers`, and so on; then closes.
    async fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let mut stream = BufReader::new(stream);
                    for answer in answers {
                        let mut line = String::new();
                        while line != "\r\n" {
                            line.clear();
                            stream.read_line(&mut line).await.unwrap();
                        }
                        stream.get_mut().write_all(answer.as_bytes()).await.unwrap();
                    }
                });
            }
        });
        address
    }

    const GOOD: &str = "HTTP/1.1 200 OK\r\nX-Revision: 2\r\nContent-Length: 3\r\n\r\nhey";

    #[tokio::test]
    async fn answers_are_read_one_after_the_other() {
        let address =
            server(&[GOOD, GOOD, "HTTP/1.1 503 No\r\nConnection: close\r\n\r\nnobody\nis there"])
                .await;
        let mut kept = None;
        assert_eq!(ask(&mut kept, address).await, Ok("2".to_owned()));
        assert!(kept.is_some(), "the connection is kept");
        assert_eq!(ask(&mut kept, address).await, Ok("2".to_owned()));
        assert_eq!(ask(&mut kept, address).await, Err(Failure::Status(503, "nobody".to_owned())));
        assert!(kept.is_none());
    }

    #[tokio::test]
    async fn whatever_is_no_answer_is_a_failure() {
        for (answers, says) in [
            (&[""][..], "closed instead"),
            (&["nonsense\r\n\r\n"], "not HTTP"),
            (&["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort"], "broke off"),
            (&["HTTP/1.1 200 OK\r\nContent-Len"], "broke off"),
            (&["HTTP/1.1 200 OK\r\n\r\n"], "without a usable length"),
        ] {
            let address = server(answers).await;
            let error = ask(&mut None, address).await.unwrap_err().to_string();
            assert!(error.contains(says), "{answers:?}: {error}");
        }
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        assert!(ask(&mut None, free).await.unwrap_err().to_string().contains("no connection"));
    }

    #[tokio::test]
    async fn everything_is_counted() {
        let address = server(&[GOOD, GOOD, "HTTP/1.1 500 Oh\r\nContent-Length: 0\r\n\r\n"]).await;
        let (sender, mut told) = tokio::sync::mpsc::unbounded_channel();
        let load = Load::start(address.port(), false, move |error| {
            drop(sender.send(error.to_owned()));
        });
        assert_eq!(told.recv().await.unwrap(), "status 500: ");
        let counts = load.end().await;
        assert!(counts.failed >= 1);
        assert!(counts.served["2"] >= 2, "{counts:?}");
    }

    #[test]
    fn nobody_in_service_is_a_failure_unless_it_is_expected() {
        for may_be_empty in [false, true] {
            let worker = Worker {
                address: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
                counts: Arc::default(),
                may_be_empty,
                tell: Arc::new(|_| {}),
                stopped: watch::channel(false).1,
            };
            for status in [503, 500] {
                worker.count(Err(Failure::Status(status, String::new())), Duration::ZERO);
            }
            let counts = lock(&worker.counts);
            let expected = if may_be_empty { (1, 1) } else { (0, 2) };
            assert_eq!((counts.unserved, counts.failed), expected);
        }
    }
}
