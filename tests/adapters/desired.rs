//! The desired adapter, on real directories.

mod faults;
mod model;
mod watching;

use std::fs;
use std::path::Path;

/// A directory with the files of `archive`: each after a line `-- path --`.
fn directory(archive: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    write_files(dir.path(), archive);
    dir
}

fn write_files(dir: &Path, archive: &str) {
    let mut files: Vec<(&str, String)> = Vec::new();
    for line in archive.lines() {
        match line.strip_prefix("-- ").and_then(|line| line.strip_suffix(" --")) {
            Some(path) => files.push((path, String::new())),
            None => {
                let (_, text) = files.last_mut().expect("a line `-- path --` comes first");
                text.push_str(line);
                text.push('\n');
            }
        }
    }
    for (path, text) in files {
        let path = dir.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("make a folder");
        fs::write(path, text).expect("write a file");
    }
}
