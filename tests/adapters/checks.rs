//! The checks adapter, with the real Monitoring Plugins and files as NRPE reads them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use evenkeel::checks::{Config, Plugins};
use evenkeel::model::{CheckName, CheckResult, CheckStatus};
use evenkeel::plan::ports::Checks;

use crate::parts::process::{eventually, program};

/// A node with a configuration of NRPE, `nrpe.cfg` and what else is written.
struct Node {
    folder: tempfile::TempDir,
}

impl Node {
    fn new(files: &[(&str, &str)]) -> Node {
        let node = Node { folder: tempfile::tempdir().expect("a folder") };
        for (name, content) in files {
            let path = node.path(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("make");
            std::fs::write(path, content.replace("FOLDER", node.text())).expect("write");
        }
        node
    }

    fn text(&self) -> &str {
        self.folder.path().to_str().expect("UTF-8")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn plugins(&self, more: &str) -> Result<Plugins, String> {
        let table = format!("files = ['{}']\n{more}", self.path("nrpe.cfg").display());
        let config: Config = toml::from_str(&table).map_err(|error| error.to_string())?;
        Plugins::new(&config).map_err(|error| error.to_string())
    }

    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.path(name)).ok()
    }
}

fn name(text: &str) -> CheckName {
    CheckName::new(text).expect("a name")
}

async fn run(plugins: &Plugins, check: &str) -> CheckResult {
    plugins.run(&name(check)).await
}

/// One check by the line that defines it.
async fn line(line: &str) -> CheckResult {
    let node = Node::new(&[("nrpe.cfg", &format!("command[x]={line}\n"))]);
    run(&node.plugins("").expect("plugins"), "x").await
}

fn plugin(name: &str) -> PathBuf {
    program(name, "monitoring-plugins-basic")
}

#[tokio::test]
async fn real_plugins_run_from_a_real_configuration() {
    let folder = plugin("check_load").parent().map(Path::to_owned).expect("a folder");
    let node = Node::new(&[
        (
            "nrpe.cfg",
            "# As Debian ships it, more or less.\nlog_facility=daemon\nserver_port=5666\n\
             allowed_hosts=127.0.0.1,::1\ndont_blame_nrpe=0\n\n  command_timeout=60  \n\
             command[check_users]=PLUGINS/check_users -w 5 -c 10\n\
             include=FOLDER/local.cfg\ninclude_dir=FOLDER/nrpe.d/\n",
        ),
        ("local.cfg", "command[check_load]=PLUGINS/check_load -w 900,900,900 -c 999,999,999\n"),
        ("nrpe.d/disk.cfg", "command[check_disk]='PLUGINS/check_disk' -w 1 -c 0 -p \"/\"\n"),
        ("nrpe.d/deep/er/procs.cfg", "command[check_procs]=PLUGINS/check_procs -w 0:0 -c 1:\n"),
        ("nrpe.d/.hidden/no.cfg", "command[hidden]=true\n"),
        ("nrpe.d/no.conf", "command[other]=true\n"),
    ]);
    for file in ["nrpe.cfg", "local.cfg", "nrpe.d/disk.cfg", "nrpe.d/deep/er/procs.cfg"] {
        let text = node.read(file).expect(file);
        let text = text.replace("PLUGINS", folder.to_str().expect("UTF-8"));
        std::fs::write(node.path(file), text).expect("write");
    }
    let plugins = node.plugins("").expect("plugins");
    let names: Vec<_> = plugins.names().map(CheckName::as_str).collect();
    assert_eq!(names, ["check_disk", "check_load", "check_procs", "check_users"]);
    assert!(plugins.knows(&name("check_load")) && !plugins.knows(&name("hidden")));

    let load = run(&plugins, "check_load").await;
    assert_eq!(load.status, CheckStatus::Ok, "{load:?}");
    assert!(load.text.contains("load average"), "{load:?}");
    assert!(load.performance.starts_with("load1="), "{load:?}");
    let disk = run(&plugins, "check_disk").await;
    assert_eq!(disk.status, CheckStatus::Ok, "{disk:?}");
    assert!(disk.performance.starts_with("/="), "{disk:?}");
    // There is at least this test, so never zero processes.
    let procs = run(&plugins, "check_procs").await;
    assert_eq!(procs.status, CheckStatus::Warning, "{procs:?}");
}

