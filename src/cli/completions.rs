//! `evenkeel completions`: a script that makes a shell complete commands and options.

use clap::{Args, CommandFactory};

use super::Cli;
use super::outcome::{Outcome, Problem};
use super::print;

/// Prints a script that makes a shell complete commands and options.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: clap_complete::Shell,
}

/// Prints the script.
///
/// # Errors
/// Standard output is closed.
pub fn run(args: &CompletionsArgs) -> Result<Outcome, Problem> {
    let mut script = Vec::new();
    // The scripts would offer hidden commands, too.
    let all = Cli::command();
    let mut shown = clap::Command::new("evenkeel")
        .args(all.get_arguments().cloned())
        .subcommands(all.get_subcommands().filter(|command| !command.is_hide_set()).cloned());
    clap_complete::generate(args.shell, &mut shown, "evenkeel", &mut script);
    print::text(&String::from_utf8_lossy(&script))?;
    Ok(Outcome::Fine)
}
