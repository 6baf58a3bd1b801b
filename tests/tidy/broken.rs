//! For every rule, what it must refuse, and what looks like it and is fine.

/// Files that break a rule, and what it must say of them.
pub struct Case {
    /// The rule's name.
    pub rule: &'static str,
    /// Path and text.
    pub files: &'static [(&'static str, &'static str)],
    /// Everything that it must say, and nothing else.
    pub offences: &'static [&'static str],
}

const FLOORS: (&str, &str) = (
    "src/lib.rs",
    "//! | 0 | [`model`] | values |\n//! | 2 | [`bus`], [`checks`], [`command`] | adapters |\n\
     pub mod bus;\npub mod checks;\npub mod command;\npub mod model;\n",
);

/// Every rule is in here.
pub const CASES: &[Case] = &[
    Case {
        rule: "floors",
        files: &[
            FLOORS,
            ("src/model/name.rs", "//! [`crate::bus`]\nuse crate::{\n    bus::Topic,\n};"),
            ("src/bus/mod.rs", "use super::super::checks::X;\nuse crate::model::Name;"),
            ("src/checks/mod.rs", "use crate::command::run; // listed\nuse super::words;"),
            ("src/command/mod.rs", "fn f() { crate::checks::g(\"crate::bus\") }"),
        ],
        offences: &[
            "src/model/name.rs:3: model is on floor 0, and bus on floor 2",
            "src/bus/mod.rs:1: bus is on floor 2, and checks on floor 2",
            "src/command/mod.rs:1: command is on floor 2, and checks on floor 2",
        ],
    },
    Case {
        rule: "floors",
        files: &[(
            "src/lib.rs",
            "//! | 0 | [`model`] | values |\n\npub mod model;\npub mod extra;\n",
        )],
        offences: &["src/lib.rs:4: extra has no floor in the table"],
    },
    Case {
        rule: "floors",
        files: &[FLOORS, ("src/checks/mod.rs", "use crate::model::Name;")],
        offences: &["src/lib.rs:1: checks may import from command and does not"],
    },
    Case {
        rule: "purity",
        files: &[
            ("src/model/time.rs", "use std::{fmt, time::{Duration, Instant}};\nuse tracing::info;"),
            ("src/plan/x.rs", "use std::collections::{BTreeMap, HashMap};\nstd::fs::read(\"x\");"),
            (
                "src/controller/core/mod.rs",
                "// std::fs\ntokio::spawn(f);\nuse std::time::Duration;",
            ),
            ("src/controller/store.rs", "use std::fs;"),
            ("src/agent/core/say.rs", "fastrand::Rng::with_seed(1); fastrand::Rng::new();"),
            ("src/agent/core/node.rs", "type Set = std::collections::HashSet<u8>;"),
        ],
        offences: &[
            "src/model/time.rs:1: Instant has no place in src/model/",
            "src/model/time.rs:2: tracing has no place in src/model/",
            "src/plan/x.rs:1: HashMap has no place in src/plan/",
            "src/plan/x.rs:2: std::fs has no place in src/plan/",
            "src/controller/core/mod.rs:2: tokio has no place in src/controller/core/",
            "src/agent/core/say.rs:1: Rng::new has no place in src/agent/core/",
            "src/agent/core/node.rs:1: HashSet has no place in src/agent/core/",
        ],
    },
    Case {
        rule: "headers",
        files: &[("src/a.rs", "use x;"), ("tests/b/main.rs", "//! Fine."), ("build/c.rs", "")],
        offences: &["src/a.rs:1: does not open with `//! `"],
    },
    Case {
        rule: "lengths",
        files: &[("src/a.rs", LONG), ("src/long.md", LONG)],
        offences: &["src/a.rs:601: 601 lines; 600 are enough"],
    },
    Case {
        rule: "names",
        files: &[
            ("src/utils.rs", "fn util() {}"),
            ("src/helpers/mod.rs", ""),
            ("src/fine.rs", "mod misc;\npub mod manager {\n// mod utils;\nmod utilities;"),
        ],
        offences: &[
            "src/utils.rs:1: a module named utils",
            "src/helpers/mod.rs:1: a module named helpers",
            "src/fine.rs:1: a module named misc",
            "src/fine.rs:2: a module named manager",
        ],
    },
    Case {
        rule: "unfinished",
        files: &[
            (
                "src/a.rs",
                "fn f() {\n    todo!()\n}\nfn g() { dbg!(1); \"todo!\"; } // unimplemented!",
            ),
            ("tests/b.rs", "#[test]\n#[ignore = \"slow\"]\nfn f() { unimplemented!() }"),
        ],
        offences: &[
            "src/a.rs:2: todo! is left",
            "src/a.rs:4: dbg! is left",
            "tests/b.rs:2: #[ignore is left",
            "tests/b.rs:3: unimplemented! is left",
        ],
    },
    Case {
        rule: "sleeps",
        files: &[
            (
                "src/a.rs",
                "fn f() { std::thread::sleep(d) }\n#[cfg(test)]\nfn g() { thread::sleep(d) }",
            ),
            ("tests/b.rs", "async fn h<T>() {\n    tokio::time::sleep(d).await; // sleep\n}"),
            (
                "tests/parts/process.rs",
                "fn never() { eventually() }\nfn x() { std::thread::sleep(d) }",
            ),
        ],
        offences: &[
            "src/a.rs:3: g sleeps; wait on state with `eventually`",
            "tests/b.rs:2: h sleeps; wait on state with `eventually`",
            "tests/parts/process.rs:2: x sleeps; wait on state with `eventually`",
            "tests/parts/process.rs:1: eventually may sleep and does not",
        ],
    },
    Case {
        rule: "links",
        files: &[
            (
                "README.md",
                "[a](docs/a.md), [b](docs/b.md)\n`[c](no)` [d](https://x.org/docs/no.md)\n",
            ),
            (
                "docs/a.md",
                "# A `b` c!\n```\n[x](no)\n```\n[a](#a-b-c) [b](#b) [c](../README.md) [d](no.md#x)",
            ),
        ],
        offences: &[
            "README.md:1: docs/b.md leads nowhere",
            "docs/a.md:5: #b leads nowhere",
            "docs/a.md:5: no.md#x leads nowhere",
        ],
    },
    Case {
        rule: "paths",
        files: &[
            (
                "docs/a.md",
                "`src/b.rs`, (docs/), src/c.rs.\nsee `docs/*.md` https://x.org/docs/b.md",
            ),
            ("src/b.rs", "//! In `docs/b.md`, src/{x}.\nlet x = \"src/d.rs\";"),
        ],
        offences: &["docs/a.md:1: there is no src/c.rs", "src/b.rs:1: there is no docs/b.md"],
    },
    Case {
        rule: "example",
        files: &[
            (
                "README.md",
                "Text.\n```toml\n# desired/x/app.toml: how\n[rollout]\nbatch = 3 # three\n```\n```toml\nx\n```\n",
            ),
            ("desired/x/app.toml", "[rollout]\nbatch = 2\n"),
            ("desired/x/one.toml", "revision = \"1\"\n"),
        ],
        offences: &[
            "README.md:3: not what desired/x/app.toml says",
            "README.md:1: desired/x/one.toml is not shown",
        ],
    },
    Case {
        rule: "example",
        files: &[
            (
                "README.md",
                "```toml\n# desired/x/app.toml\n```\n```toml\n# desired/x/one.toml\nrevision = \"1\"\nexpect = 1\n# paused = 1\n# Not = a key\n```\n",
            ),
            ("desired/x/app.toml", ""),
            ("desired/x/one.toml", "expect = 1\nrevision = \"1\"\n"),
        ],
        offences: &[
            "README.md:2: refused with its comments: `paused` must be true or false, not a number",
        ],
    },
    Case {
        rule: "example",
        files: &[
            ("README.md", "```toml\n# desired/x/app.toml\nbatch = 2\n```\n"),
            ("desired/x/app.toml", "batch = 2"),
        ],
        offences: &[
            "README.md:2: refused: unknown key \"batch\"; it belongs in [rollout]",
            "README.md:2: refused with its comments: unknown key \"batch\"; it belongs in [rollout]",
        ],
    },
    Case {
        rule: "agents",
        files: &[(
            "README.md",
            "```toml\n# /etc/evenkeel/agent.toml of a\nnode = \"a\"\n```\n\
             ```toml\n# /etc/evenkeel/agent.toml\nheartbeat = \"60s\"\n```\n",
        )],
        offences: &["README.md:6: refused: heartbeat must be 100ms to 30s"],
    },
];

/// 601 lines.
const LONG: &str = match std::str::from_utf8(&[b'\n'; 601]) {
    Ok(text) => text,
    Err(_) => panic!("it is ASCII"),
};
