//! `evenkeel status --watch`: follows the fleet, on a terminal redrawn in place.

mod screen;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use tokio::signal::unix::{SignalKind, signal};

use self::screen::{Glance, clock};
use super::client::Client;
use super::outcome::{Outcome, Problem};
use super::print::clean;
use super::select::Selection;
use super::status::{clusters, fetch, overall, word};
use crate::command::chain;
use crate::controller::live::{NodeState, message};
use crate::controller::view::View;
use crate::model::{Decision, Wall};

/// Between two looks; but never so often that asking takes more than a fifth of the time.
const PAUSE: Duration = Duration::from_millis(400);

/// Where a terminal does not say how large it is.
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// A screen of its own, without a cursor; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l";
const LEAVE: &[u8] = b"\x1b[?25h\x1b[?1049l";

/// Follows until a signal ends the process, or whoever reads has gone. A controller that is away is waited for: it
/// may be restarting.
///
/// # Errors
/// [`Problem`], if asking again cannot help.
pub(super) fn follow(client: &Client, selection: Option<&Selection>) -> Result<Outcome, Problem> {
    let mut shown: Box<dyn Show> = if stdout().is_terminal() {
        Box::new(Terminal::enter()?)
    } else {
        Box::new(Lines::default())
    };
    let mut last: Option<View> = None;
    loop {
        let asked = Instant::now();
        let trouble = match fetch(client, selection) {
            Ok(view) => {
                last = Some(view);
                None
            }
            Err(problem) if may_pass(&problem) => Some(chain(&problem)),
            Err(problem) => return Err(problem),
        };
        let took = asked.elapsed();
        let outcome = last.as_ref().map_or(Outcome::Amiss, overall);
        match shown.show(last.as_ref(), trouble.as_deref(), outcome) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(outcome),
            Err(error) => return Err(Problem::Output(error)),
            Ok(()) => std::thread::sleep(PAUSE.max(took * 4)),
        }
    }
}

fn may_pass(problem: &Problem) -> bool {
    match problem {
        Problem::Client(error) => error.is_passing(),
        Problem::NotReady { .. } => true,
        Problem::Unknown(_)
        | Problem::Desired { .. }
        | Problem::Endless { .. }
        | Problem::History(_)
        | Problem::Output(_) => false,
    }
}

/// Where it is shown.
trait Show {
    fn show(
        &mut self,
        view: Option<&View>,
        trouble: Option<&str>,
        outcome: Outcome,
    ) -> std::io::Result<()>;
}

/// A terminal, which is as it was before when this is dropped, or a signal ends the process.
struct Terminal {
    before: Arc<Option<Termios>>,
    /// What a signal ends the process with.
    code: Arc<AtomicU8>,
}

impl Terminal {
    fn enter() -> Result<Terminal, Problem> {
        // What is typed would be in the midst of the table.
        let before = stdin().is_terminal().then(|| tcgetattr(stdin()).ok()).flatten();
        if let Some(mut quiet) = before.clone() {
            quiet.local_modes.remove(LocalModes::ECHO);
            let _ = tcsetattr(stdin(), OptionalActions::Now, &quiet);
        }
        let terminal = Terminal {
            before: Arc::new(before),
            code: Arc::new(AtomicU8::new(Outcome::Amiss as u8)),
        };
        terminal.leave_at_a_signal().map_err(Problem::Output)?;
        let mut out = stdout().lock();
        out.write_all(ENTER).and_then(|()| out.flush()).map_err(Problem::Output)?;
        drop(out);
        Ok(terminal)
    }

    /// A request may be under way for seconds, so that nobody waits for the loop.
    fn leave_at_a_signal(&self) -> std::io::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let within = runtime.enter();
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut hangup = signal(SignalKind::hangup())?;
        drop(within);
        let (before, code) = (Arc::clone(&self.before), Arc::clone(&self.code));
        std::thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
            });
            // Held to the end: nothing is drawn after this.
            let mut out = stdout().lock();
            leave(&mut out, (*before).as_ref());
            std::process::exit(i32::from(code.load(Ordering::SeqCst)));
        });
        Ok(())
    }
}

/// A terminal that has gone needs no restoring.
fn leave(out: &mut impl Write, before: Option<&Termios>) {
    let _ = out.write_all(LEAVE).and_then(|()| out.flush());
    if let Some(before) = before {
        let _ = tcsetattr(stdin(), OptionalActions::Now, before);
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        leave(&mut stdout().lock(), (*self.before).as_ref());
    }
}

impl Show for Terminal {
    fn show(
        &mut self,
        view: Option<&View>,
        trouble: Option<&str>,
        outcome: Outcome,
    ) -> std::io::Result<()> {
        self.code.store(outcome as u8, Ordering::SeqCst);
        let size = tcgetwinsize(stdout()).ok();
        let known = |size: Option<u16>, or| size.map(usize::from).filter(|n| *n > 0).unwrap_or(or);
        let columns = known(size.map(|size| size.ws_col), COLUMNS);
        let lines = known(size.map(|size| size.ws_row), LINES);
        let glance = Glance { view, trouble, columns, lines };
        let mut text = String::from("\x1b[H");
        for line in glance.screen() {
            // No line end after the last one: the terminal would scroll.
            if text.len() > 3 {
                text.push_str("\r\n");
            }
            text.push_str(&line);
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

/// A pipe or a file: what has changed, with the time.
#[derive(Default)]
struct Lines {
    shown: BTreeMap<String, String>,
    seen: Wall,
}

impl Show for Lines {
    fn show(
        &mut self,
        view: Option<&View>,
        trouble: Option<&str>,
        _: Outcome,
    ) -> std::io::Result<()> {
        let mut now: BTreeMap<String, String> = view.map(lines).unwrap_or_default();
        now.insert("controller".to_owned(), trouble.map_or("connected".to_owned(), str::to_owned));
        self.seen = view.map_or(self.seen, |view| view.at);
        let mut text = String::new();
        for (what, line) in &now {
            if self.shown.get(what) != Some(line) {
                text.push_str(&format!("{} {what}: {}\n", clock(self.seen), clean(line)));
            }
        }
        for gone in self.shown.keys().filter(|what| !now.contains_key(*what)) {
            text.push_str(&format!("{} {gone}: not there any more\n", clock(self.seen)));
        }
        self.shown = now;
        let mut out = stdout().lock();
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

fn lines(view: &View) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    for (app, name, cluster) in clusters(view) {
        let (done, of, target) = (cluster.converged, cluster.expected, &cluster.target);
        let (phase, message) = (word(cluster.phase), message(&cluster.conditions));
        lines.insert(
            format!("{app}/{name}"),
            format!("{phase}, {done} of {of} at {target}: {message}"),
        );
    }
    for (name, node) in &view.nodes {
        for (app, part) in &node.apps {
            let state = NodeState::of(node.presence, part.decision.as_ref()).words();
            // Without the time that is left, which changes with every look.
            let reason = match &part.decision {
                Some(Decision::Wait { what, .. }) => format!("waiting for {what}"),
                _ => part.reason.clone(),
            };
            let place = part.cluster.as_ref().map_or(app.to_string(), |c| format!("{app}/{c}"));
            lines.insert(format!("{place}/{name}"), format!("{state}: {reason}"));
        }
    }
    lines
}
