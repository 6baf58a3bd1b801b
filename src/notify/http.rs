//! One HTTP request to a service, and what its answer means.

use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url};
use tokio::time::{Instant, timeout_at};

use crate::model::Message;
use crate::plan::ports::DeliverError;

use super::config::Meaning;
use super::target::{Body, Filled, Target};
use super::{causes, terminal, transient};

/// Of an answer that refuses: enough for a sentence or two.
const ANSWER_BYTES_MAX: usize = 4096;
const ANSWER_CHARACTERS_SHOWN_MAX: usize = 200;

/// A service that asks for more than a day is not worth waiting for.
const RETRY_AFTER_MS_MAX: u64 = 24 * 3600 * 1000;

/// The client that all targets share. Proxies are taken from the environment, roots from the system
/// and from `ca_pem`.
///
/// # Errors
/// In words: TLS cannot be set up.
pub(super) fn client(ca_pem: Option<&[u8]>) -> Result<Client, String> {
    let problem = |error: reqwest::Error| {
        format!("cannot set up TLS (is the package ca-certificates installed?): {}", causes(&error))
    };
    let extra = match ca_pem {
        Some(pem) => reqwest::Certificate::from_pem_bundle(pem).map_err(problem)?,
        None => Vec::new(),
    };
    Client::builder()
        .user_agent(concat!("evenkeel/", env!("CARGO_PKG_VERSION")))
        // After most redirects a POST goes on as a GET, which a service answers with 200 and ignores;
        // and the other host would be given what is meant for this one.
        .redirect(reqwest::redirect::Policy::none())
        // Messages are rare: an idle connection would be dead when it is next wanted.
        .pool_max_idle_per_host(0)
        .tls_certs_merge(extra)
        .build()
        .map_err(problem)
}

/// Sends `message` and reads the answer, all within `timeout`.
pub(super) async fn deliver(
    client: &Client,
    target: &Target,
    message: &Message,
    timeout: Duration,
) -> Result<(), DeliverError> {
    let deadline = Instant::now() + timeout;
    let request = request(client, target, &target.fill(message))
        .ok_or_else(|| terminal(target, "the request cannot be made from this message"))?;
    let response = match timeout_at(deadline, request.send()).await {
        Err(_) => {
            return Err(transient(target, &format!("did not answer within {timeout:?}"), None));
        }
        Ok(Err(error)) => return Err(failed(target, error.without_url())),
        Ok(Ok(response)) => response,
    };
    let status = response.status();
    let meaning = meaning(target, status);
    if meaning == Meaning::Delivered {
        return Ok(());
    }
    let mut problem = format!("answered {status}{}", pointer(&response));
    let retry_after_ms = retry_after_ms(&response);
    let answer = beginning(response, deadline).await;
    let answer = shown(target, &answer);
    if !answer.is_empty() {
        problem.push_str(": ");
        problem.push_str(&answer);
    }
    Err(match meaning {
        Meaning::Transient => transient(target, &problem, retry_after_ms),
        Meaning::Terminal | Meaning::Delivered => terminal(target, &problem),
    })
}

/// `None` if a value is missing or does not go where the row puts it.
fn request(client: &Client, target: &Target, filled: &Filled<'_>) -> Option<RequestBuilder> {
    let url: Url = filled.url()?.parse().ok()?;
    let mut headers = HeaderMap::new();
    for (name, template) in &target.headers {
        if let Some(text) = filled.line(template) {
            let name = HeaderName::try_from(name).ok()?;
            headers.insert(name, HeaderValue::from_bytes(text.as_bytes()).ok()?);
        }
    }
    let request = client.request(target.method.clone(), url);
    let request = match &target.body {
        Body::Empty => request,
        Body::Json(json) => request.json(&filled.json(json)?),
        Body::Form(form) => {
            let fields = form.iter().filter_map(|(name, t)| Some((name, filled.text(t)?)));
            request.form(&fields.collect::<Vec<_>>())
        }
        Body::Text(template) => {
            let text = HeaderValue::from_static("text/plain; charset=utf-8");
            let plain = HeaderMap::from_iter([(reqwest::header::CONTENT_TYPE, text)]);
            request.headers(plain).body(filled.text(template)?)
        }
        // The URL of a mail has been checked to be none of ours.
        Body::Mail(_) => return None,
    };
    Some(request.headers(headers))
}

fn failed(target: &Target, error: reqwest::Error) -> DeliverError {
    let problem = format!("cannot be reached: {}", target.secrets.strike(&causes(&error)));
    if error.is_builder() { terminal(target, &problem) } else { transient(target, &problem, None) }
}

/// What `status` means to this target: its own reading, or else the usual one (RFC 9110, 15; 425 is
/// RFC 8470, 429 is RFC 6585).
fn meaning(target: &Target, status: StatusCode) -> Meaning {
    if let Some(meaning) = target.answers.get(&status.as_u16()) {
        return *meaning;
    }
    match status.as_u16() {
        200..=299 => Meaning::Delivered,
        408 | 425 | 429 | 500..=599 => Meaning::Transient,
        _ => Meaning::Terminal,
    }
}

/// Where a redirect points, as far as it may be said.
fn pointer(response: &Response) -> String {
    let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
    let Some(to) = location.and_then(|to| response.url().join(to).ok()) else {
        return String::new();
    };
    format!(
        " and points to {}, which is not followed; `url` must be the right one",
        to.origin().ascii_serialization()
    )
}

/// `Retry-After` in milliseconds: seconds or a date (RFC 9110, 10.2.3).
fn retry_after_ms(response: &Response) -> Option<u64> {
    let text = response.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    let ms = match text.parse::<u64>() {
        Ok(seconds) => seconds.saturating_mul(1000),
        Err(_) => {
            let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            let wait = date.duration_since(jiff::Timestamp::now());
            u64::try_from(wait.as_millis()).unwrap_or(0)
        }
    };
    Some(ms.min(RETRY_AFTER_MS_MAX))
}

/// The first bytes of an answer, as far as they come in time.
async fn beginning(mut response: Response, deadline: Instant) -> Vec<u8> {
    let mut answer = Vec::new();
    while answer.len() < ANSWER_BYTES_MAX {
        match timeout_at(deadline, response.chunk()).await {
            Ok(Ok(Some(chunk))) => answer.extend_from_slice(&chunk),
            // The status has said what matters.
            Ok(Ok(None) | Err(_)) | Err(_) => break,
        }
    }
    answer.truncate(ANSWER_BYTES_MAX);
    answer
}

/// An answer as one short line without secrets.
fn shown(target: &Target, answer: &[u8]) -> String {
    let text = target.secrets.strike(&String::from_utf8_lossy(answer));
    let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    line.take(ANSWER_CHARACTERS_SHOWN_MAX).collect::<String>().trim().to_owned()
}
