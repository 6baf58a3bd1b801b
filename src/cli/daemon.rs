//! How the long-running commands run: a runtime, a future, and one clear line if it cannot go on.

use std::future::Future;
use std::process::ExitCode;

use tokio::runtime::Builder;

/// Runs `daemon` to its end on the given runtime. An error is one line on stderr, and a failure.
pub fn serve(mut runtime: Builder, daemon: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("evenkeel: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("evenkeel: {error}");
            ExitCode::FAILURE
        }
    }
}
