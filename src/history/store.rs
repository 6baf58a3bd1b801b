//! The database: made, brought up to date, written to in transactions, kept small, and set aside when it is damaged.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, params};

use super::entry::Entry;
use super::sink::Place;
use crate::command::chain;
use crate::model::Wall;

/// What brings a database from one version to the next, one after the other; its `user_version` says how many of
/// them it has seen. One that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE entry (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        at INTEGER NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        what TEXT NOT NULL,
        cause TEXT NOT NULL,
        app TEXT,
        cluster TEXT,
        node TEXT,
        rollout TEXT,
        epoch INTEGER,
        controller TEXT,
        commit_id TEXT,
        before TEXT,
        after TEXT,
        asked TEXT,
        generation INTEGER
    ) STRICT;",
    "CREATE INDEX entry_at ON entry (at);
    CREATE INDEX entry_rollout ON entry (rollout, id) WHERE rollout IS NOT NULL;
    CREATE INDEX entry_begun ON entry (id) WHERE name = 'rollout_begun';",
];

/// The version that this program writes.
pub(super) const VERSION: usize = MIGRATIONS.len();

/// Entries that one step of pruning deletes, at most: it takes some milliseconds.
const PRUNE_MAX: u64 = 1_000;

/// Pages that one step gives back to the file system, at most: 4 MB.
const VACUUM_PAGES: u32 = 1_000;

/// How long a reader may keep a write waiting. Readers do not, in the mode that is used; a person with a shell might.
const BUSY: Duration = Duration::from_secs(2);

/// A log of writes larger than this is cut down after it was taken over, in bytes.
const LOG_BYTES: u32 = 8 << 20;

/// How much is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub rows_max: u64,
    pub age_ms_max: u64,
}

/// Why the database does not serve.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    /// The file cannot be made or opened.
    #[error("cannot open the history {}", path.display())]
    Open {
        path: PathBuf,
        #[source]
        error: std::io::Error,
    },
    /// SQLite, or the disk, says no.
    #[error("cannot {what} the history {}", path.display())]
    Sqlite {
        what: &'static str,
        path: PathBuf,
        #[source]
        error: rusqlite::Error,
    },
    /// A newer program has written it.
    #[error(
        "the history {} has version {found}, and this program knows up to {VERSION}: a newer evenkeel \
         has written it; use that, or move the file away",
        path.display()
    )]
    Newer { path: PathBuf, found: usize },
    /// It is not in order.
    #[error("the history {} is damaged: {why}", path.display())]
    Damaged { path: PathBuf, why: String },
}

impl StoreError {
    fn is_damage(&self) -> bool {
        match self {
            Self::Sqlite { error, .. } => {
                let code = error.sqlite_error_code();
                matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
            }
            Self::Damaged { .. } => true,
            Self::Open { .. } | Self::Newer { .. } => false,
        }
    }
}

/// The database, opened by the first that is to be written.
pub(super) struct Store {
    path: PathBuf,
    bounds: Bounds,
    open: Option<Open>,
}

struct Open {
    connection: Connection,
    rows: u64,
}

impl Store {
    pub fn new(path: PathBuf, bounds: Bounds) -> Store {
        Store { path, bounds, open: None }
    }

    /// Does it with the database; one that is damaged is set aside, and it is done with a new one.
    fn with<T>(
        &mut self,
        act: impl Fn(&Path, &mut Open, Bounds) -> Result<T, StoreError>,
    ) -> Result<T, String> {
        let mut result = self.attempt(&act);
        if let Err(error) = &result
            && error.is_damage()
        {
            let aside = set_aside(&self.path);
            let (why, aside) = (chain(error), aside.display().to_string());
            tracing::error!(why, aside, "the history is damaged and set aside; a new one is begun");
            result = self.attempt(&act);
        }
        result.map_err(|error| chain(&error))
    }

    fn attempt<T>(
        &mut self,
        act: &impl Fn(&Path, &mut Open, Bounds) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let mut open = match self.open.take() {
            // Whoever removes the file wants a new one.
            Some(open) if self.path.exists() => open,
            Some(_) | None => open_database(&self.path)?,
        };
        let done = act(&self.path, &mut open, self.bounds)?;
        // After an error it is opened anew, and looked at whole.
        self.open = Some(open);
        Ok(done)
    }
}

impl Place for Store {
    const NAME: &'static str = "database";

    fn write(&mut self, entries: &[Entry]) -> Result<(), String> {
        self.with(|path, open, _| {
            insert(&mut open.connection, entries).map_err(failed("write to", path))?;
            open.rows += entries.len() as u64;
            Ok(())
        })
    }

