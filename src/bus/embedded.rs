//! An MQTT 5 broker inside this process, so that one command starts a fleet with nothing installed.
//!
//! The crate `mqtt5` does the protocol. The listener is ours: its own accepts TLS in line, where
//! one idle connection blocks everybody, and spins when file descriptors run out. Nothing is kept
//! on disk: after a restart everybody publishes their state again, and the controller recovers what
//! it needs from reports and its own ledger.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mqtt5::broker::auth::AuthProvider;
use mqtt5::broker::client_handler::ClientHandler;
use mqtt5::broker::config::AuthConfig;
use mqtt5::broker::router::MessageRouter;
use mqtt5::broker::sys_topics::BrokerStats;
use mqtt5::broker::tls_acceptor::TlsStreamWrapper;
use mqtt5::broker::transport::BrokerTransport;
use mqtt5::broker::{BrokerConfig, MqttBroker, ResourceLimits, ResourceMonitor, StorageConfig};
use rumqttc::tokio_rustls::TlsAcceptor;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{broadcast, oneshot};
use tokio::task::{JoinHandle, JoinSet};

use super::tls::TlsError;
use super::wire::PAYLOAD_BYTES_MAX;

/// Connections at once. Each takes about 33 KiB and a file descriptor; a process usually has fewer
/// of the latter than this, and further clients then wait to be accepted.
const CONNECTIONS_MAX: usize = 20_000;

/// Retained documents. A fleet of 10,000 nodes has about 40,000.
const RETAINED_MAX: usize = 200_000;

/// Messages that wait for one client. A list of everything is sent at one go, and must fit.
const QUEUED_MAX: usize = RETAINED_MAX;

/// Bytes that wait for one client, beyond the [`CHANNEL_MAX`] messages that are being written.
const QUEUED_BYTES_MAX: usize = 256 * PAYLOAD_BYTES_MAX;

/// Messages between the router and one client's connection. What does not fit is queued, and counted
/// by the byte; but before that, once, whoever publishes waits up to 2 s for a client that has
/// stopped reading. Larger would make that rarer, and let such a client take more memory.
const CHANNEL_MAX: usize = 1024;

/// A TLS handshake takes two round trips; who needs longer than this is no agent.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long connections may take to end when the broker stops; measured, they need 75 ms.
const STOP_MAX: Duration = Duration::from_secs(2);

/// After a failure to accept, most likely for want of file descriptors: long enough not to spin,
/// short enough not to be felt.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How the broker listens: the options `--bus-listen…` of the controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// The certificate chain, as PEM. With it, the broker speaks TLS only.
    pub certificate_file: Option<PathBuf>,
    /// The certificate's key, as PEM.
    pub key_file: Option<PathBuf>,
    /// Who is let in, in the format of the crate `mqtt5`.
    pub password_file: Option<PathBuf>,
    /// Who may do what, in the format of the crate `mqtt5`.
    pub acl_file: Option<PathBuf>,
    /// Let everybody in who can reach a listener beyond loopback. Whoever can speak on the bus can
    /// order upgrades.
    pub allow_anonymous: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)),
            certificate_file: None,
            key_file: None,
            password_file: None,
            acl_file: None,
            allow_anonymous: false,
        }
    }
}

/// Why the broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// The network would be let in unasked.
    #[error(
        "the embedded broker would let everybody in who reaches {listen}, and they could order \
         upgrades; give it a password file, let it listen on 127.0.0.1, or let everybody in on purpose"
    )]
    Open {
        /// Where it should listen.
        listen: SocketAddr,
    },
    /// Half of what TLS needs.
    #[error("certificate_file and key_file of the embedded broker need each other")]
    HalfTls,
    /// TLS cannot be set up.
    #[error("cannot set up TLS for the embedded broker")]
    Tls(#[from] TlsError),
    /// The password or ACL file is not understood.
    #[error("the embedded broker refuses its configuration: {error}")]
    Configuration {
        /// Why, in the crate's words.
        error: String,
    },
    /// Nothing can listen there.
    #[error("the embedded broker cannot listen on {listen}")]
    Listen {
        /// Where.
        listen: SocketAddr,
        /// Why not.
        #[source]
        error: std::io::Error,
    },
}

