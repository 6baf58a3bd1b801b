//! The file that HAProxy loads server states from when it starts, replaced as a whole.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

/// For a file that is not there yet. It holds names and addresses, no secrets, and HAProxy may run
/// as another user.
const MODE_NEW: u32 = 0o644;

/// Replaces `path` by `text`: a reader sees the old text or the new one, and a crash leaves one of
/// them. Mode and owner stay what they were.
pub(super) fn replace(path: &Path, text: &str) -> io::Result<()> {
    // A link is followed: to rename over it would cut HAProxy, which reads its target, off.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let temporary = temporary(&target);
    let written =
        write_new(&temporary, &target, text).and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        let _ = fs::remove_file(&temporary); // It may not be there; the first error is the one to tell.
    }
    written?;
    match target.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

/// Always the same name, so that killed agents leave one at most.
fn temporary(target: &Path) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(".evenkeel-new");
    name.into()
}

fn write_new(temporary: &Path, target: &Path, text: &str) -> io::Result<()> {
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    // `create_new` does not follow a link that somebody left there.
    let mut file = OpenOptions::new().write(true).create_new(true).open(temporary)?;
    file.write_all(text.as_bytes())?;
    match fs::metadata(target) {
        Ok(before) => keep_access(&file, &before)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            file.set_permissions(Permissions::from_mode(MODE_NEW))?;
        }
        Err(error) => return Err(error),
    }
    file.sync_all()
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
                "cannot keep its owner {}:{} ({error}); make it readable for all (chmod o+r), or own it",
                before.uid(),
                before.gid()
            );
            return Err(io::Error::new(error.kind(), why));
        }
    }
    // After the owner: changing that clears bits of the mode.
    file.set_permissions(Permissions::from_mode(mode))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_and_a_link_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        replace(&file, "one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, MODE_NEW);

        fs::set_permissions(&file, Permissions::from_mode(0o640)).unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&file, &link).unwrap();
        fs::write(temporary(&file), "left behind by a killed agent").unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o640);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_failure_leaves_the_old_file() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("state");
        fs::write(&file, "old").unwrap();
        fs::create_dir(temporary(&file)).unwrap();
        assert!(replace(&file, "new").is_err());
        assert_eq!(fs::read_to_string(&file).unwrap(), "old");
        assert!(replace(&folder.path().join("no/state"), "new").is_err());
    }
}
