//! The haproxy adapter against peers that only look like HAProxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;

use evenkeel::haproxy::{Config, Haproxy, Socket};
use evenkeel::plan::ports::{Balancer, BalancerError, SetState};

use super::{config, loopback, set};
use crate::parts::process::DEADLINE;

/// A peer that does `talk` with every connection.
fn peer(talk: impl Fn(std::net::TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind(loopback(0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            talk(stream);
        }
    });
    address
}

async fn error_against(timeout_ms: u64, address: SocketAddr) -> BalancerError {
    let socket = Socket::Tcp(address.to_string());
    let mut client = Haproxy::new(Config { timeout_ms, ..config(socket) });
    let error = client.read(&[]).await.unwrap_err();
    let commands = [set("web1", SetState::Maint)];
    assert_eq!(client.set(&commands).await.unwrap_err(), error);
    assert_eq!(client.process().await.unwrap_err(), error);
    error
}

const AMPLE_MS: u64 = DEADLINE.as_millis() as u64;

#[tokio::test]
async fn a_silent_peer_is_left_in_time() {
    let (kept, _hold) = mpsc::channel();
    let address = peer(move |stream| kept.send(stream).unwrap());
    let error = error_against(50, address).await;
    assert!(error.to_string().contains("no answer within 50ms"), "{error}");
}

#[tokio::test]
async fn a_peer_that_closes_is_told() {
    let error = error_against(
        AMPLE_MS,
        peer(|mut stream| {
            let mut line = [0; 7];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"\n").unwrap();
        }),
    )
    .await;
    assert!(error.to_string().contains("it closed the connection"), "{error}");
}

#[tokio::test]
async fn a_peer_that_speaks_otherwise_is_told() {
    let error = error_against(
        AMPLE_MS,
        peer(|mut stream| {
            let mut line = [0; 7];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"220 mail.example ESMTP\n\n> ").unwrap();
        }),
    )
    .await;
    assert!(matches!(&error, BalancerError::Answer { command, .. } if command == "prompt"));
    assert!(error.to_string().contains("220 mail.example"), "{error}");
}

#[tokio::test]
async fn an_endless_answer_is_cut_off() {
    let error = error_against(
        AMPLE_MS,
        peer(|mut stream| {
            let line = [b'x'; 1 << 16];
            while stream.write_all(&line).is_ok() {}
        }),
    )
    .await;
    assert!(error.to_string().contains("longer than"), "{error}");
}

#[tokio::test]
async fn garbage_in_the_tables_is_told_and_the_connection_dropped() {
    let info = "Pid: 7\nStopping: 0\n";
    let header = "# be_name srv_name srv_op_state srv_admin_state srv_uweight\n";
    let stats = "# pxname,svname,scur,status,bck,type,\n";
    for (state, stat, says) in [
        ("", stats, "version 1"),
        ("2\n", stats, "version 1"),
        ("1\n# be_name\n", stats, "srv_name"),
        (&format!("1\n{header}app web1 2\n"), stats, "too few"),
        (&format!("1\n{header}app web1 2 0 1\n"), stats, "app/web1"),
        (&format!("1\n{header}"), "nonsense\n", "header"),
        (&format!("1\n{header}"), &format!("{stats}app,w,x,UP,0,2,\n"), "scur"),
        (&format!("1\n{header}"), &format!("{stats}app,w,0,WELL,0,2,\n"), "WELL"),
        (
            &format!("1\n{header}a b 2 0 1\na b 2 0 1\n"),
            &format!("{stats}a,b,0,UP,0,2,\n"),
            "twice",
        ),
    ] {
        let answers = format!("{state}\n> {stat}\n> {info}\n> ");
        let (connected, connections) = mpsc::channel();
        let address = peer(move |mut stream| {
            connected.send(()).unwrap();
            let mut line = [0; 7];
            stream.read_exact(&mut line).unwrap();
            stream.write_all(b"\n> ").unwrap();
            let mut commands = [0; 4096];
            while matches!(stream.read(&mut commands), Ok(1..)) {
                stream.write_all(answers.as_bytes()).unwrap();
            }
        });
        let mut client = Haproxy::new(config(Socket::Tcp(address.to_string())));
        for _ in 0..2 {
            let error = client.read(&[]).await.unwrap_err();
            assert!(matches!(&error, BalancerError::Answer { .. }), "{error}");
            assert!(error.to_string().contains(says), "{says}: {error}");
        }
        assert_eq!(connections.try_iter().count(), 2, "{says}");
    }
}

#[tokio::test]
async fn a_process_that_keeps_stopping_is_no_process() {
    let address = peer(|mut stream| {
        let mut line = [0; 7];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(b"\n> ").unwrap();
        let mut commands = [0; 4096];
        let _ = stream.read(&mut commands).unwrap();
        stream.write_all(b"Pid: 7\nStopping: 1\n\n> ").unwrap();
    });
    let mut client = Haproxy::new(config(Socket::Tcp(address.to_string())));
    let error = client.process().await.unwrap_err();
    assert!(error.to_string().contains("stopping"), "{error}");
}
