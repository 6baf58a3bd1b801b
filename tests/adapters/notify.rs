//! The notify adapter against a receiver that shows what arrived, and a real mail server.

mod answers;
mod mail;
mod settings;
mod tls;

use std::collections::BTreeMap;

use evenkeel::model::{
    AppName, Cause, ClusterName, Message, MessageKey, NotifyOn, Priority, RecipientName, Revision,
    Wall,
};
use evenkeel::notify::{Config, Services};
use evenkeel::plan::ports::{DeliverError, Notify};
use serde_json::json;

use crate::parts::receiver::{Answer, Receiver, Request};

/// Everything that some format must escape.
const NASTY: &str = "a \"quoted\" \\ line\r\nX-Evil: 1\n& <b> {title} {} 100% + ünïcödé 🚀";

const LINK: &str = "https://evenkeel.example.org/#shop/alfa";

/// What a phone shows of [`message`] beside its title.
const SUMMARY: &str = "web3 failed.\nFix it, then change `retry`.\n1.4.1 → 1.4.2: Cut the cache";

fn message() -> Message {
    Message {
        key: MessageKey("shop.alfa.0a1b2c.failed.7".into()),
        app: AppName::new("shop").unwrap(),
        cluster: ClusterName::new("alfa").unwrap(),
        rollout: None,
        cause: Cause::Failed,
        kind: NotifyOn::Failed,
        priority: Priority::High,
        title: "shop alfa: failed".into(),
        happened: "web3 failed.".into(),
        advice: "Fix it, then change `retry`.".into(),
        link: LINK.into(),
        revision_from: Some(Revision::new("1.4.1").unwrap()),
        revision_to: Revision::new("1.4.2").unwrap(),
        commit: "Cut the cache".into(),
        recipients: [oncall()].into(),
        at: Wall(1_700_000_000_000),
    }
}

fn nasty() -> Message {
    Message { title: NASTY.into(), happened: NASTY.into(), commit: NASTY.into(), ..message() }
}

fn oncall() -> RecipientName {
    RecipientName::new("oncall").unwrap()
}

/// Services from what would stand in `agent.toml`.
fn services(toml: &str) -> Services {
    // Each test may be the first; the others find it installed.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Services::new(&config(toml)).unwrap()
}

fn config(toml: &str) -> Config {
    #[derive(serde::Deserialize)]
    struct Agent {
        notify: Config,
    }
    toml::from_str::<Agent>(toml).expect("a valid table").notify
}

/// An entry for `oncall` at the receiver.
fn entry(receiver: &Receiver, path: &str, fields: &str) -> String {
    format!("[notify.recipients.oncall]\nurl = \"{}{path}\"\n{fields}", receiver.url())
}

/// Delivers `message` to the only recipient, and gives the one request that this made.
async fn delivered(path: &str, fields: &str, message: &Message) -> Request {
    let receiver = Receiver::answering(Answer::status(200, "ok"));
    let services = services(&entry(&receiver, path, fields));
    services.deliver(&oncall(), message).await.expect("delivered");
    receiver.wait_for(1).remove(0)
}

/// The error, or a panic.
async fn refused(services: &Services) -> DeliverError {
    services.deliver(&oncall(), &message()).await.expect_err("an error")
}

