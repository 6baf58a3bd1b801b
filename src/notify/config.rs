//! The table `[notify]` of `agent.toml`, as written: recipients, and services of the operator's own.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Deserializer};

use super::pace::Rate;
use crate::model::{Priority, RecipientName, parse_duration_ms};

/// The table `[notify]`. What it says is checked by [`Services::new`](super::Services::new).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Who can be told, and how; all entries of a recipient get every message.
    #[serde(default)]
    pub recipients: BTreeMap<RecipientName, Entries>,
    /// Services beside the built-in ones; a name that is built in replaces that one.
    #[serde(default)]
    pub services: BTreeMap<String, Row>,
    /// How long one try may take, from connecting to the answer, in milliseconds; written as a
    /// duration in `timeout`.
    #[serde(default = "timeout_ms", rename = "timeout", deserialize_with = "duration")]
    pub timeout_ms: u64,
    /// Certificates in PEM that are trusted beside the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            recipients: BTreeMap::new(),
            services: BTreeMap::new(),
            timeout_ms: timeout_ms(),
            ca_file: None,
        }
    }
}

/// Long enough for a distant service in trouble, short beside the time after which the controller
/// asks the next notification server.
fn timeout_ms() -> u64 {
    10_000
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse_duration_ms(&text).map_err(serde::de::Error::custom)
}

/// One entry or several: `[notify.recipients.NAME]` or `[[notify.recipients.NAME]]`.
#[derive(Debug, Clone)]
pub struct Entries(pub Vec<Entry>);

impl<'de> Deserialize<'de> for Entries {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // Told apart by hand: an untagged enum would answer every slip with "did not match any variant".
        struct OneOrMany;
        impl<'de> serde::de::Visitor<'de> for OneOrMany {
            type Value = Entries;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a table with `service`, or an array of such tables")
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<Entries, A::Error> {
                let one = Entry::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(Entries(vec![one]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Entries, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = seq.next_element()? {
                    entries.push(entry);
                }
                Ok(Entries(entries))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

/// One way to reach a recipient: a service, what differs from its row, and its parameters.
#[derive(Clone, Deserialize)]
pub struct Entry {
    /// The name of the row.
    pub service: String,
    /// The fields that replace those of the row.
    #[serde(flatten)]
    pub own: Row,
    /// Values for the row's placeholders. `NAME_file` reads `NAME` from a file.
    #[serde(flatten)]
    pub parameters: BTreeMap<String, Scalar>,
}

impl fmt::Debug for Entry {
    /// Without the values: any of them may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("service", &self.service).finish_non_exhaustive()
    }
}

/// A row of the table of services. Texts are templates.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// The HTTP method; `POST` where nothing is said.
    pub method: Option<String>,
    /// Where to: `http://`, `https://`, or, with `mail`, `smtp://` or `smtps://`.
    pub url: Option<String>,
    /// What `{title}` stands for in the rest of the row.
    pub title: Option<String>,
    /// What `{text}` stands for in the rest of the row.
    pub text: Option<String>,
    /// Headers of the request or of the mail; one whose parameter is not given is left out.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A JSON body; strings in it are templates.
    pub json: Option<serde_json::Value>,
    /// A body of form fields.
    pub form: Option<BTreeMap<String, String>>,
    /// A body of plain text.
    pub body: Option<String>,
    /// A mail in place of an HTTP request.
    pub mail: Option<Mail>,
    /// Parameters that need not be given; what names one is then left out.
    #[serde(default)]
    pub optional: BTreeSet<String>,
    /// Parameters that need not be given, and their values then.
    #[serde(default)]
    pub defaults: BTreeMap<String, Scalar>,
    /// The service's scale of priorities; our own words where nothing is said.
    pub priority: Option<Scale>,
    /// How long title and text may be.
    pub limits: Option<Limits>,
    /// How often the service may be asked; as often as there is something to say where nothing is said.
    pub rate: Option<Rate>,
    /// What HTTP statuses mean where the usual reading is wrong.
    #[serde(default)]
    pub answers: BTreeMap<String, Meaning>,
    /// Characters of values that the body must spell otherwise.
    #[serde(default)]
    pub replace: BTreeMap<char, String>,
}

impl fmt::Debug for Row {
    /// Without the values: any of them may be a secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row").finish_non_exhaustive()
    }
}

impl Row {
    /// This row with the fields of `own` in their place. A body replaces a body of any kind; tables
    /// are merged.
    pub(super) fn with(mut self, own: Row) -> Row {
        let other_body =
            own.json.is_some() || own.form.is_some() || own.body.is_some() || own.mail.is_some();
        if other_body {
            (self.json, self.form, self.body, self.mail) = (None, None, None, None);
        }
        self.headers.retain(|name, _| !own.headers.keys().any(|o| o.eq_ignore_ascii_case(name)));
        self.headers.extend(own.headers);
        self.optional.extend(own.optional);
        self.defaults.extend(own.defaults);
        self.answers.extend(own.answers);
        self.replace.extend(own.replace);
        Row {
            method: own.method.or(self.method),
            url: own.url.or(self.url),
            title: own.title.or(self.title),
            text: own.text.or(self.text),
            json: own.json.or(self.json),
            form: own.form.or(self.form),
            body: own.body.or(self.body),
            mail: own.mail.or(self.mail),
            priority: own.priority.or(self.priority),
            limits: own.limits.or(self.limits),
            rate: own.rate.or(self.rate),
            ..self
        }
    }
}

/// A mail.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mail {
    /// The sender's address.
    pub from: String,
    /// The receivers' addresses, with commas between them.
    pub to: String,
    /// The subject.
    pub subject: String,
    /// The text.
    pub text: String,
    /// Who logs in; without one nobody does.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
}

/// A text or a whole number.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "a text or a whole number is wanted")]
pub enum Scalar {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// A service's numbers or words for our priorities.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scale {
    low: Scalar,
    normal: Scalar,
    high: Scalar,
}

impl Scale {
    /// The service's word for `priority`.
    pub(super) fn of(&self, priority: Priority) -> &Scalar {
        match priority {
            Priority::Low => &self.low,
            Priority::Normal => &self.normal,
            Priority::High => &self.high,
        }
    }
}

impl Default for Scale {
    fn default() -> Self {
        let word = |word: &str| Scalar::Text(word.to_owned());
        Scale { low: word("low"), normal: word("normal"), high: word("high") }
    }
}

/// What a service takes at most; more is cut.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limits {
    /// Of `{title}`, in `unit`.
    pub title: usize,
    /// Of `{text}`, in `unit`.
    pub text: usize,
    /// What is counted.
    pub unit: Unit,
}

impl Default for Limits {
    /// More than anybody reads, and little beside what a server takes.
    fn default() -> Self {
        Limits { title: 1_000, text: 65_536, unit: Unit::Bytes }
    }
}

/// What a limit counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// Bytes of UTF-8.
    Bytes,
    /// Unicode code points.
    Characters,
}

/// What an answer means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Meaning {
    /// The service has taken the message.
    Delivered,
    /// It may take it later.
    Transient,
    /// It never will.
    Terminal,
}

/// What is wrong with the table `[notify]`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct ConfigError {
    /// Where, as a path such as `notify.recipients.oncall`.
    pub at: String,
    /// What is wrong and what would be right, in words, without secrets.
    pub problem: String,
}
