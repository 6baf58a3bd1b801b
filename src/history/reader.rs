//! Reads the database of a state directory, read-only, beside the process that writes it or without one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params_from_iter};

use super::entry::{Entry, Kind};
use super::query::{Filter, LIMIT_MAX, Page, Rollout, RolloutOutcome, RolloutPage, Rollouts};
use super::store::{VERSION, number, version};
use crate::model::Wall;

/// How long a writer may keep a reader waiting; in the mode that is used, only while the database is made.
const BUSY: Duration = Duration::from_secs(2);

const COLUMNS: &str = "id, at, kind, name, what, cause, app, cluster, node, rollout, epoch, controller, \
    commit_id, before, after, asked, generation";

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no history.
    #[error("there is no history at {}; is this a controller's state directory, and was it kept?", path.display())]
    Absent {
        /// The file that should be there.
        path: PathBuf,
    },
    /// Another version of the program has written it.
    #[error(
        "the history {} has version {found}, and this program reads version {VERSION}; use the \
         version of evenkeel that the controller has",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// What it has.
        found: usize,
    },
    /// SQLite, or the disk, says no.
    #[error("cannot read the history {}", path.display())]
    Sqlite {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        error: rusqlite::Error,
    },
    /// Nothing is known of it.
    #[error("no rollout {rollout} is known; `evenkeel history --rollouts` lists those that are")]
    Unknown {
        /// Which.
        rollout: String,
    },
}

impl ReadError {
    /// Whether there is no such rollout.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Unknown { .. } => true,
            Self::Absent { .. } | Self::Version { .. } | Self::Sqlite { .. } => false,
        }
    }
}

/// Reads the history of a state directory. Every question opens it anew, so that it may be set aside, moved or begun
/// at any time.
#[derive(Debug, Clone)]
pub struct Reader {
    path: PathBuf,
}

impl Reader {
    /// Of this state directory.
    pub fn new(folder: PathBuf) -> Reader {
        Reader { path: folder.join(super::FILE) }
    }

    /// The newest entries that fit.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn entries(&self, filter: &Filter) -> Result<Page, ReadError> {
        let connection = self.open()?;
        let page = newest(&connection, filter);
        page.map_err(|error| ReadError::Sqlite { path: self.path.clone(), error })
    }

    /// The newest rollouts that fit: of app, cluster, `since` and `before`; the other fields are not looked at.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn rollouts(&self, filter: &Filter) -> Result<Rollouts, ReadError> {
        let connection = self.open()?;
        let list = rollouts(&connection, filter);
        list.map_err(|error| ReadError::Sqlite { path: self.path.clone(), error })
    }

    /// The rollout that the filter names, with its entries, oldest first.
    ///
    /// # Errors
    /// [`ReadError`]
    pub fn rollout(&self, filter: &Filter) -> Result<RolloutPage, ReadError> {
        let connection = self.open()?;
        let failed = |error| ReadError::Sqlite { path: self.path.clone(), error };
        let id = filter.rollout.clone().unwrap_or_default();
        let begun = begun(&connection, &id).map_err(failed)?;
        let begun = begun.ok_or(ReadError::Unknown { rollout: id })?;
        let rollout = in_short(&connection, begun).map_err(failed)?;
        let (entries, more) = oldest(&connection, filter).map_err(failed)?;
        let after = entries.last().and_then(|entry| entry.id).filter(|_| more);
        Ok(RolloutPage { rollout, entries, after })
    }

    fn open(&self) -> Result<Connection, ReadError> {
        let failed = |error| ReadError::Sqlite { path: self.path.clone(), error };
        if !self.path.exists() {
            return Err(ReadError::Absent { path: self.path.clone() });
        }
        let connection = connect(&self.path).map_err(failed)?;
        match version(&connection).map_err(failed)? {
            0 => Err(ReadError::Absent { path: self.path.clone() }),
            VERSION => Ok(connection),
            found => Err(ReadError::Version { path: self.path.clone(), found }),
        }
    }
}

fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let opened = Connection::open_with_flags(path, flags).and_then(|connection| {
        connection.busy_timeout(BUSY)?;
        version(&connection)?;
        Ok(connection)
    });
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    if opened.is_ok() || Path::new(&log).exists() {
        return opened;
    }
    // Nobody writes it, and it is where nothing can be written: then no file beside it is needed.
    let mut address = String::from("file:");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'-' | b'_' => {
                address.push(char::from(*byte));
            }
            _ => address.push_str(&format!("%{byte:02x}")),
        }
    }
    address.push_str("?immutable=1");
    Connection::open_with_flags(address, flags | OpenFlags::SQLITE_OPEN_URI).or(opened)
}

/// The conditions of a filter, and their values.
fn conditions(filter: &Filter) -> (String, Vec<Value>) {
    let mut conditions = vec!["1".to_owned()];
    let mut values = Vec::new();
    let mut add = |condition: &str, value: Value| {
        conditions.push(condition.to_owned());
        values.push(value);
    };
    let text = |text: &String| Value::Text(text.clone());
    if let Some(app) = &filter.app {
        // A gap may be of any app.
        add("(app = ? OR app IS NULL)", text(app));
    }
    if let Some(cluster) = &filter.cluster {
        add("(cluster = ? OR app IS NULL)", text(cluster));
    }
    if let Some(node) = &filter.node {
        add("(node = ? OR app IS NULL)", text(node));
    }
    if let Some(rollout) = &filter.rollout {
        add("rollout = ?", text(rollout));
    }
    if let Some(since) = filter.since {
        add("at >= ?", Value::Integer(number(since.0)));
    }
    if let Some(before) = filter.before {
        add("id < ?", Value::Integer(number(before)));
    }
    if let Some(after) = filter.after {
        add("id > ?", Value::Integer(number(after)));
    }
    if !filter.kinds.is_empty() {
        let kinds: Vec<String> =
            filter.kinds.iter().map(|kind| format!("'{}'", kind.as_str())).collect();
        conditions.push(format!("kind IN ({})", kinds.join(", ")));
    }
    (conditions.join(" AND "), values)
}

/// The entries that fit, in this order, and whether there are more.
fn select(
    connection: &Connection,
    filter: &Filter,
    order: &str,
) -> rusqlite::Result<(Vec<Entry>, bool)> {
    let (conditions, mut values) = conditions(filter);
    let limit = filter.limit.clamp(1, LIMIT_MAX);
    // One more than wanted tells whether there are more.
    values.push(Value::Integer(number(limit as u64 + 1)));
    let sql = format!("SELECT {COLUMNS} FROM entry WHERE {conditions} ORDER BY id {order} LIMIT ?");
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), entry)?;
    let mut entries = rows.collect::<rusqlite::Result<Vec<Entry>>>()?;
    let more = entries.len() > limit;
    entries.truncate(limit);
    Ok((entries, more))
}

fn newest(connection: &Connection, filter: &Filter) -> rusqlite::Result<Page> {
    let (mut entries, more) = select(connection, filter, "DESC")?;
    entries.reverse();
    let before = entries.first().and_then(|entry| entry.id).filter(|_| more);
    Ok(Page { entries, before })
}

fn oldest(connection: &Connection, filter: &Filter) -> rusqlite::Result<(Vec<Entry>, bool)> {
    select(connection, filter, "ASC")
}

fn entry(row: &Row<'_>) -> rusqlite::Result<Entry> {
    let kind: String = row.get(2)?;
    Ok(Entry {
        id: Some(unsigned(row.get(0)?)),
        at: Wall(unsigned(row.get(1)?)),
        // The version of the database says which kinds there are.
        kind: Kind::of(&kind).unwrap_or(Kind::Event),
        name: row.get(3)?,
        what: row.get(4)?,
        cause: row.get(5)?,
        app: row.get(6)?,
        cluster: row.get(7)?,
        node: row.get(8)?,
        rollout: row.get(9)?,
        epoch: row.get::<_, Option<i64>>(10)?.map(unsigned),
        controller: row.get(11)?,
        commit: row.get(12)?,
        before: row.get(13)?,
        after: row.get(14)?,
        asked: row.get(15)?,
        generation: row.get::<_, Option<i64>>(16)?.map(unsigned),
    })
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn rollouts(connection: &Connection, filter: &Filter) -> rusqlite::Result<Rollouts> {
    let asked = Filter { node: None, rollout: None, kinds: vec![Kind::Event], ..filter.clone() };
    let (conditions, mut values) = conditions(&asked);
    let limit = filter.limit.clamp(1, LIMIT_MAX);
    values.push(Value::Integer(number(limit as u64 + 1)));
    let sql = format!(
        "SELECT {COLUMNS} FROM entry WHERE name = 'rollout_begun' AND {conditions} ORDER BY id DESC LIMIT ?"
    );
    let mut statement = connection.prepare(&sql)?;
    let rows = statement.query_map(params_from_iter(values), entry)?;
    let mut begun = rows.collect::<rusqlite::Result<Vec<Entry>>>()?;
    let more = begun.len() > limit;
    begun.truncate(limit);
    let before = begun.last().and_then(|entry| entry.id).filter(|_| more);
    let list = begun.into_iter().map(|begun| in_short(connection, begun));
    Ok(Rollouts { rollouts: list.collect::<rusqlite::Result<_>>()?, before })
}

/// The entry that a rollout began with; where that is gone, the oldest that is left.
fn begun(connection: &Connection, rollout: &str) -> rusqlite::Result<Option<Entry>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM entry WHERE rollout = ? ORDER BY name <> 'rollout_begun', id LIMIT 1"
    );
    connection.query_row(&sql, [rollout], entry).optional()
}

