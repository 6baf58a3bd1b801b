//! What the repository promises of its own text: floors, purity, shape, and documents that are true.
//!
//! A rule is a function from the [`Tree`] to everything in it that offends. [`RULES`] lists them, and
//! [`broken::CASES`] has for each a text that it must refuse, so that no rule passes by looking away.

mod broken;
mod docs;
mod example;
mod floors;
mod lexer;
mod purity;
mod shape;
mod tree;

use tree::{Offence, Tree};

/// A rule and its name.
type Rule = (&'static str, fn(&Tree) -> Vec<Offence>);

const RULES: &[Rule] = &[
    ("floors", floors::imports),
    ("purity", purity::impure),
    ("headers", shape::headers),
    ("lengths", shape::lengths),
    ("names", shape::names),
    ("unfinished", shape::unfinished),
    ("sleeps", shape::sleeps),
    ("links", docs::links),
    ("paths", docs::paths),
    ("example", example::example),
    ("agents", example::agents),
];

#[test]
fn the_repository_is_tidy() {
    let tree = Tree::read();
    assert!(tree.sources().count() > 50, "the sources were not found");
    let mut said = String::new();
    for (name, rule) in RULES {
        for offence in rule(&tree) {
            said += &format!("{offence} ({name})\n");
        }
    }
    assert!(said.is_empty(), "\n{said}");
}

#[test]
fn every_rule_can_fail() {
    for (name, rule) in RULES {
        let cases: Vec<_> = broken::CASES.iter().filter(|case| case.rule == *name).collect();
        assert!(!cases.is_empty(), "nothing shows that the rule {name} can fail");
        for case in cases {
            let found: Vec<String> =
                rule(&Tree::of(case.files)).iter().map(ToString::to_string).collect();
            assert_eq!(found, case.offences, "{name}: {:?}", case.files);
        }
    }
    let known = |case: &broken::Case| RULES.iter().any(|(name, _)| *name == case.rule);
    assert!(broken::CASES.iter().all(known), "a case is of no rule");
}
