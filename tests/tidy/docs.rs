//! Documents lead to what is there.

use crate::tree::{File, Offence, Tree};

/// Folders of the repository that documents speak of.
const FOLDERS: &[&str] = &[
    ".ci/",
    "contrib/",
    "dashboards/",
    "desired/",
    "docs/",
    "fuzz/",
    "scripts/",
    "src/",
    "tests/",
];

/// Links whose file or heading is not there.
pub fn links(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.documents() {
        for (line, text) in prose(file) {
            for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
                if target.contains("://") {
                    continue; // the web is not ours to test
                }
                let (path, heading) = target.split_once('#').unwrap_or((target, ""));
                let path = if path.is_empty() { file.path.clone() } else { beside(file, path) };
                let found = tree.has(&path);
                if !found || (!heading.is_empty() && !has_heading(tree.file(&path), heading)) {
                    offences.push(Offence::at(file, line, format!("{target} leads nowhere")));
                }
            }
        }
    }
    offences
}

/// The lines outside of fenced blocks, counted from 1, without what is in backticks.
fn prose(file: &File) -> Vec<(usize, String)> {
    let mut fenced = false;
    let mut lines = Vec::new();
    for (index, line) in file.text.lines().enumerate() {
        let fence = line.trim_start().starts_with("```");
        if !fence && !fenced {
            lines.push((index + 1, line.split('`').step_by(2).collect::<Vec<_>>().join("`")));
        }
        fenced ^= fence;
    }
    lines
}

/// A path given from the folder of `file`, from the root.
fn beside(file: &File, path: &str) -> String {
    let mut parts: Vec<&str> = file.path.split('/').collect();
    parts.pop();
    for part in path.split('/') {
        match part {
            "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn has_heading(file: Option<&File>, wanted: &str) -> bool {
    let Some(file) = file else { return false };
    let slug = |heading: &str| -> String {
        let kept = heading.trim_start_matches('#').trim().to_lowercase().replace(' ', "-");
        kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_')).collect()
    };
    file.text.lines().any(|line| line.starts_with('#') && slug(line) == wanted)
}

/// Paths of the repository, in documents and comments, that are not there.
pub fn paths(tree: &Tree) -> Vec<Offence> {
    let mut offences = Vec::new();
    for file in tree.documents().chain(tree.sources()) {
        let rust = file.path.ends_with(".rs");
        for (index, line) in file.text.lines().enumerate() {
            if rust && !line.trim_start().starts_with("//") {
                continue; // strings name files of tests
            }
            let folders = if rust { &["docs/", "tests/"] } else { FOLDERS };
            for word in line.split(|c: char| c.is_whitespace() || "`\"'()[]<>,|".contains(c)) {
                let path = word.trim_end_matches(['.', ':', ';', '/']);
                let ours = folders.iter().any(|folder| path.starts_with(folder));
                let pattern = path.contains(['*', '{', '…', '$', '=']);
                if ours && !pattern && !tree.has(path) {
                    offences.push(Offence::at(file, index + 1, format!("there is no {path}")));
                }
            }
        }
    }
    offences
}
