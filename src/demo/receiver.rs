//! The administrator's phone: takes the messages that the notification servers post, and keeps them.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::routing::post;
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The largest message that is taken, in bytes: more than the service `webhook` sends.
const BODY_BYTES_MAX: usize = 128 * 1024;

/// A demo sends a few messages a rollout; far more would be a fault, and are counted only.
const KEPT_MAX: usize = 10_000;

/// A message as the service `webhook` posts it; what is not listed here is not looked at.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Received {
    /// The cluster that it is about.
    pub cluster: String,
    /// The cause.
    pub cause: String,
    /// One line.
    pub title: String,
    /// The desired revision.
    pub revision_to: String,
    /// When it came.
    #[serde(skip, default = "Instant::now")]
    pub at: Instant,
}

/// A running receiver. It ends when it is dropped.
pub struct Receiver {
    address: SocketAddr,
    kept: Arc<Mutex<Vec<Received>>>,
    task: JoinHandle<io::Result<()>>,
}

struct Taking {
    kept: Arc<Mutex<Vec<Received>>>,
    tell: Box<dyn Fn(&Received) + Send + Sync>,
}

impl Receiver {
    /// Starts one on a free port; `tell` hears of every message.
    ///
    /// # Errors
    /// The system's.
    pub async fn start(tell: impl Fn(&Received) + Send + Sync + 'static) -> io::Result<Receiver> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let kept = Arc::new(Mutex::new(Vec::new()));
        let taking = Taking { kept: Arc::clone(&kept), tell: Box::new(tell) };
        let router = Router::new()
            .route("/oncall", post(take))
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(Arc::new(taking));
        let task = tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Receiver { address, kept, task })
    }

    /// Where messages are posted.
    pub fn url(&self) -> String {
        format!("http://{}/oncall", self.address)
    }

    /// The messages so far, in the order of their arrival.
    pub fn received(&self) -> Vec<Received> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn take(State(taking): State<Arc<Taking>>, body: String) -> (StatusCode, String) {
    match serde_json::from_str::<Received>(&body) {
        Ok(received) => {
            (taking.tell)(&received);
            let mut kept = taking.kept.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() < KEPT_MAX {
                kept.push(received);
            }
            (StatusCode::NO_CONTENT, String::new())
        }
        Err(error) => (StatusCode::BAD_REQUEST, format!("this is no message: {error}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn post(address: SocketAddr, body: &str) -> String {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!(
            "POST /oncall HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn messages_are_kept_and_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let tell = Arc::clone(&told);
        let receiver =
            Receiver::start(move |m| tell.lock().unwrap().push(m.title.clone())).await.unwrap();
        assert!(receiver.url().starts_with("http://127.0.0.1:"));
        let body = r#"{"key":"k","app":"shop","cluster":"alfa","cause":"completed","priority":"low",
            "title":"shop/alfa is at 2","text":"","revision_from":"1","revision_to":"2"}"#;
        assert!(post(receiver.address, body).await.starts_with("HTTP/1.1 204"));
        assert!(post(receiver.address, "{}").await.starts_with("HTTP/1.1 400"));
        let received = receiver.received();
        assert_eq!(received.len(), 1);
        assert_eq!((received[0].cluster.as_str(), received[0].revision_to.as_str()), ("alfa", "2"));
        assert_eq!(*told.lock().unwrap(), ["shop/alfa is at 2"]);
    }
}
