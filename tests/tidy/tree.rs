//! The files of the repository, and what can be wrong with them.

use std::fmt;
use std::fs;
use std::path::Path;

use crate::lexer;

/// A file, by its path from the root of the repository.
pub struct File {
    /// With `/` between folders.
    pub path: String,
    /// Empty where it is no text.
    pub text: String,
    /// The text of a Rust file with comments and literals blanked.
    pub code: String,
}

impl File {
    fn new(path: String, text: String) -> File {
        let code = if path.ends_with(".rs") { lexer::code(&text) } else { String::new() };
        File { path, text, code }
    }

    /// The last part of its path.
    pub fn name(&self) -> &str {
        self.path.rsplit('/').next().expect("a part")
    }
}

/// All files.
pub struct Tree {
    /// By path.
    pub files: Vec<File>,
}

impl Tree {
    /// The repository, without what is built and what git keeps.
    pub fn read() -> Tree {
        let mut files = Vec::new();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        walk(root, "", &mut files);
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Tree { files }
    }

    /// A tree that never was on a disk.
    pub fn of(files: &[(&str, &str)]) -> Tree {
        let file = |(path, text): &(&str, &str)| File::new((*path).to_owned(), (*text).to_owned());
        Tree { files: files.iter().map(file).collect() }
    }

    /// The Rust files of the program, its tests and its fuzz targets.
    pub fn sources(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| {
            file.path.ends_with(".rs")
                && ["src/", "tests/", "fuzz/"].iter().any(|folder| file.path.starts_with(folder))
        })
    }

    /// The Rust files of the program.
    pub fn program(&self) -> impl Iterator<Item = &File> {
        self.sources().filter(|file| file.path.starts_with("src/"))
    }

    /// What people read.
    pub fn documents(&self) -> impl Iterator<Item = &File> {
        self.files.iter().filter(|file| file.path.ends_with(".md"))
    }

    /// A file.
    pub fn file(&self, path: &str) -> Option<&File> {
        self.files.iter().find(|file| file.path == path)
    }

    /// Whether there is such a file or folder.
    pub fn has(&self, path: &str) -> bool {
        let path = path.trim_end_matches('/');
        let within =
            |file: &File| file.path.strip_prefix(path).is_some_and(|rest| rest.starts_with('/'));
        path.is_empty() || self.files.iter().any(|file| file.path == path || within(file))
    }
}

/// What is built, and what is found on the way.
const NOT_OURS: &[&str] = &[".git", "target", "fuzz/target", "fuzz/corpus", "fuzz/artifacts"];

fn walk(folder: &Path, within: &str, files: &mut Vec<File>) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let entry = entry.expect("an entry");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = format!("{within}{name}");
        if entry.file_type().expect("its type").is_dir() {
            if !NOT_OURS.contains(&path.as_str()) {
                walk(&entry.path(), &format!("{path}/"), files);
            }
        } else {
            files.push(File::new(path, fs::read_to_string(entry.path()).unwrap_or_default()));
        }
    }
}

/// Something that a rule does not allow.
pub struct Offence {
    path: String,
    line: usize,
    what: String,
}

impl Offence {
    /// At a line, counted from 1.
    pub fn at(file: &File, line: usize, what: impl Into<String>) -> Offence {
        Offence { path: file.path.clone(), line, what: what.into() }
    }
}

impl fmt::Display for Offence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}
