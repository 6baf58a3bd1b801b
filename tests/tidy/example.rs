//! The files that the README shows: the desired ones are those that are shipped, and all of them are
//! accepted, with what their comments offer, too.

use std::fs;

use evenkeel::agent::Config;
use evenkeel::desired::load;

use crate::tree::{File, Offence, Tree};

const README: &str = "README.md";

/// A file that the README shows.
struct Shown {
    /// The line of its first line.
    line: usize,
    path: String,
    text: String,
}

/// Where the README's files differ from the shipped ones, or would not be accepted.
pub fn example(tree: &Tree) -> Vec<Offence> {
    let Some(readme) = tree.file(README) else { return Vec::new() };
    let shown = shown(readme, "desired/");
    let shipped = |file: &&File| file.path.starts_with("desired/");
    let mut offences = Vec::new();
    for file in tree.files.iter().filter(shipped) {
        match shown.iter().find(|shown| shown.path == file.path) {
            None => {
                offences.push(Offence::at(readme, 1, format!("{} is not shown", file.path)));
            }
            Some(shown) if parsed(&shown.text) != parsed(&file.text) => {
                let what = format!("not what {} says", file.path);
                offences.push(Offence::at(readme, shown.line, what));
            }
            Some(_) => {}
        }
    }
    for (how, text) in [("", as_is as fn(&str) -> String), (" with its comments", uncommented)] {
        let folder = tempfile::tempdir().expect("a folder");
        for shown in &shown {
            let path = folder.path().join(&shown.path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("make folders");
            fs::write(&path, text(&shown.text)).expect("write a file");
        }
        for fault in load(&folder.path().join("desired")).all_faults() {
            let first = shown.first().map_or(1, |shown| shown.line);
            let what = format!("refused{how}: {}", fault.message);
            offences.push(Offence::at(readme, first, what));
        }
    }
    offences
}

/// Agents' files that an agent would not accept.
pub fn agents(tree: &Tree) -> Vec<Offence> {
    let Some(readme) = tree.file(README) else { return Vec::new() };
    let mut offences = Vec::new();
    for shown in shown(readme, "/etc/evenkeel/agent.toml") {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), &shown.text).expect("write it");
        if let Err(error) = Config::read(file.path()) {
            let said = error.to_string();
            let fault = said.lines().last().unwrap_or_default();
            offences.push(Offence::at(readme, shown.line, format!("refused: {fault}")));
        }
    }
    offences
}

/// The blocks of TOML that begin with a comment of a path that begins with `start`.
fn shown(readme: &File, start: &str) -> Vec<Shown> {
    let mut found: Vec<Shown> = Vec::new();
    let mut lines = readme.text.lines().enumerate();
    while let Some((_, line)) = lines.next() {
        if line != "```toml" {
            continue;
        }
        let block: Vec<_> = lines.by_ref().take_while(|(_, line)| *line != "```").collect();
        let Some((index, first)) = block.first() else { continue };
        let path = first.trim_start_matches("# ").split([' ', ':']).next().unwrap_or_default();
        if path.starts_with(start) {
            let text = block.iter().map(|(_, line)| format!("{line}\n")).collect();
            found.push(Shown { line: index + 1, path: path.to_owned(), text });
        }
    }
    found
}

fn parsed(text: &str) -> Result<toml::Table, toml::de::Error> {
    toml::from_str(text)
}

fn as_is(text: &str) -> String {
    text.to_owned()
}

/// The text with every `# key = value` in force: keys that a reader may use.
fn uncommented(text: &str) -> String {
    let line = |line: &str| {
        let key = line.strip_prefix("# ").filter(|rest| {
            let key = rest.split(" = ").next().unwrap_or_default();
            rest.contains(" = ") && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        });
        format!("{}\n", key.unwrap_or(line))
    };
    text.lines().map(line).collect()
}
