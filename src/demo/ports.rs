//! Free ports of the loopback address, and programs on this machine.

use std::collections::BTreeSet;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

/// Ports below this belong to services that an operator may start at any time.
const PORT_MIN: u16 = 10_000;

/// How often a random port is tried. A machine on which a hundred are taken in a row has none left.
const TRIES: usize = 100;

/// Hands out ports that nobody listens on.
///
/// They lie below those that the system gives to outgoing connections: a service that is restarted
/// must find its port free, and HAProxy alone makes a hundred connections a second.
pub struct Ports {
    below: u16,
    taken: BTreeSet<u16>,
}

impl Ports {
    /// None handed out yet.
    pub fn new() -> Ports {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
        let first = range.ok().and_then(|text| text.split_whitespace().next()?.parse().ok());
        // 32,768 is Linux's default.
        let below = first.filter(|first| *first > PORT_MIN + 1000).unwrap_or(32_768);
        Ports { below, taken: BTreeSet::new() }
    }

    /// One more.
    ///
    /// # Errors
    /// The last port's, if none of many is free.
    pub fn take(&mut self) -> io::Result<u16> {
        let mut last = io::Error::from(io::ErrorKind::AddrInUse);
        for _ in 0..TRIES {
            let port = fastrand::u16(PORT_MIN..self.below);
            if self.taken.contains(&port) {
                continue;
            }
            match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
                Ok(_) => {
                    self.taken.insert(port);
                    return Ok(port);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A program that is not there.
#[derive(Debug, thiserror::Error)]
#[error(
    "{name} is not installed on this machine; get it with `apt-get install {package}`, or as your system has it"
)]
pub struct MissingProgram {
    name: &'static str,
    package: &'static str,
}

/// Where distributions put HAProxy and Mosquitto, which are not on everybody's PATH.
const SBIN: [&str; 3] = ["/usr/sbin", "/usr/local/sbin", "/sbin"];

/// Where distributions put the Monitoring Plugins.
const PLUGINS: [&str; 6] = [
    "/usr/lib/nagios/plugins",
    "/usr/lib64/nagios/plugins",
    "/usr/lib/monitoring-plugins",
    "/usr/libexec/nagios",
    "/usr/local/libexec/nagios",
    "/usr/local/nagios/libexec",
];

/// Finds HAProxy.
///
/// # Errors
/// [`MissingProgram`]
pub fn haproxy() -> Result<PathBuf, MissingProgram> {
    find("haproxy", &SBIN).ok_or(MissingProgram { name: "haproxy", package: "haproxy" })
}

/// Finds Mosquitto.
///
/// # Errors
/// [`MissingProgram`]
pub fn mosquitto() -> Result<PathBuf, MissingProgram> {
    find("mosquitto", &SBIN).ok_or(MissingProgram { name: "mosquitto", package: "mosquitto" })
}

/// Finds the plugin `check_load`.
///
/// # Errors
/// [`MissingProgram`]
pub fn check_load() -> Result<PathBuf, MissingProgram> {
    let missing = MissingProgram { name: "check_load", package: "monitoring-plugins-basic" };
    find("check_load", &PLUGINS).ok_or(missing)
}

/// Finds git, which the demo can do without.
pub fn git() -> Option<PathBuf> {
    find("git", &[])
}

fn find(name: &str, more: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|folder| folder.is_absolute())
        .chain(more.iter().map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let mut ports = Ports::new();
        let taken: Vec<u16> = (0..50).map(|_| ports.take().unwrap()).collect();
        assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len());
        assert!(taken.iter().all(|port| *port >= PORT_MIN && *port < ports.below));
    }

    #[test]
    fn what_is_missing_says_how_to_get_it() {
        assert_eq!(find("no-such-program-at-all", &SBIN), None);
        let missing = MissingProgram { name: "haproxy", package: "haproxy" };
        assert!(missing.to_string().contains("apt-get install haproxy"));
        assert!(haproxy().unwrap().is_file());
        assert!(check_load().unwrap().is_file());
    }
}
