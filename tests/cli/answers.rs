//! Controllers that are away or lie, and readers that go away.

use std::fs::File;
use std::process::Stdio;

use expect_test::expect;

use crate::parts::process::free_port;
use crate::parts::receiver::{Answer, Receiver};
use crate::program::{ask, evenkeel, finish};
use crate::stage::{converged, showing};

const QUESTIONS: [&[&str]; 6] = [
    &["status"],
    &["nodes"],
    &["why", "web1"],
    &["plan"],
    &["forget", "web1"],
    &["status", "--output", "json"],
];

#[test]
fn nobody_is_there() {
    let address = format!("http://127.0.0.1:{}", free_port());
    for question in QUESTIONS {
        let ended = finish(evenkeel(question).args(["--controller", &address]));
        let said = ended.failed(&address);
        assert!(said.ends_with("exit code 1\n"), "{said}");
        assert!(said.starts_with("evenkeel: cannot reach the controller at http://controller"));
        assert!(said.contains("is it running? give its address with --controller"), "{said}");
        assert!(said.contains("Connection refused"), "{said}");
    }
}

#[test]
fn what_answers_is_no_controller() {
    let said = |answer: Answer| {
        let controller = Receiver::answering(answer);
        let mut said = String::new();
        for question in QUESTIONS {
            let before = said;
            said = ask(&controller, question).failed(&controller.url());
            let code = |said: &str| said.lines().last().map(str::to_owned);
            assert!(before.is_empty() || code(&before) == code(&said), "{question:?}: {said}");
        }
        said
    };
    expect![[r#"
        evenkeel: http://controller/api/v1/state answers with something else; is that a controller, and of this version?: expected value at line 1 column 1
        exit code 4
    "#]].assert_eq(&said(Answer::status(200, "<html>Welcome to nginx!</html>")));
    expect![[r#"
        evenkeel: http://controller/api/v1/state answers with something else; is that a controller, and of this version?: missing field `at` at line 1 column 2
        exit code 4
    "#]].assert_eq(&said(Answer::status(200, "{}")));
    expect![[r#"
        evenkeel: http://controller/api/v1/state answers 500 Internal Server Error: it�[2J broke
        exit code 1
    "#]]
    .assert_eq(&said(Answer::status(500, "it\u{1b}[2J broke")));
    expect![[r#"
        evenkeel: http://controller/api/v1/state answers 503 Service Unavailable: the controller is stopping
        exit code 1
    "#]]
        .assert_eq(&said(Answer::status(503, r#"{"error": "the controller is stopping"}"#)));
    expect![[r#"
        evenkeel: http://controller/api/v1/state answers 302 Found: nothing more
        exit code 4
    "#]]
    .assert_eq(&said(Answer::status(302, "")));
}

#[test]
fn answers_that_do_not_end_are_cut_off() {
    let controller = Receiver::answering(Answer::Endless(200));
    // Whichever bound is reached first: on a slow machine that can be the time.
    let ended = ask(&controller, &["status"]);
    let said = ended.failed(&controller.url());
    let cut = said.contains("more than 128 MB") && said.ends_with("exit code 4\n");
    let late = said.contains("did not answer within 10s") && said.ends_with("exit code 1\n");
    assert!(cut || late, "{said}");
    let said = |answer| {
        let controller = Receiver::answering(answer);
        ask(&controller, &["status", "--request-timeout", "50ms"]).failed(&controller.url())
    };
    let silent = said(Answer::Silence);
    expect![[r#"
        evenkeel: the controller at http://controller/api/v1/state did not answer within 50ms; --request-timeout gives it longer
        exit code 1
    "#]].assert_eq(&silent);
    assert_eq!(said(Answer::Headers(200)), silent);
}

#[test]
fn an_address_that_is_none() {
    for address in ["", "controller", "ftp://127.0.0.1/", "127.0.0.1:9440"] {
        let ended = finish(evenkeel(&["status"]).args(["--controller", address]));
        assert_eq!(ended.code, 4);
        assert!(
            ended.err.contains("is not an address such as http://127.0.0.1:9440"),
            "{}",
            ended.err
        );
    }
}

#[test]
fn a_password_in_the_address_is_not_repeated() {
    let address = format!("http://me:secret@127.0.0.1:{}", free_port());
    let ended = finish(evenkeel(&["status"]).args(["--controller", &address]));
    assert_eq!(ended.code, 1);
    assert!(!ended.err.contains("secret"), "{}", ended.err);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let controller = showing(&converged());
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/desired");
    for arguments in [
        &["nodes"][..],
        &["status", "--output", "json"],
        &["schema"],
        &["validate", directory],
        &["--help"],
    ] {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let errors = tempfile::NamedTempFile::new().expect("a file");
        let status = evenkeel(arguments)
            .env("EVENKEEL_CONTROLLER", controller.url())
            .stdout(writer)
            .stderr(File::create(errors.path()).expect("a file"))
            .status()
            .expect("start evenkeel");
        let said = std::fs::read_to_string(errors.path()).expect("UTF-8");
        assert_eq!((status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
    }
}

#[test]
fn a_full_disk_is_an_error() {
    let controller = showing(&converged());
    let full = File::options().write(true).open("/dev/full").expect("/dev/full");
    let output = evenkeel(&["nodes"])
        .env("EVENKEEL_CONTROLLER", controller.url())
        .stdout(full)
        .stderr(Stdio::piped())
        .output()
        .expect("start evenkeel");
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write the answer"));
}

#[test]
fn wrong_use_is_never_taken_for_an_answer() {
    for arguments in [&[][..], &["stauts"], &["status", "--output", "yaml"], &["why"]] {
        assert_eq!(finish(&mut evenkeel(arguments)).code, 4, "{arguments:?}");
    }
    for arguments in [["--help"], ["--version"]] {
        assert_eq!(finish(&mut evenkeel(&arguments)).code, 0, "{arguments:?}");
    }
}
