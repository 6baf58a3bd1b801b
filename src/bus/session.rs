//! A session with the broker: it connects, and connects again for as long as it lives, and tells
//! its owner about it.
//!
//! The owner's part: on every [`Event::Connected`], subscribe again and publish the present state
//! again, whole. Nothing is carried over from one connection to the next, neither subscriptions nor
//! what waited to be sent; so that nothing stale ever arrives late.
//!
//! Neither side can block the other for good. [`Handle::publish`] and [`Handle::subscribe`] only
//! queue, and fail at once where they cannot. The queue of [`Events`] is bounded; while it is full,
//! the session stops reading, and the broker is held back by TCP. An owner that takes nothing for
//! longer than one and a half times the keep-alive is taken for dead by the broker, which tells the
//! others so by the Last Will. That is true enough; the session connects again when it is back.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use rumqttc::{TlsConfiguration, Transport};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::address::BrokerAddress;
use super::connection::{Driver, Ending};
use super::file;
use super::outbox::Outbox;
pub use super::outbox::{Counters, PublishError};
pub use super::tls::TlsError;
use super::topics::{Filter, Topic};
use crate::model::FleetName;

/// Events that may wait for the owner. Enough to take a list of 1,000 nodes at one go, and few
/// enough that the largest documents cannot fill the memory of a machine.
const EVENTS_MAX: usize = 1024;

/// The longest password file, in bytes: MQTT 5, 3.1.3.6, allows 65,535; no real one comes near 4 KiB.
const PASSWORD_BYTES_MAX: u64 = 4096;

/// Where the broker is and how to be let in: the table `[bus]` of a configuration file.
///
/// ```toml
/// [bus]
/// url = "mqtts://bus.example.org"                 # or mqtt:// without TLS
/// user = "web1"
/// password_file = "/etc/evenkeel/bus.password"
/// ca_file = "/etc/evenkeel/ca.pem"                # the machine's own authorities where left out
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The broker.
    pub url: BrokerAddress,
    /// The user, before the one of the URL.
    #[serde(default)]
    pub user: Option<String>,
    /// A file with the user's password; a line break at its end is no part of it.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// The certificate authorities that the broker's certificate must come from, as PEM.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// The keep-alive, in seconds, 5 at least. The broker notices a dead client, and a client a
    /// dead broker, within about twice this time.
    #[serde(default = "default_keep_alive_s")]
    pub keep_alive_s: u16,
}

/// Frozen machines are noticed in 15 to 20 s, and 1,000 agents cost the broker 100 pings a second.
fn default_keep_alive_s() -> u16 {
    10
}

impl Config {
    /// The broker at `url`, and nothing else said.
    pub fn new(url: BrokerAddress) -> Self {
        Self {
            url,
            user: None,
            password_file: None,
            ca_file: None,
            keep_alive_s: default_keep_alive_s(),
        }
    }
}

/// What a session is opened with.
pub struct Options {
    /// Where the broker is.
    pub config: Config,
    /// The fleet whose topics these are.
    pub fleet: FleetName,
    /// The MQTT client id. Two live clients of one id throw each other out in turn, so it must
    /// differ for every process: make it of the node's name and the start of the process.
    pub client_id: String,
    /// What the broker shall say for us when we have gone without a word.
    pub will: Option<Will>,
}

/// A retained document that the broker publishes when the client has gone without a word.
pub struct Will {
    /// Where.
    pub topic: Topic,
    /// What, given the number of the connection that it would be the end of.
    pub payload: Box<dyn Fn(u64) -> Vec<u8> + Send + Sync>,
}

/// Why a session cannot be opened. A broker that cannot be reached is no such reason.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The password cannot be read.
    #[error("cannot read the password of the bus from {path}")]
    Password {
        /// Where it should be.
        path: PathBuf,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
    /// A password, but nobody whose it is.
    #[error("a password_file needs a user beside it")]
    PasswordWithoutUser,
    /// TLS cannot be set up.
    #[error("cannot set up TLS to the broker")]
    Tls(#[from] TlsError),
}

/// What a session tells its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The broker has let us in. Subscribe and publish the present state, whole.
    Connected {
        /// Which connection of this session. Grows with every try, also with those that fail.
        connection: u64,
    },
    /// The connection is lost, or could not be made. The session tries again by itself.
    Disconnected {
        /// Which connection.
        connection: u64,
        /// Why, in words.
        reason: String,
        /// In how many milliseconds the next try begins.
        retry_ms: u64,
        /// Whether it is worth a line in the log: it is the first of an outage, has another reason
        /// than the one before, or the last line was long ago.
        is_news: bool,
    },
    /// A document has arrived.
    Message {
        /// Where it was published.
        topic: Topic,
        /// The document; empty if it was deleted.
        payload: Bytes,
        /// A retained copy, sent because we have subscribed; it proves nothing about the present.
        retained: bool,
    },
    /// The broker does not let us do something; most likely its access control list is wrong.
    Refused {
        /// What.
        operation: Operation,
        /// Why, in the broker's words.
        reason: String,
    },
}

/// What a broker can refuse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Publishing on this topic.
    Publish(String),
    /// Subscribing to this filter.
    Subscribe(String),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Publish(topic) => write!(f, "publish on {topic}"),
            Self::Subscribe(filter) => write!(f, "subscribe to {filter}"),
        }
    }
}

/// Why a session did not end as it should. The broker then publishes the will.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// There was no connection, or it was lost on the way.
    #[error("the session ended without a good-bye to the broker: {reason}")]
    Disconnected {
        /// Why, in words.
        reason: String,
    },
    /// The broker did not confirm everything in time.
    #[error(
        "the session ended with {unconfirmed} documents that the broker did not confirm in time"
    )]
    Deadline {
        /// How many.
        unconfirmed: usize,
    },
    /// The session was gone already.
    #[error("the session with the broker has ended already")]
    Ended,
}

