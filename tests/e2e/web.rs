//! A web server that serves the revision which its folder says, and says how loaded it is.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

/// A web server on a free port; lives as long as the test's process.
pub struct Web {
    pub address: SocketAddr,
}

impl Web {
    /// Serves `folder`: the file `revision`, for `/revision` and everything else; `/load` is 503
    /// while there is a file `busy`. Without a revision nothing is installed, and everything is 503.
    pub fn start(folder: &Path) -> Web {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        let folder = folder.to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let folder = folder.clone();
                std::thread::spawn(move || drop(answer(stream, &folder)));
            }
        });
        Web { address }
    }
}

fn answer(stream: TcpStream, folder: &Path) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split_whitespace().nth(1).unwrap_or("/").to_owned();
    let mut sent = String::new();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        // When HAProxy had the request, by its own stamp.
        if header.to_lowercase().starts_with("x-sent:") {
            sent = header;
        }
    }
    let revision = std::fs::read_to_string(folder.join("revision"));
    let busy = path == "/load" && folder.join("busy").exists();
    let (status, body) = match revision {
        Ok(revision) if !busy => ("200 OK", revision),
        Ok(_) => ("503 Service Unavailable", "busy".to_owned()),
        Err(_) => ("503 Service Unavailable", "nothing installed".to_owned()),
    };
    let node = folder.file_name().unwrap_or_default().to_string_lossy();
    write!(
        writer,
        "HTTP/1.1 {status}\r\nX-Node: {node}\r\n{sent}Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}
