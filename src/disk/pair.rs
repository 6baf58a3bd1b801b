//! A document in two files that are overwritten in turn: the newest whole one counts.
//!
//! Principle: what is valid is never touched, so that a torn write costs nothing but itself. Once the files are
//! there, a write is one flush of data. Replacing a file is two, and both wait for the file system's
//! journal, which all processes of a machine share; that is the price of names, and nobody needs a new one here.
//!
//! ```text
//! NAME.a   evenkeel 41 1873 9f86d081…     sequence, bytes, SHA-256 of both and the content
//!          {"version":1,…}                the content, then blanks
//! NAME.b   evenkeel 42 1880 60303ae2…
//!          {"version":1,…}
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{DiskError, failed, sync_folder};

/// Files grow by this many bytes, so that few writes change a length, which is what the journal would be
/// needed for. A block of most file systems.
const STEP: usize = 4096;

/// The first word, so that a file of somebody else's is not taken for ours.
const MAGIC: &str = "evenkeel";

/// The two files, open.
#[derive(Debug)]
pub struct Pair {
    slots: [Slot; 2],
    /// The slot that is written next: the one that does not hold the newest.
    next: usize,
    /// Of the newest.
    sequence: u64,
}

#[derive(Debug)]
struct Slot {
    path: PathBuf,
    file: File,
    /// Its length, as far as it was ours to see.
    bytes: usize,
}

/// What was found in them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Nothing was ever written.
    Nothing,
    /// The newest whole content.
    Whole(Vec<u8>),
    /// Something that is not whole, or not ours, and nothing else.
    Torn,
}

impl Pair {
    /// Opens `folder/name.a` and `folder/name.b`, made if they are missing, and reads them. A
    /// file of more than `bytes_max` bytes counts as torn. Nothing but this pair may write to them.
    ///
    /// # Errors
    /// [`DiskError`]
    pub fn open(folder: &Path, name: &str, bytes_max: u64) -> Result<(Pair, Found), DiskError> {
        let open = |end: &str| {
            let path = folder.join(format!("{name}.{end}"));
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(&path)
                .map_err(failed("open", &path))?;
            Ok(Slot { path, file, bytes: 0 })
        };
        let mut slots = [open("a")?, open("b")?];
        sync_folder(folder)?;
        let contents = [slots[0].read(bytes_max)?, slots[1].read(bytes_max)?];
        let empty = slots.iter().all(|slot| slot.bytes == 0);
        let newest = match &contents {
            [Some((a, _)), Some((b, _))] => Some(usize::from(b > a)),
            [Some(_), None] => Some(0),
            [None, Some(_)] => Some(1),
            [None, None] => None,
        };
        let [a, b] = contents;
        let (next, sequence, found) = match newest.and_then(|slot| if slot == 0 { a } else { b }) {
            Some((sequence, content)) => {
                (usize::from(newest == Some(0)), sequence, Found::Whole(content))
            }
            None if empty => (0, 0, Found::Nothing),
            None => (0, 0, Found::Torn),
        };
        Ok((Pair { slots, next, sequence }, found))
    }

    /// Moves the files aside, to `NAME.a.bad` and `NAME.b.bad`, over what is there.
    ///
    /// # Errors
    /// [`DiskError`]
    pub fn set_aside(folder: &Path, name: &str) -> Result<(), DiskError> {
        for end in ["a", "b"] {
            let path = folder.join(format!("{name}.{end}"));
            let bad = folder.join(format!("{name}.{end}.bad"));
            fs::rename(&path, bad).map_err(failed("move aside", &path))?;
        }
        Ok(())
    }

    /// Writes `content`. When this returns, it survives a crash; until then, and if it fails, what was
    /// written before does.
    ///
    /// # Errors
    /// [`DiskError`]
    pub fn write(&mut self, content: &[u8]) -> Result<(), DiskError> {
        let sequence = self.sequence + 1;
        let slot = &mut self.slots[self.next];
        let mut bytes = head(sequence, content).into_bytes();
        bytes.extend_from_slice(content);
        bytes.push(b'\n');
        // Over whatever is longer in there.
        let whole = bytes.len().next_multiple_of(STEP).max(slot.bytes);
        bytes.resize(whole, b' ');
        slot.file.write_all_at(&bytes, 0).map_err(failed("write", &slot.path))?;
        slot.file.sync_data().map_err(failed("sync", &slot.path))?;
        slot.bytes = whole;
        // Not before it is whole: a slot that failed is the one to write again.
        self.next = 1 - self.next;
        self.sequence = sequence;
        Ok(())
    }
}

