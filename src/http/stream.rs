//! The fleet as it changes, by server-sent events: whole at first, then as merge patches. One task looks for all
//! who follow, and none while nobody does.

use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{Failure, ask};
use crate::controller::driver::{Queries, Query};
use crate::controller::live::Live;
use crate::controller::patch::patch;

/// So many may follow at once. Each costs a connection, and what is on its way there.
const FOLLOWERS_MAX: usize = 64;

/// Between two looks; but never so often that looking takes more than a fifth of the time.
const LOOK: Duration = Duration::from_millis(300);

/// Where nothing changes, followers are told so as often as this: silence means that something is wrong.
const TICK: Duration = Duration::from_secs(2);

/// Where there is nothing to tell, not even that: a comment, by which a connection that is dead is noticed.
const COMMENT: Duration = Duration::from_secs(10);

/// How soon a browser connects again, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// The state at one look.
struct Frame {
    /// Counted from 1, since somebody began to follow.
    number: u64,
    /// All of it.
    whole: Value,
    /// What has changed since the look before, as an event.
    change: Bytes,
}

/// What followers share.
#[derive(Clone)]
pub(super) struct Feed {
    queries: Queries,
    frames: watch::Sender<Option<Arc<Frame>>>,
    /// Whether the task that looks is there.
    looking: Arc<Mutex<bool>>,
    places: Arc<Semaphore>,
}

impl Feed {
    pub fn new(queries: Queries) -> Feed {
        Feed {
            queries,
            frames: watch::Sender::new(None),
            looking: Arc::default(),
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
        }
    }

    fn follow(&self) -> watch::Receiver<Option<Arc<Frame>>> {
        let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
        let receiver = self.frames.subscribe();
        if !*looking {
            *looking = true;
            // What was seen by the last one who looked is old.
            self.frames.send_replace(None);
            tokio::spawn(self.clone().look());
        }
        receiver
    }

    /// Looks for as long as anybody follows.
    async fn look(self) {
        let mut number = 0;
        let mut told = Instant::now();
        loop {
            {
                let mut looking = self.looking.lock().unwrap_or_else(PoisonError::into_inner);
                if self.frames.receiver_count() == 0 {
                    *looking = false;
                    return;
                }
            }
            let started = Instant::now();
            if let Ok(whole) = self.state().await {
                let before = self.frames.borrow().clone();
                let due = told.elapsed() >= TICK;
                if let Some(change) = change(before.as_deref(), &whole, due) {
                    number += 1;
                    let change = event("change", number, &change);
                    self.frames.send_replace(Some(Arc::new(Frame { number, whole, change })));
                    told = Instant::now();
                }
            }
            tokio::time::sleep(LOOK.max(started.elapsed() * 4)).await;
        }
    }

    async fn state(&self) -> Result<Value, Failure> {
        let view = ask(&self.queries, Query::View).await?;
        let recent = ask(&self.queries, Query::Events).await?;
        let document = Live::new(&view, &recent).document();
        document.map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
    }
}

/// What is to be told; nothing where only the time has changed, unless that is due.
fn change(before: Option<&Frame>, whole: &Value, due: bool) -> Option<Value> {
    let Some(before) = before else { return Some(whole.clone()) };
    let change = patch(&before.whole, whole)?;
    let time_alone = change.as_object().is_some_and(|fields| fields.keys().eq(["at"]));
    (due || !time_alone).then_some(change)
}

fn event(name: &str, number: u64, document: &Value) -> Bytes {
    // JSON escapes line ends, so that it is one line.
    Bytes::from(format!("event: {name}\nid: {number}\ndata: {document}\n\n"))
}

/// One who follows.
struct Follower {
    frames: watch::Receiver<Option<Arc<Frame>>>,
    /// The last frame that it has.
    has: Option<u64>,
    begun: bool,
    _place: OwnedSemaphorePermit,
}

