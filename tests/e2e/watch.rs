//! `evenkeel status --watch`, in a real terminal: tmux's.

use std::fs::File;
use std::process::{Command, Stdio};

use rustix::process::Signal;

use crate::parts::process::{Process, program};
use crate::scene::{Broker, Plot, Scene};

/// A server of tmux's own, with one window.
struct Terminal {
    socket: std::path::PathBuf,
}

impl Terminal {
    /// A shell, so that what is left after a command is seen.
    fn open(scene: &Scene) -> Terminal {
        let terminal = Terminal { socket: scene.folder.join("tmux") };
        terminal.tmux(&[
            "-f",
            "/dev/null",
            "new-session",
            "-d",
            "-x",
            "80",
            "-y",
            "24",
            "env PS1='ready: ' sh",
        ]);
        terminal
    }

    fn tmux(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(program("tmux", "tmux"));
        command.arg("-S").arg(&self.socket).arg("-u").args(arguments).env_remove("TMUX");
        let output = command.output().expect("run tmux");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {error}");
        String::from_utf8(output.stdout).expect("text")
    }

    fn type_line(&self, text: &str) {
        self.tmux(&["send-keys", "-l", text]);
        self.tmux(&["send-keys", "Enter"]);
    }

    fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The same, with what sets colours.
    fn coloured(&self) -> String {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until every one of these is on the screen; returns it.
    fn shows(&self, scene: &Scene, words: &[&str]) -> String {
        let last = std::cell::RefCell::new(String::new());
        let all = |_: &Scene| {
            last.replace(self.screen());
            words.iter().all(|words| last.borrow().contains(words))
        };
        let seen = std::panic::AssertUnwindSafe(|| scene.wait_for(&format!("{words:?}"), all));
        if let Err(panic) = std::panic::catch_unwind(seen) {
            eprintln!("the screen was:\n{}", last.borrow());
            std::panic::resume_unwind(panic);
        }
        last.into_inner()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.tmux(&["kill-server"]);
    }
}

fn watch(scene: &Scene) -> String {
    format!("{} status --watch --controller {}", env!("CARGO_BIN_EXE_evenkeel"), scene.url())
}

#[test]
fn in_a_terminal() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    let terminal = Terminal::open(&scene);
    terminal.shows(&scene, &["ready:"]);
    terminal.type_line(&format!("{}; echo \"it ended with $?\"", watch(&scene)));
    terminal.shows(
        &scene,
        &[
            "evenkeel: live, as of ",
            "backend app at lb1: 9 of 9 ready, floor 4",
            "alfa: ✓ converged, 5 of 5 at 1 and in service",
            "web9  ✓ in service",
        ],
    );

    scene.midway();
    let screen = terminal.shows(
        &scene,
        &[
            "backend app at lb1: 4 of 9 ready, floor 4",
            "alfa: ↑ progressing, 0 of 5 at 2 and in service",
            "[##----------] 2 of 5 upgraded, 0 back in service, about ",
            "web1  ~ settling      2          waiting for 3 others",
            "web2  ↑ upgrading     1 -> 2     waiting for the upgrade to 2",
            "web5  … waiting       1 -> 2     waiting for a place in the batch",
            "recent events, in UTC",
            ": waiting for the upgrade to 2",
        ],
    );
    assert!(screen.lines().all(|line| line.chars().count() <= 80), "{screen}");
    assert!(!screen.contains("ready:"), "it is not on a screen of its own:\n{screen}");

    let coloured = terminal.coloured();
    for words in ["\u{1b}[36m↑ upgrading", "\u{1b}[32m✓ in service", "\u{1b}[33m… waiting"] {
        assert!(coloured.contains(words), "{words}: {coloured}");
    }

