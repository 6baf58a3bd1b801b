//! Check plugins: however one ends, the agent is told the same of it.

use std::fs;

use evenkeel::checks::{Config, Plugins};
use evenkeel::model::{CheckName, CheckResult};
use evenkeel::plan::ports::Checks;

use crate::plugin::{Plugin, TIMEOUT_MS};

/// What does that, for sh(1).
fn script(plugin: Plugin) -> &'static str {
    match plugin {
        Plugin::Fine => "echo LOAD; exit 0",
        Plugin::Mute => "exit 0",
        Plugin::Warns => "echo LOAD; exit 1",
        Plugin::Fails => "echo LOAD; exit 2",
        Plugin::Unsure => "echo LOAD; exit 3",
        Plugin::Strange => "echo LOAD; exit 4",
        Plugin::Killed => "echo LOAD; kill -9 $$",
        Plugin::Hangs => "echo LOAD; exec sleep 600",
    }
}

fn name(plugin: Plugin) -> CheckName {
    CheckName::new(format!("check_{plugin:?}").to_lowercase()).expect("a name")
}

fn told(result: CheckResult) -> String {
    format!("{:?} {:?} {:?}", result.status, result.text, result.performance)
}

#[tokio::test]
async fn what_the_agent_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut nrpe = String::new();
    for plugin in Plugin::ALL {
        let file = folder.path().join(format!("{plugin:?}"));
        fs::write(&file, script(plugin)).expect("a script");
        nrpe += &format!("command[{}]=/bin/sh {}\n", name(plugin), file.display());
    }
    let file = folder.path().join("nrpe.cfg");
    fs::write(&file, nrpe).expect("a configuration");
    let table = format!("files = ['{}']\ntimeout = '{TIMEOUT_MS}ms'\nparallel = 8", file.display());
    let config: Config = toml::from_str(&table).expect("a table");
    let plugins = Plugins::new(&config).expect("they can be read");
    for plugin in Plugin::ALL {
        let result = plugins.run(&name(plugin)).await;
        assert_eq!(told(plugin.result()), told(result), "{plugin:?}");
    }
}
