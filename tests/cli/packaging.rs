//! What comes with the program: completions for shells, manual pages.

use std::process::Command;

use crate::parts::process::program;
use crate::program::evenkeel;

/// Subcommands that people are shown.
const SHOWN: [&str; 5] = ["controller", "agent", "status", "validate", "completions"];

#[test]
fn a_shell_completes_commands_and_options() {
    let folder = tempfile::tempdir().expect("a folder");
    let script = folder.path().join("evenkeel.bash");
    let output = evenkeel(&["completions", "bash"]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    std::fs::write(&script, output.stdout).expect("room");
    // What bash itself makes of it, as if somebody pressed the tabulator.
    let ask = |words: &[&str]| {
        let (last, line) = (words.len() - 1, words.join(" "));
        let quoted: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
        let (current, before) = (words[last], words[last - 1]);
        let text = format!(
            "source '{}'; COMP_WORDS=({}); COMP_CWORD={last}; COMP_LINE='{line}'; \
             $(complete -p evenkeel | sed 's/.*-F \\([^ ]*\\) .*/\\1/') evenkeel '{current}' '{before}'; \
             printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            script.display(),
            quoted.join(" "),
        );
        let bash =
            Command::new(program("bash", "bash")).args(["-c", &text]).output().expect("bash");
        assert!(bash.status.success(), "{bash:?}");
        String::from_utf8(bash.stdout).expect("UTF-8")
    };
    let commands = ask(&["evenkeel", ""]);
    for shown in SHOWN {
        assert!(commands.lines().any(|line| line == shown), "{shown}: {commands}");
    }
    for hidden in ["demo-web", "demo-guard"] {
        assert!(!commands.lines().any(|line| line == hidden), "{commands}");
    }
    assert_eq!(ask(&["evenkeel", "status", "--wat"]).trim(), "--watch");
    for shell in ["elvish", "fish", "powershell", "zsh"] {
        let output = evenkeel(&["completions", shell]).output().expect("it runs");
        let script = String::from_utf8(output.stdout).expect("UTF-8");
        assert!(output.status.success() && script.contains("external-url"), "{shell}");
    }
}

#[test]
fn every_command_has_a_page() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man");
    let output = evenkeel(&["man", pages.to_str().expect("UTF-8")]).output().expect("it runs");
    assert!(output.status.success(), "{output:?}");
    for shown in SHOWN {
        let page = pages.join(format!("evenkeel-{shown}.1"));
        let groff = Command::new(program("groff", "groff-base"))
            .args(["-man", "-Tutf8", "-ww", "-z"])
            .arg(&page)
            .output()
            .expect("groff");
        assert!(groff.status.success() && groff.stderr.is_empty(), "{shown}: {groff:?}");
    }
    let page = std::fs::read_to_string(pages.join("evenkeel-controller.1")).expect("a page");
    assert!(page.contains("external\\-url"), "{page}");
    assert!(!pages.join("evenkeel-demo-web.1").exists(), "what is hidden has none");
    let output = evenkeel(&["man", "/proc/nowhere"]).output().expect("it runs");
    assert!(!output.status.success(), "{output:?}");
}
