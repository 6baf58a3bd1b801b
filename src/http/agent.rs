//! What an agent shows over HTTP, where it is asked to: its metrics, and that it is alive.

use axum::Router;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;

use super::exposition::{CONTENT_TYPE, Exposition, Family};
use crate::agent::counters::{Counted, Counters, Outcomes};

/// Serves until it is dropped. It runs on the agent's own thread: whoever gets an answer knows that the
/// agent's loop is not stuck.
///
/// # Errors
/// The error of the listener.
pub async fn serve_agent(listener: TcpListener, counted: Counted) -> std::io::Result<()> {
    let router = Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/metrics", get(metrics))
        .layer(DefaultBodyLimit::max(64 * 1024))
        .with_state(counted);
    axum::serve(listener, router).await
}

async fn metrics(State(counted): State<Counted>) -> Response {
    match encode(&counted.now()) {
        Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

fn encode(counters: &Counters) -> Result<Vec<u8>, prometheus::Error> {
    let mut page = Exposition::default();
    page.gauges("evenkeel_agent_build_info", "1, with the version.", |family| {
        family.gauge(&[("version", env!("CARGO_PKG_VERSION"))], 1.0);
    });
    work(&mut page, counters);
    let help = "Commands to HAProxy, by what became of them.";
    page.counters("evenkeel_agent_haproxy_commands_total", help, |family| {
        outcomes(family, &[], "outcome", &counters.commands);
    });
    let help = "New processes of HAProxy that were seen: reloads and restarts.";
    page.counter("evenkeel_agent_haproxy_reloads_total", help, counters.reloads);
    let help = "Tries to deliver messages to people, by what became of them.";
    page.counters("evenkeel_agent_deliveries_total", help, |family| {
        outcomes(family, &[], "outcome", &counters.deliveries);
    });
    let help = "Assignments that were accepted or refused.";
    page.counters("evenkeel_agent_assignments_total", help, |family| {
        outcomes(family, &[], "outcome", &counters.assignments);
    });
    page.counter("evenkeel_agent_reports_total", "Reports published.", counters.reports);
    let help = "Writes to the state directory that failed.";
    page.counter("evenkeel_agent_state_write_failures_total", help, counters.state_write_failures);
    let connected = f64::from(u8::from(counters.connected));
    page.gauge("evenkeel_agent_bus_connected", "Whether the bus is connected.", connected);
    let help = "Connections to the bus that were made.";
    page.counter("evenkeel_agent_bus_connections_total", help, counters.connections);
    let help = "Documents that could not be read, and mailboxes by none of the trusted keys.";
    page.counter("evenkeel_agent_documents_refused_total", help, counters.documents_refused);
    page.text()
}

fn work(page: &mut Exposition, counters: &Counters) {
    let help = "Upgrade attempts that have ended.";
    page.counters("evenkeel_agent_attempts_total", help, |family| {
        for (app, attempts) in &counters.attempts {
            outcomes(family, &[("app", app.as_str())], "outcome", attempts);
        }
    });
    let help = "How long upgrade attempts took.";
    page.histograms("evenkeel_agent_attempt_duration_seconds", help, |family| {
        for (app, took) in &counters.attempt_took {
            family.histogram(&[("app", app.as_str())], took);
        }
    });
    page.counters("evenkeel_agent_checks_total", "Runs of checks, by result.", |family| {
        for (check, results) in &counters.checks {
            outcomes(family, &[("check", check.as_str())], "result", results);
        }
    });
    let help = "How long runs of checks took.";
    page.histograms("evenkeel_agent_check_duration_seconds", help, |family| {
        for (check, took) in &counters.check_took {
            family.histogram(&[("check", check.as_str())], took);
        }
    });
}

fn outcomes(family: &mut Family, labels: &[(&str, &str)], name: &str, outcomes: &Outcomes) {
    for (outcome, count) in outcomes {
        let mut labels = labels.to_vec();
        labels.push((name, outcome));
        family.counter(&labels, *count);
    }
}
