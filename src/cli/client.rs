//! The controller's HTTP API, from the asking side: every answer within a time and a size.

use std::time::{Duration, Instant};

use clap::Args;
use reqwest::{Method, Response, StatusCode, Url};
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use super::sse::{Reader, Sent};
use crate::model::parse_duration_ms;

/// The world of ten thousand nodes is some 40 MB; whatever sends more than this is no controller.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Of an answer that refuses: enough for a sentence or two.
const REFUSAL_CHARACTERS_MAX: usize = 500;

/// Where the controller is.
#[derive(Debug, Clone, Args)]
pub struct Connection {
    /// The controller's address.
    #[arg(
        long = "controller",
        value_name = "URL",
        env = "EVENKEEL_CONTROLLER",
        hide_env_values = true, // it may have a password in it
        default_value = "http://127.0.0.1:9440"
    )]
    address: String,
    /// How long one request to the controller may take.
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    request_timeout: Duration,
}

/// A duration as it is written in the desired files too.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    parse_duration_ms(text).map(Duration::from_millis)
}

/// Why the controller gave no usable answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("--controller: {address:?} is not an address such as http://127.0.0.1:9440")]
    Address {
        /// As given.
        address: String,
    },
    /// No client can be made here.
    #[error("cannot set up the HTTP client")]
    Setup(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Nobody is there.
    #[error(
        "cannot reach the controller at {url}; is it running? give its address with --controller"
    )]
    Unreachable {
        /// Where it should be.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// It takes too long.
    #[error(
        "the controller at {url} did not answer within {limit:?}; --request-timeout gives it longer"
    )]
    Silent {
        /// What was asked.
        url: Url,
        /// How long.
        limit: Duration,
    },
    /// A stream has come to its end.
    #[error("the stream of {url} has ended; the controller stops, or what is in between ends it")]
    Ended {
        /// What was followed.
        url: Url,
    },
    /// The answer broke off, or is not HTTP.
    #[error("the answer of {url} broke off")]
    Broken {
        /// What was asked.
        url: Url,
        /// Why.
        source: reqwest::Error,
    },
    /// It says no.
    #[error("{url} answers {status}: {message}")]
    Refused {
        /// What was asked.
        url: Url,
        /// The status.
        status: StatusCode,
        /// What it says.
        message: String,
    },
    /// It does not end.
    #[error("{url} answers with more than {} MB; is that a controller?", ANSWER_BYTES_MAX >> 20)]
    TooLarge {
        /// What was asked.
        url: Url,
    },
    /// It is something else.
    #[error("{url} answers with something else; is that a controller, and of this version?")]
    NotUnderstood {
        /// What was asked.
        url: Url,
        /// Where it departs.
        source: serde_json::Error,
    },
}

impl ClientError {
    /// A controller that restarts, or is busy, would be seen like this: asking again may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable { .. }
            | Self::Silent { .. }
            | Self::Ended { .. }
            | Self::Broken { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::Address { .. }
            | Self::Setup(_)
            | Self::TooLarge { .. }
            | Self::NotUnderstood { .. } => false,
        }
    }

    /// It says that there is no such thing.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: StatusCode::NOT_FOUND, .. })
    }
}

/// A client of one controller.
pub(super) struct Client {
    base: Url,
    limit: Duration,
    http: reqwest::Client,
    runtime: Runtime,
}

