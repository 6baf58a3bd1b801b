//! A disk that keeps what was written as two files that are overwritten in turn would give it back, and can be full,
//! torn or lost.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// The two files.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    slots: [Option<String>; 2],
    /// The slot that was written last.
    newest: usize,
    /// Nobody has been told yet that the last write is on disk.
    under_way: bool,
    pub full: bool,
}

impl Disk {
    /// Writes over the older file; what was there before is intact when this fails.
    pub fn write(&mut self, value: &impl Serialize) -> Result<(), String> {
        if self.full {
            return Err("no space left on device".to_owned());
        }
        self.newest = 1 - self.newest;
        self.slots[self.newest] =
            Some(serde_json::to_string(value).expect("it has a form in JSON"));
        self.under_way = true;
        Ok(())
    }

    /// The last write has been flushed, and its writer knows.
    pub fn flushed(&mut self) {
        self.under_way = false;
    }

    /// What was written last, or before that where it is not whole; none if there is nothing, or nothing that can be
    /// read.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        let of = |slot: &Option<String>| serde_json::from_str(slot.as_deref()?).ok();
        of(&self.slots[self.newest]).or_else(|| of(&self.slots[1 - self.newest]))
    }

    /// The power goes: a write that was not flushed yet is on disk in part. What was is left whole.
    pub fn tear(&mut self) {
        if let Some(text) = self.slots[self.newest].as_mut().filter(|_| self.under_way) {
            text.truncate(text.len() / 2);
            self.newest = 1 - self.newest;
        }
        self.under_way = false;
    }

    /// There is nothing to be read.
    pub fn is_lost(&self) -> bool {
        self.read::<serde_json::Value>().is_none()
    }

    pub fn wipe(&mut self) {
        *self = Self { full: self.full, ..Self::default() };
    }
}
