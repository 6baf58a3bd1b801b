//! Facts from every source, by the same real files that an agent would read.

use super::*;

fn gathered(values: &str, files: &[(&str, &str)]) -> Result<BTreeMap<String, String>, FactsError> {
    let folder = tempfile::tempdir().unwrap();
    let files = files.iter().map(|(name, text)| {
        let file = folder.path().join(name);
        std::fs::write(&file, text).unwrap();
        file
    });
    gather(&Config { files: files.collect(), values: values.parse().unwrap() })
}

#[test]
fn values_win_over_files_and_files_over_the_machine() {
    let facts = gathered(
        "cluster = 'alfa'",
        &[
            ("a.toml", "cluster = 'x'\nrack = 'r1'\nhostname = 'web1'\nos = 'from a'"),
            ("b.json", r#"{"cluster": "y", "os": "from b"}"#),
        ],
    )
    .unwrap();
    let expected = [("cluster", "alfa"), ("rack", "r1"), ("hostname", "web1"), ("os", "from b")];
    for (name, value) in expected {
        assert_eq!(facts[name], value, "{name}");
    }
    let uname = rustix::system::uname();
    assert_eq!(facts["kernel"], uname.release().to_str().unwrap());
    assert_eq!(facts["arch"], uname.machine().to_str().unwrap());
    assert!(facts["cpus"].parse::<usize>().unwrap() >= 1);
}

#[test]
fn the_machine_is_named_by_itself() {
    let facts = gathered("", &[]).unwrap();
    let output = std::process::Command::new("uname").arg("-n").output().unwrap();
    assert_eq!(facts["hostname"], String::from_utf8(output.stdout).unwrap().trim());
}

#[test]
fn tables_are_flattened_and_scalars_become_text() {
    let toml = "on = true\nsince = 2026-01-02\n[net]\nmtu = 1500\n[net.eth0]\nload = 0.5";
    let json = r#"{"disks": ["sda", {"name": "sdb"}], "none": null, "empty": ""}"#;
    let facts = gathered("", &[("a.toml", toml), ("b.json", json)]).unwrap();
    for (name, value) in [
        ("on", "true"),
        ("since", "2026-01-02"),
        ("net.mtu", "1500"),
        ("net.eth0.load", "0.5"),
        ("disks.0", "sda"),
        ("disks.1.name", "sdb"),
        ("empty", ""),
    ] {
        assert_eq!(facts[name], value, "{name}");
    }
    assert!(!facts.contains_key("none"));
}

#[test]
fn a_bad_file_is_an_error_that_names_it() {
    let many = (0..300).map(|n| format!("fact{n} = 1\n")).collect::<String>();
    let long = format!("long = '{}'", "x".repeat(2000));
    let large = format!("# {}", "x".repeat(2 << 20));
    for (name, text, needle) in [
        ("bad.toml", "a = ", "line 1"),
        ("bad.json", "{", "line 1"),
        ("list.json", "[1]", "one object"),
        ("facts.txt", "", ".toml or .json"),
        ("many.toml", &many, "more than 256"),
        ("long.toml", &long, "at most 1024"),
        ("large.toml", &large, "larger than"),
        ("name.toml", "'a b' = 1", "without blanks"),
        ("value.json", "{\"a\": \"b\\u0000\"}", "control"),
    ] {
        let error = gathered("", &[(name, text)]).expect_err(name);
        let error = crate::command::chain(&error);
        assert!(error.contains(name) && error.contains(needle), "{error}");
    }
    let missing = Config { files: vec!["/nowhere/facts.toml".into()], ..Config::default() };
    let error = gather(&missing).unwrap_err().to_string();
    assert!(error.contains("/nowhere/facts.toml"), "{error}");
}

#[test]
fn the_table_is_strict() {
    let config: Config =
        toml::from_str("values = { cluster = \"alfa\" }\nfiles = [\"/a.toml\"]").unwrap();
    assert_eq!(config.files, [PathBuf::from("/a.toml")]);
    assert!(toml::from_str::<Config>("vales = {}").is_err());
}
