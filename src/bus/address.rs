//! The address of a broker, as a URL: `mqtt://[user:password@]host[:port]`, or `mqtts://` for TLS.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

/// Where a broker is, and who we are to it. Neither `Display` nor `Debug` shows the password.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct BrokerAddress {
    /// A host name or an IPv4 address.
    pub host: String,
    /// 1883 where the URL names none, 8883 with TLS (as registered with IANA).
    pub port: u16,
    /// Whether to speak TLS.
    pub tls: bool,
    /// User and password, if the URL has them.
    pub credentials: Option<(String, String)>,
}

/// Why a text is not the address of a broker. Does not repeat the text, which may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}; wanted mqtt://[user:password@]host[:port], or mqtts:// for TLS")]
pub struct AddressError {
    /// What is wrong with it.
    pub why: &'static str,
}

impl FromStr for BrokerAddress {
    type Err = AddressError;

    fn from_str(url: &str) -> Result<Self, AddressError> {
        let error = |why| AddressError { why };
        let (tls, rest) = match url.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            Some(_) | None => {
                return Err(error("the address begins with neither mqtt:// nor mqtts://"));
            }
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (credentials, place) = match rest.rsplit_once('@') {
            Some((user, place)) => (Some(parse_credentials(user).map_err(error)?), place),
            None => (None, rest),
        };
        let default_port = if tls { 8883 } else { 1883 };
        let (host, port) = match place.rsplit_once(':') {
            Some((host, port)) => (host, parse_port(port).map_err(error)?),
            None => (place, default_port),
        };
        let host_ok = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if host.is_empty() || host.len() > 253 || !host.chars().all(host_ok) {
            return Err(error("the address has no host name or IPv4 address"));
        }
        Ok(Self { host: host.to_owned(), port, tls, credentials })
    }
}

fn parse_port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("the port is not a number from 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

fn parse_credentials(text: &str) -> Result<(String, String), &'static str> {
    let (user, password) = text.split_once(':').unwrap_or((text, ""));
    if user.is_empty() {
        return Err("the user is empty");
    }
    Ok((percent_decode(user)?, percent_decode(password)?))
}

/// RFC 3986, 2.1: what has a meaning in a URL is written `%` and two hexadecimal digits.
fn percent_decode(text: &str) -> Result<String, &'static str> {
    const WHY: &str = "the user or password has a % that two hexadecimal digits do not follow";
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.split_at_checked(2).ok_or(WHY)?;
        if !code.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(WHY);
        }
        bytes.push(u8::from_str_radix(code, 16).map_err(|_| WHY)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| "the user or password is not UTF-8")
}

impl TryFrom<String> for BrokerAddress {
    type Error = AddressError;
    fn try_from(url: String) -> Result<Self, AddressError> {
        url.parse()
    }
}

impl fmt::Display for BrokerAddress {
    /// The URL without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "mqtts" } else { "mqtt" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

impl fmt::Debug for BrokerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read() {
        for (url, shown, credentials) in [
            ("mqtt://localhost", "mqtt://localhost:1883", None),
            ("mqtt://127.0.0.1:2883/", "mqtt://127.0.0.1:2883", None),
            ("mqtts://bus.example.org", "mqtts://bus.example.org:8883", None),
            ("mqtt://web1@bus", "mqtt://bus:1883", Some(("web1", ""))),
            ("mqtts://web1:a%40b%3a@c%25@bus:1", "mqtts://bus:1", Some(("web1", "a@b:@c%"))),
        ] {
            let address: BrokerAddress = url.parse().expect(url);
            assert_eq!(address.to_string(), shown);
            let credentials = credentials.map(|(user, word)| (user.to_owned(), word.to_owned()));
            assert_eq!(address.credentials, credentials);
        }
    }

    #[test]
    fn slips_are_told_without_the_password() {
        for url in [
            "",
            "bus:1883",
            "http://bus",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://bus:0",
            "mqtt://bus:70000",
            "mqtt://bus:x",
            "mqtt://a b",
            "mqtt://[::1]:1883",
            "mqtt://:secret@bus",
            "mqtt://u:secret%4@bus",
            "mqtt://u:secret%+4@bus",
            "mqtt://u:secret%ff@bus",
            "mqtt://u:secret@bus/topic",
        ] {
            let error = url.parse::<BrokerAddress>().expect_err(url);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        let address: BrokerAddress = "mqtt://u:secret@bus".parse().unwrap();
        assert!(!format!("{address:?} {address}").contains("secret"));
    }
}
