//! What services answer, what goes wrong on the way, and what may be said of it.

use evenkeel::model::{Message, RecipientName};
use evenkeel::plan::ports::{DeliverError, Notify};

use super::{NTFY, entry, message, oncall, refused, services};
use crate::parts::process::free_port;
use crate::parts::receiver::{Answer, Receiver};

/// Short, for tests in which it must run out; a loaded machine only makes them slower.
const IMPATIENT: &str = "[notify]\ntimeout = '300ms'\n";

/// What one answer comes to: whether to try again, when, and the words.
async fn outcome(answer: Answer) -> (bool, Option<u64>, String) {
    let receiver = Receiver::answering(answer);
    classed(refused(&services(&entry(&receiver, "", NTFY))).await)
}

fn classed(error: DeliverError) -> (bool, Option<u64>, String) {
    match error {
        DeliverError::Transient { error, retry_after_ms } => (true, retry_after_ms, error),
        DeliverError::Terminal { error } => (false, None, error),
        DeliverError::Paced { again_in_ms } => panic!("paced: {again_in_ms} ms"),
    }
}

#[tokio::test]
async fn statuses_decide_about_another_try() {
    // It answers with the status that the message asks for.
    let receiver = Receiver::start(|request| {
        let json = request.json();
        let happened = json["message"].as_str().unwrap().lines().next().unwrap();
        let status = happened.parse().unwrap();
        Answer::status(status, "no\nway")
    });
    let services = services(&entry(&receiver, "", NTFY));
    for (status, again) in [
        (400, false),
        (401, false),
        (404, false),
        (406, false),
        (408, true),
        (410, false),
        (413, false),
        (425, true),
        (429, true),
        (500, true),
        (503, true),
        (507, true),
    ] {
        let message = Message { happened: status.to_string(), ..message() };
        let error = services.deliver(&oncall(), &message).await.unwrap_err();
        let (transient, wait, error) = classed(error);
        assert_eq!((transient, wait), (again, None), "{error}");
        assert!(error.contains(&status.to_string()) && error.ends_with(": no way"), "{error}");
        assert!(error.starts_with("ntfy at http://127.0.0.1:"), "{error}");
    }
}

#[tokio::test]
async fn a_row_can_read_a_status_its_own_way() {
    let receiver = Receiver::answering(Answer::status(406, "limit"));
    let services = services(&entry(&receiver, "", super::PROWL));
    assert!(matches!(refused(&services).await, DeliverError::Transient { .. }));
    // Pushover's monthly quota.
    let receiver = Receiver::answering(Answer::status(429, "quota"));
    let services = super::services(&entry(&receiver, "", super::PUSHOVER));
    assert!(matches!(refused(&services).await, DeliverError::Terminal { .. }));
}