#[tokio::test]
async fn exit_codes_are_verdicts() {
    for (code, status) in [
        (0, CheckStatus::Ok),
        (1, CheckStatus::Warning),
        (2, CheckStatus::Critical),
        (3, CheckStatus::Unknown),
    ] {
        let result = line(&format!("sh -c 'echo \"said | a={code}\"; exit {code}'")).await;
        let expected = (status, "said", format!("a={code}"));
        assert_eq!((result.status, &*result.text, result.performance), expected);
    }
    let odd = line("sh -c 'echo odd; exit 4'").await;
    assert_eq!(odd.status, CheckStatus::Unknown);
    assert_eq!(odd.text, "exit code 4 is none of a plugin's (0 to 3): odd");
    let killed = line("sh -c 'kill -9 $$$$'").await;
    assert_eq!((killed.status, &*killed.text), (CheckStatus::Unknown, "ended by signal 9"));
    let silent = line("false").await;
    assert_eq!((silent.status, &*silent.text), (CheckStatus::Warning, "no output from the plugin"));
    let error = line("sh -c 'echo cannot load libx >&2; exit 3'").await;
    assert_eq!(error.text, "cannot load libx");
    let missing = line("/nowhere/check_x -w 1").await;
    assert_eq!(missing.status, CheckStatus::Unknown);
    assert!(missing.text.contains("/nowhere/check_x"), "{missing:?}");
}

#[tokio::test]
async fn a_flood_is_bounded() {
    let result = line("sh -c 'seq -s a 1 100000; exit 2'").await;
    assert_eq!((result.status, result.text.len()), (CheckStatus::Critical, 1024));
}