impl Client {
    /// # Errors
    /// [`ClientError::Address`] and [`ClientError::Setup`]; nothing is asked yet.
    pub fn new(connection: &Connection) -> Result<Self, ClientError> {
        let address = || ClientError::Address { address: connection.address.clone() };
        let mut base = Url::parse(&connection.address).map_err(|_| address())?;
        if !["http", "https"].contains(&base.scheme()) || !base.has_host() {
            return Err(address());
        }
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            // The controller is on this machine or in this network; a proxy for the outside has no
            // business in between.
            .no_proxy()
            .build()
            .map_err(|error| ClientError::Setup(error.into()))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| ClientError::Setup(error.into()))?;
        Ok(Self { base, limit: connection.request_timeout, http, runtime })
    }

    /// The document at `path`, which is relative.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::GET, path)
    }

    /// Deletes what is at `path`, and returns the answer.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        self.ask(Method::DELETE, path)
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str) -> Result<T, ClientError> {
        let url = self.address(path)?;
        let answer = async { tokio::time::timeout(self.limit, self.exchange(method, &url)).await };
        let (status, body) = match self.runtime.block_on(answer) {
            Ok(answer) => answer?,
            Err(_) => return Err(ClientError::Silent { url: shown(&url), limit: self.limit }),
        };
        if status != StatusCode::OK {
            return Err(ClientError::Refused { url: shown(&url), status, message: refusal(&body) });
        }
        serde_json::from_slice(&body)
            .map_err(|source| ClientError::NotUnderstood { url: shown(&url), source })
    }

    /// Follows the stream at `path`: gives each event to `take`, and nothing every `beat` in which none comes, until
    /// `take` has an answer. A stream without an event for as long as a request may take is given up; comments, which
    /// tell that the controller's loop does not answer, are none.
    ///
    /// # Errors
    /// [`ClientError`]; a stream never ends well by itself.
    pub fn follow<T>(
        &self,
        path: &str,
        beat: Duration,
        mut take: impl FnMut(Option<Sent>) -> Result<Option<T>, serde_json::Error>,
    ) -> Result<T, ClientError> {
        let url = self.address(path)?;
        let silent = || ClientError::Silent { url: shown(&url), limit: self.limit };
        self.runtime.block_on(async {
            let begin = tokio::time::timeout(self.limit, self.begin(Method::GET, &url));
            let mut response = begin.await.map_err(|_| silent())??;
            if response.status() != StatusCode::OK {
                let rest = tokio::time::timeout(self.limit, read(&mut response, &url));
                let message = refusal(&rest.await.map_err(|_| silent())??);
                let status = response.status();
                return Err(ClientError::Refused { url: shown(&url), status, message });
            }
            let mut reader = Reader::default();
            let mut heard = Instant::now();
            loop {
                let events = match tokio::time::timeout(beat, response.chunk()).await {
                    Err(_) => Vec::new(),
                    Ok(Ok(None)) => return Err(ClientError::Ended { url: shown(&url) }),
                    Ok(Ok(Some(chunk))) => {
                        if reader.pending() + chunk.len() > ANSWER_BYTES_MAX {
                            return Err(ClientError::TooLarge { url: shown(&url) });
                        }
                        reader.take(&chunk)
                    }
                    Ok(Err(error)) => return Err(broken(&url, error)),
                };
                let mut events: Vec<Option<Sent>> = events.into_iter().map(Some).collect();
                if !events.is_empty() {
                    heard = Instant::now();
                } else if heard.elapsed() > self.limit {
                    return Err(silent());
                } else {
                    events.push(None);
                }
                for event in events {
                    let answer = take(event);
                    let answer = answer.map_err(|source| ClientError::NotUnderstood {
                        url: shown(&url),
                        source,
                    })?;
                    if let Some(answer) = answer {
                        return Ok(answer);
                    }
                }
            }
        })
    }

    fn address(&self, path: &str) -> Result<Url, ClientError> {
        let address = || ClientError::Address { address: format!("{}{path}", self.base) };
        self.base.join(path).map_err(|_| address())
    }

    async fn begin(&self, method: Method, url: &Url) -> Result<Response, ClientError> {
        let request = self.http.request(method, url.clone()).send().await;
        request.map_err(|error| {
            if error.is_connect() {
                let source = error.without_url();
                ClientError::Unreachable { url: shown(&self.base), source }
            } else {
                broken(url, error)
            }
        })
    }

    async fn exchange(
        &self,
        method: Method,
        url: &Url,
    ) -> Result<(StatusCode, Vec<u8>), ClientError> {
        let mut response = self.begin(method, url).await?;
        let body = read(&mut response, url).await?;
        Ok((response.status(), body))
    }
}

async fn read(response: &mut Response, url: &Url) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|error| broken(url, error))?;
        let Some(chunk) = chunk else { return Ok(body) };
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(ClientError::TooLarge { url: shown(url) });
        }
        body.extend_from_slice(&chunk);
    }
}

fn broken(url: &Url, error: reqwest::Error) -> ClientError {
    ClientError::Broken { url: shown(url), source: error.without_url() }
}

/// An address without a password that may be in it.
fn shown(url: &Url) -> Url {
    let mut url = url.clone();
    // These fail only for addresses that cannot have them.
    let _ = url.set_username("");
    let _ = url.set_password(None);
    url
}

/// What a refusing answer says: the controller's own words, or how it begins.
fn refusal(body: &[u8]) -> String {
    let told: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let told = told.as_ref().and_then(|told| told.get("error")?.as_str());
    let text = told.map_or_else(|| String::from_utf8_lossy(body), Into::into);
    let text: String =
        super::print::clean(text.trim()).chars().take(REFUSAL_CHARACTERS_MAX).collect();
    if text.is_empty() { "nothing more".to_owned() } else { text }
}
