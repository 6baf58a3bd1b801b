//! The desired adapter, on real directories.

mod faults;
mod model;
mod trees;
mod watching;

use std::fs;
use std::path::Path;

use crate::parts::process::program;

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

/// Runs git, with no settings but its own, and returns what it prints.
fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = std::process::Command::new(program("git", "git"))
        .arg("-C")
        .arg(dir)
        .args(["-c", "user.name=Test", "-c", "user.email=test@example.org"])
        .args(arguments)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_SYSTEM", "/dev/null")
        .output()
        .expect("start git");
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}
