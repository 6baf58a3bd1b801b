//! The first SIGTERM or SIGINT drains, the second forces.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// The exit code after a second signal: that of a process that was interrupted.
const FORCED: i32 = 130;

/// Becomes `true` with the first signal; the second ends the process at once.
pub fn stop() -> watch::Receiver<bool> {
    let (sender, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let (Ok(mut terminate), Ok(mut interrupt)) =
            (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
        else {
            tracing::error!("signals cannot be handled");
            return;
        };
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            }
        };
        let first = next().await;
        tracing::info!(signal = first, "stopping; a second signal forces");
        sender.send_replace(true);
        let second = next().await;
        tracing::warn!(signal = second, "forced");
        std::process::exit(FORCED);
    });
    receiver
}
