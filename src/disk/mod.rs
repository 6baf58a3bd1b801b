//! Files and links that are replaced as a whole: a reader sees the old one or the new one, and a
//! crash leaves one of them. And folders that one process has to itself.

mod pair;

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{
    DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown, symlink,
};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

pub use pair::{Found, Pair};

/// Ends the name of the file that is to replace another. Always the same, so that killed
/// processes leave one at most.
pub const NEW: &str = ".evenkeel-new";

/// What was attempted on which file or folder, and why it did not work. What was there before is intact.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct DiskError {
    what: &'static str,
    path: PathBuf,
    #[source]
    error: io::Error,
}

/// Who may read a file that is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Its owner alone: what a process keeps for itself.
    Owner,
    /// Whoever could read the one before. One that is not there yet gets this mode.
    AsBefore {
        /// The permission bits.
        new: u32,
    },
}

/// Replaces the file `path`, or makes it: written beside, synced, renamed, and the folder synced.
/// When this returns, it survives a crash. A link at `path` is replaced, not followed.
///
/// # Errors
/// [`DiskError`]
pub fn replace(path: &Path, content: &[u8], access: Access) -> Result<(), DiskError> {
    let new = beside(path);
    let written = write(&new, path, content, access)
        .and_then(|()| fs::rename(&new, path).map_err(failed("replace", path)));
    if written.is_err() {
        let _ = fs::remove_file(&new); // It may not be there; the first error is the one to tell.
    }
    written?;
    sync_folder_of(path)
}

/// Lets the link at `path` lead to `target`, in one step. It may not be there yet, and what is
/// there is replaced unless it is a folder.
///
/// # Errors
/// [`DiskError`]
pub fn replace_link(path: &Path, target: &Path) -> Result<(), DiskError> {
    let new = beside(path);
    make_room(&new)?;
    symlink(target, &new).map_err(failed("create", &new))?;
    fs::rename(&new, path).map_err(failed("replace", path))?;
    sync_folder_of(path)
}

/// Makes what was renamed, created and removed in `folder` survive a crash.
///
/// # Errors
/// [`DiskError`]
pub fn sync_folder(folder: &Path) -> Result<(), DiskError> {
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync", folder))
}

/// Makes `folder`, with mode 0700, if it is missing, and locks it for as long as what is returned
/// is open. None if another process has it locked.
///
/// # Errors
/// [`DiskError`]
pub fn lock_folder(folder: &Path) -> Result<Option<File>, DiskError> {
    make_folder(folder)?;
    let path = folder.join("lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("open", &path))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(lock)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed("lock", &path)(error.into())),
    }
}

/// Makes `folder`, with mode 0700, and those above it, if they are missing.
///
/// # Errors
/// [`DiskError`]
pub fn make_folder(folder: &Path) -> Result<(), DiskError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(failed("make the folder", folder))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DiskError {
    move |error| DiskError { what, path: path.to_owned(), error }
}

fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(NEW);
    name.into()
}

/// Removes what a killed process has left.
fn make_room(new: &Path) -> Result<(), DiskError> {
    match fs::remove_file(new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", new)(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn write(new: &Path, old: &Path, content: &[u8], access: Access) -> Result<(), DiskError> {
    make_room(new)?;
    // `create_new` does not follow a link that somebody left there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(new)
        .map_err(failed("create", new))?;
    file.write_all(content).map_err(failed("write", new))?;
    match access {
        Access::Owner => {}
        Access::AsBefore { new: mode } => {
            grant(&file, old, mode).map_err(failed("set the permissions of", new))?;
        }
    }
    file.sync_all().map_err(failed("sync", new))
}

fn grant(file: &File, old: &Path, mode: u32) -> io::Result<()> {
    match fs::metadata(old) {
        Ok(before) => keep_access(file, &before),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file.set_permissions(Permissions::from_mode(mode))
        }
        Err(error) => Err(error),
    }
}

fn keep_access(file: &File, before: &fs::Metadata) -> io::Result<()> {
    let now = file.metadata()?;
    let mode = before.mode() & 0o777;
    if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
        let kept = fchown(file, Some(before.uid()), Some(before.gid()));
        let readable_by_all = mode & 0o004 != 0;
        if let Err(error) = kept
            && !readable_by_all
        {
            let why = format!(
                "cannot keep the owner {}:{} ({error}); make it readable for all (chmod o+r), or own it",
                before.uid(),
                before.gid()
            );
            return Err(io::Error::new(error.kind(), why));
        }
    }
    // After the owner: changing that clears bits of the mode.
    file.set_permissions(Permissions::from_mode(mode))
}

fn sync_folder_of(path: &Path) -> Result<(), DiskError> {
    match path.parent() {
        // A bare name is in the folder where the process runs.
        Some(folder) if folder.as_os_str().is_empty() => sync_folder(Path::new(".")),
        Some(folder) => sync_folder(folder),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
