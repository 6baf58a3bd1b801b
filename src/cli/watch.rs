//! `evenkeel status --watch`: follows the stream that the page lives on, on a terminal redrawn in place.

mod line;
mod screen;

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write, stdin, stdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use serde::Deserialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use self::screen::{Glance, clock, roles};
use super::client::Client;
use super::outcome::{Outcome, Problem};
use super::print::{clean, plain};
use super::select::{Selection, Unknown};
use super::sse::Sent;
use super::status::{knows_nothing, not_leading, of_app, of_cluster, word};
use crate::command::chain;
use crate::controller::live::{Live, LiveCluster, LiveNode};
use crate::controller::patch::merge;
use crate::model::{Cause, Wall};

/// How soon a terminal of another size is drawn anew, while nothing is heard.
const BEAT: Duration = Duration::from_millis(400);

/// Before it tries again to follow.
const AGAIN: Duration = Duration::from_secs(1);

/// Where a terminal does not say how large it is.
const COLUMNS: usize = 80;
const LINES: usize = 24;

/// A screen of its own, without a cursor, and without a second line for what is too wide after all; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &[u8] = b"\x1b[?7h\x1b[?25h\x1b[?1049l";

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
    let mut watched = Watched { selection, ..Watched::default() };
    loop {
        let followed = client.follow("api/v1/stream", BEAT, |sent| {
            if let Some(sent) = sent
                && let Err(unknown) = watched.take(sent)?
            {
                return Ok(Some(Err(unknown.into())));
            }
            Ok(watched.show(shown.as_mut()))
        });
        match followed {
            Ok(answer) => return answer,
            Err(error) if error.is_passing() => watched.trouble = Some(chain(&error)),
            Err(error) => return Err(error.into()),
        }
        if let Some(answer) = watched.show(shown.as_mut()) {
            return answer;
        }
        std::thread::sleep(AGAIN);
    }
}

/// What was heard last, and what there is to say about that.
#[derive(Default)]
struct Watched<'a> {
    selection: Option<&'a Selection>,
    /// As it came, with the patches since.
    document: Value,
    /// The same, cut down to the selection.
    live: Option<Live>,
    /// Why nothing is heard.
    trouble: Option<String>,
}

impl Watched<'_> {
    fn take(&mut self, sent: Sent) -> serde_json::Result<Result<(), Unknown>> {
        match sent.name.as_str() {
            "state" => self.document = serde_json::from_str(&sent.data)?,
            "change" => merge(&mut self.document, serde_json::from_str(&sent.data)?),
            _ => return Ok(Ok(())), // of a later controller
        }
        let mut live = Live::deserialize(&self.document)?;
        if let Some(selection) = self.selection {
            live.others.clear();
            match selection.narrow(&mut live.apps, |app| &mut app.clusters) {
                Ok(()) => {}
                // Names are not judged before it can know them.
                Err(_) if unready(&live).is_some() => live.apps.clear(),
                Err(unknown) => return Ok(Err(unknown)),
            }
            live.events.retain(|_, event| {
                event.app == selection.app
                    && (selection.cluster.is_none() || selection.cluster == event.cluster)
            });
            if selection.cluster.is_some() {
                live.apps.values_mut().for_each(|app| app.unclaimed.clear());
            }
        }
        (self.live, self.trouble) = (Some(live), None);
        Ok(Ok(()))
    }

    /// Shows it; an answer where that cannot go on.
    fn show(&self, shown: &mut dyn Show) -> Option<Result<Outcome, Problem>> {
        let outcome = self.live.as_ref().map_or(Outcome::Amiss, overall);
        match shown.show(self.live.as_ref(), self.trouble.as_deref(), outcome) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Some(Ok(outcome)),
            Err(error) => Some(Err(Problem::Output(error))),
            Ok(()) => None,
        }
    }
}