impl Follower {
    /// The next piece; none when the controller ends.
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Follower)> {
        if !self.begun {
            self.begun = true;
            let hello = Bytes::from(format!("retry: {RETRY_MS}\n\n"));
            return Some((Ok(hello), self));
        }
        loop {
            let frame = self.frames.borrow_and_update().clone();
            if let Some(frame) = frame.filter(|frame| self.has != Some(frame.number)) {
                // One that is too slow for every change gets the whole again, and nothing piles up.
                let follows = self.has.is_some_and(|has| has + 1 == frame.number);
                let piece = if follows {
                    frame.change.clone()
                } else {
                    event("state", frame.number, &frame.whole)
                };
                self.has = Some(frame.number);
                return Some((Ok(piece), self));
            }
            match tokio::time::timeout(COMMENT, self.frames.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return None,
                Err(_) => return Some((Ok(Bytes::from_static(b": no answer yet\n\n")), self)),
            }
        }
    }
}

/// Follows the fleet: an event `state` with all of it, then an event `change` with a JSON merge patch
/// (RFC 7396) for whatever changes; `state` again for one that is too slow.
pub(super) async fn stream(State(feed): State<Feed>) -> Response {
    let Ok(place) = Arc::clone(&feed.places).try_acquire_owned() else {
        let why = format!("{FOLLOWERS_MAX} follow already; close one, or ask /api/v1/state");
        let failure = Failure(StatusCode::SERVICE_UNAVAILABLE, why);
        return ([(header::RETRY_AFTER, "10")], failure).into_response();
    };
    let follower = Follower { frames: feed.follow(), has: None, begun: false, _place: place };
    let pieces = futures_util::stream::unfold(follower, Follower::next);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-store"),
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(pieces)).into_response()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn frame(number: u64) -> Option<Arc<Frame>> {
        let change = event("change", number, &json!({ "at": number }));
        Some(Arc::new(Frame { number, whole: json!({ "at": number, "all": true }), change }))
    }

    async fn piece(follower: Follower) -> (String, Follower) {
        let (piece, follower) = follower.next().await.expect("a piece");
        (String::from_utf8(piece.expect("bytes").to_vec()).expect("text"), follower)
    }

    #[tokio::test]
    async fn one_that_is_too_slow_gets_the_whole_again() {
        let frames = watch::Sender::new(None);
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().expect("a place");
        let follower =
            Follower { frames: frames.subscribe(), has: None, begun: false, _place: place };
        let (hello, follower) = piece(follower).await;
        assert_eq!(hello, "retry: 1000\n\n");
        frames.send_replace(frame(7));
        let (first, follower) = piece(follower).await;
        assert_eq!(first, "event: state\nid: 7\ndata: {\"all\":true,\"at\":7}\n\n");
        frames.send_replace(frame(8));
        let (next, follower) = piece(follower).await;
        assert_eq!(next, "event: change\nid: 8\ndata: {\"at\":8}\n\n");
        for number in 9..1_000 {
            frames.send_replace(frame(number));
        }
        let (late, follower) = piece(follower).await;
        assert_eq!(late, "event: state\nid: 999\ndata: {\"all\":true,\"at\":999}\n\n");
        drop(frames);
        assert!(follower.next().await.is_none(), "the controller has ended");
    }

    #[test]
    fn the_time_alone_is_told_only_when_it_is_due() {
        let before = Frame { number: 1, whole: json!({ "at": 1, "x": 1 }), change: Bytes::new() };
        let now = json!({ "at": 2, "x": 1 });
        assert_eq!(change(Some(&before), &now, false), None);
        assert_eq!(change(Some(&before), &now, true), Some(json!({ "at": 2 })));
        let other = json!({ "at": 2, "x": 2 });
        assert_eq!(change(Some(&before), &other, false), Some(other.clone()));
        assert_eq!(change(None, &now, false), Some(now));
    }
}
