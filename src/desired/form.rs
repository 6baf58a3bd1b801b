//! The forms that a value can have: how each is read from TOML, and how it is described.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use toml::Spanned;
use toml::de::DeValue;

use super::fault::Place;
use super::keys::unknown_key;
use super::table::{At, Need, Reader, Table, meant};
use crate::model::{
    BackendName, CheckName, ClusterName, NodeName, NotifyOn, OnFailure, RecipientName, Revision,
    ServerTemplate, Share, TakeOut, parse_duration_ms,
};

/// Ten times the largest fleet that one controller is meant for: more is a slip of the pen.
const COUNT_MAX: u32 = 100_000;

/// Free text goes into every assignment and report of a cluster.
const LINE_CHARS_MAX: usize = 200;

/// A value that a key can have.
pub(super) trait Form: Sized {
    /// What it must be, in words that follow "must be".
    fn wanted() -> String;
    /// The same as JSON Schema. It may allow more than [`Form::read`] does, never less.
    fn schema() -> Value;
    /// Reads it; takes down what is wrong with it, if it cannot.
    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self>;
    /// This value over another; only tables keep anything of the other.
    fn laid_over(self, _under: Self) -> Self {
        self
    }
}

/// A value of the wrong type.
fn mistyped<T: Form>(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) {
    let (found, hint) = match value.get_ref() {
        DeValue::String(text) if text.parse::<u32>().is_ok() => {
            ("a text", "; leave out the quotes")
        }
        DeValue::String(_) => ("a text", ""),
        DeValue::Integer(_) => ("a number", "; write it in quotes"),
        DeValue::Float(_) => ("a number with a point", "; write it in quotes"),
        DeValue::Boolean(_) => ("true or false", "; write it in quotes"),
        DeValue::Datetime(_) => ("a date or time", "; write it in quotes"),
        DeValue::Array(_) => ("a list", ""),
        DeValue::Table(_) => ("a table", ""),
    };
    let helps = T::schema()["type"] == if value.get_ref().is_str() { "integer" } else { "string" };
    let hint = if helps { hint } else { "" };
    let (part, key) = (reader.part, reader.key);
    let message = format!("{part}`{key}` must be {}, not {found}{hint}", T::wanted());
    reader.flaw(value.span(), message);
}

/// Reads a text and makes of it what `make` makes; its error is a sentence.
fn read_text<T: Form>(
    value: &Spanned<DeValue<'_>>,
    reader: &mut Reader<'_>,
    make: impl FnOnce(&str) -> Result<T, String>,
) -> Option<T> {
    let Some(text) = value.get_ref().as_str() else {
        mistyped::<T>(value, reader);
        return None;
    };
    make(text)
        .map_err(|error| {
            let key = reader.key;
            reader.flaw(value.span(), format!("`{key}`: {error}"));
        })
        .ok()
}

/// Reads a whole number from `min` on.
fn read_count(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>, min: u32) -> Option<u32> {
    let integer = value.get_ref().as_integer()?;
    let count = u32::from_str_radix(integer.as_str(), integer.radix())
        .ok()
        .filter(|count| (min..=COUNT_MAX).contains(count));
    if count.is_none() {
        let key = reader.key;
        let message =
            format!("`{key}` is {integer}; it must be at least {min} and at most {COUNT_MAX}");
        reader.flaw(value.span(), message);
    }
    count
}

macro_rules! name_forms {
    ($($name:ident),*) => {$(
        impl Form for $name {
            fn wanted() -> String {
                // "an app name", "a node name"
                let is_vowel = $name::KIND.starts_with(['a', 'e', 'i', 'o', 'u']);
                format!("{} {}", if is_vowel { "an" } else { "a" }, $name::KIND)
            }

            fn schema() -> Value {
                let pattern = format!(
                    "^[A-Za-z0-9][A-Za-z0-9{}]{{0,{}}}$", $name::MORE, $name::LENGTH_MAX - 1
                );
                json!({"type": "string", "pattern": pattern})
            }

            fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
                read_text(value, reader, |text| $name::new(text).map_err(|error| error.to_string()))
            }
        }
    )*};
}
name_forms!(BackendName, CheckName, ClusterName, NodeName, RecipientName, Revision);

macro_rules! choice_forms {
    ($($name:ident { $($word:literal => $variant:ident),* })*) => {$(
        impl Form for $name {
            fn wanted() -> String {
                format!("one of {}", [$(concat!("\"", $word, "\"")),*].join(", "))
            }

            fn schema() -> Value {
                json!({"type": "string", "enum": [$($word),*]})
            }

            fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
                read_text(value, reader, |text| match text {
                    $($word => Ok($name::$variant),)*
                    _ => {
                        let hint = hint(text, [$($word),*]);
                        Err(format!("{text:?} is not {}{hint}", Self::wanted()))
                    }
                })
            }
        }
    )*};
}
choice_forms! {
    TakeOut { "cluster" => Cluster, "batch" => Batch }
    OnFailure { "hold" => Hold, "rollback" => Rollback }
    NotifyOn { "completed" => Completed, "failed" => Failed, "recovered" => Recovered }
}

