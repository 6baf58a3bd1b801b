//! What HAProxy answers, read by column name: `show info`, `show servers state` and `show stat`
//! (HAProxy management guide 9.1 "CSV format" and 9.3).

use std::collections::BTreeMap;

use crate::model::{AdminBits, Health, ServerSeen};
use crate::plan::ports::ProcessId;

/// What `show info` is asked for.
#[derive(Debug, PartialEq, Eq)]
pub struct Info {
    /// Which process answers.
    pub process: ProcessId,
    /// A reload or a stop has put it out of service; it only ends its connections.
    pub stopping: bool,
}

/// Reads an answer to `show info`.
///
/// # Errors
/// A sentence: what is missing, or what is there instead.
pub fn info(text: &str) -> Result<Info, String> {
    let value = |wanted: &str| {
        text.lines()
            .filter_map(|line| line.split_once(": "))
            .find_map(|(name, value)| (name == wanted).then_some(value.trim()))
            .ok_or_else(|| format!("it has no {wanted}: {}", cut(text)))
    };
    let stopping = match value("Stopping")? {
        "0" => false,
        "1" => true,
        other => return Err(format!("Stopping is {}", cut(other))),
    };
    Ok(Info { process: ProcessId(number(value("Pid")?, "Pid")?), stopping })
}

/// A line of `show servers state`, as far as it is of use here.
#[derive(Debug, PartialEq, Eq)]
pub struct StateRow<'a> {
    /// The backend, under whatever name HAProxy has for it.
    pub backend: &'a str,
    /// The server, likewise.
    pub server: &'a str,
    operational: Health,
    admin: AdminBits,
    weight: u32,
}

/// The rows of `show servers state`, of one backend or of all; none if there is no such backend.
///
/// # Errors
/// A sentence: what is missing, or what is there instead.
pub fn servers_state(text: &str) -> Result<Option<Vec<StateRow<'_>>>, String> {
    if text.trim_end() == "Can't find backend." {
        return Ok(None);
    }
    let mut lines = text.lines();
    match lines.next() {
        Some("1") => {}
        Some(_) | None => return Err(format!("it is not of version 1: {}", cut(text))),
    }
    let header = header(lines.next())?;
    let names: Vec<&str> = header.split(' ').collect();
    let at = |name| column(&names, name);
    let (backend, server) = (at("be_name")?, at("srv_name")?);
    let (operational, admin) = (at("srv_op_state")?, at("srv_admin_state")?);
    let weight = at("srv_uweight")?;
    lines
        .filter(|line| !line.is_empty())
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            if fields.len() < names.len() {
                return Err(format!("a line has too few columns: {}", cut(line)));
            }
            Ok(StateRow {
                backend: fields[backend],
                server: fields[server],
                operational: operational_state(fields[operational])?,
                admin: AdminBits(number(fields[admin], "srv_admin_state")?),
                weight: number(fields[weight], "srv_uweight")?,
            })
        })
        .collect::<Result<_, _>>()
        .map(Some)
}

/// `enum srv_state` of HAProxy's `server-t.h`.
fn operational_state(field: &str) -> Result<Health, String> {
    match field {
        "0" => Ok(Health::Down),
        "1" => Ok(Health::Starting),
        "2" => Ok(Health::Up),
        "3" => Ok(Health::Stopping),
        other => Err(format!("srv_op_state is {}", cut(other))),
    }
}

/// What `show stat` knows of servers, and which backends it shows.
#[derive(Debug, Default)]
pub struct Stats {
    /// The backends, each as often as it was shown.
    pub backends: Vec<String>,
    servers: BTreeMap<(String, String), StatRow>,
}

#[derive(Debug)]
struct StatRow {
    status: Health,
    backup: bool,
    sessions: u32,
}

