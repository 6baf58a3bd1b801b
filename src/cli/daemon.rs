//! How the long-running commands run: a runtime, a future, and one clear line if it cannot go on.

use std::future::Future;
use std::net::SocketAddr;
use std::process::ExitCode;

use tokio::net::TcpListener;
use tokio::runtime::Builder;

/// Runs `daemon` to its end on the given runtime. An error is one line on stderr, and a failure.
pub fn serve(mut runtime: Builder, daemon: impl Future<Output = Result<(), String>>) -> ExitCode {
    let runtime = match runtime.enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            super::log::end(&format!("cannot start: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(daemon) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            super::log::end(&error);
            ExitCode::FAILURE
        }
    }
}

/// A listener for HTTP.
///
/// # Errors
/// Why there is none, in words.
pub async fn listen(address: SocketAddr) -> Result<TcpListener, String> {
    let listener = TcpListener::bind(address).await.map_err(|error| {
        format!("cannot listen on {address} for HTTP: {error}; give another address with --http")
    })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(%address, "HTTP listens");
    }
    Ok(listener)
}