fn fields(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

const NTFY: &str = "service = 'ntfy'\ntopic = 'ops'\n";
const PUSHOVER: &str = "service = 'pushover'\ntoken = 'azGDORePK8gMaC0QOYAMyEEuzJnyUi'\n\
                        user = 'uQiRzpo4DXghDmr9QzzfQu27cmVRsG'\n";
const PROWL: &str = "service = 'prowl'\napikey = '0123456789abcdef0123456789abcdef01234567'\n";

#[tokio::test]
async fn ntfy_gets_its_json() {
    let fields = format!("{NTFY}token = 'tk_secret'\nclick = 'https://example.org/'");
    let request = delivered("", &fields, &message()).await;
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/"));
    assert_eq!(request.header("content-type"), "application/json");
    assert_eq!(request.header("authorization"), "Bearer tk_secret");
    assert!(request.header("user-agent").starts_with("evenkeel/"));
    let expected = json!({
        "topic": "ops",
        "title": "shop alfa: failed",
        "message": SUMMARY,
        "priority": 5,
        "click": "https://example.org/",
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn what_is_optional_and_not_given_is_left_out() {
    let nowhere = Message { link: String::new(), ..message() };
    let request = delivered("", NTFY, &nowhere).await;
    assert!(!request.headers.contains_key("authorization"));
    assert!(request.json().get("click").is_none());
    let request = delivered("", NTFY, &message()).await;
    assert_eq!(request.json()["click"], LINK);
}

#[tokio::test]
async fn an_entry_says_it_in_its_own_words() {
    let fields = "service = 'slack'\ntitle = '{app}'\n\
                  text = '{cluster} {revision_from}>{revision_to} {commit}: {happened} {advice} {link}'";
    let request = delivered("/hook", fields, &message()).await;
    let text = "*shop*\nalfa 1.4.1>1.4.2 Cut the cache: web3 failed. Fix it, then change `retry`. ";
    // The operator's own words are not spelled otherwise, the message's are.
    assert_eq!(request.json(), json!({ "text": format!("{text}{LINK}") }));
}

#[tokio::test]
async fn a_service_is_asked_as_often_as_it_allows() {
    let receiver = Receiver::answering(Answer::status(200, "ok"));
    let fields = "service = 'webhook'\nrate = { burst = 2, every = '1h' }";
    let services = services(&entry(&receiver, "/hook", fields));
    for _ in 0..2 {
        services.deliver(&oncall(), &message()).await.expect("delivered");
    }
    let DeliverError::Paced { again_in_ms } = refused(&services).await else {
        panic!("it was asked a third time");
    };
    assert!((3_000_000..=3_600_000).contains(&again_in_ms), "{again_in_ms}");
    assert_eq!(receiver.wait_for(2).len(), 2);
}

#[tokio::test]
async fn who_wants_rest_is_left_alone_by_every_message() {
    let answer = Answer::Full(429, vec![("Retry-After", "3600".into())], String::new());
    let receiver = Receiver::answering(answer);
    // With a rate, and without one.
    for (number, service) in [NTFY, "service = 'webhook'"].into_iter().enumerate() {
        let services = services(&entry(&receiver, "", service));
        assert!(matches!(refused(&services).await, DeliverError::Transient { .. }));
        assert!(matches!(refused(&services).await, DeliverError::Paced { .. }));
        assert_eq!(receiver.wait_for(number + 1).len(), number + 1);
    }
}

#[tokio::test]
async fn pushover_gets_its_form() {
    let request = delivered("/1/messages.json", PUSHOVER, &message()).await;
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/1/messages.json"));
    assert_eq!(request.header("content-type"), "application/x-www-form-urlencoded");
    let expected = fields(&[
        ("token", "azGDORePK8gMaC0QOYAMyEEuzJnyUi"),
        ("user", "uQiRzpo4DXghDmr9QzzfQu27cmVRsG"),
        ("title", "shop alfa: failed"),
        ("message", SUMMARY),
        ("priority", "1"),
        ("url", LINK),
    ]);
    assert_eq!(request.form(), expected);
}

#[tokio::test]
async fn prowl_gets_its_form() {
    let request = delivered("/publicapi/add", PROWL, &message()).await;
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/publicapi/add"));
    let expected = fields(&[
        ("apikey", "0123456789abcdef0123456789abcdef01234567"),
        ("application", "evenkeel"),
        ("event", "shop alfa: failed"),
        ("description", SUMMARY),
        ("priority", "1"),
        ("url", LINK),
    ]);
    assert_eq!(request.form(), expected);
}

#[tokio::test]
async fn slack_gets_its_json_with_entities() {
    let message = Message { title: "a & b".into(), happened: "<!channel> {x}".into(), ..message() };
    let request = delivered("/services/T0/B0/xyz", "service = 'slack'", &message).await;
    assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/services/T0/B0/xyz"));
    let text = "*a &amp; b*\n&lt;!channel&gt; {x}\nFix it, then change `retry`.\n\
                1.4.1 → 1.4.2: Cut the cache\nhttps://evenkeel.example.org/#shop/alfa";
    assert_eq!(request.json(), json!({ "text": text }));
}

#[tokio::test]
async fn webhooks_get_everything_and_a_key() {
    let request = delivered("/hook", "service = 'webhook'", &message()).await;
    assert_eq!(request.header("idempotency-key"), "shop.alfa.0a1b2c.failed.7");
    let expected = json!({
        "key": "shop.alfa.0a1b2c.failed.7",
        "app": "shop",
        "cluster": "alfa",
        "cause": "failed",
        "priority": "high",
        "title": "shop alfa: failed",
        "text": format!("{SUMMARY}\n{LINK}"),
        "happened": "web3 failed.",
        "advice": "Fix it, then change `retry`.",
        "link": LINK,
        "revision_from": "1.4.1",
        "revision_to": "1.4.2",
        "commit": "Cut the cache",
        "at": "2023-11-14T22:13:20Z",
    });
    assert_eq!(request.json(), expected);
}

#[tokio::test]
async fn an_entry_can_make_a_webhook_its_own() {
    let fields = "service = 'webhook'\nmethod = 'PUT'\nbody = '{{\"t\": {title}}} {token}'\n\
                  title = '[{app}] {title}'\ntoken = 'sesame'\n\
                  headers = { idempotency-key = 'my-{key}', X-Title = '{title}' }";
    let request = delivered("/{cluster}?q={commit}", fields, &nasty()).await;
    assert_eq!(request.method, "PUT");
    let query = "a%20%22quoted%22%20%5C%20line%0D%0AX-Evil%3A%201%0A%26%20%3Cb%3E%20%7Btitle%7D%20%7B%7D\
                 %20100%25%20%2B%20%C3%BCn%C3%AFc%C3%B6d%C3%A9%20%F0%9F%9A%80";
    assert_eq!(request.path, format!("/alfa?q={query}"));
    assert_eq!(request.header("idempotency-key"), "my-shop.alfa.0a1b2c.failed.7");
    let one_line: String = NASTY.chars().filter(|c| !c.is_control()).collect();
    assert_eq!(request.header("x-title"), format!("[shop] {one_line}"));
    assert!(!request.headers.contains_key("x-evil"));
    assert_eq!(request.header("content-type"), "text/plain; charset=utf-8");
    assert_eq!(request.text(), format!("{{\"t\": [shop] {NASTY}}} sesame"));
}

#[tokio::test]
async fn values_are_escaped_for_where_they_go() {
    let json = delivered("", NTFY, &nasty()).await.json();
    let summary = nasty().summary();
    assert_eq!((json["title"].as_str(), json["message"].as_str()), (Some(NASTY), Some(&*summary)));
    for (fields, title, text) in [(PUSHOVER, "title", "message"), (PROWL, "event", "description")] {
        let form = delivered("", fields, &nasty()).await.form();
        assert_eq!((form[title].as_str(), form[text].as_str()), (NASTY, &*summary));
    }
}

#[tokio::test]
async fn priorities_are_the_services_own() {
    for (priority, ntfy, pushover, prowl) in [
        (Priority::Low, 2, "-1", "-1"),
        (Priority::Normal, 3, "0", "0"),
        (Priority::High, 5, "1", "1"),
    ] {
        let message = Message { priority, ..message() };
        assert_eq!(delivered("", NTFY, &message).await.json()["priority"], ntfy);
        assert_eq!(delivered("", PUSHOVER, &message).await.form()["priority"], pushover);
        assert_eq!(delivered("", PROWL, &message).await.form()["priority"], prowl);
    }
}

#[tokio::test]
async fn long_messages_are_cut_to_what_the_service_takes() {
    let long = Message { title: "ü".repeat(2000), happened: "ü".repeat(80_000), ..message() };
    let bytes = |text: &str, max: usize| {
        assert!(
            text.ends_with("ü…") && text.len() <= max && text.len() > max - 3,
            "{}",
            text.len()
        );
    };
    let characters = |text: &str, max: usize| {
        assert!(text.ends_with("ü…"));
        assert_eq!(text.chars().count(), max);
    };
    let json = delivered("", NTFY, &long).await.json();
    bytes(json["title"].as_str().unwrap(), 250);
    bytes(json["message"].as_str().unwrap(), 4096);
    let form = delivered("", PUSHOVER, &long).await.form();
    characters(&form["title"], 250);
    characters(&form["message"], 1024);
    let form = delivered("", PROWL, &long).await.form();
    bytes(&form["event"], 1024);
    bytes(&form["description"], 10_000);
    let json = delivered("", "service = 'slack'", &long).await.json();
    characters(json["text"].as_str().unwrap(), 39_000 + 250 + "**\n".len());
}

#[tokio::test]
async fn a_row_of_the_operators_own_is_as_good_as_a_built_in_one() {
    let receiver = Receiver::answering(Answer::status(200, ""));
    let services = services(&format!(
        r#"
        [notify.services.telegram]
        url = "https://api.telegram.org/bot{{token}}/sendMessage"
        json = {{ chat_id = "{{chat}}", text = "<b>{{title}}</b> {{commit}}", parse_mode = "HTML", silent = true }}
        replace = {{ "<" = "&lt;", ">" = "&gt;", "&" = "&amp;" }}
        limits = {{ title = 8, text = 4096, unit = "characters" }}
        [notify.recipients.oncall]
        service = "telegram"
        url = "{}/bot{{token}}/sendMessage"
        token = "12:ab/c"
        chat = -1001
        "#,
        receiver.url()
    ));
    let message = Message { title: "1&234567890".into(), commit: "<&>".into(), ..message() };
    services.deliver(&oncall(), &message).await.unwrap();
    let request = receiver.wait_for(1).remove(0);
    assert_eq!(request.path, "/bot12%3Aab%2Fc/sendMessage");
    let expected = json!({
        "chat_id": -1001,
        "text": "<b>1&amp;2…</b> &lt;&amp;&gt;",
        "parse_mode": "HTML",
        "silent": true,
    });
    assert_eq!(request.json(), expected);
}
