//! The log: to standard error, as text or JSON, what `RUST_LOG` chooses.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::LogFormat;

/// Starts logging, for the whole process.
pub(super) fn start(format: LogFormat) {
    // The embedded broker's crate has a line for every connection, which our own log covers.
    let quiet = |filter: EnvFilter| match "mqtt5=warn".parse() {
        Ok(directive) if std::env::var_os("RUST_LOG").is_none() => filter.add_directive(directive),
        Ok(_) | Err(_) => filter,
    };
    let filter = quiet(
        EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy(),
    );
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal() && !super::print::plain())
        // It would tell of a closed standard error on standard error, and panic.
        .log_internal_errors(false);
    // An error says that somebody has set one up before; then that one is used.
    let _ = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => {
            let json = builder.json().flatten_event(true).with_span_list(false);
            json.try_init()
        }
    };
}
