//! Unpacks an archive into an empty folder, out of which no entry may lead.
//!
//! The folder is ours alone while it is filled, so what is in it is what earlier entries put there:
//! - A path consists of plain names; `..` and absolute paths are refused.
//! - Every folder on the way must be a true folder, so nothing is written through a link.
//! - A file is made anew, never opened; where something stood, it is removed first.
//! - A symbolic link is relative; `..` stands only at its beginning, and leads no higher than the
//!   top. Such a link stays inside: it climbs true folders, and from there descends by names that
//!   are folders or, again, such links. (`a/..` would not do: where `a` is a link that climbs, its
//!   `..` is outside.)
//! - A hard link names a true file that is already there.
//! - Devices, pipes and whatever else there is are refused.
//!
//! Owners are not restored, set-id and sticky bits and the write bits of group and others are
//! dropped, as for tar(1) of a plain user with umask 022. Refusing comes before cleverness: an
//! archive that needs more than this is told so.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, BufReader, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use flate2::read::MultiGzDecoder;
use tar::{Archive, Entry, EntryType, PaxExtensions};

/// How many entries an archive may have: a large tree of small files has tens of thousands, and
/// every one takes an inode.
const ENTRIES_MAX: usize = 250_000;

/// The largest extension header (a long path or link, or a set of attributes), in bytes; Linux's
/// paths end at 4096.
const EXTENSION_BYTES_MAX: u64 = 64 * 1024;

/// Why an archive was not unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It is no archive, is cut off, is larger than is allowed, or the work was stopped.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// The disk does not take an entry, or something stands in its way.
    #[error("the archive's entry {} cannot be written", path.display())]
    Write {
        /// The entry's path, as the archive has it.
        path: PathBuf,
        /// The system's error.
        #[source]
        source: io::Error,
    },
    /// An entry is of a kind, or leads to a place, that no release needs.
    #[error("the archive's entry {} is refused: {why}", path.display())]
    Refused {
        /// The entry's path, as the archive has it.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// There are too many.
    #[error("the archive has more than {ENTRIES_MAX} entries")]
    Entries,
}

/// Unpacks the tar archive at `archive`, gzipped or not, into the empty folder `tree`, and stops
/// early when `stop` is set. The archive may have `bytes_max` when it is not gzipped.
///
/// # Errors
/// [`UnpackError`]; what came before the fault is in the folder then.
pub fn unpack(
    archive: &Path,
    tree: &Path,
    bytes_max: u64,
    stop: &AtomicBool,
) -> Result<(), UnpackError> {
    let packed = open(archive).map_err(UnpackError::Read)?;
    let mut archive = Archive::new(Metered { from: packed, left: bytes_max, stop });
    let mut unpacker = Unpacker { tree, path: None, link: None, entries: 0 };
    // Raw, so that long names are read by us, with a bound, and sparse files are seen as such.
    let entries = archive.entries().map_err(UnpackError::Read)?.raw(true);
    for entry in entries {
        unpacker.entry(&mut entry.map_err(UnpackError::Read)?)?;
    }
    if unpacker.entries == 0 {
        return Err(UnpackError::Read(io::Error::other("it holds no entry")));
    }
    Ok(())
}

/// The archive as tar, told by its first bytes (RFC 1952, 2.3.1: 1f 8b).
fn open(archive: &Path) -> io::Result<Box<dyn Read>> {
    let mut reader = BufReader::with_capacity(64 * 1024, File::open(archive)?);
    let gzipped = io::BufRead::fill_buf(&mut reader)?.starts_with(&[0x1f, 0x8b]);
    Ok(if gzipped { Box::new(MultiGzDecoder::new(reader)) } else { Box::new(reader) })
}

/// Reads on until the bound is reached or it is told to stop.
struct Metered<'a> {
    from: Box<dyn Read>,
    left: u64,
    stop: &'a AtomicBool,
}

