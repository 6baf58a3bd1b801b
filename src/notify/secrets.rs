//! What must not be seen in an error: everything that an entry or a URL gives.

use std::collections::BTreeSet;

use reqwest::Url;

use super::target::percent;

/// The texts to strike out. Which of an entry's values are secret nobody can tell (an ntfy topic is
/// as good as a password), so all of them are.
#[derive(Default)]
pub(super) struct Secrets(BTreeSet<String>);

/// Tokens in a path are longer than this, and words such as `publicapi` in an answer stay readable.
const SEGMENT_BYTES_MIN: usize = 8;

impl Secrets {
    pub(super) fn new(values: impl Iterator<Item = String>) -> Secrets {
        let mut secrets = Secrets::default();
        values.for_each(|value| secrets.add(&value));
        secrets
    }

    fn add(&mut self, text: &str) {
        for text in [text.to_owned(), percent(text)] {
            if !text.is_empty() {
                self.0.insert(text);
            }
        }
    }

    /// Path and query of a URL: a webhook's URL is its password.
    pub(super) fn add_url(&mut self, url: &Url) {
        self.add(url.query().unwrap_or_default());
        for (_, value) in url.query_pairs() {
            self.add(&value);
        }
        for segment in url.path().split('/').filter(|part| part.len() >= SEGMENT_BYTES_MIN) {
            self.add(segment);
        }
    }

    /// The words of a header.
    pub(super) fn add_header(&mut self, literal: &str) {
        for word in literal.split_whitespace().filter(|word| word.len() >= SEGMENT_BYTES_MIN) {
            self.add(word);
        }
    }

    /// `text` with every secret struck out, the longest first.
    pub(super) fn strike(&self, text: &str) -> String {
        let mut secrets: Vec<&String> = self.0.iter().collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
        secrets.iter().fold(text.to_owned(), |text, secret| text.replace(*secret, "***"))
    }
}
