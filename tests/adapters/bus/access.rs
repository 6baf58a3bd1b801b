//! Who is let in, and what they may do: TLS, passwords, the access control list of the docs.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use evenkeel::bus::session::{self, Event, OpenError, Operation, TlsError};
use evenkeel::bus::{Filter, Topic};
use evenkeel::model::AppName;

use super::{Client, fleet, node, options, report};
use crate::parts::mosquitto::{Mosquitto, SETTINGS, password_file};
use crate::parts::process::{free_port, program};

const DOCS: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/bus.md"));

/// The block of the docs that begins with this line.
fn block(first_line: &str) -> String {
    let start = DOCS.find(first_line).unwrap_or_else(|| panic!("docs/bus.md has {first_line:?}"));
    DOCS[start..].split("```").next().expect("a block").to_owned()
}

/// A key and a certificate for 127.0.0.1 that vouches for itself.
struct Certificate {
    folder: tempfile::TempDir,
}

impl Certificate {
    fn new() -> Certificate {
        let folder = tempfile::tempdir().expect("a directory");
        let status = Command::new(program("openssl", "openssl"))
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=bus", "-keyout", "bus.key"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", "bus.crt"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE"])
            .current_dir(folder.path())
            .stderr(std::process::Stdio::null())
            .status();
        assert!(status.expect("run openssl").success());
        Certificate { folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn trusting(url: &str, client_id: &str, ca_file: &Path) -> session::Options {
    let mut options = options(url, client_id);
    options.config.ca_file = Some(ca_file.to_owned());
    options
}

/// One who trusts the certificate gets in, one who trusts another does not.
async fn tls_works(url: &str, certificate: &Certificate) {
    let mut client = Client::open_with(trusting(url, "client", &certificate.file("bus.crt")));
    client.connected().await;
    client.publish(&report("web1"), vec![b'x'; 900 * 1024]);
    assert_eq!(client.list(Filter::AllReports).await.len(), 1);
    client.close().await;

    let other = Certificate::new();
    let mut stranger = Client::open_with(trusting(url, "stranger", &other.file("bus.crt")));
    let reason = stranger.disconnected().await;
    assert!(reason.contains("certificate"), "{reason}");
}

#[tokio::test]
async fn mosquitto_speaks_tls() {
    let certificate = Certificate::new();
    let (crt, key) = (certificate.file("bus.crt"), certificate.file("bus.key"));
    let more =
        format!("allow_anonymous true\ncertfile {}\nkeyfile {}\n", crt.display(), key.display());
    let broker = Mosquitto::configured(free_port(), &more);
    tls_works(&format!("mqtts://127.0.0.1:{}", broker.port()), &certificate).await;
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn the_embedded_broker_speaks_tls_beside_idle_connections() {
    use evenkeel::bus::embedded::{Broker, Config};
    let certificate = Certificate::new();
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        certificate_file: Some(certificate.file("bus.crt")),
        key_file: Some(certificate.file("bus.key")),
        ..Config::default()
    };
    let broker = Broker::start(&config).await.expect("a broker");
    let mut idle = Vec::new();
    for _ in 0..50 {
        idle.push(tokio::net::TcpStream::connect(broker.address()).await.expect("connect"));
    }
    tls_works(&format!("mqtts://{}", broker.address()), &certificate).await;
    drop(idle);
    let address = broker.address();
    broker.stop().await;
    Broker::start(&Config { listen: address, ..Config::default() })
        .await
        .expect("the port is free");
}

#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn the_embedded_broker_is_not_open_to_the_network_unasked() {
    use evenkeel::bus::embedded::{Broker, BrokerError, Config};
    let listen = ([192, 0, 2, 1], 1883).into();
    let open = Broker::start(&Config { listen, ..Config::default() }).await.err();
    assert!(matches!(open, Some(BrokerError::Open { .. })), "{open:?}");
    let half = Config { key_file: Some("bus.key".into()), ..Config::default() };
    let half = Broker::start(&half).await.err();
    assert!(matches!(half, Some(BrokerError::HalfTls)), "{half:?}");
}

#[tokio::test]
async fn slips_in_the_configuration_are_told_before_anything_is_tried() {
    let opened = |url: &str, change: fn(&mut session::Config)| {
        let mut options = options(url, "client");
        change(&mut options.config);
        session::open(options).map(drop).expect_err("a slip")
    };
    let error = opened("mqtts://localhost", |config| config.ca_file = Some("/nowhere".into()));
    assert!(matches!(error, OpenError::Tls(TlsError::Read { .. })), "{error:?}");
    let error = opened("mqtts://localhost", |config| config.ca_file = Some("Cargo.toml".into()));
    assert!(matches!(error, OpenError::Tls(TlsError::Content { .. })), "{error:?}");
    let error =
        opened("mqtt://u@localhost", |config| config.password_file = Some("/dev/zero".into()));
    assert!(matches!(error, OpenError::Password { .. }), "{error:?}");
    let error = opened("mqtt://localhost", |config| config.password_file = Some("x".into()));
    assert!(matches!(error, OpenError::PasswordWithoutUser), "{error:?}");

    assert!(toml::from_str::<session::Config>("url = \"http://bus\"").is_err());
    assert!(toml::from_str::<session::Config>("url = \"mqtt://bus\"\ntls = true").is_err());
    let config: session::Config = toml::from_str("url = \"mqtt://bus\"").unwrap();
    assert_eq!(config, session::Config::new("mqtt://bus".parse().unwrap()));
}

/// The configuration that the docs recommend, as it stands there: it must work, and keep nodes
/// from speaking for each other.
#[tokio::test]
async fn the_access_control_list_of_the_docs_holds() {
    assert!(block("listener 8883").contains(SETTINGS), "docs and tests use the same settings");
    let folder = tempfile::tempdir().expect("a directory");
    let acl = folder.path().join("acl");
    fs::write(&acl, block("# evenkeel, fleet prod")).expect("write the list");
    let passwords = password_file(folder.path(), &USERS);
    let more = format!(
        "allow_anonymous false\npassword_file {}\nacl_file {}\n",
        passwords.display(),
        acl.display()
    );
    let broker = Mosquitto::configured(free_port(), &more);
    nodes_are_kept_apart(broker.port()).await;
}

/// The same on the embedded broker, with the list that the docs have for it.
#[cfg(feature = "embedded-broker")]
#[tokio::test]
async fn the_access_control_list_of_the_docs_holds_in_the_embedded_broker() {
    use evenkeel::bus::embedded::{Broker, Config};
    let folder = tempfile::tempdir().expect("a directory");
    let (acl, passwords) = (folder.path().join("acl"), folder.path().join("bus.passwords"));
    fs::write(&acl, block("# evenkeel, fleet prod, embedded")).expect("write the list");
    for (user, password) in USERS {
        hash_as_the_docs_say(folder.path(), user, password);
    }
    let config = Config {
        listen: ([127, 0, 0, 1], 0).into(),
        password_file: Some(passwords),
        acl_file: Some(acl),
        ..Config::default()
    };
    let broker = Broker::start(&config).await.expect("a broker");
    nodes_are_kept_apart(broker.address().port()).await;
}

/// Adds a line to `bus.passwords` in `folder`, by the commands of the docs.
#[cfg(feature = "embedded-broker")]
fn hash_as_the_docs_say(folder: &Path, user: &str, password: &str) {
    program("argon2", "argon2");
    program("openssl", "openssl");
    let script = block("PASSWORD=$(");
    let (_, script) = script.split_once('\n').expect("more than a password of its own");
    let status = Command::new("sh")
        .args(["-e", "-c", script])
        .envs([("PASSWORD", password), ("NODE", user)])
        .current_dir(folder)
        .status();
    assert!(status.expect("run sh").success());
}

const USERS: [(&str, &str); 3] =
    [("controller", "c-secret"), ("web1", "w1-secret"), ("web2", "w2-secret")];

async fn nodes_are_kept_apart(port: u16) {
    let url = |user: &str| format!("mqtt://{user}@127.0.0.1:{port}");
    let nobody = format!("mqtt://127.0.0.1:{port}");

    let mut stranger = Client::open_with(options(&nobody, "stranger"));
    let reason = stranger.disconnected().await;
    assert!(reason.contains("refused the connection"), "{reason}");
    drop(stranger);

    let folder = tempfile::tempdir().expect("a directory");
    let word = folder.path().join("word");
    fs::write(&word, "c-secret\n").expect("write the password");
    let mut with_file = options(&nobody, "c1");
    with_file.config.user = Some("controller".into());
    with_file.config.password_file = Some(word);
    let mut controller = Client::open_with(with_file);
    controller.connected().await;
    controller.list(Filter::AllReports).await;

    let mut web1 = Client::open_with(options(&url("web1:w1-secret"), "web1"));
    web1.connected().await;
    web1.publish(&report("web1"), "mine");
    assert_eq!(controller.message().await, (report("web1"), "mine".into(), false));
    let shop = AppName::new("shop").unwrap();
    for foreign in [
        report("web2"),
        Topic::Alive(node("web2")),
        Topic::Assignment(node("web1"), shop.clone()),
        Topic::Leader(shop.clone()),
    ] {
        web1.publish(&foreign, "not mine");
        let operation = Operation::Publish(foreign.on(&fleet()));
        let reason = "NotAuthorized".to_owned();
        assert_eq!(web1.next().await, Event::Refused { operation, reason });
    }
    // It reads what is meant for it, and the reports of the load balancers that a permit names.
    web1.handle.subscribe(&[Filter::NodeAssignments(node("web1")), Filter::AllReports]).unwrap();
    assert_eq!(web1.message().await, (report("web1"), "mine".into(), true));
    let order = Topic::Assignment(node("web1"), shop.clone());
    controller.publish(&order, "go");
    assert_eq!(web1.message().await, (order, "go".into(), false));

    let mut web2 = Client::open_with(options(&url("web2:w2-secret"), "web2"));
    web2.connected().await;
    // One broker refuses to subscribe to what is another's, the other one does not deliver it.
    web2.handle.subscribe(&[Filter::NodeAssignments(node("web1"))]).unwrap();
    web2.handle.subscribe(&[Filter::NodeAssignments(node("web2"))]).unwrap();
    let order = Topic::Assignment(node("web2"), shop);
    controller.publish(&order, "go");
    let first = loop {
        match web2.next().await {
            Event::Refused { operation, .. } => {
                let foreign = Filter::NodeAssignments(node("web1")).on(&fleet());
                assert_eq!(operation, Operation::Subscribe(foreign));
            }
            other => break other,
        }
    };
    let payload = bytes::Bytes::from("go");
    assert!(
        matches!(&first, Event::Message { topic, payload: its, .. } if (topic, its) == (&order, &payload)),
        "{first:?}, and nothing of web1's"
    );
}