#[tokio::test]
async fn lines_that_cannot_run_say_why() {
    for (line_, needle) in [
        ("/bin/ps aux | wc -l", "a pipe (|)"),
        ("/bin/check -w $ARG1$ -c $ARG2$", "it needs arguments ($ARG1$)"),
        ("/bin/check -w 'open", "is not closed"),
    ] {
        let result = line(line_).await;
        assert_eq!(result.status, CheckStatus::Unknown, "{line_}");
        assert!(result.text.contains(needle), "{line_}: {}", result.text);
    }
    let node = Node::new(&[("nrpe.cfg", "")]);
    let result = run(&node.plugins("").expect("plugins"), "check_load").await;
    assert_eq!(result.text, "no command[check_load] in NRPE's configuration");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_check_that_runs_too_long_is_ended() {
    let node = Node::new(&[(
        "nrpe.cfg",
        "command_timeout=60\ncommand[x]=sh -c 'echo $$$$ > FOLDER/pid; sleep 1000'\n",
    )]);
    let plugins = node.plugins("timeout = '2s'").expect("plugins");
    let result = run(&plugins, "x").await;
    assert_eq!((result.status, &*result.text), (CheckStatus::Unknown, "timed out after 2s"));
    assert!(result.took_ms >= 2000);
    let pid = node.read("pid").expect("it had begun");
    eventually("it is gone", || (!Path::new("/proc").join(pid.trim()).exists()).then_some(()));

    // Without a limit of ours, NRPE's holds.
    let node = Node::new(&[("nrpe.cfg", "command_timeout=1\ncommand[x]=sleep 1000\n")]);
    let result = run(&node.plugins("").expect("plugins"), "x").await;
    assert_eq!(result.text, "timed out after 1s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_run_at_once() {
    // Each notes that it has begun, and ends when it may.
    let check = |n: usize| {
        format!(
            "command[c{n}]=sh -c 'touch FOLDER/begun{n}; until [ -e FOLDER/go ]; do sleep 0.01; done'\n"
        )
    };
    let node = Node::new(&[("nrpe.cfg", &(0..5).map(check).collect::<String>())]);
    let plugins = Arc::new(node.plugins("parallel = 2\ntimeout = '25s'").expect("plugins"));
    let running: Vec<_> = (0..5)
        .map(|n| {
            let plugins = Arc::clone(&plugins);
            tokio::spawn(async move { run(&plugins, &format!("c{n}")).await })
        })
        .collect();
    let begun = || (0..5).filter(|n| node.path(&format!("begun{n}")).exists()).count();
    eventually("two have begun", || (begun() == 2).then_some(()));
    // Those two wait for us, so the others have no place.
    assert_eq!(begun(), 2);
    std::fs::write(node.path("go"), "").expect("write");
    for check in running {
        assert_eq!(check.await.expect("no panic").status, CheckStatus::Ok);
    }
    assert_eq!(begun(), 5);
}

#[tokio::test]
async fn files_are_read_as_nrpe_reads_them() {
    let node = Node::new(&[
        (
            "nrpe.cfg",
            "command[twice]=echo first\nunknown_key=whatever\n\
             include=FOLDER/missing.cfg\ninclude_dir=FOLDER/missing.d\n\
             include=FOLDER/nrpe.cfg\ninclude=FOLDER/loop.cfg\ninclude_dir=FOLDER/loop.d\n\
             include=FOLDER/broken.cfg\n   # comment\ncommand[bad name!]=true\n\
             command[slash]=echo a\\\ncommand[twice]=echo second\n\
             command_prefix=/usr/bin/env WHO=prefix\ncommand[who]=sh -c 'echo $$WHO'\n",
        ),
        ("loop.cfg", "include=FOLDER/nrpe.cfg\ncommand[loop]=echo loop\n"),
        ("loop.d/a.cfg", "include_dir=FOLDER/loop.d\ncommand[a]=echo a\n"),
        ("loop.d/b.cfg", "command[a]=echo b\n"),
        ("broken.cfg", "command[before]=echo before\nno value\ncommand[after]=echo after\n"),
    ]);
    std::os::unix::fs::symlink(node.path("loop.d"), node.path("loop.d/c")).expect("link");
    let plugins = node.plugins("").expect("plugins");
    for (check, text) in [
        ("twice", "second"),
        ("loop", "loop"),
        ("a", "b"),
        ("before", "before"),
        // No continuation of lines.
        ("slash", "a\\"),
        ("who", "prefix"),
    ] {
        assert_eq!(run(&plugins, check).await.text, text, "{check}");
    }
    assert!(!plugins.knows(&name("after")), "NRPE gives up a file at a bad line");
}

#[tokio::test]
async fn a_tangle_of_links_does_not_keep_the_agent_from_starting() {
    let node = Node::new(&[("nrpe.cfg", "include_dir=FOLDER/d\ncommand[x]=echo x\n")]);
    // Every folder leads to every other one: there are more ways through them than anybody has time for.
    for one in 0..12 {
        let folder = node.path(&format!("d/{one}"));
        std::fs::create_dir_all(&folder).expect("make");
        for other in 0..12 {
            std::os::unix::fs::symlink(
                node.path(&format!("d/{other}")),
                folder.join(other.to_string()),
            )
            .expect("link");
        }
    }
    assert_eq!(run(&node.plugins("").expect("plugins"), "x").await.text, "x");
}

#[tokio::test]
async fn files_are_bounded_all_together() {
    let node = Node::new(&[("nrpe.cfg", "include_dir=FOLDER/d\ncommand[x]=echo x\n")]);
    std::fs::create_dir(node.path("d")).expect("make");
    for number in 0..20 {
        let text = format!("command[c{number}]=true\n#{}\n", "x".repeat(1_000_000));
        std::fs::write(node.path(&format!("d/{number:02}.cfg")), text).expect("write");
    }
    let plugins = node.plugins("").expect("plugins");
    assert!(plugins.knows(&name("c0")) && plugins.knows(&name("x")));
    assert!(!plugins.knows(&name("c19")), "20 MB were read");
}

#[tokio::test]
async fn a_bad_file_is_an_error_that_names_it() {
    for (text, needle) in [
        ("a=b\nno value\n", "nrpe.cfg:2: "),
        ("command[]=true\n", "has no name"),
        ("command_timeout=soon\n", "command_timeout"),
        (&format!("#{}", "x".repeat(2 << 20)), "larger than"),
    ] {
        let node = Node::new(&[("nrpe.cfg", text)]);
        let error = node.plugins("").expect_err(needle);
        assert!(error.contains(needle) && error.contains("nrpe.cfg"), "{error}");
    }
    let error = Node::new(&[]).plugins("").expect_err("no file");
    assert!(error.contains("cannot read") && error.contains("nrpe.cfg"), "{error}");
    for slip in ["timeout = 10", "timeout = '0s'", "parallel = 0", "paralel = 1"] {
        assert!(Node::new(&[("nrpe.cfg", "")]).plugins(slip).is_err(), "{slip}");
    }
}
