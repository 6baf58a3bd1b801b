//! What happened, as text: kept whole when somebody looks, and as a digest always.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The trace of one simulation.
pub struct Trace {
    loud: bool,
    digest: DefaultHasher,
    lines: u64,
    /// All of it, if it is kept.
    kept: Option<String>,
}

impl Trace {
    pub fn new(loud: bool) -> Self {
        Self { loud, digest: DefaultHasher::new(), lines: 0, kept: None }
    }

    /// From now on all of it is kept.
    pub fn keep(&mut self) {
        self.kept = Some(String::new());
    }

    pub fn is_loud(&self) -> bool {
        self.loud || self.kept.is_some()
    }

    pub fn line(&mut self, at_ms: u64, text: &str) {
        self.lines += 1;
        (at_ms, text).hash(&mut self.digest);
        if let Some(kept) = &mut self.kept {
            kept.push_str(&format!("{at_ms:>9} {text}\n"));
        }
        if self.loud {
            eprintln!("{at_ms:>9} {text}");
        }
    }

    pub fn digest(&self) -> u64 {
        self.digest.finish()
    }

    pub fn text(&self) -> &str {
        self.kept.as_deref().unwrap_or_default()
    }
}