/// A running broker. Dropping it ends it, and all its connections, at once.
pub struct Broker {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl Broker {
    /// Starts a broker; when this returns, it accepts connections.
    ///
    /// # Errors
    /// [`BrokerError`].
    pub async fn start(config: &Config) -> Result<Broker, BrokerError> {
        let listen = config.listen;
        let open = config.password_file.is_none();
        if open && !listen.ip().is_loopback() && !config.allow_anonymous {
            return Err(BrokerError::Open { listen });
        }
        let tls = match (&config.certificate_file, &config.key_file) {
            (Some(certificate), Some(key)) => {
                Some(TlsAcceptor::from(super::tls::server(certificate, key)?))
            }
            (None, None) => None,
            (Some(_), None) | (None, Some(_)) => return Err(BrokerError::HalfTls),
        };
        let auth = AuthConfig {
            allow_anonymous: open,
            password_file: config.password_file.clone(),
            acl_file: config.acl_file.clone(),
            ..AuthConfig::default()
        };
        let settings = settings(auth);
        let broker = MqttBroker::with_config(settings.clone())
            .await
            .map_err(|error| BrokerError::Configuration { error: error.to_string() })?;
        let failed = |error| BrokerError::Listen { listen, error };
        let listener = TcpListener::bind(listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let server = Server {
            settings: Arc::new(settings),
            router: broker.router(),
            auth: broker.auth_provider(),
            stats: broker.stats(),
            monitor: Arc::new(ResourceMonitor::new(limits())),
            tls,
            shutdown: broadcast::Sender::new(1),
        };
        let task = tokio::spawn(server.run(listener, stopped));
        tracing::info!(%address, tls = config.certificate_file.is_some(), "embedded broker listens");
        Ok(Broker { address, stop: Some(stop), task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops it, and waits until its port is free and its connections have ended; about 2 s at most.
    pub async fn stop(mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        let _ = (&mut self.task).await;
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn settings(auth: AuthConfig) -> BrokerConfig {
    let storage = StorageConfig::default()
        .with_persistence(false)
        .with_max_queued_messages_per_client(QUEUED_MAX)
        .with_max_queued_bytes_per_client(QUEUED_BYTES_MAX);
    let mut settings = BrokerConfig::default()
        .with_max_clients(CONNECTIONS_MAX)
        // Nothing is kept for who is away: they publish and subscribe again when they are back.
        .with_session_expiry(Duration::ZERO)
        .with_max_packet_size(PAYLOAD_BYTES_MAX + 8192)
        .with_max_retained_messages(RETAINED_MAX)
        .with_max_retained_message_size(PAYLOAD_BYTES_MAX)
        .with_client_channel_capacity(CHANNEL_MAX)
        .with_storage(storage)
        .with_auth(auth);
    // It insists on a listener of its own; this one is closed again before anybody is served.
    settings.bind_addresses = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 0))];
    settings
}

/// A whole fleet may sit behind one address, and come back at once after a restart.
fn limits() -> ResourceLimits {
    ResourceLimits {
        max_connections: CONNECTIONS_MAX,
        max_connections_per_ip: CONNECTIONS_MAX,
        max_message_rate_per_client: 0,
        max_bandwidth_per_client: 0,
        max_connection_rate: u32::MAX,
        rate_limit_window: Duration::from_secs(1),
    }
}

/// What every connection of a broker shares.
struct Server {
    settings: Arc<BrokerConfig>,
    router: Arc<MessageRouter>,
    auth: Arc<dyn AuthProvider>,
    stats: Arc<BrokerStats>,
    monitor: Arc<ResourceMonitor>,
    tls: Option<TlsAcceptor>,
    shutdown: broadcast::Sender<()>,
}

impl Server {
    async fn run(self, listener: TcpListener, mut stopped: oneshot::Receiver<()>) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut stopped => break,
                Some(_) = connections.join_next() => {}
                accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                    match accepted {
                        Ok((stream, peer)) => drop(connections.spawn(self.serve(stream, peer))),
                        Err(error) => {
                            tracing::warn!(%error, "embedded broker cannot accept a connection");
                            tokio::time::sleep(ACCEPT_PAUSE).await;
                        }
                    }
                }
            }
        }
        drop(listener);
        let _ = self.shutdown.send(());
        let ended = async { while connections.join_next().await.is_some() {} };
        // Whoever is not done by then ends with the set.
        let _ = tokio::time::timeout(STOP_MAX, ended).await;
    }

    /// One connection, from the handshake to its end.
    fn serve(&self, stream: TcpStream, peer: SocketAddr) -> impl Future<Output = ()> + use<> {
        let tls = self.tls.clone();
        let (settings, router) = (self.settings.clone(), self.router.clone());
        let (auth, stats) = (self.auth.clone(), self.stats.clone());
        let (monitor, shutdown) = (self.monitor.clone(), self.shutdown.subscribe());
        async move {
            let Some(transport) = transport(stream, tls).await else { return };
            let handler = ClientHandler::new(
                transport, peer, settings, router, auth, None, stats, monitor, shutdown,
            );
            if let Err(error) = handler.run().await {
                tracing::debug!(%peer, %error, "a connection to the embedded broker ended");
            }
        }
    }
}

/// The stream, with TLS around it where that is wanted; `None` if the peer does not manage it in time.
async fn transport(stream: TcpStream, tls: Option<TlsAcceptor>) -> Option<BrokerTransport> {
    // Nagle's algorithm and delayed acknowledgements together cost 40 ms a message.
    stream.set_nodelay(true).ok()?;
    let Some(tls) = tls else { return Some(BrokerTransport::tcp(stream)) };
    let shaken = tokio::time::timeout(HANDSHAKE_MAX, tls.accept(stream)).await;
    let stream = shaken.ok()?.ok()?;
    Some(BrokerTransport::tls(TlsStreamWrapper::new(stream)))
}