/// A sentence's end that says what `word` may have been meant to be, or nothing.
pub(super) fn hint<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    meant(word, known).map_or_else(String::new, |meant| format!("; did you mean `{meant}`?"))
}

impl Form for bool {
    fn wanted() -> String {
        "true or false".to_owned()
    }

    fn schema() -> Value {
        json!({"type": "boolean"})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let read = value.get_ref().as_bool();
        if read.is_none() {
            mistyped::<Self>(value, reader);
        }
        read
    }
}

/// A whole number, at least `MIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole<const MIN: u32>(pub u32);

impl<const MIN: u32> Form for Whole<MIN> {
    fn wanted() -> String {
        format!("a whole number, at least {MIN}")
    }

    fn schema() -> Value {
        json!({"type": "integer", "minimum": MIN, "maximum": COUNT_MAX})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        if !value.get_ref().is_integer() {
            mistyped::<Self>(value, reader);
        }
        read_count(value, reader, MIN).map(Self)
    }
}

/// The version of the format. What a later one means is not known, so it is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version;

impl Form for Version {
    fn wanted() -> String {
        "the whole number 1".to_owned()
    }

    fn schema() -> Value {
        json!({"type": "integer", "enum": [1]})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(version) = value.get_ref().as_integer() else {
            mistyped::<Self>(value, reader);
            return None;
        };
        if version.as_str() == "1" {
            return Some(Self);
        }
        reader.flaw(
            value.span(),
            format!(
                "version {version} of the format is not known to this evenkeel, only version 1; a \
                 later evenkeel may know it"
            ),
        );
        None
    }
}

/// A duration in milliseconds, at least `MIN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Millis<const MIN: u64>(pub u64);

impl<const MIN: u64> Form for Millis<MIN> {
    fn wanted() -> String {
        let least = if MIN > 0 { format!(", at least {MIN} ms") } else { String::new() };
        format!("a duration such as \"10s\" or \"1h 30m\"{least}")
    }

    fn schema() -> Value {
        // What no duration can do without: a unit.
        json!({"type": "string", "pattern": "[A-Za-zµ]"})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        if let Some(number) = value.get_ref().as_integer() {
            let key = reader.key;
            let message = format!(
                "`{key}` must be {}, not a number; write it in quotes and with a unit, as in \
                 \"{number}s\"",
                Self::wanted()
            );
            reader.flaw(value.span(), message);
            return None;
        }
        read_text(value, reader, |text| match parse_duration_ms(text)? {
            ms if ms >= MIN => Ok(Self(ms)),
            _ => Err(format!("{text:?} is too short; it must be at least {MIN} ms")),
        })
    }
}

/// Reads a count from `min` on, or a percentage from `min` on.
fn read_share<T: Form>(
    value: &Spanned<DeValue<'_>>,
    reader: &mut Reader<'_>,
    min: u32,
    make: impl FnOnce(Share) -> T,
) -> Option<T> {
    if value.get_ref().is_integer() {
        return read_count(value, reader, min).map(|count| make(Share::Count(count)));
    }
    read_text(value, reader, |text| {
        let percent = text.strip_suffix('%').filter(|digits| {
            (1..=3).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit())
        });
        match percent.and_then(|digits| digits.parse().ok()) {
            Some(percent) if (min..=100).contains(&percent) => Ok(make(Share::Percent(percent))),
            Some(_) => Err(format!("{text:?} is not between {min}% and 100%")),
            None if text.parse::<u32>().is_ok() => Err(format!(
                "{text:?} is neither a count nor a percentage; write {text} for a count, or \
                 \"{text}%\""
            )),
            None => Err(format!("{text:?} is not a percentage such as \"25%\"")),
        }
    })
}

fn share_schema(min: u32) -> Value {
    json!({"anyOf": [
        {"type": "integer", "minimum": min, "maximum": COUNT_MAX},
        {"type": "string", "pattern": "^[0-9]{1,3}%$"}
    ]})
}

/// A share as a floor: none is fine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Floor(pub Share);

impl Form for Floor {
    fn wanted() -> String {
        "a count or a percentage such as \"40%\"".to_owned()
    }

    fn schema() -> Value {
        share_schema(0)
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        read_share(value, reader, 0, Self)
    }
}

/// A share as a batch: without at least one nothing would ever be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batch(pub Share);

impl Form for Batch {
    fn wanted() -> String {
        "a count, at least 1, or a percentage such as \"25%\"".to_owned()
    }

    fn schema() -> Value {
        share_schema(1)
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        read_share(value, reader, 1, Self)
    }
}

impl Form for ServerTemplate {
    fn wanted() -> String {
        "a server name, with `{node}` or `{fact}` for a node's own values".to_owned()
    }

