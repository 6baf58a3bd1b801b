//! The operator's side: the desired directory, a git repository where git is there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What would make git speak of another repository, where the demo is started by a hook.
const GIT_VARIABLES: [&str; 4] = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR"];

/// A directory of desired files.
pub struct Repository {
    dir: PathBuf,
    git: Option<PathBuf>,
}

/// Why a change was not made.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    /// A file cannot be written.
    #[error("cannot write {}", path.display())]
    Write {
        /// Which.
        path: PathBuf,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// Git cannot be run.
    #[error("cannot run git")]
    Run(#[source] io::Error),
    /// Git has failed.
    #[error("git {what} failed: {said}")]
    Failed {
        /// The subcommand.
        what: String,
        /// What it printed.
        said: String,
    },
}

impl Repository {
    /// A new one in `dir` with `files`, committed with `git` if there is one.
    ///
    /// # Errors
    /// [`GitError`]
    pub fn new(
        dir: &Path,
        git: Option<PathBuf>,
        files: &[(String, String)],
    ) -> Result<Repository, GitError> {
        let repository = Repository { dir: dir.to_owned(), git };
        for (file, text) in files {
            repository.write(file, text)?;
        }
        repository.git(&["init", "-q"])?;
        repository.commit("The shop at its first revision")?;
        Ok(repository)
    }

    /// Puts `text` in the place of a file, in one step, as editors do.
    ///
    /// # Errors
    /// [`GitError::Write`]
    pub fn write(&self, file: &str, text: &str) -> Result<(), GitError> {
        let path = self.dir.join(file);
        // Hidden, so that nobody takes it for a cluster.
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let new = path.with_file_name(format!(".{name}.new"));
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&self.dir))?;
            fs::write(&new, text)?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| GitError::Write { path: path.clone(), error })
    }

    /// Commits every change.
    ///
    /// # Errors
    /// [`GitError::Run`], [`GitError::Failed`]
    pub fn commit(&self, message: &str) -> Result<(), GitError> {
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", message])
    }

    fn git(&self, args: &[&str]) -> Result<(), GitError> {
        let Some(git) = &self.git else { return Ok(()) };
        let mut command = Command::new(git);
        for name in GIT_VARIABLES {
            command.env_remove(name);
        }
        // An author without a configuration; nothing of the machine's configuration that would ask.
        for setting in [
            "user.name=evenkeel demo",
            "user.email=demo@localhost",
            "commit.gpgSign=false",
            "core.hooksPath=/dev/null",
            "init.defaultBranch=main",
            "gc.auto=0",
        ] {
            command.args(["-c", setting]);
        }
        command.arg("-C").arg(&self.dir).args(args).stdin(Stdio::null());
        let output = command.output().map_err(GitError::Run)?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        Err(GitError::Failed { what: args.first().copied().unwrap_or_default().to_owned(), said })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::ports;

    #[test]
    fn changes_are_commits() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("shop/alfa.toml".to_owned(), "revision = \"1\"\n".to_owned())];
        let git = ports::git().expect("git is installed; get it with `apt-get install git`");
        let repository = Repository::new(dir.path(), Some(git.clone()), &files).unwrap();
        repository.write("shop/alfa.toml", "revision = \"2\"\n").unwrap();
        repository.commit("alfa to 2").unwrap();
        let output = Command::new(git)
            .arg("-C")
            .arg(dir.path())
            .args(["log", "--format=%s", "-p"])
            .output()
            .unwrap();
        let log = String::from_utf8(output.stdout).unwrap();
        assert!(log.starts_with("alfa to 2\n"), "{log}");
        assert!(log.contains("+revision = \"2\""), "{log}");
        assert!(log.contains("The shop at its first revision"), "{log}");
        assert!(repository.commit("nothing").is_err(), "git says that there is nothing");
    }

    #[test]
    fn it_works_without_git() {
        let dir = tempfile::tempdir().unwrap();
        let files = [("shop/alfa.toml".to_owned(), "1".to_owned())];
        let repository = Repository::new(dir.path(), None, &files).unwrap();
        repository.write("shop/alfa.toml", "2").unwrap();
        repository.commit("alfa to 2").unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("shop/alfa.toml")).unwrap(), "2");
        assert_eq!(fs::read_dir(dir.path().join("shop")).unwrap().count(), 1);
    }
}
