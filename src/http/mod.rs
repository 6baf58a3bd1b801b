//! Floor 4: what the controller shows over HTTP: health, the JSON API, metrics. It asks the
//! controller's driver and waits for a bounded time; it holds nothing itself.

mod agent;
mod exposition;
mod history;
mod metrics;
mod page;
mod stream;

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Extension, Router};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

pub use agent::serve_agent;

use crate::controller::driver::{ForgetError, Queries, Query};
use crate::controller::view::ClusterView;
use crate::history::Reader;
use crate::model::{AppName, ClusterName, NodeName};

/// How long the driver may take to answer. It answers between two plans, which take milliseconds;
/// one that takes longer than this is not alive.
const ANSWER_MAX: Duration = Duration::from_secs(5);

/// What is shown beside what the driver says.
#[derive(Clone)]
pub struct Shown {
    /// Metrics have a series per node, too.
    pub node_metrics: bool,
    /// The history, if one is kept.
    pub history: Option<Reader>,
}

/// Serves until `stop` is done; then answers what is under way, and ends.
///
/// # Errors
/// The error of the listener.
pub async fn serve(
    listener: TcpListener,
    queries: Queries,
    shown: Shown,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .route("/api/v1/state", get(state))
        .route("/api/v1/stream", get(stream::stream).with_state(stream::Feed::new(queries.clone())))
        .merge(page::routes())
        .merge(history::routes(shown.history))
        .route("/api/v1/apps", get(apps))
        .route("/api/v1/clusters", get(clusters))
        .route("/api/v1/nodes", get(nodes))
        .route("/api/v1/events", get(events))
        .route("/api/v1/apps/{app}", get(app))
        .route("/api/v1/apps/{app}/world", get(world))
        .route("/api/v1/nodes/{node}", get(node))
        .route("/api/v1/nodes/{node}", delete(forget))
        .layer(Extension(NodeMetrics(shown.node_metrics)))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .with_state(queries);
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}

/// Whether metrics have a series per node.
#[derive(Clone, Copy)]
struct NodeMetrics(bool);

/// An error as a document.
struct Failure(StatusCode, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, axum::Json(json!({ "error": self.1 }))).into_response()
    }
}

type Answer<T> = Result<T, Failure>;

async fn ask<T>(queries: &Queries, query: impl FnOnce(oneshot::Sender<T>) -> Query) -> Answer<T> {
    let (sender, receiver) = oneshot::channel();
    let asked = async {
        queries.send(query(sender)).await.ok()?;
        receiver.await.ok()
    };
    match tokio::time::timeout(ANSWER_MAX, asked).await {
        Ok(Some(answer)) => Ok(answer),
        Ok(None) => {
            Err(Failure(StatusCode::SERVICE_UNAVAILABLE, "the controller is stopping".to_owned()))
        }
        Err(_) => Err(Failure(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("the controller did not answer within {ANSWER_MAX:?}"),
        )),
    }
}

/// Alive: the controller's loop turns.
async fn healthz(State(queries): State<Queries>) -> Answer<&'static str> {
    ask(&queries, Query::Ready).await.map(|_| "ok\n")
}

/// Ready: the bus is connected and listed, and the desired state was read.
async fn readyz(State(queries): State<Queries>) -> Answer<&'static str> {
    if ask(&queries, Query::Ready).await? {
        return Ok("ok\n");
    }
    let view = ask(&queries, Query::View).await?;
    let mut missing = Vec::new();
    if !view.bus_live {
        missing.push("the bus is not connected");
    }
    if !view.desired_read {
        missing.push("no desired files have been found yet");
    }
    Err(Failure(StatusCode::SERVICE_UNAVAILABLE, missing.join("; ")))
}

async fn state(State(queries): State<Queries>) -> Answer<Response> {
    let view = ask(&queries, Query::View).await?;
    Ok(axum::Json(view).into_response())
}

async fn apps(State(queries): State<Queries>) -> Answer<Response> {
    Ok(axum::Json(ask(&queries, Query::View).await?.apps).into_response())
}

/// Every cluster, by app.
async fn clusters(State(queries): State<Queries>) -> Answer<Response> {
    let apps = ask(&queries, Query::View).await?.apps;
    let clusters: BTreeMap<AppName, BTreeMap<ClusterName, ClusterView>> =
        apps.into_iter().map(|(name, app)| (name, app.clusters)).collect();
    Ok(axum::Json(clusters).into_response())
}

async fn nodes(State(queries): State<Queries>) -> Answer<Response> {
    Ok(axum::Json(ask(&queries, Query::View).await?.nodes).into_response())
}

async fn events(State(queries): State<Queries>) -> Answer<Response> {
    Ok(axum::Json(ask(&queries, Query::Events).await?.events).into_response())
}

async fn app(State(queries): State<Queries>, Path(name): Path<String>) -> Answer<Response> {
    let name = app_name(&name)?;
    let mut view = ask(&queries, Query::View).await?;
    let app = view.apps.remove(&name).ok_or_else(|| no_app(&name))?;
    Ok(axum::Json(app).into_response())
}

async fn world(State(queries): State<Queries>, Path(name): Path<String>) -> Answer<Response> {
    let name = app_name(&name)?;
    let asked = name.clone();
    let world = ask(&queries, |to| Query::World(asked, to)).await?;
    let world = world.ok_or_else(|| no_app(&name))?;
    Ok(axum::Json(world).into_response())
}

async fn node(State(queries): State<Queries>, Path(name): Path<String>) -> Answer<Response> {
    let name = node_name(&name)?;
    let mut view = ask(&queries, Query::View).await?;
    let node = view
        .nodes
        .remove(&name)
        .ok_or_else(|| Failure(StatusCode::NOT_FOUND, format!("no node {name} is known")))?;
    Ok(axum::Json(node).into_response())
}

async fn forget(State(queries): State<Queries>, Path(name): Path<String>) -> Answer<Response> {
    let name = node_name(&name)?;
    let answer = ask(&queries, |to| Query::Forget(name, to)).await?;
    match answer {
        Ok(message) => {
            Ok(axum::Json(json!({ "forgotten": true, "message": message })).into_response())
        }
        Err(error @ ForgetError::Unknown) => Err(Failure(StatusCode::NOT_FOUND, error.to_string())),
        Err(error @ ForgetError::Present) => Err(Failure(StatusCode::CONFLICT, error.to_string())),
    }
}

async fn metrics(
    State(queries): State<Queries>,
    Extension(NodeMetrics(per_node)): Extension<NodeMetrics>,
) -> Answer<Response> {
    let state = ask(&queries, Query::Metrics).await?;
    let encode = move || {
        let (view, counters) = *state;
        metrics::encode(view, counters, per_node)
    };
    let encoded = tokio::task::spawn_blocking(encode).await;
    let content = [(header::CONTENT_TYPE, exposition::CONTENT_TYPE)];
    match encoded {
        Ok(Ok(text)) => Ok((content, text).into_response()),
        Ok(Err(error)) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
        Err(error) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string())),
    }
}

fn app_name(text: &str) -> Answer<AppName> {
    AppName::new(text).map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))
}

fn node_name(text: &str) -> Answer<NodeName> {
    NodeName::new(text).map_err(|error| Failure(StatusCode::BAD_REQUEST, error.to_string()))
}

fn no_app(name: &AppName) -> Failure {
    Failure(StatusCode::NOT_FOUND, format!("no app {name} is led by this controller"))
}
