//! Floor 4: the command line, one file a subcommand.
//!
//! A command that asks the controller gives an [`Outcome`], whose number is the exit code, or a
//! [`Problem`], which is one line on standard error; `docs/cli.md` has the table.

pub mod agent;
pub mod client;
pub mod completions;
pub mod controller;
pub mod daemon;
pub mod demo;
pub mod forget;
pub mod history;
mod log;
pub mod man;
pub mod nodes;
pub mod outcome;
pub mod plan;
pub mod print;
mod public_key;
pub mod schema;
mod select;
pub mod signals;
pub mod sse;
mod status;
mod table;
pub mod validate;
mod wait;
mod watch;
pub mod why;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::command::chain;
use outcome::{Outcome, Problem};

/// Keeps fleets of plain servers behind HAProxy at the revision that files declare.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, max_term_width = 100)]
pub struct Cli {
    /// How log lines are written to standard error; RUST_LOG chooses which.
    #[arg(long, global = true, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    log_format: LogFormat,
    #[command(subcommand)]
    command: Command,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[derive(Debug, Subcommand)]
enum Command {
    Validate(validate::ValidateArgs),
    Schema(schema::SchemaArgs),
    Controller(Box<controller::ControllerArgs>),
    Agent(agent::AgentArgs),
    Status(status::StatusArgs),
    Nodes(nodes::NodesArgs),
    Why(why::WhyArgs),
    Plan(plan::PlanArgs),
    History(history::HistoryArgs),
    Forget(forget::ForgetArgs),
    PublicKey(public_key::PublicKeyArgs),
    Demo(demo::DemoArgs),
    Completions(completions::CompletionsArgs),
    #[command(hide = true)]
    Man(man::ManArgs),
    #[command(hide = true)]
    DemoWeb(demo::DemoWebArgs),
    #[command(hide = true)]
    DemoGuard,
}

/// Does what the arguments (the program's name first) ask for.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too. If nobody reads it any more, nobody is to be told.
            let _ = error.print();
            let wrong = error.use_stderr();
            return if wrong { Outcome::NoAnswer } else { Outcome::Fine }.into();
        }
    };
    log::start(cli.log_format);
    match &cli.command {
        Command::Validate(args) => validate::run(args),
        Command::Schema(args) => schema::run(args),
        Command::Controller(args) => controller::run(args),
        Command::Agent(args) => agent::run(args),
        Command::Status(args) => answer(status::run(args)),
        Command::Nodes(args) => answer(nodes::run(args)),
        Command::Why(args) => answer(why::run(args)),
        Command::Plan(args) => answer(plan::run(args)),
        Command::History(args) => answer(history::run(args)),
        Command::Forget(args) => answer(forget::run(args)),
        Command::PublicKey(args) => answer(public_key::run(args)),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => answer(completions::run(args)),
        Command::Man(args) => answer(man::run(args)),
        Command::DemoWeb(args) => demo::run_web(args),
        Command::DemoGuard => demo::run_guard(),
    }
}

fn answer(result: Result<Outcome, Problem>) -> ExitCode {
    let outcome = result.unwrap_or_else(|problem| {
        print::error(&format!("evenkeel: {}", chain(&problem)));
        problem.outcome()
    });
    outcome.into()
}