/// Why the controller does not know the state of what is asked for, if so.
fn unready(live: &Live) -> Option<String> {
    let unled = || {
        let (name, _) = live.apps.iter().find(|(_, app)| !app.leads)?;
        Some(not_leading(name))
    };
    knows_nothing(live.bus_live, live.desired_read).map(str::to_owned).or_else(unled)
}

fn overall(live: &Live) -> Outcome {
    if unready(live).is_some() {
        return Outcome::UnderWay;
    }
    let unreachable = |cluster: &LiveCluster| cluster.notes.contains_key(&Cause::Unreachable);
    let of = |cluster: &LiveCluster| of_cluster(cluster.phase, unreachable(cluster));
    live.apps
        .values()
        .map(|app| of_app(app.clusters.values().map(of)))
        .max()
        .unwrap_or(Outcome::Fine)
}

/// Where it is shown.
trait Show {
    fn show(
        &mut self,
        live: Option<&Live>,
        trouble: Option<&str>,
        outcome: Outcome,
    ) -> std::io::Result<()>;
}

/// A terminal, which is as it was before when this is dropped, or a signal ends the process.
struct Terminal {
    before: Arc<Option<Termios>>,
    /// What a signal ends the process with.
    code: Arc<AtomicU8>,
    colours: bool,
    /// What it shows, and in which size; over a slow line, the same is not sent again.
    drawn: (usize, usize, String),
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
            colours: !plain(),
            drawn: (0, 0, String::new()),
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
        live: Option<&Live>,
        trouble: Option<&str>,
        outcome: Outcome,
    ) -> std::io::Result<()> {
        self.code.store(outcome as u8, Ordering::SeqCst);
        let size = tcgetwinsize(stdout()).ok();
        let known = |size: Option<u16>, or| size.map(usize::from).filter(|n| *n > 0).unwrap_or(or);
        let columns = known(size.map(|size| size.ws_col), COLUMNS);
        let lines = known(size.map(|size| size.ws_row), LINES);
        let glance = Glance { live, trouble, columns, lines };
        let screen: Vec<String> =
            glance.screen().iter().map(|line| line.written(self.colours)).collect();
        // In place. A line is erased before it is written: after its last column that would erase its end. No line
        // end after the last one: the terminal would scroll.
        let below = if screen.len() < lines { "\r\n\x1b[J" } else { "" };
        let text = format!("\x1b[H\x1b[K{}{below}", screen.join("\r\n\x1b[K"));
        let drawn = (columns, lines, text);
        if drawn == self.drawn {
            return Ok(());
        }
        let mut out = stdout().lock();
        out.write_all(drawn.2.as_bytes())?;
        out.flush()?;
        self.drawn = drawn;
        Ok(())
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
        live: Option<&Live>,
        trouble: Option<&str>,
        _: Outcome,
    ) -> std::io::Result<()> {
        let mut now: BTreeMap<String, String> = live.map(lines).unwrap_or_default();
        now.insert("controller".to_owned(), trouble.map_or("connected".to_owned(), str::to_owned));
        self.seen = live.map_or(self.seen, |live| live.at);
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

fn lines(live: &Live) -> BTreeMap<String, String> {
    let mut lines = BTreeMap::new();
    let node = |node: &LiveNode| format!("{}: {}", node.state.words(), node.reason);
    for (app, state) in &live.apps {
        for (name, cluster) in &state.clusters {
            let (done, of, target) = (cluster.converged, cluster.expected, &cluster.target);
            let (phase, message) = (word(cluster.phase), &cluster.message);
            let line = format!("{phase}, {done} of {of} at {target}: {message}");
            lines.insert(format!("{app}/{name}"), line);
            let nodes = cluster.nodes.iter();
            lines.extend(nodes.map(|(n, seen)| (format!("{app}/{name}/{n}"), node(seen))));
        }
        let unclaimed = state.unclaimed.iter();
        lines.extend(unclaimed.map(|(n, seen)| (format!("{app}/{n}"), node(seen))));
    }
    for (name, other) in &live.others {
        lines.insert(name.to_string(), format!("{}, {}", roles(other), other.presence));
    }
    lines
}
