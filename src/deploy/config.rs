//! The table `[apps.NAME]`: how revisions come to one app on this node.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use serde::Deserialize;

use crate::model::{Revision, parse_duration_ms};

/// Stands for the revision in argument vectors and addresses.
const PLACEHOLDER: &str = "{revision}";

/// How long the read-back of the revision may take by default. The agent's report waits for it.
const REVISION_TIMEOUT_MS: u64 = 5_000;

/// How much one release may take unpacked by default, in bytes: 4 GiB.
const SIZE_MAX: u64 = 4 << 30;

/// How many releases stay on disk by default: the current one, the one before, and one to spare.
const KEEP: usize = 3;

/// How revisions come to one app: checked when it is read, so that one that exists is usable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
pub struct Config {
    pub(super) means: Means,
    pub(super) restart: Option<Argv>,
    pub(super) probe: Option<Address>,
    pub(super) revision: ReadBack,
}

/// What brings a revision to the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    /// A command of the operator's.
    Command(Argv),
    /// The built-in layout of releases.
    Release(Release),
}

/// The built-in layout of releases.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Release {
    /// Where the archive is.
    pub(super) url: Address,
    /// Where its checksum is; beside it by default.
    pub(super) sha256_url: Option<Address>,
    /// The folder with `releases/` and `current`.
    pub(super) root: PathBuf,
    /// How many releases stay.
    pub(super) keep: usize,
    /// The bound on the unpacked archive, and on the download, in bytes.
    pub(super) size_max: u64,
}

/// How the revision is read back from the running service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ReadBack {
    pub(super) from: From,
    pub(super) timeout: Duration,
}

/// Where the running service says its revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum From {
    /// On the standard output of this command.
    Command(Argv),
    /// At this address: as its body, or where the JSON pointer leads in it.
    Url { url: Url, pointer: Option<String> },
}

/// An argument vector in which `{revision}` may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argv(Vec<String>);

impl Argv {
    fn new(argv: Vec<String>, key: &str) -> Result<Argv, String> {
        match argv.first() {
            Some(program) if !program.is_empty() => Ok(Argv(argv)),
            _ => Err(format!("{key} needs a program: [\"/path/to/program\", \"argument\", …]")),
        }
    }

    pub(super) fn fill(&self, revision: &Revision) -> Vec<String> {
        self.0.iter().map(|word| word.replace(PLACEHOLDER, revision.as_str())).collect()
    }

    pub(super) fn plain(&self) -> Vec<String> {
        self.0.clone()
    }

    fn has_placeholder(&self) -> bool {
        self.0.iter().any(|word| word.contains(PLACEHOLDER))
    }
}

/// An address in which `{revision}` may stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address(String);

impl Address {
    fn new(text: String, key: &str, schemes: &[&str]) -> Result<Address, String> {
        url(&text.replace(PLACEHOLDER, "0"), key, schemes)?;
        Ok(Address(text))
    }

    /// The address for one revision.
    pub(super) fn fill(&self, revision: &Revision) -> Result<Url, String> {
        let text = self.0.replace(PLACEHOLDER, revision.as_str());
        // A revision in the place of the host or the port can still make nonsense. The rest is not told: a login may be in it.
        Url::parse(&text).map_err(|error| format!("with {revision} it is not an address: {error}"))
    }
}

fn url(text: &str, key: &str, schemes: &[&str]) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| format!("{key}: {error}"))?;
    if schemes.contains(&url.scheme()) {
        return Ok(url);
    }
    Err(format!("{key}: it must begin with one of {}", schemes.join(", ")))
}

/// The schemes that a service is asked by.
const SERVICE: &[&str] = &["http", "https"];

/// The schemes that releases are fetched by.
const RELEASES: &[&str] = &["https", "http", "file"];

/// The table as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    command: Option<Vec<String>>,
    release: Option<ReleaseTable>,
    restart: Option<Vec<String>>,
    probe: Option<String>,
    revision: Option<RevisionTable>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReleaseTable {
    url: String,
    sha256_url: Option<String>,
    root: PathBuf,
    keep: Option<usize>,
    size_max: Option<Size>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevisionTable {
    command: Option<Vec<String>>,
    url: Option<String>,
    json: Option<String>,
    timeout: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "a size such as 500000000 or \"500 MiB\"")]
enum Size {
    Bytes(u64),
    Text(String),
}

impl TryFrom<Table> for Config {
    type Error = String;

    fn try_from(table: Table) -> Result<Config, String> {
        let means = match (table.command, table.release) {
            (Some(argv), None) => Means::Command(Argv::new(argv, "command")?),
            (None, Some(release)) => Means::Release(release.try_into()?),
            (Some(_), Some(_)) => {
                return Err("either command or the table release, not both".to_owned());
            }
            (None, None) => {
                return Err("one of command and the table release is needed, to say how a \
                            revision comes to this node"
                    .to_owned());
            }
        };
        let revision = table.revision.ok_or(
            "revision is needed, to ask the running service what it runs: \
             { command = [\"…\"] } or { url = \"http://127.0.0.1:…\" }",
        )?;
        Ok(Config {
            means,
            restart: table.restart.map(|argv| Argv::new(argv, "restart")).transpose()?,
            probe: table.probe.map(|text| Address::new(text, "probe", SERVICE)).transpose()?,
            revision: revision.try_into()?,
        })
    }
}

impl TryFrom<ReleaseTable> for Release {
    type Error = String;

