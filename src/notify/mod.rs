//! Tells people: one row of a table per service, one entry per way to reach a recipient.
//!
//! A service is data (`services.toml`, and `[notify.services]` of the operator's own): adding one
//! takes no code. Nothing is decided here: when to tell whom, and when to try again, comes from above.

mod config;
mod http;
mod mail;
mod pace;
mod secrets;
mod target;
mod template;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::model::{Message, MessageKey, RecipientName};
use crate::plan::ports::{DeliverError, Notify};

pub use config::{
    Config, ConfigError, Entries, Entry, Limits, Mail, Meaning, Row, Scalar, Scale, Unit,
};
pub use pace::Rate;
use target::{Body, Target};

/// The rows that are known from the start.
const BUILT_IN: &str = include_str!("services.toml");

/// A try must be given a chance, and must end before everybody has given up on it.
const TIMEOUT_MS_MIN: u64 = 50;
const TIMEOUT_MS_MAX: u64 = 120_000;

/// A recipient's entries are tried at once, each with a connection of its own.
const ENTRIES_MAX: usize = 16;

/// A PEM bundle with every public authority has a quarter of this.
const CA_FILE_BYTES_MAX: u64 = 1 << 20;

/// Messages of which some entries of a recipient have been served and others not. Each costs about
/// 200 bytes; beyond this, the worst is that somebody is told twice.
const PARTLY_DELIVERED_MAX: usize = 1024;

/// Delivers messages through the services of `[notify]`.
///
/// Needs a TLS provider: whoever runs this installs rustls' default one first.
pub struct Services {
    recipients: BTreeMap<RecipientName, Vec<Arc<Target>>>,
    shared: Arc<Shared>,
    /// Which entries need no more tries.
    served: Mutex<BTreeMap<(MessageKey, RecipientName), BTreeSet<usize>>>,
}

/// What all targets use.
struct Shared {
    /// Made at the first delivery: it reads the system's certificates.
    client: OnceLock<Result<reqwest::Client, String>>,
    ca_pem: Option<Vec<u8>>,
    timeout: Duration,
}

impl Services {
    /// Checks the whole of `config` and reads the files that it names. Connects to nothing.
    ///
    /// # Errors
    /// [`ConfigError`] with the first thing that is wrong.
    pub fn new(config: &Config) -> Result<Services, ConfigError> {
        let at = |at: &str, problem: String| ConfigError { at: at.to_owned(), problem };
        if !(TIMEOUT_MS_MIN..=TIMEOUT_MS_MAX).contains(&config.timeout_ms) {
            let problem = format!("it must be {TIMEOUT_MS_MIN} ms to {TIMEOUT_MS_MAX} ms");
            return Err(at("notify.timeout", problem));
        }
        let ca_pem = config.ca_file.as_deref().map(read_ca_file).transpose();
        let mut recipients = BTreeMap::new();
        if !config.recipients.is_empty() {
            let rows = rows(config);
            for (name, Entries(entries)) in &config.recipients {
                recipients.insert(name.clone(), targets(name, entries, &rows)?);
            }
        }
        Ok(Services {
            recipients,
            shared: Arc::new(Shared {
                client: OnceLock::new(),
                ca_pem: ca_pem.map_err(|problem| at("notify.ca_file", problem))?,
                timeout: Duration::from_millis(config.timeout_ms),
            }),
            served: Mutex::default(),
        })
    }

    fn served(&self, of: &(MessageKey, RecipientName)) -> BTreeSet<usize> {
        let served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        served.get(of).cloned().unwrap_or_default()
    }

    /// Keeps what was done as long as more is to do.
    fn keep(&self, of: (MessageKey, RecipientName), done: BTreeSet<usize>, unfinished: bool) {
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if !unfinished || done.is_empty() {
            served.remove(&of);
            return;
        }
        served.insert(of, done);
        if served.len() > PARTLY_DELIVERED_MAX {
            served.pop_first();
        }
    }
}

impl Notify for Services {
    fn recipients(&self) -> Vec<RecipientName> {
        self.recipients.keys().cloned().collect()
    }

    /// Tries all entries of the recipient at once, less those that an earlier try has served.
    async fn deliver(
        &self,
        recipient: &RecipientName,
        message: &Message,
    ) -> Result<(), DeliverError> {
        let Some(targets) = self.recipients.get(recipient) else {
            let error = format!("recipient {recipient} is not configured on this server");
            return Err(DeliverError::Terminal { error });
        };
        let of = (message.key.clone(), recipient.clone());
        let mut done = self.served(&of);
        let message = Arc::new(message.clone());
        let mut tries = JoinSet::new();
        for (index, target) in targets.iter().enumerate().filter(|(i, _)| !done.contains(i)) {
            let (shared, target, message) =
                (Arc::clone(&self.shared), Arc::clone(target), Arc::clone(&message));
            tries.spawn(async move { (index, shared.deliver(&target, &message).await) });
        }
        let mut errors = BTreeMap::new();
        while let Some(tried) = tries.join_next().await {
            match tried {
                Ok((index, Ok(()))) => {
                    done.insert(index);
                }
                Ok((index, Err(error))) => {
                    errors.insert(index, error);
                }
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        }
        let result = together(errors.into_values().collect());
        let unfinished =
            matches!(result, Err(DeliverError::Transient { .. } | DeliverError::Paced { .. }));
        self.keep(of, done, unfinished);
        result
    }
}

impl Shared {
    async fn deliver(&self, target: &Target, message: &Message) -> Result<(), DeliverError> {
        target.pace.take().map_err(|again_in_ms| DeliverError::Paced { again_in_ms })?;
        let result = self.ask(target, message).await;
        if let Err(DeliverError::Transient { retry_after_ms: Some(wait_ms), .. }) = &result {
            // The other messages would be refused as well.
            target.pace.rest(*wait_ms);
        }
        result
    }

