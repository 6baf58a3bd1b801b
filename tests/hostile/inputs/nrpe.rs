//! NRPE's configuration: every check can be run as it stands, or says why not.

use std::fs;
use std::path::Path;

use evenkeel::checks::{Config, Plugins};
use evenkeel::model::CheckName;

use super::files_in;

/// `nrpe.cfg`, and other files below lines `#: NAME`. What is included is looked for in the same folder only.
pub fn files(data: &[u8]) -> bool {
    let folder = tempfile::tempdir().expect("a folder");
    let main = data.split(|byte| *byte == b'\n').take_while(|line| !line.starts_with(b"#: "));
    let main = main.collect::<Vec<_>>().join(&b'\n');
    write(folder.path(), "nrpe.cfg", &main);
    for (name, text) in files_in(data) {
        write(folder.path(), &name, text);
    }
    let Ok(plugins) = read(folder.path()) else { return false };
    let mut again = Vec::new();
    for name in plugins.names() {
        match plugins.argv(name).expect("it was named") {
            Ok(argv) => {
                assert!(!argv.is_empty(), "{name} runs nothing");
                again.push((name.clone(), argv.to_vec()));
            }
            Err(why) => assert!(!why.is_empty(), "{name} says nothing"),
        }
    }
    written_again(&again);
    !again.is_empty()
}

fn read(folder: &Path) -> Result<Plugins, String> {
    let table = format!("files = ['{}']\n", folder.join("nrpe.cfg").display());
    let config: Config = toml::from_str(&table).expect("a table");
    Plugins::new(&config).map_err(|error| error.to_string())
}

/// A file with every include led back into `folder`.
fn write(folder: &Path, name: &str, text: &[u8]) {
    let name: String =
        name.chars().filter(|c| c.is_ascii_alphanumeric() || "./-".contains(*c)).collect();
    let Some(inner) = inner(&name) else { return };
    let mut kept = Vec::new();
    for line in text.split(|byte| *byte == b'\n') {
        let shown = String::from_utf8_lossy(line);
        let included = ["include=", "include_file=", "include_dir="]
            .iter()
            .find_map(|key| Some((key, shown.trim_ascii().strip_prefix(*key)?)));
        match included {
            Some((key, path)) => {
                if let Some(path) = self::inner(path) {
                    kept.extend(format!("{key}{}/{path}", folder.display()).into_bytes());
                }
            }
            None => kept.extend(line),
        }
        kept.push(b'\n');
    }
    let path = folder.join(inner);
    // A name that is too long, or a file where a folder should be, is a file less.
    let made = path.parent().map_or(Ok(()), fs::create_dir_all);
    let _ = made.and_then(|()| fs::write(&path, kept));
}

/// The path below the folder; none if it would climb out.
fn inner(path: &str) -> Option<&str> {
    let path = path.trim_start_matches('/');
    (!path.is_empty() && path.split('/').all(|part| part != "..")).then_some(path)
}

/// Quoted for NRPE and the shell, the same argument vectors are read.
fn written_again(checks: &[(CheckName, Vec<String>)]) {
    let mut text = String::new();
    for (name, argv) in checks {
        let words: Vec<String> = argv
            .iter()
            .map(|word| format!("'{}'", word.replace('\'', "'\\''").replace('$', "$$")))
            .collect();
        text.push_str(&format!("command[{name}]={}\n", words.join(" ")));
    }
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("nrpe.cfg"), &text).expect("write");
    let plugins = read(folder.path()).expect(&text);
    for (name, argv) in checks {
        assert_eq!(plugins.argv(name), Some(Ok(argv.as_slice())), "{text}");
    }
}
