//! The file that HAProxy loads server states from when it starts, replaced as a whole.

use std::fs;
use std::path::Path;

use crate::disk::{self, Access, DiskError};

/// For a file that is not there yet. It holds names and addresses, no secrets, and HAProxy may run
/// as another user.
const MODE_NEW: u32 = 0o644;

/// Replaces `path` by `text`. Mode and owner stay what they were.
pub(super) fn replace(path: &Path, text: &str) -> Result<(), DiskError> {
    // A link is followed: to rename over it would cut HAProxy, which reads its target, off.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    disk::replace(&target, text.as_bytes(), Access::AsBefore { new: MODE_NEW })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("state"), folder.path().join("link"));
        symlink(&file, &link).unwrap();
        fs::write(&file, "one").unwrap();
        replace(&link, "two").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "two");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }
}
