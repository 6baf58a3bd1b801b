//! The deploy adapter, against real commands, real archives and a real HTTP server.

mod archives;
mod commands;
mod releases;

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel::deploy::{App, Config};
use evenkeel::model::{AppName, AttemptFailure, Revision};
use evenkeel::plan::ports::{Deploy, UpgradeError};
use sha2::{Digest, Sha256};

/// Far longer than any attempt takes that is meant to end by itself.
const LONG_MS: u64 = 60_000;

/// The app `shop` on a node of its own.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new() -> Node {
        // What `main` does first thing; every test may be the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        Node { folder: tempfile::tempdir().expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }

    fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("write a file");
    }

    /// The app by its table, in which `FOLDER` stands for the node's folder.
    fn app(&self, table: &str) -> App {
        app(self.folder.path(), table)
    }

    /// Makes the archive of a release, with its checksum beside it.
    fn publish(&self, revision: &str, archive: &[u8]) {
        self.write(&format!("{revision}.tar.gz"), archive);
        let name = format!("{revision}.tar.gz");
        self.write(&format!("{name}.sha256"), format!("{}  {name}\n", sha256(archive)));
    }

    /// Whether anything is left of an attempt under way.
    fn is_tidy(&self) -> bool {
        !self.path("root/releases/.new").exists()
            && !self.path("root/current.evenkeel-new").exists()
    }
}

fn app(folder: &Path, table: &str) -> App {
    let table = table.replace("FOLDER", folder.to_str().expect("a path in UTF-8"));
    let config: Config = toml::from_str(&table).unwrap_or_else(|error| panic!("{table}\n{error}"));
    App::new(AppName::new("shop").expect("a name"), config, &folder.join("state"))
}

/// The table of an app of releases whose "running service" is what the last restart copied.
fn releases(url: &str, more: &str) -> String {
    format!(
        "restart = ['cp', 'FOLDER/root/current/REVISION', 'FOLDER/running']\n\
         revision = {{ command = ['cat', 'FOLDER/running'] }}\n\
         [release]\nurl = '{url}'\nroot = 'FOLDER/root'\n{more}\n"
    )
}

fn revision(text: &str) -> Revision {
    Revision::new(text).expect("a revision")
}

async fn upgrade(app: &App, to: &str) -> Result<(), UpgradeError> {
    app.upgrade(&revision(to), LONG_MS).await
}

/// The words of an attempt that could not be carried out.
fn words(result: Result<(), UpgradeError>) -> String {
    match result {
        Err(UpgradeError { why: AttemptFailure::Error(words), .. }) => words,
        other => panic!("not an error in words: {other:?}"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    packer.write_all(bytes).expect("pack");
    packer.finish().expect("pack")
}

/// An archive with a file REVISION and some more, as a build makes it.
fn archive(revision: &str) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in [("./REVISION", revision), ("bin/serve", "#!/bin/sh\n")] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        builder.append_data(&mut header, path, content.as_bytes()).expect("append");
    }
    gzip(&builder.into_inner().expect("an archive"))
}

/// Whether a process does anything yet; one that nobody has waited for does not.
fn is_alive(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// A small HTTP server that can also misbehave.
struct Server {
    address: SocketAddr,
}

/// What it answers.
#[derive(Clone)]
enum Answer {
    Ok(Vec<u8>),
    Status(u16),
    /// Promises all, sends half, and hangs up.
    Truncated(Vec<u8>),
    /// Promises all, sends half, and then nothing for as long as the other side stays.
    Stuck(Vec<u8>),
    /// Does not say how long it is.
    Endless,
}

impl Server {
    fn start(answer: impl Fn(&str) -> Answer + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("an address");
        let answer = Arc::new(answer);
        // The thread ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let answer = Arc::clone(&answer);
                std::thread::spawn(move || serve(connection, &*answer));
            }
        });
        Server { address }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

fn serve(connection: TcpStream, answer: &dyn Fn(&str) -> Answer) -> Option<()> {
    use std::io::{BufRead, BufReader, Read};
    let mut reader = BufReader::new(connection.try_clone().ok()?);
    let mut request = String::new();
    reader.read_line(&mut request).ok()?;
    let mut header = String::new();
    while reader.read_line(&mut header).ok()? > 2 {
        header.clear();
    }
    let mut to = connection;
    let mut send = |status: u16, body: &[u8], sent: usize| {
        let head = format!(
            "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        to.write_all(head.as_bytes()).and_then(|()| to.write_all(&body[..sent])).ok()
    };
    match answer(request.split(' ').nth(1)?) {
        Answer::Ok(body) => send(200, &body, body.len()),
        Answer::Status(status) => send(status, b"", 0),
        Answer::Truncated(body) => send(200, &body, body.len() / 2),
        Answer::Stuck(body) => {
            send(200, &body, body.len() / 2)?;
            let _ = reader.read_to_end(&mut Vec::new());
            Some(())
        }
        Answer::Endless => {
            to.write_all(b"HTTP/1.1 200 X\r\nconnection: close\r\n\r\n").ok()?;
            while to.write_all(&[0; 65536]).is_ok() {}
            Some(())
        }
    }
}