impl Stats {
    /// Adds an answer to `show stat`; nothing if there is no such proxy.
    ///
    /// # Errors
    /// A sentence: what is missing, or what is there instead.
    pub fn add(&mut self, text: &str) -> Result<(), String> {
        if text.trim_end() == "No such proxy." {
            return Ok(());
        }
        let mut records = records(text);
        let names = records.next().unwrap_or_default();
        let first = header(names.first().map(String::as_str))?.to_owned();
        let names: Vec<&str> = std::iter::once(first.as_str())
            .chain(names.iter().skip(1).map(String::as_str))
            .collect();
        let at = |name| column(&names, name);
        let (proxy, server, kind) = (at("pxname")?, at("svname")?, at("type")?);
        let (status, backup, sessions) = (at("status")?, at("bck")?, at("scur")?);
        for fields in records {
            if fields.len() < names.len() {
                return Err(format!("a line has too few columns: {}", cut(&fields.join(","))));
            }
            match fields[kind].as_str() {
                "1" => self.backends.push(fields[proxy].clone()),
                "2" => {
                    let row = StatRow {
                        status: status_health(&fields[status])?,
                        backup: number::<u8>(&fields[backup], "bck")? != 0,
                        sessions: number(&fields[sessions], "scur")?,
                    };
                    let key = (fields[proxy].clone(), fields[server].clone());
                    self.servers.insert(key, row);
                }
                _ => {} // Frontends and listeners: not ours to look at.
            }
        }
        Ok(())
    }

    /// The server of `row` with what is known of it here; `None` if nothing is.
    pub fn complete(&self, row: &StateRow<'_>) -> Option<ServerSeen> {
        let stat = self.servers.get(&(row.backend.to_owned(), row.server.to_owned()))?;
        let health =
            if row.admin.is_out() { Health::Down } else { worse(row.operational, stat.status) };
        Some(ServerSeen {
            admin: row.admin,
            health,
            weight: row.weight,
            backup: stat.backup,
            sessions: stat.sessions,
        })
    }
}

/// The column `status`. Only what speaks against the server counts; `UP` and the like leave it to `srv_op_state`.
fn status_health(status: &str) -> Result<Health, String> {
    let word = status.split(' ').next().unwrap_or_default();
    match word {
        "DOWN" | "MAINT" => Ok(Health::Down),
        "NOLB" => Ok(Health::Stopping),
        // "UP 1/3" is up, with failed checks; DRAIN is told by the administrative state and the weight.
        "UP" | "DRAIN" => Ok(Health::Up),
        "no" if status == "no check" => Ok(Health::Up),
        _ => Err(format!("status is {}", cut(status))),
    }
}

/// The two tables are of two instants, and a check may have ended in between: the worse one counts.
fn worse(one: Health, other: Health) -> Health {
    let badness = |health: &Health| match health {
        Health::Up => 0,
        Health::Starting => 1,
        Health::Stopping => 2,
        Health::Down => 3,
    };
    std::cmp::max_by_key(one, other, badness)
}

/// The records of a CSV text (RFC 4180), without empty ones.
fn records(text: &str) -> impl Iterator<Item = Vec<String>> {
    let mut characters = text.chars().peekable();
    std::iter::from_fn(move || {
        while characters.next_if_eq(&'\n').is_some() {}
        characters.peek()?;
        let mut fields = vec![String::new()];
        let mut quoted = false;
        while let Some(character) = characters.next() {
            let field = fields.last_mut()?;
            match character {
                '"' if quoted && characters.next_if_eq(&'"').is_some() => field.push('"'),
                '"' => quoted = !quoted,
                ',' if !quoted => fields.push(String::new()),
                '\n' if !quoted => break,
                other => field.push(other),
            }
        }
        Some(fields)
    })
}

fn header(line: Option<&str>) -> Result<&str, String> {
    line.and_then(|line| line.strip_prefix("# "))
        .ok_or_else(|| format!("it has no header: {}", cut(line.unwrap_or_default())))
}

fn column(names: &[&str], name: &str) -> Result<usize, String> {
    names
        .iter()
        .position(|candidate| *candidate == name)
        .ok_or_else(|| format!("it has no column {name}; this version of HAProxy is not supported"))
}

fn number<T: std::str::FromStr>(field: &str, name: &str) -> Result<T, String> {
    field.parse().map_err(|_| format!("{name} is {}", cut(field)))
}

