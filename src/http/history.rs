//! The history over HTTP: entries, rollouts, and one rollout with its entries. It is read from the database, beside
//! the controller's loop, which knows nothing of it.

use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use super::{Answer, Failure};
use crate::command::chain;
use crate::history::{Filter, Kind, LIMIT_MAX, ReadError, Reader};
use crate::model::{AppName, ClusterName, NodeName, RolloutId, Wall};

/// Questions that are answered at once: each has a thread and reads the disk.
const ASKED_MAX: usize = 4;

/// Entries, or rollouts, of an answer, where nothing is said.
const LIMIT: usize = 200;

#[derive(Clone)]
struct Asked {
    reader: Option<Reader>,
    places: Arc<Semaphore>,
}

/// What can be asked for, in the address.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parameters {
    app: Option<AppName>,
    cluster: Option<ClusterName>,
    node: Option<NodeName>,
    rollout: Option<RolloutId>,
    /// Names of kinds, with commas between them.
    kind: Option<String>,
    /// Milliseconds since 1970.
    since: Option<u64>,
    before: Option<u64>,
    after: Option<u64>,
    limit: Option<usize>,
}

/// The history's part of the router.
pub(super) fn routes<S: Clone + Send + Sync + 'static>(reader: Option<Reader>) -> Router<S> {
    let asked = Asked { reader, places: Arc::new(Semaphore::new(ASKED_MAX)) };
    Router::new()
        .route("/api/v1/history", get(entries))
        .route("/api/v1/history/{rollout}", get(rollout))
        .route("/api/v1/rollouts", get(rollouts))
        .with_state(asked)
}

async fn entries(
    State(asked): State<Asked>,
    Query(parameters): Query<Parameters>,
) -> Answer<Response> {
    let filter = filter(parameters)?;
    asked.answer(move |reader| reader.entries(&filter)).await
}

async fn rollouts(
    State(asked): State<Asked>,
    Query(parameters): Query<Parameters>,
) -> Answer<Response> {
    let filter = filter(parameters)?;
    asked.answer(move |reader| reader.rollouts(&filter)).await
}

async fn rollout(
    State(asked): State<Asked>,
    Path(id): Path<String>,
    Query(parameters): Query<Parameters>,
) -> Answer<Response> {
    let id =
        RolloutId::new(&id).map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))?;
    let filter = Filter { rollout: Some(id.to_string()), ..filter(parameters)? };
    asked.answer(move |reader| reader.rollout(&filter)).await
}

impl Asked {
    async fn answer<T: Serialize + Send + 'static>(
        self,
        read: impl FnOnce(&Reader) -> Result<T, ReadError> + Send + 'static,
    ) -> Answer<Response> {
        let Some(reader) = self.reader else {
            let why = "no history is kept: the controller was started with --history-max-entries 0";
            return Err(Failure(StatusCode::NOT_FOUND, why.to_owned()));
        };
        let Ok(place) = self.places.try_acquire_owned() else {
            let why =
                format!("{ASKED_MAX} questions about the history are being answered; ask again");
            return Err(Failure(StatusCode::SERVICE_UNAVAILABLE, why));
        };
        // Whoever asks may go; the thread reads on, and so keeps its place.
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            read(&reader)
        });
        let answer = reading.await;
        match answer {
            Ok(Ok(document)) => Ok(Json(document).into_response()),
            Ok(Err(error)) if error.is_unknown() => {
                Err(Failure(StatusCode::NOT_FOUND, error.to_string()))
            }
            Ok(Err(error)) => Err(Failure(StatusCode::SERVICE_UNAVAILABLE, chain(&error))),
            Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        }
    }
}

fn filter(parameters: Parameters) -> Answer<Filter> {
    let wrong = |what: String| Failure(StatusCode::BAD_REQUEST, what);
    let kind = |name: &str| {
        Kind::of(name).ok_or_else(|| {
            let known = Kind::ALL.map(Kind::as_str).join(", ");
            wrong(format!("there is no kind {name:?}; known: {known}"))
        })
    };
    let kinds = parameters.kind.as_deref().into_iter().flat_map(|kinds| kinds.split(','));
    let limit = parameters.limit.unwrap_or(LIMIT);
    if !(1..=LIMIT_MAX).contains(&limit) {
        return Err(wrong(format!("limit={limit} is not between 1 and {LIMIT_MAX}")));
    }
    Ok(Filter {
        app: parameters.app.map(|name| name.to_string()),
        cluster: parameters.cluster.map(|name| name.to_string()),
        node: parameters.node.map(|name| name.to_string()),
        rollout: parameters.rollout.map(|id| id.to_string()),
        kinds: kinds.map(kind).collect::<Answer<_>>()?,
        since: parameters.since.map(Wall),
        before: parameters.before,
        after: parameters.after,
        limit,
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[tokio::test]
    async fn a_question_keeps_its_place_when_its_asker_has_gone() {
        let reader = Some(Reader::new("/nowhere".into()));
        let places = Arc::new(Semaphore::new(1));
        let asked = Asked { reader, places: Arc::clone(&places) };
        let (begun, has_begun) = channel();
        let (end, may_end) = channel::<()>();
        let answer = asked.answer(move |_| {
            begun.send(()).expect("somebody waits for this");
            may_end.recv().expect("somebody ends this");
            Ok(0)
        });
        let asking = tokio::spawn(answer);
        tokio::task::spawn_blocking(move || has_begun.recv()).await.unwrap().unwrap();
        asking.abort();
        assert!(asking.await.is_err(), "the asker has gone");
        assert_eq!(places.available_permits(), 0);
        end.send(()).unwrap();
        drop(places.acquire().await.unwrap());
    }
}
