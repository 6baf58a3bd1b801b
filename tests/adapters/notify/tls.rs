//! HTTPS: a certificate counts only where the system or `ca_file` vouches for it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use evenkeel::plan::ports::{DeliverError, Notify};

use super::{NTFY, message, oncall, refused, services};
use crate::parts::process::{Process, program};

/// Says its port, then the body of each request as a line.
const SERVER: &str = r#"
import http.server, ssl, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        print(body.decode(), flush=True)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1] + "/cert.pem", sys.argv[1] + "/key.pem")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_address[1], flush=True)
server.serve_forever()
"#;

/// A certificate for 127.0.0.1 that only those trust who have been told to.
pub(super) fn certificate(folder: &Path) {
    let output = Command::new(program("openssl", "openssl"))
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args(["-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", "key.pem", "-out", "cert.pem"])
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn certificates_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    certificate(folder.path());
    let (read, write) = std::io::pipe().unwrap();
    let mut command = Command::new(program("python3", "python3"));
    command.args(["-c", SERVER]).arg(folder.path()).stdin(Stdio::null()).stdout(write);
    command.stderr(std::fs::File::create(folder.path().join("log")).unwrap());
    let _server = Process::start("an HTTPS server", &mut command);
    drop(command); // and with it our end of the pipe
    let mut lines = BufReader::new(read).lines();
    let port = lines.next().expect("the server says its port").unwrap();

    let entry = format!("[notify.recipients.oncall]\nurl = 'https://127.0.0.1:{port}'\n{NTFY}");
    let error = refused(&services(&entry)).await;
    assert!(matches!(error, DeliverError::Transient { .. }), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");

    let pem = folder.path().join("cert.pem");
    let trusting = services(&format!("[notify]\nca_file = '{}'\n{entry}", pem.display()));
    trusting.deliver(&oncall(), &message()).await.unwrap();
    // The first line is this one: what was refused has sent nothing.
    let body: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(body["topic"], "ops");
}