impl Slot {
    /// Sequence and content, if it is whole.
    fn read(&mut self, bytes_max: u64) -> Result<Option<(u64, Vec<u8>)>, DiskError> {
        let mut bytes = Vec::new();
        (&self.file)
            .take(bytes_max.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(failed("read", &self.path))?;
        self.bytes = bytes.len();
        Ok((bytes.len() as u64 <= bytes_max).then(|| parse(&bytes)).flatten())
    }
}

/// The first line of a slot.
fn head(sequence: u64, content: &[u8]) -> String {
    let bytes = content.len();
    let mut hash = Sha256::new();
    hash.update(format!("{sequence} {bytes}\n"));
    hash.update(content);
    let hash: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{MAGIC} {sequence} {bytes} {hash}\n")
}

fn parse(bytes: &[u8]) -> Option<(u64, Vec<u8>)> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let line = std::str::from_utf8(&bytes[..=end]).ok()?;
    let mut words = line.split_whitespace().skip(1);
    let sequence: u64 = words.next()?.parse().ok()?;
    let length: usize = words.next()?.parse().ok()?;
    let content = bytes[end + 1..].get(..length)?;
    (head(sequence, content) == line).then(|| (sequence, content.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: u64 = 1 << 20;

    fn open(folder: &Path) -> (Pair, Found) {
        Pair::open(folder, "memory", MAX).unwrap()
    }

    fn found(folder: &Path) -> Found {
        open(folder).1
    }

    fn whole(text: &str) -> Found {
        Found::Whole(text.as_bytes().to_vec())
    }

    fn slot(folder: &Path, end: &str) -> PathBuf {
        folder.join(format!("memory.{end}"))
    }

    #[test]
    fn the_newest_is_found_whatever_its_length() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(found(folder.path()), Found::Nothing);
        let long = "long ".repeat(2_000);
        let (mut pair, _) = open(folder.path());
        for text in ["one", &long, "three", "", "five"] {
            pair.write(text.as_bytes()).unwrap();
            assert_eq!(found(folder.path()), whole(text));
        }
        // Opened anew it goes on where it was.
        for text in ["six", "seven"] {
            open(folder.path()).0.write(text.as_bytes()).unwrap();
            assert_eq!(found(folder.path()), whole(text));
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_write_torn_anywhere_leaves_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let (mut pair, _) = open(folder.path());
        pair.write(b"one").unwrap();
        pair.write(b"two, longer").unwrap();
        let before = fs::read(slot(folder.path(), "a")).unwrap();
        pair.write(b"three, longer still").unwrap();
        let after = fs::read(slot(folder.path(), "a")).unwrap();
        let end = after.iter().rposition(|byte| *byte != b' ').unwrap();
        for torn in 0..end {
            let mixed = [&after[..torn], &before[torn..]].concat();
            fs::write(slot(folder.path(), "a"), &mixed).unwrap();
            assert_eq!(found(folder.path()), whole("two, longer"), "after {torn} bytes");
            fs::write(slot(folder.path(), "a"), &after[..torn]).unwrap();
            assert_eq!(found(folder.path()), whole("two, longer"), "cut after {torn} bytes");
        }
        // What is written next goes over the torn one, never over the whole one.
        open(folder.path()).0.write(b"three again").unwrap();
        assert_eq!(found(folder.path()), whole("three again"));
        fs::write(slot(folder.path(), "a"), "").unwrap();
        assert_eq!(found(folder.path()), whole("two, longer"));
    }

    #[test]
    fn what_is_not_ours_is_torn_and_set_aside() {
        for text in ["x", "evenkeel 1 3 abc\none", "\n", "evenkeel 18446744073709551616 0 0\n"] {
            let folder = tempfile::tempdir().unwrap();
            fs::write(slot(folder.path(), "b"), text).unwrap();
            assert_eq!(found(folder.path()), Found::Torn, "{text:?}");
            Pair::set_aside(folder.path(), "memory").unwrap();
            assert_eq!(found(folder.path()), Found::Nothing, "{text:?}");
            let bad = fs::read_to_string(slot(folder.path(), "b.bad")).unwrap();
            assert_eq!(bad, text);
        }
        let folder = tempfile::tempdir().unwrap();
        open(folder.path()).0.write(&vec![b'x'; 5_000]).unwrap();
        let (_, found) = Pair::open(folder.path(), "memory", 4_999).unwrap();
        assert_eq!(found, Found::Torn, "too large");
    }

    #[test]
    fn a_write_that_fails_is_told_and_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (mut pair, _) = open(folder.path());
        pair.write(b"one").unwrap();
        // The device that is always full stands for a full disk.
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let file = std::mem::replace(&mut pair.slots[1].file, full);
        let error = pair.write(b"two").unwrap_err();
        assert_eq!(error.to_string(), format!("cannot write {}", pair.slots[1].path.display()));
        assert_eq!(found(folder.path()), whole("one"));
        pair.slots[1].file = file;
        pair.write(b"three").unwrap();
        assert_eq!(found(folder.path()), whole("three"));
    }

    #[test]
    fn a_folder_in_its_place_is_named() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(slot(folder.path(), "a")).unwrap();
        let error = Pair::open(folder.path(), "memory", MAX).unwrap_err();
        assert!(error.to_string().ends_with("/memory.a"), "{error}");
    }
}
