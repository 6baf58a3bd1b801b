//! `evenkeel forget`: makes the controller forget a node that will not come back.

use clap::Args;
use serde::Deserialize;

use super::client::{Client, ClientError, Connection};
use super::outcome::{Outcome, Problem};
use super::print::{self, clean};
use super::select::Unknown;
use crate::controller::view::View;
use crate::model::NodeName;

/// Forgets a node that has gone for good.
///
/// A node that is there cannot be forgotten (exit code 1): stop its agent first.
#[derive(Debug, Args)]
pub struct ForgetArgs {
    /// The node.
    node: NodeName,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Deserialize)]
struct Answer {
    forgotten: bool,
    message: String,
}

/// Asks for it, and prints the answer.
///
/// # Errors
/// [`Problem`].
pub fn run(args: &ForgetArgs) -> Result<Outcome, Problem> {
    let client = Client::new(&args.connection)?;
    match client.delete::<Answer>(&format!("api/v1/nodes/{}", args.node)) {
        Ok(answer) => {
            print::text(&(clean(&answer.message) + "\n"))?;
            Ok(if answer.forgotten { Outcome::Fine } else { Outcome::Amiss })
        }
        Err(ClientError::Refused { message, status, .. }) if status.as_u16() == 409 => {
            print::error(&format!("evenkeel: {} is not forgotten: {message}", args.node));
            Ok(Outcome::Amiss)
        }
        Err(error) if error.is_not_found() => {
            let view: View = client.get("api/v1/state")?;
            Err(Unknown::node(&args.node, view.nodes.keys()).into())
        }
        Err(error) => Err(error.into()),
    }
}