    fn try_from(table: ReleaseTable) -> Result<Release, String> {
        if !table.url.contains(PLACEHOLDER) {
            return Err(format!("release.url {:?} must contain {PLACEHOLDER}", table.url));
        }
        if !table.root.is_absolute() {
            return Err(format!("release.root {:?} must be an absolute path", table.root));
        }
        let keep = table.keep.unwrap_or(KEEP);
        if keep < 2 {
            return Err("release.keep must be 2 or more: the current release and the one before \
                        are always kept"
                .to_owned());
        }
        let sha256_url =
            table.sha256_url.map(|text| Address::new(text, "release.sha256_url", RELEASES));
        Ok(Release {
            url: Address::new(table.url, "release.url", RELEASES)?,
            sha256_url: sha256_url.transpose()?,
            root: table.root,
            keep,
            size_max: table.size_max.map_or(Ok(SIZE_MAX), Size::bytes)?,
        })
    }
}

impl TryFrom<RevisionTable> for ReadBack {
    type Error = String;

    fn try_from(table: RevisionTable) -> Result<ReadBack, String> {
        let from = match (table.command, table.url) {
            (Some(argv), None) => {
                if table.json.is_some() {
                    return Err("revision.json goes with revision.url only".to_owned());
                }
                let argv = Argv::new(argv, "revision.command")?;
                if argv.has_placeholder() {
                    return Err(asks("revision.command"));
                }
                From::Command(argv)
            }
            (None, Some(text)) => {
                if text.contains(PLACEHOLDER) {
                    return Err(asks("revision.url"));
                }
                let pointer = table.json;
                if pointer.as_ref().is_some_and(|p| !p.is_empty() && !p.starts_with('/')) {
                    return Err("revision.json is a JSON pointer (RFC 6901), such as \
                                \"/build/revision\""
                        .to_owned());
                }
                From::Url { url: url(&text, "revision.url", SERVICE)?, pointer }
            }
            _ => return Err("revision needs either command or url".to_owned()),
        };
        let timeout_ms = match table.timeout {
            Some(text) => parse_duration_ms(&text)?,
            None => REVISION_TIMEOUT_MS,
        };
        if timeout_ms == 0 {
            return Err("revision.timeout must be above 0".to_owned());
        }
        Ok(ReadBack { from, timeout: Duration::from_millis(timeout_ms) })
    }
}

fn asks(key: &str) -> String {
    format!("{key} asks for the revision, so it cannot contain {PLACEHOLDER}")
}

impl Size {
    fn bytes(self) -> Result<u64, String> {
        let bytes = match self {
            Size::Bytes(bytes) => Some(bytes),
            Size::Text(ref text) => {
                let units = [("KiB", 10), ("MiB", 20), ("GiB", 30), ("TiB", 40)];
                units.iter().find_map(|(unit, shift)| {
                    let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
                    number.checked_mul(1 << shift)
                })
            }
        };
        bytes.filter(|bytes| *bytes > 0).ok_or_else(|| {
            "release.size_max is a number of bytes, or a text such as \"500 MiB\" or \"4 GiB\""
                .to_owned()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE_SAYS: &str = "revision = { url = 'http://127.0.0.1:1/r' }\n";

    fn parse(text: &str) -> Result<Config, String> {
        toml::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn both_forms_are_read() {
        let config = parse(
            "command = ['/bin/deploy', '--to={revision}']\nrestart = ['systemctl', 'restart', 'x']\n\
             probe = 'http://127.0.0.1:8080/healthz'\n\
             revision = { url = 'http://127.0.0.1:8080/', json = '/revision', timeout = '1s' }",
        )
        .unwrap();
        let Means::Command(argv) = &config.means else { panic!("{config:?}") };
        assert_eq!(argv.fill(&Revision::new("7").unwrap()), ["/bin/deploy", "--to=7"]);
        assert_eq!(config.revision.timeout, Duration::from_secs(1));

        let release = "[release]\nurl = 'file:///r/{revision}.tar'\nroot = '/srv/shop'\n\
                       size_max = '2 MiB'";
        let config = parse(&format!("{SERVICE_SAYS}{release}")).unwrap();
        let Means::Release(release) = &config.means else { panic!("{config:?}") };
        assert_eq!((release.keep, release.size_max), (3, 2 << 20));
    }

    #[test]
    fn slips_are_told_in_words() {
        let release = |more: &str| format!("{SERVICE_SAYS}[release]\nroot = '/srv/x'\n{more}");
        for (text, needle) in [
            (SERVICE_SAYS.to_owned(), "one of command and the table release"),
            ("command = ['a']".to_owned(), "revision is needed"),
            (format!("command = []\n{SERVICE_SAYS}"), "needs a program"),
            (format!("comand = ['a']\n{SERVICE_SAYS}"), "unknown field"),
            (format!("command = ['a']\n{}", release("url = 'http://x/{revision}'")), "not both"),
            (format!("command = ['a']\nprobe = 'ftp://x'\n{SERVICE_SAYS}"), "must begin with"),
            ("command = ['a']\nrevision = {}".to_owned(), "either command or url"),
            ("command = ['a']\nrevision = { url = 'http://x/{revision}' }".to_owned(), "asks for"),
            ("command = ['a']\nrevision = { command = ['a', '{revision}'] }".to_owned(), "asks"),
            ("command = ['a']\nrevision = { url = 'http://x', json = 'r' }".to_owned(), "RFC 6901"),
            (release("url = 'http://x/app.tar'"), "must contain {revision}"),
            (release("url = 'ssh://x/{revision}'"), "must begin with"),
            (release("url = 'http://x/{revision}'\nkeep = 1"), "2 or more"),
            (release("url = 'http://x/{revision}'\nsize_max = '4 gigs'"), "4 GiB"),
        ] {
            let error = parse(&text).expect_err(&text);
            assert!(error.contains(needle), "{text}\n{error}");
        }
    }
}
