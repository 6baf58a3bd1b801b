//! evenkeel: parse, run, exit code.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything can want TLS: the crates that use it bring no provider of their own. An error
    // says that there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    evenkeel::cli::run(std::env::args_os())
}
