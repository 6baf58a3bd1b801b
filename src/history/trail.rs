//! An audit trail that one thread writes for somebody who must not wait for the disk: lines come, and are
//! added in their order.

use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::{self, JoinHandle};

use super::audit::Lines;

/// Lines on their way to the disk, at most. An agent has some ten for an upgrade.
const QUEUE_MAX: usize = 4_096;

/// Hands lines to the thread that writes them. When this is dropped, what was handed over is written first.
#[derive(Debug)]
pub struct Trail {
    queue: Option<SyncSender<Vec<u8>>>,
    writer: Option<JoinHandle<()>>,
    full: bool,
}

impl Trail {
    /// Starts the thread.
    pub fn start(lines: Lines) -> Trail {
        let (queue, receiver) = sync_channel(QUEUE_MAX);
        let writes = move || write(&receiver, lines);
        match thread::Builder::new().name("audit".to_owned()).spawn(writes) {
            Ok(writer) => Trail { queue: Some(queue), writer: Some(writer), full: false },
            Err(error) => {
                tracing::error!(%error, "there is no thread to write the audit trail");
                Trail { queue: None, writer: None, full: false }
            }
        }
    }

    /// Has a line written, which ends with its end. One that finds the queue full is given up, with a word in the log.
    pub fn add(&mut self, line: Vec<u8>) {
        let Some(queue) = &self.queue else { return };
        let full = matches!(queue.try_send(line), Err(TrySendError::Full(_)));
        if full && !self.full {
            tracing::error!("the audit trail is not written fast enough; lines of it are lost");
        }
        self.full = full;
    }
}

impl Drop for Trail {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has said so.
            let _ = writer.join();
        }
    }
}

fn write(queue: &Receiver<Vec<u8>>, mut lines: Lines) {
    let mut failing: Option<String> = None;
    while let Ok(line) = queue.recv() {
        let error = lines.append(&line).err().map(|error| crate::command::chain(&error));
        match &error {
            Some(error) if failing.as_ref() != Some(error) => {
                tracing::error!(error, "the audit trail cannot be written; lines of it are lost");
            }
            None if failing.is_some() => tracing::info!("the audit trail is written again"),
            Some(_) | None => {}
        }
        failing = error;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Rotation;

    #[test]
    fn lines_are_written_in_their_order_before_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let mut trail = Trail::start(Lines::new(path.clone(), Rotation::Elsewhere));
        let expected: String = (0..1_000).map(|n| format!("{n}\n")).collect();
        (0..1_000).for_each(|n| trail.add(format!("{n}\n").into_bytes()));
        drop(trail);
        assert_eq!(std::fs::read_to_string(path).unwrap(), expected);
    }

    #[test]
    fn a_disk_that_is_full_stops_nobody() {
        let mut trail = Trail::start(Lines::new("/dev/full".into(), Rotation::Elsewhere));
        (0..10).for_each(|_| trail.add(b"lost\n".to_vec()));
        drop(trail);
    }
}