    // Few lines: what is well is folded first, and said to be.
    terminal.tmux(&["resize-window", "-x", "80", "-y", "12"]);
    let screen =
        terminal.shows(&scene, &["+ 1 converged (folded)", "web5  … waiting", "evenkeel: live"]);
    assert!(screen.lines().count() <= 12, "{screen}");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "8"]);
    terminal
        .shows(&scene, &["evenkeel: live", "alfa: ↑ progressing", " (folded)", "+ 1 converged"]);
    terminal.tmux(&["resize-window", "-x", "40", "-y", "24"]);
    let screen = terminal.shows(&scene, &["web2  ↑ upgrading     1 -> 2     wa…"]);
    assert!(screen.lines().all(|line| line.chars().count() <= 40), "{screen}");
    terminal.tmux(&["resize-window", "-x", "80", "-y", "24"]);
    terminal.shows(&scene, &["web9  ✓ in service"]);

    scene.kill_controller();
    terminal.shows(
        &scene,
        &[
            "evenkeel: NOT CONNECTED, last seen ",
            "cannot reach the controller",
            "web2  ↑ upgrading",
        ],
    );
    scene.start_controller();
    terminal.shows(&scene, &["evenkeel: live, as of ", "alfa: ↑ progressing"]);
    scene.remove("web2", "gate");
    scene.remove("web4", "gate");
    terminal.shows(&scene, &["alfa: ✓ converged, 5 of 5 at 2 and in service", "9 of 9 ready"]);

    // Ctrl-C leaves the terminal as it was, with what was typed before.
    terminal.tmux(&["send-keys", "C-c"]);
    let screen = terminal.shows(&scene, &["it ended with 0", "status --watch"]);
    assert!(!screen.contains("live, as of"), "{screen}");
    terminal.type_line("stty -a | grep -o ' echo '; tput cols");
    terminal.shows(&scene, &["tput cols", "\n echo\n"]);
    assert_eq!(
        terminal.tmux(&["display-message", "-p", "#{cursor_flag}"]).trim(),
        "1",
        "the cursor is seen"
    );
}

/// What no cluster claims, who is not there, and what was never heard are shown too; and no colours where none are wanted.
#[test]
fn everybody_is_on_the_screen() {
    let mut scene = Plot::new(Broker::Mosquitto).start();
    scene.converged("alfa", "1");
    scene.converged("bravo", "1");
    scene.write_cluster("alfa", "expect = 4\nselect = { cluster = \"alfa\", name = \"none\" }");
    let nodes = "revision = \"1\"\nnodes = [\"web6\", \"web7\", \"web8\", \"web9\", \"web10\"]\n";
    scene.write_desired("bravo", nodes);
    scene.agent("notify2").signal(Signal::TERM);
    let terminal = Terminal::open(&scene);
    terminal.shows(&scene, &["ready:"]);
    terminal.type_line(&format!("NO_COLOR=1 {}", watch(&scene)));
    terminal.shows(
        &scene,
        &[
            "5 unclaimed: web1, web2, web3, web4, web5",
            "web10  ? missing       unknown -> 1  expected by name, and never heard",
            "! notify2 (notify) is departed",
        ],
    );
    assert!(!terminal.coloured().contains("\u{1b}[3"), "{}", terminal.coloured());
}

#[test]
fn in_a_file() {
    let mut scene = Plot { clusters: vec![("alfa", 2)], ..Plot::new(Broker::Mosquitto) }.start();
    scene.converged("alfa", "1");
    let path = scene.folder.join("watched");
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(["status", "--watch", "shop/alfa", "--controller", &scene.url()]);
    command.stdin(Stdio::null()).stdout(File::create(&path).expect("a file"));
    let mut watching = Process::start("status --watch", &mut command);
    let says = |scene: &Scene, words: &str| {
        scene.wait_for(words, |_| std::fs::read_to_string(&path).expect("a file").contains(words));
    };
    says(&scene, " UTC shop/alfa: converged, 2 of 2 at 1: every node serves 1\n");
    says(&scene, " UTC shop/alfa/web2: in service: in service at 1\n");
    scene.begin();
    says(&scene, " UTC shop/alfa/web2: upgrading: waiting for the upgrade to 2, attempt 1\n");
    scene.kill_controller();
    says(&scene, " UTC controller: cannot reach the controller");
    scene.start_controller();
    scene.remove("web2", "gate");
    says(&scene, " UTC shop/alfa/web2: in service: in service at 2\n");
    watching.assert_running();
    watching.signal(Signal::INT);
    watching.wait();
    let text = std::fs::read_to_string(&path).expect("a file");
    assert!(!text.contains('\u{1b}'), "{text}");
    let twice = "shop/alfa/web2: upgrading: waiting for the upgrade to 2, attempt 1\n";
    assert!(text.matches(twice).count() <= 2, "a line without a change:\n{text}");
}
