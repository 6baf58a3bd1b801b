//! `evenkeel man`: the manual pages, for those who package evenkeel.

use std::path::PathBuf;

use clap::{Args, CommandFactory};

use super::Cli;
use super::outcome::{Outcome, Problem};

/// Writes the manual pages, one for each command.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// The directory that they go to; made if it is missing.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// Writes them.
///
/// # Errors
/// The directory cannot be written to.
pub fn run(args: &ManArgs) -> Result<Outcome, Problem> {
    let written = std::fs::create_dir_all(&args.dir)
        .and_then(|()| clap_mangen::generate_to(Cli::command(), &args.dir));
    written.map_err(Problem::Output)?;
    Ok(Outcome::Fine)
}
