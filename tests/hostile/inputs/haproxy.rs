//! HAProxy's answers: read, or refused in a bounded sentence; and what is read can be shown as HAProxy would show it.

use evenkeel::haproxy::answer::{Stats, info, servers_state};
use evenkeel::model::{Health, ServerSeen};

/// Longer sentences would fill reports and logs.
const SENTENCE_BYTES_MAX: usize = 2000;

/// Answers, each to any of the three questions, between prompts.
pub fn answers(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let answers: Vec<&str> = text.split("\n> ").collect();
    let mut stats = Stats::default();
    let mut seen = Vec::new();
    for answer in &answers {
        match info(answer) {
            Ok(info) => {
                let stopping = u8::from(info.stopping);
                let shown = format!("Pid: {}\nStopping: {stopping}\n", info.process.0);
                assert_eq!(evenkeel::haproxy::answer::info(&shown), Ok(info));
            }
            Err(error) => bounded(&error),
        }
        if let Err(error) = stats.add(answer) {
            bounded(&error);
        }
    }
    for answer in &answers {
        match servers_state(answer) {
            Ok(rows) => {
                let rows = rows.unwrap_or_default();
                assert!(rows.len() <= answer.lines().count(), "more servers than lines");
                for row in rows {
                    assert!(!format!("{}{}", row.backend, row.server).contains([' ', '\n']));
                    if let Some(server) = stats.complete(&row) {
                        seen.push((row.backend.to_owned(), row.server.to_owned(), server));
                    }
                }
            }
            Err(error) => bounded(&error),
        }
    }
    for (backend, server, seen) in &seen {
        again(backend, server, seen);
    }
    !seen.is_empty()
}

fn bounded(error: &str) {
    assert!(error.len() <= SENTENCE_BYTES_MAX, "{} bytes: {error}", error.len());
    assert!(!error.contains('\n'), "{error}");
}

/// A server that was read is shown in both tables and read again.
fn again(backend: &str, server: &str, seen: &ServerSeen) {
    let ServerSeen { admin, health, weight, backup, sessions } = seen;
    let (operational, status) = match health {
        Health::Up => (2, "UP"),
        Health::Starting => (1, "UP"),
        Health::Down => (0, "DOWN"),
        Health::Stopping => (3, "NOLB"),
    };
    let state = format!(
        "1\n# be_name srv_name srv_op_state srv_admin_state srv_uweight\n\
         {backend} {server} {operational} {} {weight}\n",
        admin.0
    );
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut stats = Stats::default();
    let shown = format!(
        "# pxname,svname,scur,status,bck,type\n{},{},{sessions},{status},{},2\n",
        quoted(backend),
        quoted(server),
        u8::from(*backup)
    );
    assert_eq!(stats.add(&shown), Ok(()), "{shown}");
    let rows = servers_state(&state).expect(&state).expect("a table");
    assert_eq!(rows.len(), 1, "{state}");
    assert_eq!(stats.complete(&rows[0]).as_ref(), Some(seen), "{state}{shown}");
}
