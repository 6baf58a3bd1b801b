//! Mail, handed to aiosmtpd, and read back with Python's own mail parser.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use evenkeel::model::{Message, Priority};
use evenkeel::plan::ports::{DeliverError, Notify};

use super::tls::certificate;
use super::{NASTY, message, nasty, oncall, refused, services};
use crate::parts::process::{DEADLINE, Process, free_port, python};
use crate::parts::receiver;

/// Says its port, then each mail as a line of JSON.
const SERVER: &str = r#"
import asyncio, email, email.policy, json, ssl, sys
from aiosmtpd.smtp import SMTP, AuthResult

mode, folder = sys.argv[1], sys.argv[2]

class Handler:
    async def handle_RCPT(self, server, session, envelope, address, options):
        if mode == "reject":
            return "550 5.1.1 nobody of that name; the password is hunter2"
        if mode == "busy":
            return "451 4.3.0 come back later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        mail = email.message_from_bytes(envelope.original_content, policy=email.policy.default)
        print(json.dumps({
            "from": envelope.mail_from, "to": envelope.rcpt_tos, "tls": server.transport.get_extra_info("ssl_object") is not None,
            "headers": [[name, str(value)] for name, value in mail.items()],
            "text": mail.get_content().replace("\r\n", "\n"),
        }), flush=True)
        return "250 OK"

def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"ops", b"hunter2"), handled=False)

def context():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder + "/cert.pem", folder + "/key.pem")
    return context

def smtp():
    options = {"enable_SMTPUTF8": True, "hostname": "localhost"}
    if mode in ("auth", "starttls"):
        options |= {"authenticator": authenticate, "auth_required": True, "auth_require_tls": mode == "starttls"}
    if mode == "starttls":
        options |= {"tls_context": context(), "require_starttls": True}
    return SMTP(Handler(), **options)

async def main():
    tls = context() if mode == "smtps" else None
    server = await asyncio.get_running_loop().create_server(smtp, "127.0.0.1", 0, ssl=tls)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"#;

/// A running mail server.
struct MailServer {
    port: u16,
    lines: Receiver<String>,
    folder: tempfile::TempDir,
    _process: Process,
}

impl MailServer {
    fn start(mode: &str) -> MailServer {
        let folder = tempfile::tempdir().unwrap();
        if ["smtps", "starttls"].contains(&mode) {
            certificate(folder.path());
        }
        let script = folder.path().join("server.py");
        std::fs::write(&script, SERVER).unwrap();
        let (read, write) = std::io::pipe().unwrap();
        let mut command = Command::new(python("aiosmtpd", "python3-aiosmtpd"));
        command.arg(script).arg(mode).arg(folder.path()).stdin(Stdio::null()).stdout(write);
        command.stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        let process = Process::start("aiosmtpd", &mut command);
        drop(command); // and with it our end of the pipe, so that the reader sees the server's end
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(read).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let port = lines.recv_timeout(DEADLINE).expect("aiosmtpd says its port").parse().unwrap();
        MailServer { port, lines, folder, _process: process }
    }

    /// The entry of a recipient who is reached through it.
    fn entry(&self, url: &str, fields: &str) -> String {
        let url = url.replace("PORT", &self.port.to_string());
        format!(
            "[notify.recipients.oncall]\nservice = 'mail'\nurl = '{url}'\n\
             from = 'evenkeel <evenkeel@example.org>'\n{fields}\n"
        )
    }

    /// The line that makes its certificate trusted.
    fn trusted(&self) -> String {
        format!("[notify]\nca_file = '{}'\n", self.folder.path().join("cert.pem").display())
    }

    fn mail(&self) -> serde_json::Value {
        let line = self.lines.recv_timeout(DEADLINE).expect("a mail");
        serde_json::from_str(&line).unwrap()
    }

    fn assert_no_mail(&self) {
        assert!(self.lines.try_recv().is_err(), "a mail has come");
    }
}

fn header<'a>(mail: &'a serde_json::Value, name: &str) -> Vec<&'a str> {
    let headers = mail["headers"].as_array().unwrap().iter();
    headers.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

const TO: &str = "to = 'Ops <ops@example.org>, boss@example.org'";

#[tokio::test]
async fn a_mail_arrives_whole() {
    let server = MailServer::start("plain");
    let services = services(&server.entry("smtp://127.0.0.1:PORT", TO));
    services.deliver(&oncall(), &message()).await.unwrap();
    let mail = server.mail();
    assert_eq!(mail["from"], "evenkeel@example.org");
    assert_eq!(mail["to"], serde_json::json!(["ops@example.org", "boss@example.org"]));
    for (name, value) in [
        ("From", "evenkeel <evenkeel@example.org>"),
        ("To", "Ops <ops@example.org>, boss@example.org"),
        ("Subject", "shop alfa: failed"),
        ("Message-ID", "<shop.alfa.0a1b2c.failed.7@example.org>"),
        ("Auto-Submitted", "auto-generated"),
        ("X-Priority", "1"),
    ] {
        assert_eq!(header(&mail, name), [value], "{name}");
    }
    assert_eq!(header(&mail, "Date").len(), 1);
    assert_eq!(mail["text"].as_str().unwrap().trim_end(), message().text());

    services.deliver(&oncall(), &Message { priority: Priority::Low, ..message() }).await.unwrap();
    assert_eq!(header(&server.mail(), "X-Priority"), ["5"]);
}