impl Read for Metered<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(io::Error::other("the attempt was given up"));
        }
        let length = self.from.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            io::Error::other("unpacked, it is larger than release.size_max allows")
        })?;
        Ok(length)
    }
}

struct Unpacker<'a> {
    tree: &'a Path,
    /// A long path for the next entry.
    path: Option<Vec<u8>>,
    /// A long link for the next entry.
    link: Option<Vec<u8>>,
    entries: usize,
}

impl Unpacker<'_> {
    fn entry(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        self.entries += 1;
        if self.entries > ENTRIES_MAX {
            return Err(UnpackError::Entries);
        }
        match entry.header().entry_type() {
            // Attributes for all entries; `git archive` notes its commit so.
            EntryType::XGlobalHeader => Ok(()),
            EntryType::GNULongName => {
                self.path = Some(extension(entry)?);
                Ok(())
            }
            EntryType::GNULongLink => {
                self.link = Some(extension(entry)?);
                Ok(())
            }
            EntryType::XHeader => self.attributes(entry),
            kind => {
                let path = self.path.take().unwrap_or_else(|| entry.path_bytes().into_owned());
                let link = self.link.take().or_else(|| entry.link_name_bytes().map(Into::into));
                // Before POSIX, a folder was a file with a slash at its end.
                let kind = match kind {
                    EntryType::Regular if path.ends_with(b"/") => EntryType::Directory,
                    kind => kind,
                };
                self.place(kind, &path_of(&path), link.as_deref().map(path_of), entry)
            }
        }
    }

    fn attributes(&mut self, entry: &mut Entry<'_, impl Read>) -> Result<(), UnpackError> {
        let data = extension(entry)?;
        for attribute in PaxExtensions::new(&data) {
            let attribute = attribute.map_err(UnpackError::Read)?;
            let refused = |why| UnpackError::Refused { path: path_of(&data), why };
            match attribute.key_bytes() {
                b"path" => self.path = Some(attribute.value_bytes().to_vec()),
                b"linkpath" => self.link = Some(attribute.value_bytes().to_vec()),
                b"size" => return Err(refused("its size does not fit into its header")),
                key if key.starts_with(b"GNU.sparse.") => {
                    return Err(refused("sparse files are not supported"));
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn place(
        &self,
        kind: EntryType,
        path: &Path,
        link: Option<PathBuf>,
        entry: &mut Entry<'_, impl Read>,
    ) -> Result<(), UnpackError> {
        let refused = |why| UnpackError::Refused { path: path.to_owned(), why };
        let written = |source| UnpackError::Write { path: path.to_owned(), source };
        let inner = inner(path).ok_or_else(|| refused("its path leads out of the release"))?;
        if inner == Path::new(super::release::MARKER) {
            return Err(refused("its name is reserved"));
        }
        if kind == EntryType::Directory {
            return self.folder(&inner, Some(entry.header())).map_err(written);
        }
        let Some(name) = inner.file_name() else { return Err(refused("it has no name")) };
        let parent = inner.parent().unwrap_or(Path::new(""));
        self.folder(parent, None).map_err(written)?;
        let target = self.tree.join(parent).join(name);
        vacate(&target).map_err(written)?;
        match (kind, link) {
            (EntryType::Regular | EntryType::Continuous, _) => {
                file(&target, entry).map_err(written)
            }
            (EntryType::Symlink, Some(to)) => {
                if !stays_inside(&to, parent.components().count()) {
                    return Err(refused("the link may lead out of the release"));
                }
                std::os::unix::fs::symlink(to, &target).map_err(written)
            }
            (EntryType::Link, Some(to)) => {
                let source = self.true_file(&to);
                let source = source.ok_or_else(|| refused("it links to no file of the archive"))?;
                fs::hard_link(source, &target).map_err(written)
            }
            (EntryType::GNUSparse, _) => Err(refused("sparse files are not supported")),
            _ => Err(refused("it is neither a file, a folder nor a link")),
        }
    }

    /// Makes sure that `inner` and all above it are true folders.
    fn folder(&self, inner: &Path, header: Option<&tar::Header>) -> io::Result<()> {
        let mut path = self.tree.to_owned();
        for name in inner.components() {
            path.push(name);
            match fs::symlink_metadata(&path) {
                Ok(about) if about.is_dir() => {}
                Ok(_) => {
                    return Err(io::Error::other("what stands on its way is not a folder"));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => fs::create_dir(&path)?,
                Err(error) => return Err(error),
            }
        }
        match header {
            // The top is the layout's own; of the rest, the owner can always change what is inside.
            Some(header) if path != self.tree => {
                let mode = header.mode()? & 0o755 | 0o700;
                fs::set_permissions(&path, Permissions::from_mode(mode))
            }
            _ => Ok(()),
        }
    }

    /// Where a hard link leads, if that is a file which was unpacked before.
    fn true_file(&self, to: &Path) -> Option<PathBuf> {
        let inner = inner(to)?;
        let mut path = self.tree.to_owned();
        let mut names = inner.components().peekable();
        while let Some(name) = names.next() {
            path.push(name);
            let about = fs::symlink_metadata(&path).ok()?;
            let fits = if names.peek().is_some() { about.is_dir() } else { about.is_file() };
            if !fits {
                return None;
            }
        }
        (path != self.tree).then_some(path)
    }
}

/// Removes what stands where an entry goes: an archive that was appended to has entries twice, and
/// the later one counts. A folder is not removed, so that the links below it stay as judged.
fn vacate(target: &Path) -> io::Result<()> {
    match fs::symlink_metadata(target) {
        Ok(about) if about.is_dir() => Err(io::Error::other("a folder stands there")),
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn file(target: &Path, entry: &mut Entry<'_, impl Read>) -> io::Result<()> {
    let mode = entry.header().mode()? & 0o755 | 0o600;
    let modified = UNIX_EPOCH.checked_add(Duration::from_secs(entry.header().mtime()?));
    let size = entry.header().entry_size()?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target)?;
    if io::copy(entry, &mut file)? != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    file.set_permissions(Permissions::from_mode(mode))?;
    // Web servers tell from it whether a browser's copy is still good.
    modified.map_or(Ok(()), |modified| file.set_modified(modified))
}

/// The plain names of `path`; `None` if it is absolute or climbs.
fn inner(path: &Path) -> Option<PathBuf> {
    let mut inner = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => inner.push(name),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(inner)
}

/// Whether a link to `to`, from a folder that is `depth` below the top, stays inside whatever else
/// the archive holds.
fn stays_inside(to: &Path, depth: usize) -> bool {
    let mut climbed = 0;
    let mut descending = false;
    for component in to.components() {
        match component {
            Component::Normal(_) => descending = true,
            Component::CurDir => {}
            Component::ParentDir if !descending => climbed += 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return false,
        }
    }
    climbed <= depth
}

fn extension(entry: &mut Entry<'_, impl Read>) -> Result<Vec<u8>, UnpackError> {
    let mut data = Vec::new();
    entry.take(EXTENSION_BYTES_MAX + 1).read_to_end(&mut data).map_err(UnpackError::Read)?;
    if data.len() as u64 > EXTENSION_BYTES_MAX {
        return Err(UnpackError::Read(io::Error::other("an extension header is too long")));
    }
    Ok(data)
}

/// A path as tar has it, which a zero byte ends.
fn path_of(bytes: &[u8]) -> PathBuf {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes[..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_may_lead_out_are_known() {
        for (to, depth, inside) in [
            ("b", 0, true),
            ("./b/c", 0, true),
            ("../b", 1, true),
            ("../../b/c", 2, true),
            ("..", 1, true),
            ("..", 0, false),
            ("../../b", 1, false),
            ("/etc/passwd", 3, false),
            ("b/..", 1, false),
            ("b/../../c", 3, false),
        ] {
            assert_eq!(stays_inside(Path::new(to), depth), inside, "{to} from depth {depth}");
        }
    }
}