    fn tend(&mut self, now: Wall) -> Result<bool, String> {
        self.with(|path, open, bounds| {
            prune(open, bounds, now).map_err(failed("remove old entries of", path))
        })
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(rusqlite::Error) -> StoreError {
    move |error| StoreError::Sqlite { what, path: path.to_owned(), error }
}

fn open_database(path: &Path) -> Result<Open, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let was_there = path.exists();
    // What checks say of a machine is not for everybody. SQLite's other files take over the mode of this one.
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| StoreError::Open { path: path.to_owned(), error })?;
    let mut connection = Connection::open_with_flags(path, flags).map_err(failed("open", path))?;
    prepare(&mut connection, path, was_there)?;
    let rows = connection
        .query_row("SELECT count(*) FROM entry", (), |row| row.get::<_, i64>(0))
        .map_err(failed("count", path))?;
    Ok(Open { connection, rows: u64::try_from(rows).unwrap_or(0) })
}

fn prepare(connection: &mut Connection, path: &Path, was_there: bool) -> Result<(), StoreError> {
    connection.busy_timeout(BUSY).map_err(failed("open", path))?;
    // Before anything is changed: what a newer program has written stays as it is.
    let found = version(connection).map_err(failed("open", path))?;
    if found > VERSION {
        return Err(StoreError::Newer { path: path.to_owned(), found });
    }
    // In this mode a transaction survives the end of the process without a flush; only a machine that loses its
    // power may lose the last ones. Whoever reads does not hold up whoever writes.
    let settings = format!(
        "PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA journal_size_limit = {LOG_BYTES};"
    );
    connection.execute_batch(&settings).map_err(failed("open", path))?;
    if was_there {
        let check = "PRAGMA quick_check(1)";
        let why: String =
            connection.query_row(check, (), |row| row.get(0)).map_err(failed("look at", path))?;
        if why != "ok" {
            return Err(StoreError::Damaged { path: path.to_owned(), why });
        }
    }
    migrate(connection, MIGRATIONS).map_err(failed("bring up to date", path))
}

/// How many of [`MIGRATIONS`] a database has seen.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<usize> {
    let version: i64 = connection.query_row("PRAGMA user_version", (), |row| row.get(0))?;
    Ok(usize::try_from(version).unwrap_or(0))
}

/// Each in a transaction, together with the version that it leads to.
fn migrate(connection: &mut Connection, migrations: &[&str]) -> rusqlite::Result<()> {
    let seen = version(connection)?;
    for (number, migration) in (1..).zip(migrations).skip(seen) {
        let transaction = connection.transaction()?;
        transaction.execute_batch(migration)?;
        transaction.execute_batch(&format!("PRAGMA user_version = {number}"))?;
        transaction.commit()?;
    }
    Ok(())
}

/// All of them, or none.
fn insert(connection: &mut Connection, entries: &[Entry]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut statement = transaction.prepare(
            "INSERT INTO entry (at, kind, name, what, cause, app, cluster, node, rollout, epoch, controller,
                commit_id, before, after, asked, generation)
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        )?;
        for entry in entries {
            statement.execute(params![
                number(entry.at.0),
                entry.kind.as_str(),
                entry.name,
                entry.what,
                entry.cause,
                entry.app,
                entry.cluster,
                entry.node,
                entry.rollout,
                entry.epoch.map(number),
                entry.controller,
                entry.commit,
                entry.before,
                entry.after,
                entry.asked,
                entry.generation.map(number),
            ])?;
        }
    }
    transaction.commit()
}

/// SQLite's integers have a sign. No time, epoch or generation of ours comes near the end of them.
pub(super) fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// One bounded step; says whether another one is due.
fn prune(open: &mut Open, bounds: Bounds, now: Wall) -> rusqlite::Result<bool> {
    let too_many = open.rows.saturating_sub(bounds.rows_max).min(PRUNE_MAX);
    let deleted = if too_many > 0 {
        let oldest = "DELETE FROM entry WHERE id IN (SELECT id FROM entry ORDER BY id LIMIT ?)";
        open.connection.execute(oldest, [number(too_many)])?
    } else {
        let too_old = "DELETE FROM entry WHERE id IN
            (SELECT id FROM entry WHERE at < ?1 ORDER BY at LIMIT ?2)";
        let end = now.0.saturating_sub(bounds.age_ms_max);
        open.connection.execute(too_old, [number(end), number(PRUNE_MAX)])?
    };
    open.rows = open.rows.saturating_sub(deleted as u64);
    if deleted > 0 {
        open.connection.execute_batch(&format!("PRAGMA incremental_vacuum({VACUUM_PAGES})"))?;
    }
    // After the last that were too many, those that are too old are looked for.
    Ok(deleted as u64 == PRUNE_MAX || too_many > 0)
}

/// Renames the database with what belongs to it; says what it is called now.
fn set_aside(path: &Path) -> PathBuf {
    let with = |end: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(end);
        PathBuf::from(name)
    };
    for end in ["-wal", "-shm", ""] {
        let (from, to) = (with(end), with(&format!(".bad{end}")));
        // What belonged to one that was set aside before must not be taken for this one's.
        let _ = fs::remove_file(&to);
        if let Err(error) = fs::rename(&from, &to)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::error!(file = %from.display(), %error, "it cannot be set aside");
        }
    }
    with(".bad")
}

#[cfg(test)]
mod tests;
