//! What may stand in the table `[notify]`, and what is said against the rest.

use std::path::Path;

use evenkeel::notify::{Config, Services};

use super::{NTFY, config, delivered, message};

/// The error that `toml` is answered with at the start.
fn error(toml: &str) -> String {
    match Services::new(&config(toml)) {
        Ok(_) => panic!("accepted: {toml}"),
        Err(error) => error.to_string(),
    }
}

fn oncall(fields: &str) -> String {
    format!("[notify.recipients.oncall]\n{fields}")
}

#[test]
fn mistakes_are_named_at_the_start() {
    for (fields, words) in [
        ("service = 'nfty'\ntopic = 'x'", "no service \"nfty\"; there are mail, ntfy, prowl"),
        ("service = 'ntfy'", "uses {topic}, which is neither given here"),
        (
            "service = 'ntfy'\ntopci = 'x'\ntopic = 'x'",
            "`topci` is neither a field of a row nor a parameter of service \"ntfy\", whose parameters are: click, token, topic",
        ),
        ("service = 'ntfy'\ntopic = 'x'\ntext = '{titel}'", "uses {titel}, which is neither"),
        ("service = 'ntfy'\ntopic = 'x'\ntext = '{token}'", "uses {token}, which is neither"),
        (
            "service = 'ntfy'\ntopic = 'x'\ntitle = '{title'",
            "`title`: a brace lacks its other half",
        ),
        ("service = 'ntfy'\ntopic = 'x'\ntitle = '{A b}'", "{A b} is no placeholder"),
        ("service = 'ntfy'\ntopic = 'x'\napp = 'y'", "`app` is a field of the message"),
        ("service = 'ntfy'\ntopic = 'x'\nurl = 'ntfy.sh'", "`url` is not a URL"),
        ("service = 'ntfy'\ntopic = 'x'\nurl = 'smtp://localhost'", "wants http:// or https://"),
        ("service = 'ntfy'\ntopic = 'x'\nmethod = 'STEAL'", "`method` is \"STEAL\""),
        (
            "service = 'ntfy'\ntopic = 'x'\nheaders = { 'a b' = 'c' }",
            "\"a b\" is not the name of a header",
        ),
        (
            "service = 'ntfy'\ntopic = 'x'\nanswers = { '999' = 'terminal' }",
            "which is no HTTP status",
        ),
        (
            "service = 'webhook'\nurl = 'http://localhost'\nbody = ''\nform = {}",
            "only one of `json`, `form`",
        ),
        (
            "service = 'ntfy'\ntopic = 'x'\nrate = { burst = 0, every = '1s' }",
            "`rate` wants a `burst` of 1 or more",
        ),
        (
            "service = 'ntfy'\ntopic = 'x'\nrate = { burst = 1, every = '2h' }",
            "an `every` of 1ms to 1h",
        ),
        ("service = 'slack'", "service \"slack\" needs `url` or `url_file`"),
        (
            "service = 'slack'\nurl = 'x'\nurl_file = '/dev/null'",
            "cannot read \"/dev/null\", the value of `url_file`: it is empty",
        ),
        (
            "service = 'ntfy'\ntopic = 'x'\ntoken_file = '/nonexistent'",
            "cannot read \"/nonexistent\", the value of `token_file`",
        ),
        ("service = 'ntfy'\ntopic = 'x'\ntoken_file = '/dev/zero'", "longer than 4096 bytes"),
        ("service = 'mail'\nfrom = 'me'\nto = 'a@example.org'", "the sender is no address"),
        ("service = 'mail'\nfrom = 'a@example.org'\nto = ''", "the receivers are no addresses"),
        (
            "service = 'mail'\nfrom = 'a@b.org'\nto = 'a@b.org'\nurl = 'smtp://b.org'\nusername = 'a'\npassword = 'hunter2'",
            "in the clear",
        ),
        (
            "service = 'webhook'\nurl = 'https://me:hunter2@example.org'",
            "`url` holds a login; give it as a header",
        ),
        (
            "service = 'mail'\nfrom = 'a@b.org'\nto = 'a@b.org'\nurl = 'smtps://me:hunter2@b.org'",
            "give it as `username` and `password`",
        ),
    ] {
        let error = error(&oncall(fields));
        assert!(error.starts_with("notify.recipients.oncall: "), "{error}");
        assert!(error.contains(words), "{words:?} is not in: {error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
    assert!(error("[notify]\ntimeout = '1ms'").starts_with("notify.timeout: "));
    assert!(error("[notify]\nca_file = '/dev/null'").contains("no certificates in PEM"));
    let second =
        format!("[[notify.recipients.oncall]]\n{NTFY}[[notify.recipients.oncall]]\nservice = 'x'");
    assert!(error(&second).starts_with("notify.recipients.oncall[1]: "));
    assert!(error("[notify.recipients]\noncall = []").contains("1 to 16 entries"));
}

#[test]
fn wrong_types_and_unknown_keys_are_refused_by_the_parser() {
    for (toml, words) in [
        ("timeuot = '10s'", "unknown field `timeuot`"),
        ("timeout = 10", "invalid type"),
        ("timeout = 'soon'", "\"soon\" is not a duration"),
        ("[recipients]\noncall = 'ntfy'", "a table with `service`"),
        ("[recipients.oncall]\ntopic = 'x'", "missing field `service`"),
        (
            "[recipients.oncall]\nservice = 'ntfy'\ntopic = true",
            "a text or a whole number is wanted",
        ),
        ("[recipients.'on call']\nservice = 'ntfy'", "recipient name"),
        ("[services.mine]\nurll = 'x'", "unknown field `urll`"),
        ("[services.mine]\nlimits = { title = 1 }", "missing field"),
    ] {
        let error = toml::from_str::<Config>(toml).expect_err(toml).to_string();
        assert!(error.contains(words), "{words:?} is not in: {error}");
    }
}

#[tokio::test]
async fn any_parameter_can_come_from_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let shown = |path: &Path| path.display().to_string();
    let token = write("token", "tk_from_file{title}\n");
    let fields = format!("{NTFY}token_file = '{}'", shown(&token));
    let request = delivered("", &fields, &message()).await;
    assert_eq!(request.header("authorization"), "Bearer tk_from_file{title}");
}

#[tokio::test]
async fn a_url_can_come_from_a_file() {
    use crate::parts::receiver::{Answer, Receiver};
    use evenkeel::plan::ports::Notify;
    let receiver = Receiver::answering(Answer::status(200, ""));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("url");
    std::fs::write(&path, format!("{}/services/secret\n", receiver.url())).unwrap();
    let services =
        super::services(&oncall(&format!("service = 'slack'\nurl_file = '{}'", path.display())));
    services.deliver(&super::oncall(), &message()).await.unwrap();
    assert_eq!(receiver.wait_for(1)[0].path, "/services/secret");
}

#[test]
fn what_is_printed_of_a_table_holds_no_values() {
    let config = config(&oncall("service = 'ntfy'\ntopic = 'ops'\ntoken = 'tk_secret'"));
    let printed = format!("{config:?}");
    assert!(printed.contains("ntfy") && !printed.contains("tk_secret"), "{printed}");
}

/// What the documentation shows works as it is shown.
#[test]
fn the_documented_tables_are_valid() {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("ntfy.token", "tk_secret"),
        ("slack.url", "https://hooks.slack.com/services/T0/B0/x"),
        ("mail.password", "hunter2"),
    ] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let here = format!("{}/", folder.path().display());
    let text = include_str!("../../../docs/notifications.md").replace("/etc/evenkeel/", &here);
    let block = |part: &str| part.split("```").next().unwrap().to_owned();
    let blocks: Vec<String> = text.split("```toml").skip(1).map(block).collect();
    let [first, second] = blocks.as_slice() else { panic!("{} tables", blocks.len()) };
    Services::new(&config(first)).unwrap();
    let users = "[[notify.recipients.oncall]]\nservice = 'telegram'\ntoken = '1'\nchat = -1\n\
                 [[notify.recipients.oncall]]\nservice = 'gotify'\ntoken = '1'\n";
    Services::new(&config(&format!("{second}{users}"))).unwrap();
}
