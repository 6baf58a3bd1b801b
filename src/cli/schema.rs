//! `evenkeel schema`: the JSON Schema of the desired files, for editors.

use std::process::ExitCode;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::desired::{Document, schema};

/// Prints the JSON Schema (draft 2020-12) of the desired files.
#[derive(Debug, Args)]
pub struct SchemaArgs {
    /// Which kind of file; without it, one schema with both under `$defs`.
    pub document: Option<Kind>,
}

/// The kinds of desired files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// `app.toml`
    App,
    /// A cluster's file.
    Cluster,
}

/// Prints it.
pub fn run(args: &SchemaArgs) -> ExitCode {
    match super::print::text(&format!("{:#}\n", document(args.document))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn document(kind: Option<Kind>) -> Value {
    match kind {
        Some(Kind::App) => schema(Document::App),
        Some(Kind::Cluster) => schema(Document::Cluster),
        None => json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$defs": {"app": schema(Document::App), "cluster": schema(Document::Cluster)},
            "anyOf": [{"$ref": "#/$defs/cluster"}, {"$ref": "#/$defs/app"}]
        }),
    }
}
