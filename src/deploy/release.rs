//! The layout of releases on the disk: `releases/REVISION`, whole or not at all, and `current`,
//! a link that leads to one of them at every instant.
//!
//! ```text
//! root/releases/1.4.2/…                     complete: .evenkeel-complete is there, written last
//! root/releases/.new/{archive,tree,old}     under way, or left over and thrown away
//! root/current -> releases/1.4.2
//! ```
//!
//! Everything here is synchronous, runs where it may block, and under the app's lock.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::SystemTime;

use tracing::warn;

use super::unpack::{UnpackError, unpack};
use crate::disk::{self, DiskError};
use crate::model::Revision;

/// In a release, says that the release is complete; its content is the archive's checksum.
pub(super) const MARKER: &str = ".evenkeel-complete";

/// Why a release did not come to the disk.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReleaseError {
    #[error("cannot {what} {}", path.display())]
    Disk {
        what: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is not a symbolic link; move it away, so that releases can be switched by it",
        path.display()
    )]
    NoLink { path: PathBuf },
    #[error(transparent)]
    Replace(#[from] DiskError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
}

/// The folders of one app.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Layout {
        Layout { root: root.to_owned() }
    }

    fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    fn release(&self, revision: &str) -> PathBuf {
        self.releases().join(revision)
    }

    /// Names of revisions begin with a letter or digit, so this can never be one.
    fn new_folder(&self) -> PathBuf {
        self.releases().join(".new")
    }

    /// Where the archive goes.
    pub(super) fn archive(&self) -> PathBuf {
        self.new_folder().join("archive")
    }

    /// Whether the release is there, complete.
    pub(super) fn is_complete(&self, revision: &Revision) -> bool {
        self.release(revision.as_str()).join(MARKER).is_file()
    }

    /// Throws away what an interrupted attempt left, and makes room for a new one.
    pub(super) fn prepare(&self) -> Result<(), ReleaseError> {
        let new = self.new_folder();
        remove(&new)?;
        // For ourselves alone while it is filled: nobody else can put links into the tree's way.
        fs::create_dir_all(self.releases())
            .and_then(|()| fs::create_dir(&new))
            .and_then(|()| fs::set_permissions(&new, Permissions::from_mode(0o700)))
            .map_err(failed("make the folder", &new))
    }

    /// Unpacks the archive, and makes it the release.
    pub(super) fn unpack(
        &self,
        revision: &Revision,
        checksum: &str,
        bytes_max: u64,
        stop: &AtomicBool,
    ) -> Result<(), ReleaseError> {
        let tree = self.new_folder().join("tree");
        fs::create_dir(&tree).map_err(failed("make the folder", &tree))?;
        unpack(&self.archive(), &tree, bytes_max, stop)?;
        fs::set_permissions(&tree, Permissions::from_mode(0o755))
            .and_then(|()| complete(&tree, checksum))
            .map_err(failed("complete", &tree))?;
        disk::sync_folder(&tree)?;
        let release = self.release(revision.as_str());
        if fs::symlink_metadata(&release).is_ok() {
            // Half a release, or one that was not put there by us. Moved, not removed: if it is
            // the one that runs, it is gone for two system calls only.
            let old = self.new_folder().join("old");
            fs::rename(&release, &old).map_err(failed("move away", &release))?;
        }
        fs::rename(&tree, &release).map_err(failed("move into place", &release))?;
        disk::sync_folder(&self.releases())?;
        remove(&self.new_folder())
    }

    /// Lets `current` lead to the release, in one step, and gives the revision that it led to
    /// before, if it did.
    pub(super) fn flip(&self, revision: &Revision) -> Result<Option<String>, ReleaseError> {
        let current = self.root.join("current");
        let before = match fs::read_link(&current) {
            Ok(target) => Some(target),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => return Err(ReleaseError::NoLink { path: current }),
        };
        let target = Path::new("releases").join(revision.as_str());
        if before.as_deref() != Some(&target) {
            disk::replace_link(&current, &target)?;
        }
        // The marker's time says when the release was last switched to, which orders the pruning.
        let marker = self.release(revision.as_str()).join(MARKER);
        File::options()
            .append(true)
            .open(&marker)
            .and_then(|file| file.set_modified(SystemTime::now()))
            .map_err(failed("touch", &marker))?;
        Ok(before.and_then(|target| Some(target.file_name()?.to_str()?.to_owned())))
    }

    /// Removes all but the `keep` releases that were switched to last, never what `current` leads
    /// to nor `before`. Failing at it is told, and hurts nobody but the disk.
    pub(super) fn prune(&self, keep: usize, before: Option<&str>) {
        let current = fs::read_link(self.root.join("current")).ok();
        let current = current.as_deref().and_then(Path::file_name);
        for (_, revision) in self.complete_releases().into_iter().skip(keep) {
            if current == Some(revision.as_ref()) || before == Some(&revision) {
                continue;
            }
            let release = self.release(&revision);
            // The marker first: a removal that is interrupted leaves no release that looks whole.
            let removed = fs::remove_file(release.join(MARKER))
                .map_err(failed("remove", &release))
                .and_then(|()| remove(&release));
            if let Err(error) = removed {
                warn!(error = crate::command::chain(&error), "an old release stays on the disk");
            }
        }
    }

    /// The complete releases, the one last switched to first.
    fn complete_releases(&self) -> Vec<(SystemTime, String)> {
        let mut found: Vec<_> = fs::read_dir(self.releases())
            .into_iter()
            .flatten()
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let revision = Revision::new(entry.file_name().to_str()?).ok()?;
                let marked = fs::metadata(entry.path().join(MARKER)).ok()?.modified().ok()?;
                Some((marked, revision.as_str().to_owned()))
            })
            .collect();
        found.sort_by(|one, other| other.cmp(one));
        found
    }
}

/// Brings the tree to the disk, then its marker.
fn complete(tree: &Path, checksum: &str) -> io::Result<()> {
    // One call for the whole file system instead of one for each of thousands of files.
    rustix::fs::syncfs(File::open(tree)?)?;
    let mut marker = File::create_new(tree.join(MARKER))?;
    writeln!(marker, "{checksum}")?;
    marker.sync_all()
}

/// Removes whatever is there, if anything; a link, not what it leads to.
fn remove(path: &Path) -> Result<(), ReleaseError> {
    let removed = match fs::symlink_metadata(path) {
        Ok(about) if about.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(failed("remove", path))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ReleaseError {
    move |source| ReleaseError::Disk { what, path: path.to_owned(), source }
}
