//! Which commit the files come from, where they are a git checkout. Read from git's own files
//! (gitrepository-layout(5)), so that git need not be there; only the subject, and whether the files differ, need it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use crate::model::Commit;

/// `HEAD`, a ref, `.git`, `commondir`: one short line each.
const LINE_BYTES_MAX: u64 = 4096;

/// A line a ref; 16 MiB is some 200,000 of them.
const PACKED_REFS_BYTES_MAX: u64 = 16 << 20;

/// Git needs some milliseconds for an answer, which is not worth waiting longer.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

const SUBJECT_CHARS_MAX: usize = 200;

/// Where git keeps what it knows of a work tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct GitDir {
    /// The directory that was asked about.
    dir: PathBuf,
    /// `HEAD`, the index and its lock.
    own: PathBuf,
    /// The refs; differs from `own` in a linked work tree.
    common: PathBuf,
}

impl GitDir {
    /// That of the work tree that `dir` lies in, if any.
    pub fn around(dir: &Path) -> Option<Self> {
        let dir = dir.canonicalize().ok()?;
        dir.ancestors().find_map(|work_tree| {
            let dot_git = work_tree.join(".git");
            let own = if dot_git.is_dir() {
                dot_git
            } else {
                let line = read_line(&dot_git)?;
                work_tree.join(line.strip_prefix("gitdir: ")?)
            };
            // A folder that merely bears the name holds no HEAD.
            own.join("HEAD").is_file().then(|| {
                let common = read_line(&own.join("commondir"));
                let common = common.map_or_else(|| own.clone(), |common| own.join(common));
                Self { dir: dir.clone(), own, common }
            })
        })
    }

    /// The directory whose changes tell of checkouts and commits.
    pub fn own(&self) -> &Path {
        &self.own
    }

    /// Whether git has written its index within this time. It does so when the files of a checkout are in place, and moves
    /// `HEAD` only after that.
    pub fn wrote_within(&self, time: Duration) -> bool {
        let written = self.own.join("index").metadata().and_then(|index| index.modified());
        written.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < time))
    }

    /// There while git changes the work tree.
    pub fn index_lock(&self) -> PathBuf {
        self.own.join("index.lock")
    }

    /// The commit that is checked out; none if there is none yet, or if its hash is not kept in
    /// files. `known` spares asking for a subject again.
    pub fn commit(&self, known: Option<&Commit>) -> Option<Commit> {
        let id = self.head()?;
        let subject = match known {
            Some(known) if known.id == id => known.subject.clone(),
            Some(_) | None => self.subject(&id).unwrap_or_default(),
        };
        Some(Commit { id, subject, modified: self.is_modified() })
    }

    fn head(&self) -> Option<String> {
        let mut line = read_line(&self.own.join("HEAD"))?;
        // A symbolic ref may name another one; git follows five.
        for _ in 0..5 {
            let Some(name) = line.strip_prefix("ref: ") else { break };
            line = self.resolve(name)?;
        }
        is_hash(&line).then_some(line)
    }

    fn resolve(&self, name: &str) -> Option<String> {
        let plain = |part: &str| !part.is_empty() && !part.starts_with('.');
        if !name.starts_with("refs/") || !name.split('/').all(plain) {
            return None;
        }
        read_line(&self.own.join(name)).or_else(|| read_line(&self.common.join(name))).or_else(
            || {
                let packed = read(&self.common.join("packed-refs"), PACKED_REFS_BYTES_MAX)?;
                let (hash, _) = packed
                    .lines()
                    .filter_map(|line| line.split_once(' '))
                    .find(|(_, packed)| *packed == name)?;
                Some(hash.to_owned())
            },
        )
    }

    fn subject(&self, id: &str) -> Option<String> {
        let asked = ["log", "-1", "--no-color", "--format=%s", id, "--"];
        let answer = self.ask(&asked).ok()?;
        let text = String::from_utf8_lossy(&answer);
        let subject = text.lines().next().unwrap_or_default();
        Some(subject.chars().filter(|c| !c.is_control()).take(SUBJECT_CHARS_MAX).collect())
    }

    /// Some desired file is not as it was committed, as far as git can tell.
    fn is_modified(&self) -> bool {
        let asked = ["status", "--porcelain", "--untracked-files=all", "--", ":(glob)**/*.toml"];
        let (Ok(answer) | Err(answer)) = self.ask(&asked);
        !answer.is_empty()
    }

    /// What git says, or, as an error, what it had said when it failed or its time was up; its beginning.
    fn ask(&self, asked: &[&str]) -> Result<Vec<u8>, Vec<u8>> {
        let mut command = Command::new("git");
        command.arg("-C").arg(&self.dir).args(["-c", "log.showSignature=false"]);
        // Nothing of theirs is run, and nothing is locked or written.
        command.args(["-c", "core.fsmonitor=false", "--no-pager", "--no-optional-locks"]);
        command.args(asked);
        // Set where we are started by a hook, and then they speak of another repository.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut git = command.spawn().map_err(|_| Vec::new())?;
        let deadline = Instant::now() + ANSWER_TIME_MAX;
        let succeeded = loop {
            match git.try_wait() {
                Ok(Some(status)) => break status.success(),
                Ok(None) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Ok(None) | Err(_) => {
                    let _ = git.kill();
                    let _ = git.wait();
                    break false;
                }
            }
        };
        let mut bytes = Vec::new();
        if let Some(answer) = git.stdout.take() {
            let _ = answer.take(LINE_BYTES_MAX).read_to_end(&mut bytes);
        }
        if succeeded { Ok(bytes) } else { Err(bytes) }
    }
}

fn is_hash(text: &str) -> bool {
    // SHA-1 or SHA-256.
    [40, 64].contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn read_line(path: &Path) -> Option<String> {
    Some(read(path, LINE_BYTES_MAX)?.lines().next()?.trim_end().to_owned())
}

fn read(path: &Path, bytes_max: u64) -> Option<String> {
    if !path.is_file() {
        return None;
    }
    let mut text = String::new();
    File::open(path).ok()?.take(bytes_max).read_to_string(&mut text).ok()?;
    Some(text)
}
