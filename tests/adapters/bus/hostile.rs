//! The session against peers that are no brokers, or bad ones.

use std::future::Future;
use std::time::Duration;

use evenkeel::bus::session::{CloseError, Event, Operation, PublishError};
use evenkeel::bus::{Filter, Topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, fleet, node, options, report};
use crate::parts::process::DEADLINE;

/// CONNACK: success, and no properties.
const CONNACK: &[u8] = &[0x20, 3, 0, 0, 0];

/// Serves every connection with `serve`, as long as the test runs; gives the URL.
async fn peer<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> String
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let url = format!("mqtt://{}", listener.local_addr().expect("address"));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    url
}

/// A peer that says `first` and `more` after it, and then reads in silence.
async fn says(first: &'static [u8], more: &'static [u8]) -> String {
    peer(move |mut stream| async move {
        let mut heard = [0; 4096];
        // Not before it was spoken to: CONNECT is the client's.
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(&[first, more].concat()).await;
        while stream.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {}
    })
    .await
}

/// Twice, to see that the session lives on and tries again.
async fn disconnected_with(url: &str, word: &str) {
    let mut client = Client::open_with(options(url, "client"));
    for _ in 0..2 {
        let reason = client.disconnected().await;
        assert!(reason.contains(word), "{reason:?} does not say {word:?}");
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    disconnected_with(&says(b"", b"").await, "did not answer within 5 s").await;
}

#[tokio::test]
async fn garbage_is_an_error_and_not_a_panic() {
    let hang_up = peer(|stream| async move { drop(stream) }).await;
    disconnected_with(&hang_up, "").await;
    for garbage in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(),
        b"\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x00\x00\x00\x00",
        // A publish before CONNACK.
        b"\x30\x05\x00\x01a\x00x",
        // A CONNACK with a property that does not exist.
        b"\x20\x05\x00\x00\x02\xfe\x01",
    ] {
        disconnected_with(&says(garbage, b"").await, "").await;
    }
}

#[tokio::test]
async fn garbage_after_the_welcome_is_an_error_too() {
    for garbage in [
        b"\xf0\x00".as_slice(),
        // PUBACK, UNSUBACK and PUBCOMP for what was never sent.
        b"\x40\x04\xff\xff\x00\x00",
        b"\x70\x04\x00\x07\x00\x00",
        // A second CONNACK that refuses.
        b"\x20\x03\x00\x87\x00",
        // A packet that announces 256 MiB.
        b"\x30\xff\xff\xff\x7f\x00\x01a",
        // A CONNECT.
        b"\x10\x0d\x00\x04MQTT\x05\x02\x00\x0a\x00\x00\x00",
    ] {
        let mut client = Client::open_with(options(&says(CONNACK, garbage).await, "client"));
        client.connected().await;
        client.disconnected().await;
        client.connected().await;
    }
}

#[tokio::test]
async fn a_broker_that_lacks_what_we_need_is_refused_in_words() {
    let no_retain = says(b"\x20\x05\x00\x00\x02\x25\x00", b"").await;
    disconnected_with(&no_retain, "offers no retained messages").await;
    let no_wildcard = says(b"\x20\x05\x00\x00\x02\x28\x00", b"").await;
    disconnected_with(&no_wildcard, "offers no wildcard subscriptions").await;
    let no_keep_alive = says(b"\x20\x06\x00\x00\x03\x13\x00\x00", b"").await;
    disconnected_with(&no_keep_alive, "offers no keep-alive").await;
    let not_welcome = says(b"\x20\x03\x00\x87\x00", b"").await;
    disconnected_with(&not_welcome, "refused the connection: NotAuthorized").await;
    let busy = says(CONNACK, b"\xe0\x02\x89\x00").await;
    let mut client = Client::open_with(options(&busy, "client"));
    client.connected().await;
    let reason = client.disconnected().await;
    assert!(reason.contains("the broker hung up: ServerBusy"), "{reason}");
}

#[tokio::test]
async fn topics_that_are_no_text_and_topics_of_nobody_are_passed_over() {
    let foreign =
        says(CONNACK, b"\x30\x06\x00\x02\xff\xfe\x00x\x30\x04\x00\x00\x00x\x30\x05\x00\x01a\x00x")
            .await;
    let mut client = Client::open_with(options(&foreign, "client"));
    client.connected().await;
    let counted = async {
        while client.handle.counters().foreign < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, counted).await.expect("three are counted");
}

#[tokio::test]
async fn a_refused_subscription_is_told() {
    // SUBACK for packet 1: the first filter is granted, the second refused, the third forgotten.
    let url = peer(|mut stream| async move {
        let mut heard = [0; 4096];
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(CONNACK).await;
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(b"\x90\x05\x00\x01\x00\x01\x87").await;
        while stream.read(&mut heard).await.is_ok_and(|bytes| bytes > 0) {}
    })
    .await;
    let mut client = Client::open_with(options(&url, "client"));
    client.connected().await;
    let filters = [Filter::AllAlive, Filter::AllReports, Filter::AllLeaders];
    client.handle.subscribe(&filters).unwrap();
    for (filter, word) in [(&filters[1], "NotAuthorized"), (&filters[2], "no answer")] {
        let operation = Operation::Subscribe(filter.on(&fleet()));
        let reason = word.to_owned();
        assert_eq!(client.next().await, Event::Refused { operation, reason });
    }
    assert_eq!(client.handle.counters().refused, 2);
}

#[tokio::test]
async fn a_broker_that_confirms_nothing_cannot_hold_up_the_end() {
    let mut client = Client::open_with(options(&says(CONNACK, b"").await, "client"));
    client.connected().await;
    for n in 0..100 {
        client.publish(&report(&format!("web{n}")), "1");
    }
    let closed = client.handle.close(Duration::from_millis(100)).await;
    assert_eq!(closed, Err(CloseError::Deadline { unconfirmed: 100 }));
    assert!(client.events.next().await.is_none());
    assert_eq!(client.handle.publish(&report("web1"), "1", true), Err(PublishError::Closed));
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_noticed() {
    let mut options = options(&says(CONNACK, b"").await, "client");
    options.config.keep_alive_s = 5;
    let mut client = Client::open_with(options);
    client.connected().await;
    client.disconnected().await;
    client.connected().await;
}

#[tokio::test]
async fn a_broker_that_does_not_read_is_noticed() {
    let deaf = peer(|mut stream| async move {
        let mut heard = [0; 4096];
        let _ = stream.read(&mut heard).await;
        let _ = stream.write_all(CONNACK).await;
        // Open, but never read again.
        std::future::pending::<()>().await;
    })
    .await;
    let mut options = options(&deaf, "client");
    options.config.keep_alive_s = 5;
    let mut client = Client::open_with(options);
    client.connected().await;
    // More than the buffers of the kernel take.
    for n in 0..60 {
        client.publish(&Topic::Report(node(&format!("lb{n}"))), vec![b'x'; 1 << 20]);
    }
    let reason = client.disconnected().await;
    assert!(reason.contains("took nothing for 10s"), "{reason}");
    assert!(client.handle.counters().lost >= 50);
}
