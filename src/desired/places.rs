//! Which directories to watch for a desired directory, and which events there are worth a look.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use notify::event::{AccessKind, AccessMode, EventKind, ModifyKind, RenameMode};

use super::commit::GitDir;

/// More folders than this are not watched one by one; the periodic look finds what changes there.
/// The kernel's own limit for all of a user's programs is 8192 on small machines.
const PLACES_MAX: usize = 4096;

/// The directories to watch, each with the inode that was there: one that was replaced sends events
/// of the old one for ever.
pub(super) type Places = BTreeMap<PathBuf, (u64, u64)>;

/// The directories whose events can tell of a change in `dir`.
///
/// That is `dir`, its folders and its parent. Where links are on the way (git-sync, Kubernetes),
/// the directories that hold them, too; where `dir` is missing, the nearest directory above it.
pub(super) fn places(dir: &Path, git: Option<&GitDir>) -> Places {
    let mut places = Places::new();
    let mut add = |path: &Path| {
        let found = fs::metadata(path).ok().filter(|found| found.is_dir());
        if let Some(found) = &found {
            places.insert(path.to_owned(), (found.dev(), found.ino()));
        }
        found.is_some()
    };
    add(dir);
    for child in dir.ancestors() {
        let Some(parent) = child.parent() else { break };
        let is_link = child.symlink_metadata().is_ok_and(|found| found.is_symlink());
        let is_gone = !child.is_dir();
        if child == dir || is_link || is_gone {
            add(parent);
        }
    }
    if let Some(git) = git {
        add(git.own());
        // Written last when HEAD moves without the index, as a pull does.
        add(&git.own().join("logs"));
    }
    let folders = fs::read_dir(dir).into_iter().flatten().flatten();
    let visible = folders.filter(|entry| !entry.file_name().as_encoded_bytes().starts_with(b"."));
    for entry in visible.take(PLACES_MAX) {
        add(&entry.path());
    }
    places
}

/// What an event says about the desired directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hint {
    /// Nothing.
    Nothing,
    /// Something has changed, and may go on changing.
    Stirred,
    /// A file is being written in place; wait until it is closed.
    Opened,
    /// A file or link is in place, whole: renamed to there, or closed by its writer.
    Finished,
}

/// Judges one event on one path. Reading is an event as well, and must not lead to more reading.
pub(super) fn judge(kind: EventKind, path: &Path, dir: &Path, git: Option<&Path>) -> Hint {
    let name = path.file_name().unwrap_or_default();
    if git.is_some_and(|git| path.starts_with(git)) {
        let tells = ["HEAD", "index", "index.lock", "packed-refs"].iter().any(|told| name == *told);
        let reads = matches!(kind, EventKind::Access(_));
        return if tells && !reads { Hint::Stirred } else { Hint::Nothing };
    }
    // Not in the directory, and not on the way there: a neighbour.
    if !path.starts_with(dir) && !dir.starts_with(path) {
        return Hint::Nothing;
    }
    let is_desired = path.extension().is_some_and(|extension| extension == "toml");
    // An app's folder, the directory itself, a link on the way there.
    let is_folder = dir.starts_with(path) || path.parent() == Some(dir);
    let is_kubernetes_link = name == "..data";
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) if is_desired => Hint::Finished,
        EventKind::Access(_) => Hint::Nothing,
        // An editor that moves the old file to a backup's name is not done, but about to begin.
        EventKind::Modify(ModifyKind::Name(RenameMode::To | RenameMode::Both))
            if is_desired || is_folder || is_kubernetes_link =>
        {
            Hint::Finished
        }
        EventKind::Create(_) | EventKind::Modify(ModifyKind::Data(_)) if is_desired => Hint::Opened,
        _ => Hint::Stirred,
    }
}

#[cfg(test)]
mod tests {
    use notify::event::{CreateKind, DataChange};

    use super::*;

    #[test]
    fn events_are_judged_by_what_they_can_tell() {
        let close = EventKind::Access(AccessKind::Close(AccessMode::Write));
        let open = EventKind::Access(AccessKind::Open(AccessMode::Any));
        let to = EventKind::Modify(ModifyKind::Name(RenameMode::To));
        let from = EventKind::Modify(ModifyKind::Name(RenameMode::From));
        let write = EventKind::Modify(ModifyKind::Data(DataChange::Any));
        let create = EventKind::Create(CreateKind::File);
        for (kind, path, wanted) in [
            (open, "/w/desired", Hint::Nothing),
            (open, "/w/desired/shop/alfa.toml", Hint::Nothing),
            (create, "/w/neighbour", Hint::Nothing),
            (create, "/w/desired/shop/alfa.toml", Hint::Opened),
            (write, "/w/desired/shop/alfa.toml", Hint::Opened),
            (close, "/w/desired/shop/alfa.toml", Hint::Finished),
            (close, "/w/desired/shop/.alfa.toml.swp", Hint::Nothing),
            (to, "/w/desired/shop/alfa.toml", Hint::Finished),
            (to, "/w/desired/shop/alfa.toml~", Hint::Stirred),
            (to, "/w/desired/shop/..data", Hint::Finished),
            (to, "/w/desired/..data", Hint::Finished),
            (to, "/w/desired/shop", Hint::Finished),
            (to, "/w", Hint::Finished),
            (from, "/w/desired/shop/alfa.toml", Hint::Stirred),
            (to, "/w/.git/index", Hint::Stirred),
            (close, "/w/.git/index.lock", Hint::Nothing),
            (to, "/w/.git/config", Hint::Nothing),
        ] {
            let judged =
                judge(kind, Path::new(path), Path::new("/w/desired"), Some(Path::new("/w/.git")));
            assert_eq!(judged, wanted, "{kind:?} {path}");
        }
    }
}
