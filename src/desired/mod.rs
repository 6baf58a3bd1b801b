//! Floor 2: the desired directory, from files to the model: read, check, merge, watch.
//!
//! A directory is read whole, always; nothing is taken from an event. What is wrong is a [`Fault`]
//! that shows its line, and it keeps its own app from changing, nobody else's.
//!
//! One table of keys (`keys.rs`) is what the files are decoded with, what the JSON Schema is made
//! of, and what the reference in `docs/desired.md` is checked against.

mod app;
mod commit;
mod fault;
mod form;
mod keys;
mod places;
mod read;
mod schema;
mod table;
mod watch;

use std::collections::BTreeMap;
use std::path::Path;

use crate::model::{AppName, Commit, DesiredApp, Fault};

pub use fault::Style;
pub use read::Digest;
pub use schema::{Document, reference, schema};
pub use watch::{Pace, WatchError, Watcher};

/// A desired directory as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// Every app that has files; with all its faults, if it has any.
    pub apps: BTreeMap<AppName, Result<DesiredApp, Vec<Fault>>>,
    /// What is wrong with the directory itself, and with what in it belongs to no app.
    pub faults: Vec<Fault>,
    /// Of all that was read, faults of reading included, but not of the commit.
    pub digest: Digest,
}

impl Snapshot {
    /// Every fault, the directory's first, then the apps' by name.
    pub fn all_faults(&self) -> impl Iterator<Item = &Fault> {
        let apps = self.apps.values().filter_map(|app| app.as_ref().err()).flatten();
        self.faults.iter().chain(apps)
    }
}

/// Reads the directory whole, once. Whatever is wrong is told as faults; it never fails.
pub fn load(dir: &Path) -> Snapshot {
    load_styled(dir, Style::Plain)
}

/// Like [`load`], with the faults rendered in a style of one's own.
pub fn load_styled(dir: &Path, style: Style) -> Snapshot {
    let commit = commit::GitDir::around(dir).and_then(|git| git.commit(None));
    assemble(read::read(dir), commit.as_ref(), style)
}

/// Like [`load`], of files that are not on a disk: the app's folder, the file's name, and what it says.
pub fn load_texts<'a>(files: impl IntoIterator<Item = (&'a str, &'a str, &'a [u8])>) -> Snapshot {
    assemble(read::Tree::of(files), None, Style::Plain)
}

/// Makes a snapshot of what was read.
fn assemble(tree: read::Tree, commit: Option<&Commit>, style: Style) -> Snapshot {
    let mut faults = tree.faults;
    let mut drafts = BTreeMap::new();
    for (name, folder) in tree.folders {
        match AppName::new(&name) {
            Ok(app) => {
                drafts.insert(app.clone(), app::Draft::new(app, &folder));
            }
            Err(error) => faults.push((name, error.to_string())),
        }
    }
    app::refuse_shared_backends(&mut drafts);
    Snapshot {
        apps: drafts
            .into_iter()
            .map(|(name, draft)| (name, draft.finish(commit.cloned(), style)))
            .collect(),
        faults: faults
            .into_iter()
            .map(|(file, message)| fault::of_whole_file(&file, message, style))
            .collect(),
        digest: tree.digest,
    }
}
