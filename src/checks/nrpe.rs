//! Reads `nrpe.cfg` and what it includes, as NRPE does.
//!
//! Source: NRPE 4.1, `src/nrpe.c`: `read_config_file`, `read_config_dir`, `add_command`,
//! `process_macros`. So: a line is `NAME=VALUE`, blanks around the line do not count, and there is
//! no continuation of lines; a later definition of a command replaces an earlier one; the last
//! `command_prefix` and `command_timeout` hold for all; a directory is read in order of names, its
//! `*.cfg` files and its directories, but hidden ones. As with NRPE, trouble in an included file
//! is told and the rest goes on, while trouble in a file that was named to us is an error.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};

use tracing::warn;

use super::words;
use crate::command::chain;
use crate::model::CheckName;

/// The largest file that is read, in bytes. A thousand definitions take a tenth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// How deep files may include files; NRPE itself would recurse until it crashes.
const DEPTH_MAX: usize = 16;

/// How many files and folders are read in all, and entries in one folder, so that no tangle of includes or of links
/// keeps the agent from starting.
const READ_MAX: usize = 1000;

/// All files together, in bytes.
const BYTES_MAX: u64 = 16 << 20;

/// What a check's definition amounts to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Definition {
    /// This argument vector.
    Runnable(Vec<String>),
    /// Nothing that can be run here, and why.
    Unrunnable(String),
}

/// Everything of NRPE's configuration that matters here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Nrpe {
    pub(super) checks: BTreeMap<CheckName, Definition>,
    /// In seconds.
    pub(super) command_timeout: Option<u64>,
}