/// Opens a session. Its task runs until [`Handle::close`], or until its [`Events`] are dropped,
/// which is like the death of the process: no good-bye, and the broker publishes the will.
///
/// # Errors
/// [`OpenError`]. Whether the broker can be reached is told by events.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn open(options: Options) -> Result<(Handle, Events), OpenError> {
    let transport = match options.config.url.tls {
        true => {
            let tls = super::tls::client(options.config.ca_file.as_deref())?;
            Transport::tls_with_config(TlsConfiguration::Rustls(tls))
        }
        false => Transport::Tcp,
    };
    let credentials = credentials(&options.config)?;
    let shared = Arc::new(Shared {
        fleet: options.fleet.clone(),
        outbox: Mutex::new(Outbox::new()),
        wake: Notify::new(),
        closing: watch::Sender::new(false),
    });
    let (events, receiver) = mpsc::channel(EVENTS_MAX);
    let (ended, ending) = watch::channel(None);
    let driver = Driver { shared: shared.clone(), events, options, transport, credentials };
    let task = tokio::spawn(driver.run(ended)).abort_handle();
    let handle = Handle { shared, ending, task: task.clone() };
    Ok((handle, Events { receiver, task }))
}

fn credentials(config: &Config) -> Result<Option<(String, String)>, OpenError> {
    let (user, password) = match (&config.user, &config.url.credentials) {
        (Some(user), _) => (user.clone(), String::new()),
        (None, Some((user, password))) => (user.clone(), password.clone()),
        (None, None) if config.password_file.is_some() => {
            return Err(OpenError::PasswordWithoutUser);
        }
        (None, None) => return Ok(None),
    };
    let Some(path) = &config.password_file else { return Ok(Some((user, password))) };
    let password = file::read(path, PASSWORD_BYTES_MAX)
        .and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::Error::other("not UTF-8")))
        .map_err(|error| OpenError::Password { path: path.clone(), error })?;
    Ok(Some((user, password.trim_end_matches(['\r', '\n']).to_owned())))
}

/// What the handle and the task both see.
pub(super) struct Shared {
    pub(super) fleet: FleetName,
    outbox: Mutex<Outbox>,
    /// There is something new in the outbox.
    pub(super) wake: Notify,
    pub(super) closing: watch::Sender<bool>,
}

impl Shared {
    pub(super) fn outbox(&self) -> MutexGuard<'_, Outbox> {
        // Nothing in there is left half done by a panic: each step is one assignment or two.
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Speaks to the broker; cheap to clone. None of its methods waits, except [`Handle::close`].
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
    ending: watch::Receiver<Option<Ending>>,
    task: AbortHandle,
}

impl Handle {
    /// Queues a document, at QoS 1. A retained one replaces an older one for the same topic that
    /// still waits, and takes its place at the end of the queue. An empty payload deletes what is retained.
    ///
    /// # Errors
    /// [`PublishError`]. Nothing is queued then, and nothing needs to be done but for
    /// [`PublishError::TooLarge`]: whoever publishes state publishes it again on
    /// [`Event::Connected`], and with the next change.
    pub fn publish(
        &self,
        topic: &Topic,
        payload: impl Into<Bytes>,
        retain: bool,
    ) -> Result<(), PublishError> {
        let topic = topic.on(&self.shared.fleet);
        self.shared.outbox().publish(topic, payload.into(), retain)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Queues one subscription to all of `filters`, at QoS 1. The broker answers with every
    /// retained document, then with every change; what is published after it comes back after them.
    ///
    /// # Errors
    /// [`PublishError::NotConnected`], [`PublishError::Closed`] or [`PublishError::Full`]. What the
    /// broker refuses comes as [`Event::Refused`].
    pub fn subscribe(&self, filters: &[Filter]) -> Result<(), PublishError> {
        let filters = filters.iter().map(|filter| filter.on(&self.shared.fleet)).collect();
        self.shared.outbox().subscribe(filters)?;
        self.shared.wake.notify_one();
        Ok(())
    }

    /// What has happened so far, for metrics.
    pub fn counters(&self) -> Counters {
        self.shared.outbox().counters
    }

    /// How much is queued or sent, but not confirmed by the broker.
    pub fn unconfirmed(&self) -> usize {
        self.shared.outbox().unconfirmed()
    }

    /// Ends the session: sends all that waits, waits until the broker has confirmed it, and says
    /// good-bye, so that no will is published. Events that arrive meanwhile are dropped.
    ///
    /// # Errors
    /// [`CloseError`]; the session has ended then, too.
    pub async fn close(&self, within: Duration) -> Result<(), CloseError> {
        self.shared.outbox().close();
        self.shared.closing.send_replace(true);
        self.shared.wake.notify_one();
        let mut ending = self.ending.clone();
        let ended = tokio::time::timeout(within, ending.wait_for(Option::is_some)).await;
        let ended = ended.map(|ending| ending.ok().and_then(|ending| ending.clone()));
        match ended {
            Ok(Some(Ending::Closed)) => Ok(()),
            Ok(Some(Ending::Lost(reason))) => Err(CloseError::Disconnected { reason }),
            Ok(None) => Err(CloseError::Ended),
            Err(_) => {
                let unconfirmed = self.unconfirmed();
                self.task.abort();
                Err(CloseError::Deadline { unconfirmed })
            }
        }
    }
}

/// What the session tells, in order. Dropping it ends the session at once.
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    task: AbortHandle,
}

impl Events {
    /// The next event; `None` when the session has ended. May be dropped while it waits: nothing is lost.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }

    /// How many wait to be taken.
    pub fn waiting(&self) -> usize {
        self.receiver.len()
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}
