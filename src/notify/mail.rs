//! One mail over SMTP, through lettre.

use std::time::Duration;

use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, Mailboxes};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use reqwest::Url;

use crate::model::Message;
use crate::plan::ports::DeliverError;

use super::target::{Filled, MailTemplates, Target};
use super::{terminal, transient};

/// How a connection is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protection {
    /// `smtps://`: TLS from the first byte (RFC 8314).
    Implicit,
    /// `smtp://…?tls=required`: STARTTLS (RFC 3207), or no mail.
    StartTls,
    /// `smtp://…?tls=opportunistic`: STARTTLS where it is offered.
    Opportunistic,
    /// `smtp://`: none.
    None,
}

impl Protection {
    fn of(url: &Url) -> Result<Protection, String> {
        match (url.scheme(), url.query()) {
            ("smtps", None) => Ok(Protection::Implicit),
            ("smtp", Some("tls=required")) => Ok(Protection::StartTls),
            ("smtp", Some("tls=opportunistic")) => Ok(Protection::Opportunistic),
            ("smtp", None) => Ok(Protection::None),
            _ => Err("`url` can be smtps://HOST, smtp://HOST?tls=required, \
                      smtp://HOST?tls=opportunistic or smtp://HOST, each with a port if need be"
                .to_owned()),
        }
    }

    /// The port where none is given: submissions, submission (RFC 8314, 7.3), or the relay's.
    fn port(self) -> u16 {
        match self {
            Protection::Implicit => 465,
            Protection::StartTls | Protection::Opportunistic => 587,
            Protection::None => 25,
        }
    }
}

/// Checks what a URL for mail must be, and that no password goes over the wire in the clear.
///
/// # Errors
/// A sentence with what is wrong.
pub(super) fn check_url(url: &Url, logs_in: bool) -> Result<(), String> {
    let protection = Protection::of(url)?;
    let secret = matches!(protection, Protection::Implicit | Protection::StartTls);
    if logs_in && !secret && !is_loopback(host(url)) {
        return Err("the password would cross the network in the clear; let `url` be \
                    smtps://HOST or smtp://HOST?tls=required"
            .to_owned());
    }
    Ok(())
}

/// Checks that sender and receivers are addresses.
///
/// # Errors
/// A sentence that names the field.
pub(super) fn check_addresses(from: &str, to: &str) -> Result<(), String> {
    let example = "such as ops@example.org or Ops <ops@example.org>";
    from.parse::<Mailbox>().map_err(|_| format!("the sender is no address {example}"))?;
    match to.parse::<Mailboxes>() {
        Ok(to) if to.iter().next().is_some() => Ok(()),
        Ok(_) | Err(_) => Err(format!("the receivers are no addresses {example}")),
    }
}

/// Hands the mail to the server, all within `timeout`.
pub(super) async fn deliver(
    target: &Target,
    mail: &MailTemplates,
    ca_pem: Option<&[u8]>,
    message: &Message,
    timeout: Duration,
) -> Result<(), DeliverError> {
    let filled = target.fill(message);
    let letter = letter(target, mail, message, &filled)
        .ok_or_else(|| terminal(target, "the mail cannot be made from this message"))?;
    let transport = transport(mail, &filled, ca_pem)
        .map_err(|why| terminal(target, &format!("cannot be used: {why}")))?;
    match tokio::time::timeout(timeout, transport.send(letter)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => {
            let said = target.secrets.strike(&error.to_string());
            let problem = format!("did not take the mail: {said}");
            // What is neither is the network's or TLS's fault; a client error is the entry's, such as
            // no way to log in that both sides know.
            Err(if error.is_permanent() || error.is_client() {
                terminal(target, &problem)
            } else {
                transient(target, &problem, None)
            })
        }
        Err(_) => {
            Err(transient(target, &format!("did not take the mail within {timeout:?}"), None))
        }
    }
}

fn transport(
    mail: &MailTemplates,
    filled: &Filled<'_>,
    ca_pem: Option<&[u8]>,
) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
    let url: Url = filled.url().and_then(|url| url.parse().ok()).ok_or("`url` is no URL")?;
    let host = host(&url);
    let protection = Protection::of(&url)?;
    let tls = || -> Result<TlsParameters, lettre::transport::smtp::Error> {
        let mut tls = TlsParameters::builder(host.to_owned());
        if let Some(pem) = ca_pem {
            tls = tls.add_root_certificate(Certificate::from_pem(pem)?);
        }
        tls.build()
    };
    let tls = match protection {
        Protection::Implicit => tls().map(Tls::Wrapper),
        Protection::StartTls => tls().map(Tls::Required),
        Protection::Opportunistic => tls().map(Tls::Opportunistic),
        Protection::None => Ok(Tls::None),
    };
    let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
        .port(url.port().unwrap_or(protection.port()))
        .tls(tls.map_err(|error| format!("cannot set up TLS: {error}"))?);
    let text = |template: &Option<_>| template.as_ref().and_then(|t| filled.text(t));
    if let Some(username) = text(&mail.username) {
        let password = text(&mail.password).unwrap_or_default();
        builder = builder.credentials(Credentials::new(username, password));
    }
    Ok(builder.build())
}

fn letter(
    target: &Target,
    mail: &MailTemplates,
    message: &Message,
    filled: &Filled<'_>,
) -> Option<lettre::Message> {
    let from: Mailbox = filled.line(&mail.from)?.parse().ok()?;
    let to: Mailboxes = filled.line(&mail.to)?.parse().ok()?;
    // The same key gives the same id, by which mail servers and readers drop a second copy.
    let safe = |c: &char| c.is_ascii_alphanumeric() || "._-".contains(*c);
    let key: String = message.key.0.chars().filter(safe).collect();
    let id = format!("<{key}@{}>", from.email.domain());
    let mut letter = lettre::Message::builder()
        .message_id(Some(id))
        .from(from)
        .subject(filled.line(&mail.subject)?)
        .header(ContentType::TEXT_PLAIN);
    for receiver in to {
        letter = letter.to(receiver);
    }
    for (name, template) in &target.headers {
        if let Some(value) = filled.line(template) {
            let name = HeaderName::new_from_ascii(name.clone()).ok()?;
            letter = letter.raw_header(HeaderValue::new(name, value));
        }
    }
    letter.body(filled.text(&mail.text)?).ok()
}

fn host(url: &Url) -> &str {
    url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_do_not_travel_in_the_clear() {
        for (url, open, login) in [
            ("smtps://mail.example.org", true, true),
            ("smtp://mail.example.org?tls=required", true, true),
            ("smtp://mail.example.org?tls=opportunistic", true, false),
            ("smtp://mail.example.org:2525", true, false),
            ("smtp://127.0.0.1:25", true, true),
            ("smtp://[::1]", true, true),
            ("smtp://localhost", true, true),
            ("smtp://mail.example.org?tls=maybe", false, false),
            ("smtps://mail.example.org?tls=required", false, false),
        ] {
            let parsed: Url = url.parse().unwrap();
            assert_eq!(check_url(&parsed, false).is_ok(), open, "{url}");
            assert_eq!(check_url(&parsed, true).is_ok(), login, "{url}");
        }
    }
}
