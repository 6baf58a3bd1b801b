//! Running the program, and looking at what it leaves.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::parts::process::Process;
use crate::parts::receiver::Receiver;

/// How the program ended.
pub struct Ended {
    /// The exit code.
    pub code: i32,
    /// What it wrote to standard output.
    pub out: String,
    /// What it wrote to standard error.
    pub err: String,
}

impl Ended {
    /// Code and standard output, when nothing was to be said on standard error.
    #[track_caller]
    pub fn quiet(self) -> String {
        assert_eq!(self.err, "");
        format!("{}exit code {}\n", self.out, self.code)
    }

    /// Code and standard error, without the controller's address; nothing may be on standard output.
    #[track_caller]
    pub fn failed(self, controller: &str) -> String {
        assert_eq!(self.out, "");
        let err = self.err.replace(controller, "http://controller");
        format!("{err}exit code {}\n", self.code)
    }
}

/// The program, not yet started. Nothing of the surroundings reaches it.
pub fn evenkeel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(arguments).stdin(Stdio::null());
    for name in ["EVENKEEL_CONTROLLER", "RUST_LOG", "COLUMNS"] {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end.
pub fn finish(command: &mut Command) -> Ended {
    // Into files: a pipe that nobody empties while it waits could stop it.
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str| File::create(folder.path().join(name)).expect("a file");
    command.stdout(file("out")).stderr(file("err"));
    let status = Process::start("evenkeel", command).wait();
    let read = |path: &Path| std::fs::read_to_string(path).expect("UTF-8");
    Ended {
        code: status.code().expect("an exit code"),
        out: read(&folder.path().join("out")),
        err: read(&folder.path().join("err")),
    }
}

/// Runs the program to its end, against a controller.
pub fn ask(controller: &Receiver, arguments: &[&str]) -> Ended {
    finish(evenkeel(arguments).env("EVENKEEL_CONTROLLER", controller.url()))
}
