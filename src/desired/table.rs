//! How a table of keys is written down once, and then read, laid over another, and described.

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::fault::{Flaw, Place};
use super::form::Form;

/// What stands for a key that nobody wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// Nothing: it must be written, in one of the files that are merged.
    Required,
    /// Nothing, or what the key's text says.
    Optional,
    /// This, as TOML.
    Default(&'static str),
}

/// One key, described.
pub(super) struct Field {
    pub key: &'static str,
    /// What it means: its doc comment.
    pub doc: String,
    pub need: Need,
    /// What its value must be, in words that follow "must be".
    pub wanted: String,
    /// The same as JSON Schema.
    pub schema: serde_json::Value,
}

/// A table of keys. Implemented by [`table!`] alone.
pub(super) trait Table: Default {
    /// Its keys, in the order of the reference.
    fn fields() -> Vec<Field>;
    /// What the table is for.
    fn about() -> String;
    /// Reads one key; `false` if the table has no such key.
    fn read_key(
        &mut self,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
        reader: &mut Reader<'_>,
    ) -> bool;
    /// These keys, and `under`'s where nothing is said here.
    fn over(self, under: Self) -> Self;
    /// The required keys that nobody wrote.
    fn missing(&self) -> Vec<&'static str>;

    /// The table with nothing but its defaults.
    fn defaults() -> Self {
        let text: String = Self::fields()
            .iter()
            .filter_map(|field| match field.need {
                Need::Default(value) => Some(format!("{} = {value}\n", field.key)),
                Need::Required | Need::Optional => None,
            })
            .collect();
        let mut table = Self::default();
        let mut flaws = Vec::new();
        // A default that does not parse is caught by a test, and would leave its key without value.
        let (document, _) = DeTable::parse_recoverable(&text);
        for (key, value) in document.get_ref() {
            table.read_key(key, value, &mut Reader::new(0, &mut flaws));
        }
        table
    }
}

/// Declares tables: for each key its doc comment, the [`Form`] of its value, and its [`Need`].
macro_rules! table {
    ($($(#[doc = $about:literal])+ $name:ident {
        $($(#[doc = $doc:literal])+ $key:ident: $form:ty = $need:expr;)*
    })+) => {$(
        $(#[doc = $about])+
        #[derive(Debug, Clone, Default)]
        pub(super) struct $name {
            $($(#[doc = $doc])+ pub $key: Slot<$form>,)*
        }

        impl Table for $name {
            fn fields() -> Vec<Field> {
                vec![$(Field {
                    key: stringify!($key),
                    doc: concat!($($doc),+).trim().to_owned(),
                    need: $need,
                    wanted: <$form as Form>::wanted(),
                    schema: <$form as Form>::schema(),
                }),*]
            }

            fn about() -> String {
                concat!($($about),+).trim().to_owned()
            }

            fn read_key(
                &mut self,
                key: &Spanned<DeString<'_>>,
                value: &Spanned<DeValue<'_>>,
                reader: &mut Reader<'_>,
            ) -> bool {
                match &**key.get_ref() {
                    $(stringify!($key) => self.$key = reader.slot(stringify!($key), key, value),)*
                    _ => return false,
                }
                true
            }

            fn over(self, under: Self) -> Self {
                Self { $($key: self.$key.over(under.$key)),* }
            }

            fn missing(&self) -> Vec<&'static str> {
                let mut missing = Vec::new();
                $(if $need == Need::Required && matches!(self.$key, Slot::Absent) {
                    missing.push(stringify!($key));
                })*
                missing
            }
        }
    )+};
}
pub(super) use table;

/// A value, and who wrote it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct At<T> {
    pub value: T,
    /// The value itself.
    pub place: Place,
    /// Its key; for a table the name in its header.
    pub key: Place,
}

/// A key's value in one file, or in several laid over each other.
#[derive(Debug, Clone, Default)]
pub(super) enum Slot<T> {
    /// Nobody wrote it.
    #[default]
    Absent,
    /// Somebody did, and a flaw says what is wrong with it.
    Faulty,
    /// This.
    Given(At<T>),
}

impl<T> Slot<T> {
    /// The value, if it was given.
    pub fn get(self) -> Option<T> {
        match self {
            Self::Absent | Self::Faulty => None,
            Self::Given(at) => Some(at.value),
        }
    }

    /// The value and its places, if it was given.
    pub fn at(&self) -> Option<&At<T>> {
        match self {
            Self::Absent | Self::Faulty => None,
            Self::Given(at) => Some(at),
        }
    }

    /// Whether somebody wrote the key, rightly or wrongly.
    pub fn is_written(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Faulty | Self::Given(_) => true,
        }
    }
}

impl<T: Form> Slot<T> {
    /// This value over `under`. What is faulty stays so, lest it be called missing later.
    pub fn over(self, under: Self) -> Self {
        match (self, under) {
            (Self::Faulty, _) | (Self::Given(_), Self::Faulty) => Self::Faulty,
            (Self::Absent, under) => under,
            (over, Self::Absent) => over,
            (Self::Given(over), Self::Given(under)) => {
                Self::Given(At { value: over.value.laid_over(under.value), ..over })
            }
        }
    }
}

/// Reads one file, and takes down what is wrong.
pub(super) struct Reader<'a> {
    /// Which of the app's sources.
    pub file: usize,
    /// The key that is being read.
    pub key: &'static str,
    /// What of its value is being read, in words that go before the key; empty: all of it.
    pub part: &'static str,
    pub flaws: &'a mut Vec<Flaw>,
}

impl<'a> Reader<'a> {
    /// Reads the given one of the app's sources.
    pub fn new(file: usize, flaws: &'a mut Vec<Flaw>) -> Self {
        Self { file, key: "", part: "", flaws }
    }

    /// Takes down a flaw.
    pub fn flaw(&mut self, span: std::ops::Range<usize>, message: String) {
        self.flaws.push(Flaw { place: Place::part(self.file, span), message });
    }

    /// Reads a part of a key's value.
    pub fn part<T: Form>(&mut self, part: &'static str, value: &Spanned<DeValue<'_>>) -> Option<T> {
        let outer = std::mem::replace(&mut self.part, part);
        let read = T::read(value, self);
        self.part = outer;
        read
    }

    /// Reads the value of a key.
    pub fn slot<T: Form>(
        &mut self,
        name: &'static str,
        key: &Spanned<DeString<'_>>,
        value: &Spanned<DeValue<'_>>,
    ) -> Slot<T> {
        self.key = name;
        match T::read(value, self) {
            None => Slot::Faulty,
            Some(read) => Slot::Given(At {
                value: read,
                place: Place::part(self.file, value.span()),
                key: Place::part(self.file, key.span()),
            }),
        }
    }
}

/// The one of `known` that `word` may have been meant to be.
pub(super) fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A third of the letters may be wrong; with more, the hint would be a guess.
    let tolerance = (word.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= tolerance)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions and replacements from `a` to `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, letter) in a.chars().enumerate().take(200) {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_words_are_hinted_at_and_far_ones_are_not() {
        let known = ["revision", "expect", "nodes", "hold"];
        assert_eq!(meant("revison", known), Some("revision"));
        assert_eq!(meant("node", known), Some("nodes"));
        assert_eq!(meant("hodl", known), None);
        assert_eq!(meant("colour", known), None);
    }
}
