//! The demo's web server: it serves one release, and says which.
//!
//! A release is one text file whose first line is the revision. The server either reads it anew for
//! every request (`DIR/release`), or, in the layout of releases, once at its start
//! (`DIR/current/release`), so that it must be restarted, as most services must.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use rustix::process::{Pid, Signal, kill_process};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

/// The header that names the revision in every answer.
pub const REVISION_HEADER: &str = "x-revision";

/// How long a restart may take; it needs some milliseconds.
const RESTART_MAX: Duration = Duration::from_secs(20);

/// Where a server's files are in its directory.
#[derive(Debug, Clone)]
pub struct Place(PathBuf);

impl Place {
    /// The place in `dir`.
    pub fn new(dir: &Path) -> Place {
        Place(dir.to_owned())
    }

    /// The release, where a deploy command writes it.
    pub fn release(&self) -> PathBuf {
        self.0.join("release")
    }

    /// The release in the layout of releases.
    fn current(&self) -> PathBuf {
        self.0.join("current").join("release")
    }

    /// The server's process id, written when it listens.
    fn id(&self) -> PathBuf {
        self.0.join("web.pid")
    }
}

/// What a release file says.
pub fn release(revision: &str) -> String {
    format!("{revision}\nThis is the shop.\n")
}

enum Source {
    Anew(PathBuf),
    Once(String),
}

impl Source {
    fn text(&self) -> io::Result<String> {
        match self {
            Self::Anew(file) => std::fs::read_to_string(file),
            Self::Once(text) => Ok(text.clone()),
        }
    }
}

/// Serves the release in `dir` on 127.0.0.1 until SIGTERM; answers what is under way first.
///
/// # Errors
/// The system's: the port is taken, the release cannot be read.
pub async fn serve(dir: &Path, port: u16) -> io::Result<()> {
    let place = Place::new(dir);
    let current = place.current();
    let source = match current.exists() {
        true => Source::Once(std::fs::read_to_string(current)?),
        false => Source::Anew(place.release()),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    write_id(&place.id())?;
    axum::serve(listener, router(source))
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await
}

fn write_id(file: &Path) -> io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, std::process::id().to_string())?;
    std::fs::rename(new, file)
}

fn router(source: Source) -> Router {
    Router::new()
        .route("/", get(async |State(source): State<Arc<Source>>| answer(&source, str::to_owned)))
        .route(
            "/revision",
            get(async |State(source): State<Arc<Source>>| answer(&source, revision)),
        )
        .route(
            "/healthz",
            get(async |State(source): State<Arc<Source>>| answer(&source, |_| "ok\n".to_owned())),
        )
        .with_state(Arc::new(source))
}

fn answer(source: &Source, body: impl Fn(&str) -> String) -> Response {
    match source.text() {
        Ok(text) => {
            let header = (HeaderName::from_static(REVISION_HEADER), revision(&text));
            ([header], body(&text)).into_response()
        }
        Err(error) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("no release: {error}\n")).into_response()
        }
    }
}

fn revision(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim().to_owned()
}

/// Asks the server of `dir` to end, and waits until its successor listens. Whoever started
/// the server starts the successor, as a service manager does.
///
/// # Errors
/// The system's: there is no server, or no successor comes.
pub fn restart(dir: &Path) -> io::Result<()> {
    let file = Place::new(dir).id();
    let read = || std::fs::read_to_string(&file);
    let before = read()?;
    let id = before.parse().ok().and_then(Pid::from_raw);
    let id = id.ok_or_else(|| io::Error::other(format!("{} has no process id", file.display())))?;
    kill_process(id, Signal::TERM)?;
    let deadline = Instant::now() + RESTART_MAX;
    while read()? == before {
        if Instant::now() >= deadline {
            return Err(io::Error::other("the web server was not started again"));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn ask(source: Source, path: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move { axum::serve(listener, router(source)).await });
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        server.abort();
        text
    }

    #[tokio::test]
    async fn it_says_which_release_it_serves() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("release");
        let anew = || Source::Anew(file.clone());
        assert!(ask(anew(), "/healthz").await.starts_with("HTTP/1.1 503"));
        std::fs::write(&file, release("1.4.2")).unwrap();
        let page = ask(anew(), "/").await;
        assert!(page.starts_with("HTTP/1.1 200"), "{page}");
        assert!(page.contains("x-revision: 1.4.2\r\n"), "{page}");
        assert!(page.ends_with("\r\n\r\n1.4.2\nThis is the shop.\n"), "{page}");
        assert!(ask(anew(), "/revision").await.ends_with("\r\n\r\n1.4.2"));
        assert!(ask(anew(), "/healthz").await.ends_with("\r\n\r\nok\n"));
        let once = Source::Once(release("7"));
        assert!(ask(once, "/revision").await.ends_with("\r\n\r\n7"));
    }

    #[test]
    fn a_restart_needs_a_server() {
        let dir = tempfile::tempdir().unwrap();
        assert!(restart(dir.path()).is_err());
    }
}
