//! A disk that keeps what was written as a file would give it back, and can be full, torn or lost.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One file, replaced as a whole.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    text: Option<String>,
    pub full: bool,
}

impl Disk {
    /// Replaces the file; what was there before is intact when this fails.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), String> {
        if self.full {
            return Err("no space left on device".to_owned());
        }
        self.text = Some(serde_json::to_string(value).expect("it has a form in JSON"));
        Ok(())
    }

    /// What was written last; none if there is nothing, or nothing that can be read.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_str(self.text.as_deref()?).ok()
    }

    /// A crash in the middle of a write that was not atomic, or a bad block.
    pub fn tear(&mut self) {
        if let Some(text) = &mut self.text {
            text.truncate(text.len() / 2);
        }
    }

    /// There is nothing to be read.
    pub fn is_lost(&self) -> bool {
        self.read::<serde_json::Value>().is_none()
    }

    pub fn wipe(&mut self) {
        self.text = None;
    }
}
