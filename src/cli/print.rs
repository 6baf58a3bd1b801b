//! Printing: to a pipe that is closed it ends quietly, and what others wrote cannot steer a terminal.

use std::io::{IsTerminal, Write, stderr, stdout};

use clap::ValueEnum;
use serde::Serialize;

use super::outcome::Problem;

/// In which form a command answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}

/// Writes `text` to standard output. A reader that has gone (`evenkeel nodes | head`) is no error:
/// it has what it wanted.
///
/// # Errors
/// [`Problem::Output`], such as a full disk.
pub fn text(text: &str) -> Result<(), Problem> {
    let mut out = stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Problem::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Writes `document` to standard output, as JSON.
///
/// # Errors
/// [`Problem::Output`].
pub fn json(document: &impl Serialize) -> Result<(), Problem> {
    let json =
        serde_json::to_string_pretty(document).map_err(|error| Problem::Output(error.into()))?;
    text(&(json + "\n"))
}

/// Writes a line to standard error; if that fails there is nowhere left to say so.
pub fn error(line: &str) {
    let _ = writeln!(stderr(), "{line}");
}

/// The columns of the terminal that standard output is; `None` if it is none.
pub(super) fn width() -> Option<usize> {
    let out = stdout();
    if !out.is_terminal() {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(&out).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// No colours are wanted (<https://no-color.org>).
pub(super) fn plain() -> bool {
    std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty())
}

/// `text` on one line, without the control characters that a terminal would obey. Facts, errors and
/// outputs of checks come from all over the fleet.
pub(super) fn clean(text: &str) -> String {
    let lines: Vec<String> = text
        .lines()
        .map(|line| line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect())
        .collect();
    lines.join("; ")
}
