//! A file imports from its own floor sparingly, and else only from floors below.

use std::collections::{BTreeMap, BTreeSet};

use crate::lexer::paths;
use crate::tree::{File, Offence, Tree};

const ROOT: &str = "src/lib.rs";

/// What may be imported from a neighbour on the same floor: who, from whom, and why.
const NEIGHBOURS: &[(&str, &str, &str)] = &[
    ("checks", "command", "a check is a command with a time limit"),
    ("cli", "demo", "its command carries out the demo"),
    ("cli", "http", "the controller's command starts its HTTP interface"),
    ("deploy", "command", "an upgrade runs commands, under the same limits as checks"),
    ("deploy", "disk", "releases are switched as a whole"),
    ("facts", "command", "its tests hold `cpus` against what the command nproc says"),
    ("haproxy", "command", "an error and its causes in one line"),
    ("haproxy", "disk", "its state file is replaced as a whole"),
    ("history", "command", "an error and its causes in one line"),
];

/// Imports that go up, or sideways without being listed.
pub fn imports(tree: &Tree) -> Vec<Offence> {
    let Some(root) = tree.file(ROOT) else { return Vec::new() };
    let floors = floors(root);
    let mut offences = Vec::new();
    for (line, module) in modules(root) {
        if !floors.contains_key(&module) {
            offences.push(Offence::at(root, line, format!("{module} has no floor in the table")));
        }
    }
    let mut used = BTreeSet::new();
    for file in tree.program() {
        let Some(own) = module(file) else { continue };
        for (line, path) in paths(&file.code) {
            let Some(other) = imported(&path, &floors) else { continue };
            let (Some(above), Some(below)) = (floors.get(own), floors.get(other)) else { continue };
            if own == other || below < above {
                continue;
            }
            let listed = NEIGHBOURS.iter().find(|(who, whom, _)| (*who, *whom) == (own, other));
            if let Some(listed) = listed {
                used.insert(*listed);
            } else {
                let what = format!("{own} is on floor {above}, and {other} on floor {below}");
                offences.push(Offence::at(file, line, what));
            }
        }
    }
    for row @ (who, whom, _) in NEIGHBOURS {
        let declared = floors.contains_key(*who) && floors.contains_key(*whom);
        if declared && !used.contains(row) {
            let what = format!("{who} may import from {whom} and does not");
            offences.push(Offence::at(root, 1, what));
        }
    }
    offences
}

/// The floors, as the table in the root's documentation gives them: module to number.
fn floors(root: &File) -> BTreeMap<String, u32> {
    let mut floors = BTreeMap::new();
    for row in root.text.lines().filter_map(|line| line.strip_prefix("//! | ")) {
        let mut cells = row.split('|').map(str::trim);
        let Some(Ok(floor)) = cells.next().map(str::parse) else { continue };
        for name in cells.next().unwrap_or_default().split(", ") {
            floors.insert(name.trim_matches(['[', ']', '`']).to_owned(), floor);
        }
    }
    floors
}

/// The modules that the root declares, with their lines.
fn modules(root: &File) -> Vec<(usize, String)> {
    let declared = |(index, line): (usize, &str)| {
        let name = line.trim().trim_start_matches("pub ").strip_prefix("mod ")?;
        Some((index + 1, name.trim_end_matches(';').to_owned()))
    };
    root.code.lines().enumerate().filter_map(declared).collect()
}

/// The module of the root that a file belongs to.
fn module(file: &File) -> Option<&str> {
    let path = file.path.strip_prefix("src/")?;
    Some(path.split('/').next()?.trim_end_matches(".rs"))
}

/// The module of the root that a path leads to. By way of `super`, too: nothing below the root has
/// a name of the root's.
fn imported<'p>(path: &'p str, floors: &BTreeMap<String, u32>) -> Option<&'p str> {
    let mut parts = path.split("::");
    match parts.next()? {
        "crate" => parts.next(),
        "super" => {
            let name = parts.next().filter(|part| *part == "super")?;
            let name = parts.find(|part| *part != "super").or(Some(name))?;
            floors.contains_key(name).then_some(name)
        }
        _ => None,
    }
}