fn in_short(connection: &Connection, begun: Entry) -> rusqlite::Result<Rollout> {
    let id = begun.id.unwrap_or_default();
    let rollout = begun.rollout.unwrap_or_default();
    let (app, cluster) = (begun.app.unwrap_or_default(), begun.cluster.unwrap_or_default());
    let known = begun.name == "rollout_begun";
    let end = end_of(connection, &rollout)?;
    let next = next_of(connection, &app, &cluster, &rollout, id)?;
    let (outcome, ended) = match (end, next) {
        (Some((outcome, at)), _) => (outcome, Some(at)),
        (None, Some(at)) => (RolloutOutcome::Superseded, Some(at)),
        (None, None) => (RolloutOutcome::UnderWay, None),
    };
    Ok(Rollout {
        failed: failed_in(connection, &rollout)?,
        rollout,
        app,
        cluster,
        begun: begun.at,
        id,
        from: begun.before.filter(|_| known),
        to: begun.after.filter(|_| known),
        commit: begun.commit,
        cause: if known { begun.cause } else { String::new() },
        outcome,
        ended,
    })
}

fn end_of(
    connection: &Connection,
    rollout: &str,
) -> rusqlite::Result<Option<(RolloutOutcome, Wall)>> {
    let sql =
        "SELECT name, after, at FROM entry WHERE rollout = ? AND name IN ('converged', 'rejected')
        ORDER BY id DESC LIMIT 1";
    let end = connection.query_row(sql, [rollout], |row| {
        let (name, goal): (String, Option<String>) = (row.get(0)?, row.get(1)?);
        let outcome = match (name.as_str(), goal) {
            ("converged", _) => RolloutOutcome::Completed,
            (_, Some(_)) => RolloutOutcome::RolledBack,
            (_, None) => RolloutOutcome::Held,
        };
        Ok((outcome, Wall(unsigned(row.get(2)?))))
    });
    end.optional()
}

/// When the next rollout of the same cluster began.
fn next_of(
    connection: &Connection,
    app: &str,
    cluster: &str,
    rollout: &str,
    id: u64,
) -> rusqlite::Result<Option<Wall>> {
    let sql = "SELECT at FROM entry WHERE name = 'rollout_begun' AND id > ?1 AND app = ?2 AND cluster = ?3
        AND rollout <> ?4 ORDER BY id LIMIT 1";
    let values = rusqlite::params![number(id), app, cluster, rollout];
    connection.query_row(sql, values, |row| Ok(Wall(unsigned(row.get(0)?)))).optional()
}

/// The nodes that have failed, and not recovered.
fn failed_in(connection: &Connection, rollout: &str) -> rusqlite::Result<Vec<String>> {
    let sql = "SELECT node, name FROM entry WHERE rollout = ? AND name IN ('node_failed', 'node_recovered')
        AND node IS NOT NULL ORDER BY id";
    let mut statement = connection.prepare(sql)?;
    let rows = statement
        .query_map([rollout], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let mut failed = BTreeSet::new();
    for row in rows {
        let (node, name) = row?;
        if name == "node_failed" {
            failed.insert(node);
        } else {
            failed.remove(&node);
        }
    }
    Ok(failed.into_iter().collect())
}
