//! Chromium, driven by playwright-core in a process of node's.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

use crate::parts::process::{eventually, program};

/// A browser with at most one page; it ends with its standard input.
pub struct Browser {
    child: Child,
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Browser {
    pub fn start() -> Browser {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let modules = root.join("target/page/node_modules");
        assert!(modules.is_dir(), "run scripts/page-tests.sh first, or `make test`, which does");
        let mut command = Command::new(program("node", "nodejs"));
        command.arg(root.join("tests/page/browser.cjs")).arg(modules);
        command.arg(program("chromium", "chromium"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start node");
        let commands = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Browser { child, commands, answers }
    }

    fn ask(&mut self, command: &Value) -> Result<Value, String> {
        let commands = self.commands.as_mut().expect("it runs");
        writeln!(commands, "{command}").expect("the browser listens");
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("the browser answers");
        let answer: Value = serde_json::from_str(&line).expect("an answer; see standard error");
        match answer.get("error") {
            Some(error) => Err(error.to_string()),
            None => Ok(answer["value"].clone()),
        }
    }

    #[track_caller]
    fn must(&mut self, command: &Value) -> Value {
        self.ask(command).unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    /// Opens a page, as a browser with these options of playwright's contexts.
    pub fn open(&mut self, url: &str, options: &Value) {
        self.must(&json!({ "do": "open", "url": url, "options": options }));
    }

    /// What a script comes to in the page.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> Value {
        self.must(&json!({ "do": "run", "script": script }))
    }

    /// The text of an element, as it is shown; empty where there is none.
    #[track_caller]
    pub fn text(&mut self, selector: &str) -> String {
        let script = format!("document.querySelector({selector:?})?.innerText ?? ''");
        self.run(&script).as_str().expect("a text").to_owned()
    }

    /// Waits until a script comes to true.
    #[track_caller]
    pub fn until(&mut self, script: &str) {
        let mut last = Value::Null;
        let seen = |browser: &mut Browser| {
            browser.run("document.body.innerText").as_str().unwrap_or_default().to_owned()
        };
        let started = std::time::Instant::now();
        while last != Value::Bool(true) {
            last = self.ask(&json!({ "do": "run", "script": script })).unwrap_or(Value::Null);
            let late = started.elapsed() > crate::parts::process::DEADLINE;
            assert!(!late || last == Value::Bool(true), "in vain: {script}\n{}", seen(self));
        }
    }

    pub fn press(&mut self, key: &str) {
        self.must(&json!({ "do": "press", "key": key }));
    }

    /// Types into whatever has the focus.
    pub fn type_text(&mut self, text: &str) {
        self.must(&json!({ "do": "type", "text": text }));
    }

    pub fn click(&mut self, selector: &str) {
        self.must(&json!({ "do": "click", "selector": selector }));
    }

    /// Writes a screenshot.
    pub fn picture(&mut self, path: &Path, full: bool) {
        self.must(&json!({ "do": "picture", "path": path, "full": full }));
    }

    /// What axe-core finds is a list of nothing, and no script failed.
    #[track_caller]
    pub fn is_fine(&mut self) {
        let violations = self.must(&json!({ "do": "violations" }));
        assert_eq!(violations, json!([]), "axe-core finds violations");
        self.nothing_went_wrong();
    }

    /// No script failed, and nothing was loaded from elsewhere.
    #[track_caller]
    pub fn nothing_went_wrong(&mut self) {
        let wrong = self.must(&json!({ "do": "wrong" }));
        assert_eq!(wrong, json!([]), "the page did something wrong");
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.commands.take());
        let ends = || self.child.try_wait().expect("wait for node");
        if std::thread::panicking() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        } else {
            eventually("the browser ends", ends);
        }
    }
}
