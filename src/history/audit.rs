//! Files of lines that are only ever added to: the audit trails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::entry::Entry;
use super::sink::Place;
use crate::model::Wall;

/// Who keeps the file from growing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// Somebody else, such as logrotate: when the file is renamed or removed, a new one is begun.
    Elsewhere,
    /// We: a file that would be larger than this becomes `<file>.1`, in the place of the one before.
    At {
        /// In bytes.
        bytes_max: u64,
    },
}

/// What was attempted on which audit trail, and why it did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the audit trail {}", path.display())]
pub struct AuditError {
    what: &'static str,
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// A file of lines.
#[derive(Debug)]
pub struct Lines {
    path: PathBuf,
    rotation: Rotation,
    open: Option<File>,
    /// The file may end in the middle of a line.
    torn: bool,
}

impl Lines {
    /// Lines of the file at `path`, which is opened, or made with mode 0600, by the first of them.
    pub fn new(path: PathBuf, rotation: Rotation) -> Lines {
        Lines { path, rotation, open: None, torn: false }
    }

    /// Opens the file, if that has not been done.
    ///
    /// # Errors
    /// [`AuditError`]
    pub fn open(&mut self) -> Result<(), AuditError> {
        self.opened().map(|_| ())
    }

    /// Adds whole lines, each with its end; all of them, or none. They reach the disk when the system writes them.
    ///
    /// # Errors
    /// [`AuditError`]
    pub fn append(&mut self, lines: &[u8]) -> Result<(), AuditError> {
        let result = self.try_append(lines);
        if result.is_err() {
            // Whatever is wrong with it, the next try begins anew.
            self.open = None;
        }
        result
    }

    fn try_append(&mut self, lines: &[u8]) -> Result<(), AuditError> {
        self.let_go_if_rotated();
        let mut size = self.opened()?;
        if let Rotation::At { bytes_max } = self.rotation
            && size > 0
            && size.saturating_add(lines.len() as u64) > bytes_max
        {
            let older = older(&self.path);
            fs::rename(&self.path, older).map_err(self.failed("rotate"))?;
            (self.open, self.torn) = (None, false);
            size = self.opened()?;
        }
        let Some(file) = self.open.as_mut() else { return Ok(()) };
        let end: &[u8] = if self.torn { b"\n" } else { b"" };
        match file.write_all(&[end, lines].concat()) {
            Ok(()) => {
                self.torn = false;
                Ok(())
            }
            Err(error) => {
                // A part of it may be there: it would come twice, and might end within a line.
                self.torn = file.set_len(size).is_err();
                Err(self.failed("write")(error))
            }
        }
    }

    /// Opens the file unless it is open; says how large it is.
    fn opened(&mut self) -> Result<u64, AuditError> {
        if self.open.is_none() {
            let mut options = OpenOptions::new();
            let file = options.create(true).append(true).mode(0o600).open(&self.path);
            self.open = Some(file.map_err(self.failed("open"))?);
        }
        let size = self.open.as_ref().map_or(Ok(0), |file| Ok(file.metadata()?.len()));
        size.map_err(self.failed("look at"))
    }

    /// What is at the path is not what is open: somebody has rotated it.
    fn let_go_if_rotated(&mut self) {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let Some(file) = &self.open else { return };
        let ours = file.metadata().map(identity).ok();
        let there = fs::metadata(&self.path).map(identity).ok();
        if ours.is_none() || ours != there {
            (self.open, self.torn) = (None, false);
        }
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> AuditError + use<> {
        let path = self.path.clone();
        move |error| AuditError { what, path, error }
    }
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// An entry as a line of the audit trail.
#[derive(Serialize)]
struct Line<'a> {
    /// RFC 3339, UTC, to the millisecond: for people, and for what collects logs.
    time: String,
    #[serde(flatten)]
    entry: &'a Entry,
}

/// The time for people, to the millisecond.
pub(crate) fn time(at: Wall) -> String {
    let ms = i64::try_from(at.0).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(ms)
        .map_or_else(|_| format!("{ms} ms"), |time| format!("{time:.3}"))
}

/// The audit trail of the controller.
pub(super) struct Audit(pub Lines);

impl Place for Audit {
    const NAME: &'static str = "audit trail";

    fn write(&mut self, entries: &[Entry]) -> Result<(), String> {
        let mut lines = Vec::new();
        for entry in entries {
            let line = Line { time: time(entry.at), entry };
            serde_json::to_writer(&mut lines, &line).map_err(|error| error.to_string())?;
            lines.push(b'\n');
        }
        self.0.append(&lines).map_err(|error| crate::command::chain(&error))
    }

    fn tend(&mut self, _now: Wall) -> Result<bool, String> {
        // Opened before there is anything to write: what is wrong with it is told at the start.
        self.0.open().map_err(|error| crate::command::chain(&error))?;
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(path: &Path) -> String {
        fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_file_that_was_rotated_away_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut lines = Lines::new(path.clone(), Rotation::Elsewhere);
        lines.append(b"one\n").unwrap();
        fs::rename(&path, folder.path().join("audit.log.old")).unwrap();
        lines.append(b"two\n").unwrap();
        fs::remove_file(&path).unwrap();
        lines.append(b"three\n").unwrap();
        lines.append(b"four\n").unwrap();
        assert_eq!(read(&folder.path().join("audit.log.old")), "one\n");
        assert_eq!(read(&path), "three\nfour\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        drop(lines);
        Lines::new(path.clone(), Rotation::Elsewhere).append(b"five\n").unwrap();
        assert_eq!(read(&path), "three\nfour\nfive\n", "what was there stays");
    }

    #[test]
    fn our_own_rotation_keeps_one_file_beside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut lines = Lines::new(path.clone(), Rotation::At { bytes_max: 10 });
        for line in ["1234\n", "5678\n", "9\n", "a line that is too long\n", "end\n"] {
            lines.append(line.as_bytes()).unwrap();
        }
        assert_eq!(read(&path), "end\n");
        assert_eq!(read(&older(&path)), "a line that is too long\n");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_disk_that_is_full_is_an_error_in_words() {
        let mut lines = Lines::new("/dev/full".into(), Rotation::Elsewhere);
        let error = lines.append(b"one\n").unwrap_err();
        let words = crate::command::chain(&error);
        assert!(words.starts_with("cannot write the audit trail /dev/full: "), "{words}");
    }

    /// As on a disk that takes a part of it.
    #[test]
    fn what_was_written_by_half_is_taken_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut lines = Lines::new(path.clone(), Rotation::Elsewhere);
        lines.append(b"whole\n").unwrap();
        lines.torn = true;
        fs::write(&path, "whole\nhal").unwrap();
        lines.append(b"next\n").unwrap();
        assert_eq!(read(&path), "whole\nhal\nnext\n", "a torn line stays alone");
    }
}