/// Why NRPE's configuration could not be read.
#[derive(Debug, thiserror::Error)]
pub enum NrpeError {
    /// The file cannot be opened or read.
    #[error("cannot read {}", file.display())]
    Read {
        /// Which.
        file: PathBuf,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A line is not as NRPE wants it.
    #[error("{}:{line}: {what}", file.display())]
    Line {
        /// In which file.
        file: PathBuf,
        /// Which, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// A bound is reached.
    #[error("{}: {what}", file.display())]
    Bound {
        /// At which file.
        file: PathBuf,
        /// Which bound.
        what: String,
    },
}

/// Reads the given files and all that they include.
pub(super) fn read(files: &[PathBuf]) -> Result<Nrpe, NrpeError> {
    let mut reader = Reader {
        lines: BTreeMap::new(),
        prefix: None,
        command_timeout: None,
        open: Vec::new(),
        read: 0,
        bytes_left: BYTES_MAX,
        full: false,
    };
    for file in files {
        reader.file(file)?;
    }
    Ok(reader.finish())
}

struct Reader {
    lines: BTreeMap<CheckName, String>,
    prefix: Option<String>,
    command_timeout: Option<u64>,
    /// The files and folders that are being read now, outermost first, by their true paths.
    open: Vec<PathBuf>,
    read: usize,
    bytes_left: u64,
    /// A bound on the whole was reached, and told: nothing more is included.
    full: bool,
}

impl Reader {
    fn file(&mut self, file: &Path) -> Result<(), NrpeError> {
        self.enter(file)?;
        let read = self.text(file).and_then(|text| self.lines(file, &text));
        self.open.pop();
        read
    }

    fn text(&mut self, file: &Path) -> Result<String, NrpeError> {
        let text = read_bounded(file)?;
        match self.bytes_left.checked_sub(text.len() as u64) {
            Some(left) => self.bytes_left = left,
            None => {
                self.full = true;
                let what = format!("all files together are larger than {BYTES_MAX} bytes");
                return Err(NrpeError::Bound { file: file.to_owned(), what });
            }
        }
        Ok(text)
    }

    /// Notes that `path` is being read, unless that is so already or goes too deep.
    fn enter(&mut self, path: &Path) -> Result<(), NrpeError> {
        self.read += 1;
        if self.read > READ_MAX {
            self.full = true;
            let what = format!("more than {READ_MAX} files and folders are included");
            return Err(NrpeError::Bound { file: path.to_owned(), what });
        }
        let real = path
            .canonicalize()
            .map_err(|source| NrpeError::Read { file: path.to_owned(), source })?;
        let what = if self.open.contains(&real) {
            "it includes itself".to_owned()
        } else if self.open.len() >= DEPTH_MAX {
            format!("includes go deeper than {DEPTH_MAX}")
        } else {
            self.open.push(real);
            return Ok(());
        };
        Err(NrpeError::Bound { file: path.to_owned(), what })
    }

    fn lines(&mut self, file: &Path, text: &str) -> Result<(), NrpeError> {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_matches(|c: char| c.is_ascii_whitespace());
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            self.line(file, line).map_err(|what| NrpeError::Line {
                file: file.to_owned(),
                line: index + 1,
                what,
            })?;
        }
        Ok(())
    }

    fn line(&mut self, file: &Path, line: &str) -> Result<(), String> {
        let (key, value) = line
            .split_once('=')
            .filter(|(key, value)| !key.is_empty() && !value.is_empty())
            .ok_or("neither a comment nor NAME=VALUE with both given")?;
        match key {
            "include" | "include_file" => self.include(Path::new(value), false),
            "include_dir" => self.include(Path::new(value), true),
            "command_prefix" => self.prefix = Some(value.to_owned()),
            "command_timeout" => {
                let seconds = value.trim().parse().ok().filter(|seconds| *seconds > 0);
                self.command_timeout =
                    Some(seconds.ok_or("command_timeout must be a number of seconds above 0")?);
            }
            _ => {
                if let Some(name) = key.strip_prefix("command[") {
                    self.command(file, name, value)?;
                }
                // Everything else is for the NRPE daemon.
            }
        }
        Ok(())
    }

    fn command(&mut self, file: &Path, name: &str, line: &str) -> Result<(), String> {
        let name = name.split(']').next().unwrap_or_default();
        if name.is_empty() {
            return Err("command[] has no name".to_owned());
        }
        match CheckName::new(name) {
            Ok(name) => {
                self.lines.insert(name, line.to_owned());
            }
            // NRPE takes any name; one that no desired file could ever ask for is no loss.
            Err(error) => warn!(file = %file.display(), %error, "a check is left out"),
        }
        Ok(())
    }

    /// Reads a part of the configuration; what is wrong with it is told, and the rest goes on.
    fn include(&mut self, path: &Path, is_folder: bool) {
        if self.full {
            return;
        }
        let read = if is_folder { self.folder(path) } else { self.file(path) };
        if let Err(error) = read {
            warn!(error = chain(&error), "a part of NRPE's configuration is left out");
        }
    }

    fn folder(&mut self, folder: &Path) -> Result<(), NrpeError> {
        self.enter(folder)?;
        let entries = entries(folder);
        let read = entries.map(|entries| {
            for (path, is_folder) in entries {
                self.include(&path, is_folder);
            }
        });
        self.open.pop();
        read.map_err(|source| NrpeError::Read { file: folder.to_owned(), source })
    }

    fn finish(self) -> Nrpe {
        let prefix = self.prefix;
        let define = |line: String| {
            let line = match &prefix {
                Some(prefix) => format!("{prefix} {line}"),
                None => line,
            };
            match macros(&line).and_then(|line| words::split(&line).map_err(|e| e.to_string())) {
                Ok(argv) => Definition::Runnable(argv),
                Err(why) => Definition::Unrunnable(why),
            }
        };
        let checks = self.lines.into_iter().map(|(name, line)| (name, define(line))).collect();
        Nrpe { checks, command_timeout: self.command_timeout }
    }
}

/// What is to be read of a folder, in order of names, and whether it is a folder itself.
fn entries(folder: &Path) -> std::io::Result<BTreeSet<(PathBuf, bool)>> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.as_encoded_bytes();
        // Follows links, as NRPE's stat does; one that leads nowhere is neither file nor folder.
        let Ok(kind) = std::fs::metadata(entry.path()) else { continue };
        if kind.is_dir() && !name.starts_with(b".") {
            found.insert((entry.path(), true));
        } else if kind.is_file() && name.len() > 4 && name.ends_with(b".cfg") {
            found.insert((entry.path(), false));
        }
        if found.len() > READ_MAX {
            return Err(std::io::Error::other(format!("it has more than {READ_MAX} entries")));
        }
    }
    Ok(found)
}

fn read_bounded(file: &Path) -> Result<String, NrpeError> {
    let failed = |source| NrpeError::Read { file: file.to_owned(), source };
    // A pipe or a device would hang or never end.
    if !std::fs::metadata(file).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a file")));
    }
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("it is larger than {FILE_BYTES_MAX} bytes");
        return Err(NrpeError::Bound { file: file.to_owned(), what });
    }
    // Comments in any encoding must not stop us.
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Fills in NRPE's macros: `$$` is a dollar, `$ARG1$` is an argument that nobody here gives.
fn macros(line: &str) -> Result<String, String> {
    let mut filled = String::new();
    for (index, part) in line.split('$').enumerate() {
        let is_macro = index % 2 == 1;
        if !is_macro {
            filled.push_str(part);
        } else if part.starts_with("ARG") {
            return Err(format!(
                "it needs arguments (${part}$), and none are given here; define it without"
            ));
        } else if part.is_empty() {
            filled.push('$');
        } else {
            filled.push_str(&format!("${part}$"));
        }
    }
    Ok(filled)
}
