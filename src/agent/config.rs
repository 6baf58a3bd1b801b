//! `agent.toml`: what every agent says, and one table per role.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer};

use crate::bus::session;
use crate::model::{AppName, FleetName, NodeName, PublicKey, parse_duration_ms};
use crate::{checks, deploy, facts, haproxy, notify};

/// The version of the file that this program understands.
const VERSION: u32 = 1;

/// The largest file that is read, in bytes. Real ones have a few KiB.
const BYTES_MAX: u64 = 1 << 20;

/// The longest time between heartbeats, in milliseconds: an agent that is not heard for 90 s is taken for
/// silent, and a heartbeat may be late by 10 %, or lost once.
const HEARTBEAT_MS_MAX: u64 = 30_000;

/// The shortest times between heartbeats and between readings, in milliseconds. Below, the
/// agent would be busy with nothing else.
const PERIOD_MS_MIN: u64 = 100;

/// The configuration of an agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The version of the file; 1.
    #[serde(default = "version", deserialize_with = "known_version")]
    pub version: u32,
    /// The node's name; the machine's host name where left out.
    #[serde(default)]
    pub node: Option<NodeName>,
    /// The fleet that it belongs to.
    #[serde(default = "fleet")]
    pub fleet: FleetName,
    /// Where the broker is; on this machine where left out.
    #[serde(default = "bus")]
    pub bus: session::Config,
    /// Whose orders it takes: public keys, as `evenkeel public-key` prints them; anybody's who can
    /// publish them, where left out.
    #[serde(default, deserialize_with = "trusted_keys")]
    pub trusted_keys: BTreeSet<PublicKey>,
    /// The directory of its memory.
    #[serde(default = "state")]
    pub state: PathBuf,
    /// Time between heartbeats, in milliseconds; written as a duration in `heartbeat`.
    #[serde(rename = "heartbeat", default = "heartbeat_ms", deserialize_with = "heartbeat")]
    pub heartbeat_ms: u64,
    /// Time between readings of the running revisions, in milliseconds; written as a duration in
    /// `observe`.
    #[serde(rename = "observe", default = "observe_ms", deserialize_with = "observe")]
    pub observe_ms: u64,
    /// What the node says of itself.
    #[serde(default)]
    pub facts: facts::Config,
    /// The apps that the node runs.
    #[serde(default)]
    pub apps: BTreeMap<AppName, deploy::Config>,
    /// The checks that it can run.
    #[serde(default)]
    pub checks: Option<checks::Config>,
    /// The load balancer on it.
    #[serde(default)]
    pub haproxy: Option<haproxy::Config>,
    /// The people that it can tell.
    #[serde(default)]
    pub notify: Option<notify::Config>,
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the agent's configuration {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: std::io::Error,
    },
    /// It is not what an agent's configuration looks like. The message shows line and column.
    #[error("the agent's configuration {} has a fault\n{fault}", path.display())]
    Fault {
        /// The file.
        path: PathBuf,
        /// What is wrong, where.
        fault: String,
    },
    /// No name is given, and the machine's own is none.
    #[error("the host name {name:?} cannot be the node's name; set `node` in agent.toml")]
    HostName {
        /// The machine's host name.
        name: String,
    },
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`]
    pub fn read(path: &Path) -> Result<Config, ConfigError> {
        let bytes = std::fs::File::open(path).and_then(|file| {
            let mut text = String::new();
            std::io::Read::read_to_string(&mut std::io::Read::take(file, BYTES_MAX), &mut text)?;
            Ok(text)
        });
        let text = bytes.map_err(|error| ConfigError::Read { path: path.to_owned(), error })?;
        toml::from_str(&text).map_err(|error| {
            let fault = error.to_string().trim_end().to_owned();
            ConfigError::Fault { path: path.to_owned(), fault }
        })
    }

    /// The node's name.
    ///
    /// # Errors
    /// [`ConfigError::HostName`]
    pub fn node(&self) -> Result<NodeName, ConfigError> {
        if let Some(node) = &self.node {
            return Ok(node.clone());
        }
        let uname = rustix::system::uname();
        let name = uname.nodename().to_string_lossy().into_owned();
        NodeName::new(&name).map_err(|_| ConfigError::HostName { name })
    }
}

/// With none of them nobody could ever order anything, and that is not what was meant.
fn trusted_keys<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeSet<PublicKey>, D::Error> {
    let keys = BTreeSet::deserialize(from)?;
    if keys.is_empty() {
        let words = "trusted_keys must name a key, or be left out";
        return Err(serde::de::Error::custom(words));
    }
    Ok(keys)
}

fn version() -> u32 {
    VERSION
}

fn known_version<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    match u32::deserialize(from)? {
        VERSION => Ok(VERSION),
        other => Err(serde::de::Error::custom(format!(
            "version {other} is not understood; this program reads version {VERSION}"
        ))),
    }
}

fn fleet() -> FleetName {
    FleetName::new("default").expect("it obeys the rule for names")
}

fn bus() -> session::Config {
    session::Config::new("mqtt://127.0.0.1".parse().expect("it is an address"))
}

fn state() -> PathBuf {
    "/var/lib/evenkeel-agent".into()
}

fn heartbeat_ms() -> u64 {
    HEARTBEAT_MS_MAX
}

/// Drift comes from people, and nobody waits for its discovery.
fn observe_ms() -> u64 {
    10_000
}

fn heartbeat<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match duration(from)? {
        ms @ PERIOD_MS_MIN..=HEARTBEAT_MS_MAX => Ok(ms),
        _ => Err(serde::de::Error::custom("heartbeat must be 100ms to 30s")),
    }
}

fn observe<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    match duration(from)? {
        ms @ PERIOD_MS_MIN.. => Ok(ms),
        _ => Err(serde::de::Error::custom("observe must be at least 100ms")),
    }
}

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    parse_duration_ms(&String::deserialize(from)?).map_err(serde::de::Error::custom)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        Config::read(file.path())
    }

    #[test]
    fn an_empty_file_is_an_agent_without_roles() {
        let config = read("").unwrap();
        assert_eq!(config.fleet.as_str(), "default");
        assert_eq!((config.bus.url.host.as_str(), config.bus.url.port), ("127.0.0.1", 1883));
        assert_eq!((config.heartbeat_ms, config.observe_ms), (30_000, 10_000));
        assert!(config.apps.is_empty() && config.checks.is_none());
        assert!(config.haproxy.is_none() && config.notify.is_none());
    }

    #[test]
    fn every_role_has_its_table() {
        let config = read(
            r#"
            version = 1
            node = "web1"
            fleet = "prod"
            state = "/tmp/x"
            heartbeat = "20s"
            observe = "5s"
            trusted_keys = ["BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="]

            [bus]
            url = "mqtts://bus.example.org"
            user = "web1"

            [facts.values]
            cluster = "alfa"

            [apps.shop]
            command = ["/usr/local/bin/deploy", "{revision}"]
            revision.command = ["cat", "/srv/shop/REVISION"]

            [checks]
            files = ["/etc/nagios/nrpe.cfg"]

            [haproxy]
            socket = "/run/haproxy/admin.sock"

            [notify.recipients.oncall]
            service = "ntfy"
            topic = "x"
            "#,
        )
        .unwrap();
        assert_eq!(config.node().unwrap().as_str(), "web1");
        assert_eq!(config.apps.len(), 1);
        assert_eq!(config.trusted_keys, BTreeSet::from([PublicKey([7; 32])]));
        assert!(config.checks.is_some() && config.haproxy.is_some() && config.notify.is_some());
    }

    #[test]
    fn faults_are_located() {
        for (text, at, what) in [
            ("node = \"a b\"\n", "line 1, column 8", "node name"),
            ("\nnodes = \"a\"\n", "line 2, column 1", "unknown field"),
            ("version = 2", "line 1, column 11", "version 2"),
            ("heartbeat = \"60s\"", "line 1, column 13", "100ms to 30s"),
            ("observe = 10", "line 1, column 11", "string"),
            ("[bus]\nurl = \"http://x\"", "line 2, column 7", "mqtt://"),
            ("[haproxy]\nsocket = \"x\"", "line 2, column 10", "absolute"),
            ("fleet =", "line 1", "expected"),
            ("trusted_keys = []", "line 1, column 16", "must name a key"),
            ("trusted_keys = [\"BwcH\"]", "line 1, column 16", "32 bytes in base64"),
        ] {
            let Err(ConfigError::Fault { fault, .. }) = read(text) else {
                panic!("{text} is accepted")
            };
            assert!(fault.contains(at), "{text}: {fault}");
            assert!(fault.contains(what), "{text}: {fault}");
        }
        assert!(matches!(
            Config::read(Path::new("/nowhere/agent.toml")),
            Err(ConfigError::Read { .. })
        ));
    }
}
