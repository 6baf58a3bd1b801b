//! The log: to standard error, as text or JSON, what `RUST_LOG` chooses.

use std::io::{IsTerminal, stderr};
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::EnvFilter;

use super::LogFormat;

/// Whether lines are JSON.
static JSON: AtomicBool = AtomicBool::new(false);

/// Says why the process ends, as the other lines are said, even where `RUST_LOG` wants none of them.
pub(super) fn end(why: &str) {
    if JSON.load(Ordering::Relaxed) && tracing::enabled!(tracing::Level::ERROR) {
        tracing::error!(why, "evenkeel ends");
    } else {
        super::print::error(&format!("evenkeel: {why}"));
    }
}

/// Starts logging, for the whole process.
pub(super) fn start(format: LogFormat) {
    JSON.store(matches!(format, LogFormat::Json), Ordering::Relaxed);
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
