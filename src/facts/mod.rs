//! Facts: what a node says of itself, from its configuration, from files and from the machine.

mod machine;

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// How many facts a node may have. They travel in every report, and people select by a handful.
const FACTS_MAX: usize = 256;

/// The longest name of a fact, in bytes; nested tables make long ones.
const NAME_BYTES_MAX: usize = 128;

/// The longest value, in bytes. With the other two bounds all facts stay below 300 KiB, well within
/// the bus's limit of 1 MiB.
const VALUE_BYTES_MAX: usize = 1024;

/// The largest file of facts, in bytes; the most that the bounds above admit, several times over.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The table `[facts]` of the agent's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Facts given in place. They win over all others.
    values: toml::Table,
    /// Files of facts, `.toml` or `.json`; later ones win over earlier ones, all over the machine's.
    files: Vec<PathBuf>,
}

/// Why there are no facts.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// A file cannot be read.
    #[error("cannot read the facts in {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A file is not what its name says.
    #[error("the facts in {} are not understood: {what}", file.display())]
    Format {
        /// Which.
        file: PathBuf,
        /// What is wrong, with the place.
        what: String,
    },
    /// A fact breaks a rule.
    #[error("{origin}: {what}")]
    Fact {
        /// Where it comes from: a file, or the table.
        origin: String,
        /// What is wrong.
        what: String,
    },
}

/// Gathers all facts, once: by name, each as text. Nested tables are flattened with dots, lists by
/// position (`disks.0`); nulls are left out.
///
/// # Errors
/// [`FactsError`] names the file and what is wrong with it. Facts decide which cluster a node
/// belongs to, so a bad file is never just left out.
pub fn gather(config: &Config) -> Result<BTreeMap<String, String>, FactsError> {
    let mut facts = machine::facts();
    for file in &config.files {
        add(&mut facts, &file.display().to_string(), &read(file)?)?;
    }
    let values = from_toml(toml::Value::Table(config.values.clone()));
    add(&mut facts, "facts.values", &values)?;
    Ok(facts)
}

fn read(file: &Path) -> Result<Value, FactsError> {
    let text =
        read_bounded(file).map_err(|source| FactsError::Read { file: file.to_owned(), source })?;
    let bad = |what: String| FactsError::Format { file: file.to_owned(), what };
    match file.extension().and_then(|extension| extension.to_str()) {
        Some("toml") => {
            let table: toml::Table =
                text.parse().map_err(|e: toml::de::Error| bad(e.to_string()))?;
            Ok(from_toml(toml::Value::Table(table)))
        }
        Some("json") => match serde_json::from_str(&text).map_err(|e| bad(e.to_string()))? {
            object @ Value::Object(_) => Ok(object),
            _ => Err(bad("it must hold one object".to_owned())),
        },
        _ => Err(bad("its name must end in .toml or .json".to_owned())),
    }
}

fn read_bounded(file: &Path) -> std::io::Result<String> {
    if !std::fs::metadata(file)?.is_file() {
        return Err(std::io::Error::other("it is not a file"));
    }
    let mut text = String::new();
    std::fs::File::open(file)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// TOML as JSON, the one form that the rest is written for; dates become text.
fn from_toml(value: toml::Value) -> Value {
    match value {
        toml::Value::String(text) => Value::String(text),
        toml::Value::Integer(number) => Value::from(number),
        toml::Value::Float(number) => Value::from(number),
        toml::Value::Boolean(is) => Value::Bool(is),
        toml::Value::Datetime(time) => Value::String(time.to_string()),
        toml::Value::Array(list) => Value::Array(list.into_iter().map(from_toml).collect()),
        toml::Value::Table(table) => {
            Value::Object(table.into_iter().map(|(name, value)| (name, from_toml(value))).collect())
        }
    }
}

/// Adds the facts in `values`, an object, to those that are there; its own win.
fn add(
    facts: &mut BTreeMap<String, String>,
    origin: &str,
    values: &Value,
) -> Result<(), FactsError> {
    flatten(facts, String::new(), values)
        .map_err(|what| FactsError::Fact { origin: origin.to_owned(), what })
}

/// serde_json bounds the depth of what it reads at 128, and toml likewise, so this recursion ends.
fn flatten(
    facts: &mut BTreeMap<String, String>,
    name: String,
    value: &Value,
) -> Result<(), String> {
    let inner = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    let text = match value {
        Value::Object(table) => {
            return table.iter().try_for_each(|(key, value)| flatten(facts, inner(key), value));
        }
        Value::Array(list) => {
            return list
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| flatten(facts, inner(&index.to_string()), value));
        }
        Value::Null => return Ok(()),
        Value::String(text) => text.clone(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    check(&name, &text)?;
    facts.insert(name, text);
    if facts.len() > FACTS_MAX {
        return Err(format!("there are more than {FACTS_MAX} facts"));
    }
    Ok(())
}

fn check(name: &str, text: &str) -> Result<(), String> {
    let bad = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '{' | '}');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(bad) {
        return Err(format!(
            "the name of the fact {name:?} must be 1 to {NAME_BYTES_MAX} bytes, without blanks, \
             control characters and braces"
        ));
    }
    if text.len() > VALUE_BYTES_MAX || text.contains(char::is_control) {
        return Err(format!(
            "the value of the fact {name:?} must be at most {VALUE_BYTES_MAX} bytes, without \
             control characters"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
