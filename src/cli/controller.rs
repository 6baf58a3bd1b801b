//! `evenkeel controller`: keeps a fleet at what the desired files say.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use tokio::runtime::Builder;

use super::signals;
use crate::bus::session;
use crate::controller::driver;
use crate::history::{self, Reader, age_ms};
use crate::http;
use crate::model::FleetName;

/// Runs the controller.
#[derive(Debug, Args)]
pub struct ControllerArgs {
    /// The desired directory.
    #[arg(long, value_name = "DIR")]
    desired: PathBuf,
    /// The state directory; made if it is missing.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// The broker, as mqtt://host:port or mqtts://host:port; without it, or with "embedded", the
    /// broker inside this process.
    #[arg(long, value_name = "URL", default_value = "embedded")]
    bus: String,
    /// The user at the broker.
    #[arg(long, value_name = "NAME")]
    bus_user: Option<String>,
    /// A file with that user's password.
    #[arg(long, value_name = "FILE")]
    bus_password_file: Option<PathBuf>,
    /// Certificate authorities of the broker, as PEM.
    #[arg(long, value_name = "FILE")]
    bus_ca_file: Option<PathBuf>,
    /// The key that signs what is asked of agents, PKCS#8 as PEM; without it, one that is made in the
    /// state directory.
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Where the embedded broker listens. Beyond loopback it wants a password file.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:1883")]
    bus_listen: SocketAddr,
    /// Whom the embedded broker lets in: lines of user:hash, by Argon2. The controller itself needs
    /// --bus-user and --bus-password-file then.
    #[arg(long, value_name = "FILE")]
    bus_listen_password_file: Option<PathBuf>,
    /// Who may do what at the embedded broker.
    #[arg(long, value_name = "FILE")]
    bus_listen_acl_file: Option<PathBuf>,
    /// The embedded broker's certificate chain, as PEM; with it, it speaks TLS only. It must name
    /// the address that it listens on, and --bus-ca-file its authority, for the controller itself.
    #[arg(long, value_name = "FILE", requires = "bus_listen_key_file")]
    bus_listen_certificate_file: Option<PathBuf>,
    /// The key of that certificate, as PEM.
    #[arg(long, value_name = "FILE", requires = "bus_listen_certificate_file")]
    bus_listen_key_file: Option<PathBuf>,
    /// Let everybody in who reaches the embedded broker; whoever does can order upgrades.
    #[arg(long)]
    bus_listen_anonymous: bool,
    /// Where the HTTP interface listens.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9440")]
    http: SocketAddr,
    /// Where people reach that interface, such as https://evenkeel.example.org; messages link there.
    #[arg(long, value_name = "URL", value_parser = page)]
    external_url: Option<String>,
    /// Metrics with a series per node, too: costly in a large fleet.
    #[arg(long)]
    node_metrics: bool,
    /// Entries that the history in the state directory has at most; the oldest go first. With 0 there is none.
    #[arg(long, value_name = "COUNT", default_value_t = 500_000)]
    history_max_entries: u64,
    /// How old they become.
    #[arg(long, value_name = "AGE", default_value = "90d", value_parser = age_ms)]
    history_max_age: u64,
    /// A file to which the history is written, too, as JSON lines. It is opened anew when it was rotated away.
    #[arg(long, value_name = "FILE")]
    audit_log: Option<PathBuf>,
    /// The fleet; part of every topic.
    #[arg(long, value_name = "NAME", default_value = "default")]
    fleet: FleetName,
}

/// The address of the page, with a slash at its end.
fn page(text: &str) -> Result<String, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("{error}"))?;
    if !["http", "https"].contains(&url.scheme()) || !url.has_host() {
        return Err("a URL such as https://evenkeel.example.org is wanted".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() || !url.username().is_empty() {
        return Err("a URL without login, query and fragment is wanted".to_owned());
    }
    let url = String::from(url);
    Ok(if url.ends_with('/') { url } else { format!("{url}/") })
}

/// Runs the controller until it is told to stop.
pub fn run(args: &ControllerArgs) -> ExitCode {
    super::daemon::serve(Builder::new_multi_thread(), controller(args))
}

async fn controller(args: &ControllerArgs) -> Result<(), String> {
    let listener = super::daemon::listen(args.http).await?;
    let broker = Broker::start(args).await?;
    let url = broker.url(args).parse().map_err(|error| format!("--bus: {error}"))?;
    let bus = session::Config {
        user: args.bus_user.clone(),
        password_file: args.bus_password_file.clone(),
        ca_file: args.bus_ca_file.clone(),
        ..session::Config::new(url)
    };
    let config = driver::Config {
        desired: args.desired.clone(),
        state: args.state.clone(),
        fleet: args.fleet.clone(),
        page: args.external_url.clone(),
        bus,
        signing_key: args.signing_key.clone(),
        history: history::Config {
            folder: args.state.clone(),
            rows_max: args.history_max_entries,
            age_ms_max: args.history_max_age,
            audit_log: args.audit_log.clone(),
        },
    };
    let shown = http::Shown {
        node_metrics: args.node_metrics,
        history: (args.history_max_entries > 0).then(|| Reader::new(args.state.clone())),
    };
    let (queries, receiver) = driver::queries();
    let stop = signals::stop();
    // HTTP ends with the controller, not with the signal: whoever waits for a status still gets one.
    let (ended, mut has_ended) = tokio::sync::watch::channel(());
    let http = tokio::spawn(http::serve(listener, queries, shown, async move {
        let _ = has_ended.changed().await;
    }));
    let outcome = driver::run(config, receiver, stop).await;
    ended.send_replace(());
    http.abort();
    broker.stop().await;
    outcome.map_err(|error| crate::command::chain(&error))
}

/// The broker inside this process, if one is asked for.
enum Broker {
    #[cfg(feature = "embedded-broker")]
    Embedded(crate::bus::embedded::Broker),
    Elsewhere,
}

impl Broker {
    async fn start(args: &ControllerArgs) -> Result<Self, String> {
        if args.bus != "embedded" {
            return Ok(Self::Elsewhere);
        }
        #[cfg(feature = "embedded-broker")]
        {
            use crate::bus::embedded;
            let config = embedded::Config {
                listen: args.bus_listen,
                certificate_file: args.bus_listen_certificate_file.clone(),
                key_file: args.bus_listen_key_file.clone(),
                password_file: args.bus_listen_password_file.clone(),
                acl_file: args.bus_listen_acl_file.clone(),
                allow_anonymous: args.bus_listen_anonymous,
            };
            let broker = embedded::Broker::start(&config)
                .await
                .map_err(|error| crate::command::chain(&error))?;
            Ok(Self::Embedded(broker))
        }
        #[cfg(not(feature = "embedded-broker"))]
        Err("this build has no embedded broker; give one with --bus mqtt://host:port".to_owned())
    }

    fn url(&self, args: &ControllerArgs) -> String {
        match self {
            #[cfg(feature = "embedded-broker")]
            Self::Embedded(broker) => {
                let scheme =
                    if args.bus_listen_certificate_file.is_some() { "mqtts" } else { "mqtt" };
                let mut address = broker.address();
                if address.ip().is_unspecified() {
                    address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
                }
                format!("{scheme}://{address}")
            }
            Self::Elsewhere => args.bus.clone(),
        }
    }

    async fn stop(self) {
        match self {
            #[cfg(feature = "embedded-broker")]
            Self::Embedded(broker) => broker.stop().await,
            Self::Elsewhere => {}
        }
    }
}