/// What fits in an error message.
pub(super) fn cut(text: &str) -> String {
    const SHOWN_CHARS_MAX: usize = 120;
    format!("{:?}", text.chars().take(SHOWN_CHARS_MAX).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn info_names_process_and_stopping() {
        let info = info("Name: HAProxy\nPid: 42\nStopping: 1\nnode: x\n").unwrap();
        assert_eq!(info, Info { process: ProcessId(42), stopping: true });
        for bad in ["", "Pid: 42\n", "Pid: x\nStopping: 0\n", "Pid: 1\nStopping: 7\n"] {
            assert!(super::info(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn states_are_read_by_column_name() {
        let text = "1\n# srv_uweight new be_name srv_name srv_op_state srv_admin_state\n\
                    7 - app web1 1 9\n";
        let rows = servers_state(text).unwrap().unwrap();
        assert_eq!((rows[0].backend, rows[0].server, rows[0].weight), ("app", "web1", 7));
        assert_eq!((rows[0].operational, rows[0].admin), (Health::Starting, AdminBits(9)));
        assert_eq!(servers_state("Can't find backend.\n"), Ok(None));
        let long = text.replace("web1 1 9", "web1 1");
        for bad in ["", "2\n", "1\n", "1\n# be_name\n", &long, &text.replace("1 9", "1 256")] {
            assert!(servers_state(bad).is_err(), "{bad:?}");
        }
    }

    fn seen(admin: u8, operational: &str, status: &str) -> Result<Health, String> {
        let state = format!(
            "1\n# be_name srv_name srv_op_state srv_admin_state srv_uweight\na s {operational} {admin} 1\n"
        );
        let mut stats = Stats::default();
        stats.add(&format!(
            "# pxname,svname,scur,status,bck,type,\na,s,0,{status},0,2,\na,BACKEND,0,UP,0,1,\n"
        ))?;
        let rows = servers_state(&state)?.unwrap();
        Ok(stats.complete(&rows[0]).unwrap().health)
    }

    #[test]
    fn health_is_the_worse_of_both_tables() {
        for (admin, operational, status, health) in [
            (0, "2", "no check", Health::Up),
            (0, "2", "UP", Health::Up),
            (0, "2", "UP 1/3", Health::Up),
            (0, "1", "UP", Health::Starting),
            (0, "0", "DOWN", Health::Down),
            (0, "0", "DOWN 1/2", Health::Down),
            (0, "2", "DOWN (agent)", Health::Down),
            (0, "0", "UP", Health::Down),
            (0, "3", "NOLB", Health::Stopping),
            (8, "2", "DRAIN", Health::Up),
            (8, "0", "DRAIN", Health::Down),
            (1, "2", "UP", Health::Down),
            (2, "0", "MAINT (via b/t)", Health::Down),
            (32, "2", "MAINT (resolution)", Health::Down),
            (4, "2", "no check", Health::Up),
        ] {
            assert_eq!(
                seen(admin, operational, status),
                Ok(health),
                "{admin} {operational} {status}"
            );
        }
        assert!(seen(0, "2", "no idea").is_err());
        assert!(seen(0, "9", "UP").is_err());
    }

    #[test]
    fn quoted_fields_are_one_field() {
        let text = "a,\"b,\"\"c\"\"\nd\",e\n\nf,,\n";
        let records: Vec<_> = records(text).collect();
        assert_eq!(records, [vec!["a", "b,\"c\"\nd", "e"], vec!["f", "", ""]]);
    }

    #[test]
    fn a_checked_server_cannot_forge_a_line() {
        let mut stats = Stats::default();
        let text = "# pxname,svname,scur,status,bck,last_chk,type,\n\
                    a,s,0,DOWN,0,\"x\na,s,0,UP,0,,2,\",2,\n";
        stats.add(text).unwrap();
        assert_eq!(stats.servers.len(), 1);
        assert_eq!(stats.servers.values().next().unwrap().status, Health::Down);
        assert!(stats.add("").is_err());
        assert!(stats.add("# pxname,svname,scur,status,bck,type,\na,s,0\n").is_err());
    }
}
