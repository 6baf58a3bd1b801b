//! The demo as a reader of the controller's JSON API and of the bus.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Client;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::progress::{Change, Progress};
use crate::bus::session::{self, Event, OpenError, Options};
use crate::bus::{Filter, Topic, decode};
use crate::command::chain;
use crate::controller::view::{EventsView, View};
use crate::model::{FleetName, NodeName, Report};

/// The controller answers in milliseconds; this is for a machine that is very busy.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// The controller's JSON API.
#[derive(Clone)]
pub struct Api {
    client: Client,
    base: String,
}

/// Why the controller did not answer.
#[derive(Debug, thiserror::Error)]
#[error("the controller did not answer {path}: {}", chain(error))]
pub struct ApiError {
    path: &'static str,
    #[source]
    error: reqwest::Error,
}

impl Api {
    /// The API on 127.0.0.1:`port`.
    ///
    /// # Errors
    /// The client's, in words: TLS cannot be set up.
    pub fn new(port: u16) -> Result<Api, String> {
        let client = Client::builder().no_proxy().timeout(ANSWER_MAX).build();
        let client =
            client.map_err(|error| format!("cannot set up an HTTP client: {}", chain(&error)))?;
        Ok(Api { client, base: format!("http://127.0.0.1:{port}") })
    }

    /// Everything, now.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn state(&self) -> Result<View, ApiError> {
        self.get("/api/v1/state").await
    }

    /// The recent events.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn events(&self) -> Result<EventsView, ApiError> {
        self.get("/api/v1/events").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &'static str) -> Result<T, ApiError> {
        let get = async {
            let answer = self.client.get(format!("{}{path}", self.base)).send().await?;
            answer.error_for_status()?.json().await
        };
        get.await.map_err(|error| ApiError { path, error })
    }
}

/// Follows the reports of all nodes. It ends when it is dropped.
pub struct Follower {
    progress: Arc<Mutex<Progress>>,
    task: JoinHandle<()>,
}

impl Follower {
    /// Starts; `tell` hears of every change at once.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn start(
        bus: &str,
        tell: impl Fn(&NodeName, &Change) + Send + 'static,
    ) -> Result<Follower, OpenError> {
        let fleet = FleetName::new("default").expect("it obeys the rule for names");
        let (handle, mut events) = session::open(Options {
            config: session::Config::new(bus.parse().expect("the demo writes addresses well")),
            fleet,
            client_id: format!("evenkeel-demo-{}", std::process::id()),
            will: None,
        })?;
        let progress = Arc::new(Mutex::new(Progress::default()));
        let kept = Arc::clone(&progress);
        let task = tokio::spawn(async move {
            while let Some(event) = events.next().await {
                match event {
                    // A lost connection is followed by a new one, which subscribes again.
                    Event::Connected { .. } => drop(handle.subscribe(&[Filter::AllReports])),
                    Event::Message { topic: Topic::Report(_), payload, .. } => {
                        if let Ok(Some(report)) = decode::<Report>(&payload) {
                            let changes = lock(&kept).take(Instant::now(), &report);
                            changes.iter().for_each(|(node, change)| tell(node, change));
                        }
                    }
                    Event::Message { .. } | Event::Disconnected { .. } | Event::Refused { .. } => {}
                }
            }
        });
        Ok(Follower { progress, task })
    }

    /// What has been seen.
    pub fn with<T>(&self, see: impl FnOnce(&mut Progress) -> T) -> T {
        see(&mut lock(&self.progress))
    }
}

fn lock(progress: &Mutex<Progress>) -> std::sync::MutexGuard<'_, Progress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}