#[tokio::test]
async fn the_services_wish_to_wait_is_heard() {
    let date = |seconds: i64| {
        let at = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        at.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    for (value, low, high) in [
        ("7".to_owned(), 7_000, 7_000),
        ("99999999999999".to_owned(), 86_400_000, 86_400_000),
        (date(3600), 3_000_000, 3_600_000),
        (date(-3600), 0, 0),
    ] {
        let answer = Answer::Full(429, vec![("Retry-After", value.clone())], String::new());
        let (transient, wait, error) = outcome(answer).await;
        assert!(transient, "{error}");
        assert!(wait.is_some_and(|ms| (low..=high).contains(&ms)), "{value}: {wait:?}");
    }
    let answer = Answer::Full(429, vec![("Retry-After", "soon".into())], String::new());
    assert_eq!(outcome(answer).await.1, None);
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let elsewhere = Receiver::answering(Answer::status(200, ""));
    for status in [301, 302, 303, 307, 308] {
        let to = vec![("Location", format!("{}/secret-path", elsewhere.url()))];
        let (transient, _, error) = outcome(Answer::Full(status, to, String::new())).await;
        assert!(!transient, "{error}");
        assert!(error.contains(&format!("points to {},", elsewhere.url())), "{error}");
    }
    assert!(elsewhere.requests().is_empty());
}

#[tokio::test]
async fn nobody_there_may_be_there_later() {
    let url = format!("url = 'http://127.0.0.1:{}'", free_port());
    let services = services(&format!("[notify.recipients.oncall]\n{url}\n{NTFY}"));
    let (transient, _, error) = classed(refused(&services).await);
    assert!(transient && error.contains("cannot be reached"), "{error}");
}

#[tokio::test]
async fn silence_is_waited_for_only_so_long() {
    let receiver = Receiver::answering(Answer::Silence);
    let services = services(&format!("{IMPATIENT}{}", entry(&receiver, "", NTFY)));
    let (transient, _, error) = classed(refused(&services).await);
    assert!(transient && error.contains("did not answer within 300ms"), "{error}");
}

#[tokio::test]
async fn a_status_counts_though_its_body_never_comes() {
    let receiver = Receiver::answering(Answer::Headers(400));
    let services = services(&format!("[notify]\ntimeout = '3s'\n{}", entry(&receiver, "", NTFY)));
    assert!(matches!(refused(&services).await, DeliverError::Terminal { .. }));
}

#[tokio::test]
async fn answers_without_end_are_cut() {
    let (transient, _, error) = outcome(Answer::Endless(500)).await;
    assert!(transient && error.len() < 400, "{error}");
    let receiver = Receiver::answering(Answer::Endless(200));
    let services = services(&entry(&receiver, "", NTFY));
    services.deliver(&oncall(), &message()).await.expect("a status of 200 is enough");
}

#[tokio::test]
async fn a_stranger_cannot_be_told() {
    let receiver = Receiver::answering(Answer::status(200, ""));
    let services = services(&entry(&receiver, "", NTFY));
    assert_eq!(services.recipients(), [oncall()]);
    let stranger = RecipientName::new("stranger").unwrap();
    let (transient, _, error) = classed(services.deliver(&stranger, &message()).await.unwrap_err());
    assert!(!transient && error.contains("stranger"), "{error}");
    assert!(receiver.requests().is_empty());
}

#[tokio::test]
async fn all_entries_are_tried_and_only_the_unserved_again() {
    use std::sync::atomic::{AtomicU16, Ordering};
    static STATUS: AtomicU16 = AtomicU16::new(503);
    let good = Receiver::answering(Answer::status(200, ""));
    let late = Receiver::start(|_| Answer::status(STATUS.load(Ordering::SeqCst), ""));
    let one = |receiver: &Receiver| {
        format!("[[notify.recipients.oncall]]\nurl = '{}'\n{NTFY}", receiver.url())
    };
    let services = services(&format!("{}{}", one(&good), one(&late)));
    let (transient, _, error) = classed(refused(&services).await);
    assert!(transient && error.contains(&late.url()) && !error.contains(&good.url()), "{error}");
    STATUS.store(200, Ordering::SeqCst);
    services.deliver(&oncall(), &message()).await.expect("now both have it");
    assert_eq!((good.requests().len(), late.requests().len()), (1, 2));
    // Nothing is left behind: the same key again is a new effort.
    services.deliver(&oncall(), &message()).await.expect("again");
    assert_eq!((good.requests().len(), late.requests().len()), (2, 3));
}

#[tokio::test]
async fn errors_hold_no_secrets() {
    // The worst service: it says back everything that it was sent.
    let echo = |status: u16| {
        Receiver::start(move |request| {
            let headers: Vec<&String> = request.headers.values().collect();
            let said = format!("{} {headers:?} {}", request.path, request.text());
            Answer::status(status, &said)
        })
    };
    let secrets =
        ["tk_open/sesame", "tk_open%2Fsesame", "T0000000/B0000000", "hunter2", "query-word"];
    for (path, fields) in [
        ("", "service = 'ntfy'\ntopic = 'x'\ntoken = 'tk_open/sesame'"),
        ("/services/T0000000/B0000000?k=query-word", "service = 'slack'"),
        ("/{t}", "service = 'webhook'\nbody = ''\nt = 'tk_open/sesame'"),
        ("/", "service = 'webhook'\nbody = '-'\nheaders.Authorization = 'Bearer hunter2hunter2'"),
        ("/", "service = 'webhook'\nform = { a = '{b}' }\nb = 'tk_open/sesame'"),
    ] {
        for status in [400, 500] {
            let receiver = echo(status);
            let services = services(&entry(&receiver, path, fields));
            let error = classed(refused(&services).await).2;
            assert!(error.contains("***"), "nothing was struck out: {error}");
            for secret in secrets {
                assert!(!error.contains(secret), "{secret}: {error}");
            }
        }
        let url = format!("http://127.0.0.1:{}{path}", free_port());
        let gone = format!("[notify.recipients.oncall]\nurl = '{url}'\n{fields}");
        let error = classed(refused(&services(&gone)).await).2;
        for secret in secrets {
            assert!(!error.contains(secret), "{secret}: {error}");
        }
    }
}