#[tokio::test]
async fn a_mails_values_stay_where_they_belong() {
    let server = MailServer::start("plain");
    let services = services(&server.entry("smtp://127.0.0.1:PORT", "to = 'ops@example.org'"));
    services.deliver(&oncall(), &nasty()).await.unwrap();
    let mail = server.mail();
    let one_line: String = NASTY.chars().filter(|c| !c.is_control()).collect();
    assert_eq!(header(&mail, "Subject"), [one_line]);
    assert!(header(&mail, "X-Evil").is_empty());
    assert_eq!(mail["text"].as_str().unwrap().trim_end(), nasty().text().replace("\r\n", "\n"));
}

#[tokio::test]
async fn who_must_log_in_does() {
    let server = MailServer::start("auth");
    let entry = |password: &str| {
        let login = format!("{TO}\nusername = 'ops'\npassword = '{password}'");
        server.entry("smtp://127.0.0.1:PORT", &login)
    };
    services(&entry("hunter2")).deliver(&oncall(), &message()).await.unwrap();
    assert_eq!(server.mail()["from"], "evenkeel@example.org");
    let error = refused(&services(&entry("wrong-password"))).await;
    assert!(matches!(error, DeliverError::Terminal { .. }), "{error}");
    assert!(!error.to_string().contains("wrong-password"), "{error}");
    server.assert_no_mail();
}

#[tokio::test]
async fn tls_is_used_and_its_certificate_checked() {
    for (mode, url) in
        [("smtps", "smtps://127.0.0.1:PORT"), ("starttls", "smtp://127.0.0.1:PORT?tls=required")]
    {
        let server = MailServer::start(mode);
        let login = if mode == "starttls" { "username = 'ops'\npassword = 'hunter2'" } else { "" };
        let entry = server.entry(url, &format!("{TO}\n{login}"));
        let error = refused(&services(&entry)).await;
        assert!(matches!(error, DeliverError::Transient { .. }), "{error}");
        assert!(error.to_string().contains("certificate"), "{error}");
        server.assert_no_mail();
        let trusting = services(&format!("{}{entry}", server.trusted()));
        trusting.deliver(&oncall(), &message()).await.unwrap();
        assert_eq!(server.mail()["tls"], true);
    }
}

#[tokio::test]
async fn starttls_that_is_required_is_not_done_without() {
    let server = MailServer::start("plain");
    let services = services(&server.entry("smtp://127.0.0.1:PORT?tls=required", TO));
    refused(&services).await;
    server.assert_no_mail();
}

#[tokio::test]
async fn what_the_server_says_decides_about_another_try() {
    let password = "username = 'ops'\npassword = 'hunter2'";
    let server = MailServer::start("reject");
    let error = refused(&services(&server.entry("smtp://127.0.0.1:PORT", TO))).await;
    assert!(matches!(error, DeliverError::Terminal { .. }), "{error}");
    assert!(error.to_string().contains("nobody of that name"), "{error}");

    let server = MailServer::start("busy");
    let error = refused(&services(&server.entry("smtp://127.0.0.1:PORT", TO))).await;
    assert!(matches!(error, DeliverError::Transient { .. }), "{error}");

    // It offers no way to log in: asking again will not help.
    let entry = server.entry("smtp://127.0.0.1:PORT", &format!("{TO}\n{password}"));
    let error = refused(&services(&entry)).await;
    assert!(matches!(error, DeliverError::Terminal { .. }), "{error}");
}

#[tokio::test]
async fn servers_that_are_away_or_silent_may_come_back() {
    let entry = |port: String| {
        format!(
            "[notify]\ntimeout = '300ms'\n[notify.recipients.oncall]\nservice = 'mail'\n\
             url = 'smtp://127.0.0.1:{port}'\nfrom = 'a@example.org'\n{TO}"
        )
    };
    let error = refused(&services(&entry(free_port().to_string()))).await;
    assert!(matches!(error, DeliverError::Transient { .. }), "{error}");
    // An HTTP server waits for the client to speak first, as this client does for the server.
    let silent = receiver::Receiver::answering(receiver::Answer::Silence);
    let port = silent.url().rsplit(':').next().unwrap().to_owned();
    let error = refused(&services(&entry(port))).await;
    assert!(matches!(error, DeliverError::Transient { .. }), "{error}");
    assert!(error.to_string().contains("within 300ms"), "{error}");
}