    async fn ask(&self, target: &Target, message: &Message) -> Result<(), DeliverError> {
        let ca_pem = self.ca_pem.as_deref();
        if let Body::Mail(mail) = &target.body {
            return mail::deliver(target, mail, ca_pem, message, self.timeout).await;
        }
        match self.client.get_or_init(|| http::client(ca_pem)) {
            Ok(client) => http::deliver(client, target, message, self.timeout).await,
            Err(problem) => Err(transient(target, problem, None)),
        }
    }
}

/// One result from those of all entries: worth another try if any of them is.
fn together(errors: Vec<DeliverError>) -> Result<(), DeliverError> {
    if errors.is_empty() {
        return Ok(());
    }
    let mut again = false;
    let mut wait_ms = None;
    let mut paced_ms = None;
    let mut words = Vec::new();
    for error in errors {
        match error {
            DeliverError::Paced { again_in_ms } => paced_ms = paced_ms.max(Some(again_in_ms)),
            DeliverError::Transient { error, retry_after_ms } => {
                again = true;
                wait_ms = wait_ms.max(retry_after_ms);
                words.push(error);
            }
            DeliverError::Terminal { error } => words.push(error),
        }
    }
    let error = words.join("; ");
    Err(match paced_ms {
        _ if again => DeliverError::Transient { error, retry_after_ms: wait_ms.max(paced_ms) },
        Some(again_in_ms) => DeliverError::Paced { again_in_ms },
        None => DeliverError::Terminal { error },
    })
}

fn rows(config: &Config) -> BTreeMap<String, Row> {
    let mut rows: BTreeMap<String, Row> =
        toml::from_str(BUILT_IN).expect("the built-in services are a valid table");
    rows.extend(config.services.clone());
    rows
}

fn targets(
    recipient: &RecipientName,
    entries: &[Entry],
    rows: &BTreeMap<String, Row>,
) -> Result<Vec<Arc<Target>>, ConfigError> {
    let here = format!("notify.recipients.{recipient}");
    if entries.is_empty() || entries.len() > ENTRIES_MAX {
        let problem = format!("a recipient has 1 to {ENTRIES_MAX} entries");
        return Err(ConfigError { at: here, problem });
    }
    let one = |(index, entry): (usize, &Entry)| {
        let at = if entries.len() > 1 { format!("{here}[{index}]") } else { here.clone() };
        let Some(row) = rows.get(&entry.service) else {
            let names: Vec<&str> = rows.keys().map(String::as_str).collect();
            let problem = format!("no service {:?}; there are {}", entry.service, names.join(", "));
            return Err(ConfigError { at, problem });
        };
        match Target::new(recipient, entry, row) {
            Ok(target) => Ok(Arc::new(target)),
            Err(problem) => Err(ConfigError { at, problem }),
        }
    };
    entries.iter().enumerate().map(one).collect()
}

fn read_ca_file(path: &std::path::Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let problem = |why: &dyn std::fmt::Display| format!("cannot use {}: {why}", path.display());
    let file = std::fs::File::open(path).map_err(|error| problem(&error))?;
    let mut pem = Vec::new();
    file.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem).map_err(|error| problem(&error))?;
    if pem.len() as u64 > CA_FILE_BYTES_MAX {
        return Err(problem(&"it is longer than 1 MiB"));
    }
    match reqwest::Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if !certificates.is_empty() => Ok(pem),
        Ok(_) | Err(_) => Err(problem(&"it holds no certificates in PEM")),
    }
}

fn transient(target: &Target, problem: &str, retry_after_ms: Option<u64>) -> DeliverError {
    DeliverError::Transient { error: sentence(target, problem), retry_after_ms }
}

fn terminal(target: &Target, problem: &str) -> DeliverError {
    DeliverError::Terminal { error: sentence(target, problem) }
}

fn sentence(target: &Target, problem: &str) -> String {
    let Target { recipient, service, endpoint, .. } = target;
    format!("{service} at {endpoint}, for {recipient}: {problem}")
}

/// An error and what lies under it, in one line.
fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = error.source();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_built_in_rows_go_where_their_services_are() {
        let rows = rows(&Config::default());
        let urls: Vec<_> =
            rows.iter().map(|(name, row)| (name.as_str(), row.url.as_deref())).collect();
        assert_eq!(
            urls,
            [
                ("mail", Some("smtp://localhost")),
                ("ntfy", Some("https://ntfy.sh")),
                ("prowl", Some("https://api.prowlapp.com/publicapi/add")),
                ("pushover", Some("https://api.pushover.net/1/messages.json")),
                ("slack", None),
                ("webhook", None),
            ]
        );
    }
}
