//! Reads a desired directory whole: which folders, which files, what they say; nothing of what it
//! means.
//!
//! Links are followed, as Kubernetes mounts consist of them; only two levels are looked at, so that
//! links cannot lead round in a circle.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use sha2::{Digest as _, Sha256};

/// A desired file has some twenty keys and lists of names; 1 MiB holds ten thousand names.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// All files together: what a controller can hold in memory, and hash in a blink.
const TREE_BYTES_MAX: u64 = 64 << 20;

/// Entries of all folders together. More is the wrong directory.
const ENTRIES_MAX: usize = 20_000;

/// A desired directory's content.
#[derive(Debug)]
pub(super) struct Tree {
    /// The folders with at least one `.toml` file, or that could not be read, by name.
    pub folders: BTreeMap<String, Folder>,
    /// What is wrong outside of any folder: where, relative to the directory, and in words.
    pub faults: Vec<(String, String)>,
    /// Of all of the above.
    pub digest: Digest,
}

impl Tree {
    /// The tree of these files: folder, name, content.
    pub(super) fn of<'a>(files: impl IntoIterator<Item = (&'a str, &'a str, &'a [u8])>) -> Tree {
        let mut folders: BTreeMap<String, Folder> = BTreeMap::new();
        for (folder, file, content) in files {
            let folder = folders.entry(folder.to_owned()).or_default();
            folder.insert(file.to_owned(), Ok(content.to_owned()));
        }
        let digest = digest(&folders, &[]);
        Tree { folders, faults: Vec::new(), digest }
    }
}

/// One app's folder: its `.toml` files by name, and why one could not be read. Where the folder
/// itself could not be read whole, that stands under the empty name.
pub(super) type Folder = BTreeMap<String, Result<Vec<u8>, String>>;

/// A hash of all that was read; equal ones mean equal content.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(String);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Reads the directory.
pub(super) fn read(dir: &Path) -> Tree {
    let mut reading = Reading { entries_left: ENTRIES_MAX, bytes_left: TREE_BYTES_MAX };
    let mut folders = BTreeMap::new();
    let mut faults = Vec::new();
    let (names, error) = reading.names(dir);
    if let Some(error) = error {
        faults.push((".".to_owned(), error));
    }
    for name in names {
        let path = dir.join(&name);
        match fs::metadata(&path) {
            Ok(kind) if kind.is_dir() => {
                let folder = reading.folder(&path);
                if !folder.is_empty() {
                    folders.insert(name, folder);
                }
            }
            Ok(_) if is_toml(&name) => {
                let message = "this file is in no app's folder; a folder beside it, named as the \
                               app, is where it belongs";
                faults.push((name, message.to_owned()));
            }
            Ok(_) => {}
            Err(_) if has_gone(&path) => {}
            Err(error) => faults.push((name, format!("this cannot be read: {error}"))),
        }
    }
    let digest = digest(&folders, &faults);
    Tree { folders, faults, digest }
}

/// What may still be read.
struct Reading {
    entries_left: usize,
    bytes_left: u64,
}

impl Reading {
    /// The names in a directory that are not hidden, in order; and why it could not be read to its
    /// end, if so.
    fn names(&mut self, dir: &Path) -> (Vec<String>, Option<String>) {
        let mut names = Vec::new();
        let listed = fs::read_dir(dir).and_then(|entries| {
            for entry in entries {
                if self.entries_left == 0 {
                    return Err(io::Error::other(format!(
                        "there are more than {ENTRIES_MAX} entries in it and its folders; is it \
                         the right directory?"
                    )));
                }
                self.entries_left -= 1;
                let name = entry?.file_name().to_string_lossy().into_owned();
                if !name.starts_with('.') {
                    names.push(name);
                }
            }
            Ok(())
        });
        names.sort();
        let shown = dir.display();
        (names, listed.err().map(|error| format!("the directory {shown} cannot be read: {error}")))
    }

    fn folder(&mut self, path: &Path) -> Folder {
        let mut folder = Folder::new();
        let (names, error) = self.names(path);
        if let Some(error) = error
            && !has_gone(path)
        {
            folder.insert(String::new(), Err(error));
        }
        for name in names.into_iter().filter(|name| is_toml(name)) {
            let path = path.join(&name);
            match self.file(&path) {
                Err(_) if has_gone(&path) => {}
                read => {
                    let read = read.map_err(|error| format!("this file cannot be read: {error}"));
                    folder.insert(name, read);
                }
            }
        }
        folder
    }

    fn file(&mut self, path: &Path) -> io::Result<Vec<u8>> {
        // Opening a pipe would wait for its other end, were it not for this flag.
        let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_BYTES_MAX {
            return Err(io::Error::other(format!("it is larger than {FILE_BYTES_MAX} bytes")));
        }
        self.bytes_left = self.bytes_left.checked_sub(bytes.len() as u64).ok_or_else(|| {
            io::Error::other(format!("all files together are larger than {TREE_BYTES_MAX} bytes"))
        })?;
        Ok(bytes)
    }
}

fn is_toml(name: &str) -> bool {
    name.ends_with(".toml")
}

/// Whether there is nothing by this name, not even a link that leads nowhere: then it went away
/// between listing and reading, and is as if it had never been.
fn has_gone(path: &Path) -> bool {
    fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
}

fn digest(folders: &BTreeMap<String, Folder>, faults: &[(String, String)]) -> Digest {
    let mut hash = Sha256::new();
    // A mark and a length before each part, so that no two trees give the same bytes.
    let mut add = |mark: u8, part: &[u8]| {
        hash.update([mark]);
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    };
    for (name, folder) in folders {
        add(b'd', name.as_bytes());
        for (file, content) in folder {
            add(b'f', file.as_bytes());
            match content {
                Ok(bytes) => add(b'+', bytes),
                Err(error) => add(b'-', error.as_bytes()),
            }
        }
    }
    for (place, message) in faults {
        add(b'p', place.as_bytes());
        add(b'm', message.as_bytes());
    }
    Digest(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