    fn schema() -> Value {
        json!({"type": "string", "minLength": 1})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(value, reader, |text| {
            // Rendered for a node that has every fact, so that the rules are those of the model.
            let words = text.split('{').skip(1).filter_map(|part| part.split_once('}'));
            let facts: BTreeMap<String, String> =
                words.map(|(word, _)| (word.to_owned(), "x".to_owned())).collect();
            if facts.contains_key("") {
                return Err(format!("{text:?} has an empty pair of braces"));
            }
            let template = Self(text.to_owned());
            let node = NodeName::new("x").map_err(|error| error.to_string())?;
            template.render(&node, &facts)?;
            Ok(template)
        })
    }
}

/// One line of free text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line(pub String);

impl Form for Line {
    fn wanted() -> String {
        format!("one line of text, at most {LINE_CHARS_MAX} characters")
    }

    fn schema() -> Value {
        json!({"type": "string", "maxLength": LINE_CHARS_MAX})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        read_text(value, reader, |text| {
            if text.chars().count() > LINE_CHARS_MAX || text.chars().any(char::is_control) {
                return Err(format!("this must be {}", Self::wanted()));
            }
            Ok(Self(text.to_owned()))
        })
    }
}

/// Facts and the values that they must have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Facts(pub BTreeMap<String, String>);

impl Form for Facts {
    fn wanted() -> String {
        "a table of facts and their values, such as { rack = \"r7\" }".to_owned()
    }

    fn schema() -> Value {
        let line = Line::schema();
        json!({"type": "object", "additionalProperties": line, "propertyNames": {"minLength": 1}})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(table) = value.get_ref().as_table() else {
            mistyped::<Self>(value, reader);
            return None;
        };
        let mut facts = BTreeMap::new();
        for (fact, wanted) in table {
            let name = fact.get_ref();
            if name.is_empty()
                || name.chars().count() > LINE_CHARS_MAX
                || name.chars().any(char::is_control)
            {
                let message = format!("`{}`: {name:?} cannot be the name of a fact", reader.key);
                reader.flaw(fact.span(), message);
            } else if let Some(Line(text)) = reader.part("a value in ", wanted) {
                facts.insert(name.to_string(), text);
            }
        }
        (facts.len() == table.len()).then_some(Self(facts))
    }
}

/// A list of at least `MIN` different values, each with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct List<T, const MIN: usize>(pub Vec<At<T>>);

impl<T: Ord, const MIN: usize> List<T, MIN> {
    /// The values alone.
    pub fn into_set(self) -> BTreeSet<T> {
        self.0.into_iter().map(|at| at.value).collect()
    }
}

impl<T: Form + Ord + Clone, const MIN: usize> Form for List<T, MIN> {
    fn wanted() -> String {
        let wanted = T::wanted();
        let least = if MIN > 0 { format!("; at least {MIN}") } else { String::new() };
        format!("a list, each element {wanted}{least}")
    }

    fn schema() -> Value {
        json!({"type": "array", "items": T::schema(), "uniqueItems": true, "minItems": MIN})
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(array) = value.get_ref().as_array() else {
            mistyped::<Self>(value, reader);
            return None;
        };
        let flaws_before = reader.flaws.len();
        let key = reader.key;
        let mut seen = BTreeSet::new();
        let mut items = Vec::new();
        for element in array.iter() {
            let Some(read) = reader.part::<T>("an element of ", element) else { continue };
            if !seen.insert(read.clone()) {
                reader.flaw(element.span(), format!("`{key}` lists this more than once"));
            }
            let place = Place::part(reader.file, element.span());
            items.push(At { value: read, key: place.clone(), place });
        }
        if array.len() < MIN {
            reader.flaw(value.span(), format!("`{key}` must list at least {MIN}"));
        }
        (reader.flaws.len() == flaws_before).then_some(Self(items))
    }
}

impl<T: Table> Form for T {
    fn wanted() -> String {
        "a table".to_owned()
    }

    fn schema() -> Value {
        let mut properties = Map::new();
        for field in T::fields() {
            let mut schema = field.schema;
            schema["description"] = field.doc.into();
            if let Need::Default(text) = field.need {
                schema["default"] = default_as_json(text);
            }
            properties.insert(field.key.to_owned(), schema);
        }
        json!({
            "type": "object",
            "description": T::about(),
            "properties": properties,
            "additionalProperties": false
        })
    }

    fn read(value: &Spanned<DeValue<'_>>, reader: &mut Reader<'_>) -> Option<Self> {
        let Some(keys) = value.get_ref().as_table() else {
            mistyped::<Self>(value, reader);
            return None;
        };
        let mut table = T::default();
        for (key, value) in keys {
            if !table.read_key(key, value, reader) {
                unknown_key(key, T::fields, reader);
            }
        }
        Some(table)
    }

    fn laid_over(self, under: Self) -> Self {
        Table::over(self, under)
    }
}

/// A default as JSON. Defaults are written as TOML, once.
fn default_as_json(text: &str) -> Value {
    let document = toml::from_str::<Map<String, Value>>(&format!("value = {text}"));
    document.ok().and_then(|mut table| table.remove("value")).unwrap_or_default()
}
