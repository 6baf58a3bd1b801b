//! An HTTP receiver on a port of its own: keeps every request, and answers as it is told.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use super::process::{DEADLINE, eventually};

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Request {
    /// `POST` and the like.
    pub method: String,
    /// With the query.
    pub path: String,
    /// By name in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Request {
    /// The header of that name (in lower case), or nothing.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body in UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).expect("a body in JSON")
    }

    /// The body as form fields (WHATWG URL, application/x-www-form-urlencoded).
    pub fn form(&self) -> BTreeMap<String, String> {
        let url = format!("http://form/?{}", self.text());
        reqwest::Url::parse(&url).expect("a form").query_pairs().into_owned().collect()
    }
}

/// What a request is answered with.
#[derive(Debug, Clone)]
pub enum Answer {
    /// Status, headers and body.
    Full(u16, Vec<(&'static str, String)>, String),
    /// Status, and a body that goes on until the client has had enough.
    Endless(u16),
    /// Status and headers of a body of which nothing comes.
    Headers(u16),
    /// Nothing: the connection stays open until the client closes it.
    Silence,
}

impl Answer {
    /// An answer without headers.
    pub fn status(status: u16, body: &str) -> Answer {
        Answer::Full(status, Vec::new(), body.to_owned())
    }
}

/// The receiver. It stops when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stopping: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Receiver {
    /// Starts one that answers each request with what `answer` makes of it.
    pub fn start(answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Receiver {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("bind a loopback port");
        let address = listener.local_addr().expect("a bound address");
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stopping = Arc::new(AtomicBool::new(false));
        let answer = Arc::new(answer);
        let (kept, stop) = (Arc::clone(&requests), Arc::clone(&stopping));
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stop.load(Ordering::SeqCst) {
                    return;
                }
                let (kept, answer) = (Arc::clone(&kept), Arc::clone(&answer));
                let stream = stream.expect("accept");
                std::thread::spawn(move || serve(stream, &kept, &*answer));
            }
        });
        Receiver { address, requests, stopping, acceptor: Some(acceptor) }
    }

    /// Starts one that gives every request the same answer.
    pub fn answering(answer: Answer) -> Receiver {
        Receiver::start(move |_| answer.clone())
    }

    /// Its URL, without a slash at the end.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Request> {
        self.requests.lock().expect("requests").clone()
    }

    /// Waits for requests, and panics unless there are exactly `count`.
    pub fn wait_for(&self, count: usize) -> Vec<Request> {
        let enough = || Some(self.requests()).filter(|requests| requests.len() >= count);
        let requests = eventually(&format!("{count} requests"), enough);
        assert_eq!(requests.len(), count, "{requests:?}");
        requests
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

/// Serves one connection. A client that goes away ends it.
fn serve(
    stream: TcpStream,
    kept: &Mutex<Vec<Request>>,
    answer: &(dyn Fn(&Request) -> Answer + Send + Sync),
) {
    stream.set_read_timeout(Some(DEADLINE)).expect("a read timeout");
    stream.set_write_timeout(Some(DEADLINE)).expect("a write timeout");
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let Some(request) = read_request(&mut reader) else { return };
    kept.lock().expect("requests").push(request.clone());
    let _ = write_answer(stream, &mut reader, answer(&request));
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = Vec::new();
        reader.read_until(b'\n', &mut line).ok()?;
        let line = String::from_utf8_lossy(&line);
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}

fn write_answer(
    mut stream: TcpStream,
    reader: &mut impl Read,
    answer: Answer,
) -> std::io::Result<()> {
    match answer {
        Answer::Full(status, headers, body) => {
            let mut text = format!("HTTP/1.1 {status} Told\r\nconnection: close\r\n");
            for (name, value) in headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str(&format!("content-length: {}\r\n\r\n{body}", body.len()));
            stream.write_all(text.as_bytes())
        }
        Answer::Endless(status) => {
            write!(stream, "HTTP/1.1 {status} Told\r\nconnection: close\r\n\r\n")?;
            loop {
                stream.write_all(&[b'x'; 4096])?;
            }
        }
        Answer::Headers(status) => {
            write!(stream, "HTTP/1.1 {status} Told\r\ncontent-length: 10\r\n\r\n")?;
            reader.read(&mut [0]).map(drop)
        }
        Answer::Silence => reader.read(&mut [0]).map(drop),
    }?;
    stream.shutdown(Shutdown::Write)
}
