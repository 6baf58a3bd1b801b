//! What an operator says about the load balancer of a node: the table `[haproxy]` of `agent.toml`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

use crate::model::{BackendName, parse_duration_ms};

/// Where HAProxy's runtime API is, and how to use it.
///
/// ```toml
/// [haproxy]
/// socket = "unix:/run/haproxy/admin.sock"     # or "tcp:127.0.0.1:9999"; level admin
/// state_file = "/var/lib/haproxy/server-state"
/// backends = ["app"]                          # read these only
/// timeout = "2s"
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The stats socket; it needs `level admin`.
    pub socket: Socket,
    /// The file that HAProxy loads server states from when it starts (`server-state-file`); an absolute path.
    /// Without it, maintenance does not survive a reload.
    #[serde(default, deserialize_with = "absolute")]
    pub state_file: Option<PathBuf>,
    /// The backends that are read; all, if there are none here.
    #[serde(default)]
    pub backends: Vec<BackendName>,
    /// How long one call may take, connecting included, in milliseconds.
    #[serde(rename = "timeout", default = "timeout_default", deserialize_with = "timeout")]
    pub timeout_ms: u64,
}

/// HAProxy answers in milliseconds even with 10,000 servers. Two seconds without an answer is a
/// process that is stuck, on a machine that is not merely busy.
fn timeout_default() -> u64 {
    2_000
}

fn timeout<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    match parse_duration_ms(&text) {
        Ok(0) => Err(serde::de::Error::custom("timeout must be longer than 0s")),
        Ok(ms) => Ok(ms),
        Err(error) => Err(serde::de::Error::custom(error)),
    }
}

fn absolute<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PathBuf>, D::Error> {
    let path = PathBuf::deserialize(from)?;
    // HAProxy and the agent have different working directories, and no one means either.
    if path.is_absolute() && path.file_name().is_some() {
        return Ok(Some(path));
    }
    let path = path.display();
    Err(serde::de::Error::custom(format!("state_file {path:?} must be an absolute path of a file")))
}

/// The address of a stats socket.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub enum Socket {
    /// `unix:PATH`, or just the absolute path.
    Unix(PathBuf),
    /// `tcp:HOST:PORT`. HAProxy asks nobody who they are there: keep it on the loopback address.
    Tcp(String),
}

impl FromStr for Socket {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(address) = text.strip_prefix("tcp:") {
            let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
            return match port.map(|(_, port)| port.parse::<u16>()) {
                Some(Ok(1..)) => Ok(Self::Tcp(address.to_owned())),
                Some(Ok(0) | Err(_)) | None => Err(format!(
                    "socket {text:?} has no host and port, as in \"tcp:127.0.0.1:9999\""
                )),
            };
        }
        let path = PathBuf::from(text.strip_prefix("unix:").unwrap_or(text));
        if path.is_absolute() {
            return Ok(Self::Unix(path));
        }
        Err(format!(
            "socket {text:?} is neither \"unix:/path\", an absolute path, nor \"tcp:host:port\""
        ))
    }
}

impl TryFrom<String> for Socket {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_read() {
        let config: Config = toml::from_str(
            "socket = '/run/admin.sock'\nstate_file = '/s/t'\nbackends = ['app']\ntimeout = '500ms'",
        )
        .unwrap();
        assert_eq!(config.socket, Socket::Unix("/run/admin.sock".into()));
        assert_eq!(config.state_file, Some("/s/t".into()));
        assert_eq!(config.backends, [BackendName::new("app").unwrap()]);
        assert_eq!(config.timeout_ms, 500);

        let config: Config = toml::from_str("socket = 'tcp:[::1]:9999'").unwrap();
        assert_eq!(config.socket.to_string(), "tcp:[::1]:9999");
        assert_eq!((config.state_file, config.backends.len(), config.timeout_ms), (None, 0, 2000));
    }

    #[test]
    fn mistakes_are_named() {
        for (table, says) in [
            ("", "socket"),
            ("socket = 'run/admin.sock'", "run/admin.sock"),
            ("socket = 'tcp:9999'", "host and port"),
            ("socket = 'tcp:localhost:0'", "host and port"),
            ("socket = '/s'\ntimeout = '0s'", "longer than 0s"),
            ("socket = '/s'\ntimeout = 2", "string"),
            ("socket = '/s'\nstate_file = 'state'", "absolute"),
            ("socket = '/s'\nbackends = ['a b']", "a b"),
            ("socket = '/s'\nbackend = 'app'", "unknown field"),
        ] {
            let error = toml::from_str::<Config>(table).unwrap_err().to_string();
            assert!(error.contains(says), "{table:?} says {error}");
        }
    }
}
