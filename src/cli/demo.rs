//! `evenkeel demo`: the whole reference scenario on this machine; and its web servers.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::command::chain;
use crate::demo::{self, Broker, DemoError, Options, guard, web};

/// The exit code after a signal: that of a process that was interrupted.
const INTERRUPTED: u8 = 130;

/// Shows a fleet on this machine: nine web servers behind HAProxy, upgraded under load.
///
/// Everything is in a temporary directory and on 127.0.0.1, and ends with the demo. Needs haproxy
/// and the Monitoring Plugins, and uses git if it is there.
#[derive(Debug, Args)]
pub struct DemoArgs {
    /// Leave it running afterwards, to be played with; Ctrl-C ends it.
    #[arg(long)]
    pub keep: bool,
    /// An empty directory for it all, instead of a temporary one; it is not removed.
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Servers fetch archives of releases and are restarted, instead of one file that changes.
    #[arg(long)]
    pub release_layout: bool,
    /// Who carries the documents: the controller's own broker, or a Mosquitto.
    #[arg(long, value_enum, default_value = "embedded")]
    pub broker: Broker,
    /// All nine servers in one cluster.
    #[arg(long)]
    pub one_cluster: bool,
    /// The floor of ready servers: a count, or a percentage such as 40%.
    #[arg(long, value_name = "FLOOR")]
    pub min_ready: Option<String>,
    /// So many further revisions after the second, for the medians of their times.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rounds: u32,
    /// The summary as JSON on standard output, and the story on standard error.
    #[arg(long)]
    pub json: bool,
}

/// Exits 0 if everything converged, no request failed, and every message came once.
pub fn run(args: &DemoArgs) -> ExitCode {
    let options = Options {
        keep: args.keep,
        dir: args.dir.clone(),
        release_layout: args.release_layout,
        broker: args.broker,
        one_cluster: args.one_cluster,
        min_ready: args.min_ready.clone(),
        rounds: args.rounds,
        json: args.json,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(demo::run(options)),
        Err(error) => Err(DemoError::System { what: "start", error }),
    };
    match outcome {
        Ok(summary) => {
            if args.json {
                println!("{}", serde_json::to_string_pretty(&summary).unwrap_or_default());
            }
            if summary.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(error) => {
            eprintln!("evenkeel demo: {}", chain(&error));
            match error {
                DemoError::Interrupted => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// The guard of the demo's processes: kills them when the demo was killed.
pub fn run_guard() -> ExitCode {
    match guard::guard(std::io::stdin().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE, // nobody is there to be told
    }
}

/// One web server of the demo.
#[derive(Debug, Args)]
pub struct DemoWebArgs {
    /// Its directory.
    #[arg(long, value_name = "DIR")]
    pub dir: PathBuf,
    /// Its port on 127.0.0.1.
    #[arg(long, required_unless_present = "restart")]
    pub port: Option<u16>,
    /// End the server of that directory, and wait for its successor.
    #[arg(long, conflicts_with = "port")]
    pub restart: bool,
}

/// Serves until SIGTERM, or restarts.
pub fn run_web(args: &DemoWebArgs) -> ExitCode {
    let outcome = match args.port {
        None => web::restart(&args.dir),
        Some(port) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .and_then(|runtime| runtime.block_on(web::serve(&args.dir, port))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evenkeel demo-web: {error}");
            ExitCode::FAILURE
        }
    }
}
