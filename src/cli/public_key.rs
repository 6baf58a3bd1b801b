//! `evenkeel public-key`: what agents are given, so that they take a controller's orders and nobody else's.

use std::path::PathBuf;

use clap::Args;

use super::outcome::{Outcome, Problem};
use super::print;
use crate::bus::Signer;

/// Prints the public half of a controller's signing key, for `trusted_keys` of its agents.
#[derive(Debug, Args)]
pub struct PublicKeyArgs {
    /// The signing key: `signing.key` in the controller's state directory, or what --signing-key names.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

/// Prints it.
///
/// # Errors
/// [`Problem`]
pub fn run(args: &PublicKeyArgs) -> Result<Outcome, Problem> {
    let signer = Signer::read(&args.file)?;
    print::text(&format!("{}\n", signer.public()))?;
    Ok(Outcome::Fine)
}
