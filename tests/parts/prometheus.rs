//! A real Prometheus and a real Alertmanager, on ports and in directories of their own.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use super::process::{DEADLINE, Process, eventually, free_port, program, wait_for_port};

/// A running Prometheus.
pub struct Prometheus {
    _process: Process,
    _alertmanager: Process,
    address: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    /// Starts both: `targets` are scraped five times a second, by job, `rules` evaluated as often, and each alert is
    /// posted to `receiver`.
    pub fn start(targets: &[(&str, u16)], rules: &str, receiver: &str) -> Prometheus {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).expect(name);
        let (alerts, port) = (free_port(), free_port());
        write("rules.yml", rules);
        write(
            "alertmanager.yml",
            &format!(
                "route: {{ receiver: person, group_by: ['...'], group_wait: 0s, group_interval: 1s }}\n\
                 receivers:\n  - name: person\n    webhook_configs: [{{ url: '{receiver}' }}]\n"
            ),
        );
        let jobs: String = targets
            .iter()
            .map(|(job, port)| {
                format!(
                    "  - job_name: {job}\n    static_configs: [{{ targets: ['127.0.0.1:{port}'] }}]\n"
                )
            })
            .collect();
        write(
            "prometheus.yml",
            &format!(
                "global: {{ scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms }}\n\
                 rule_files: [rules.yml]\nalerting:\n  alertmanagers:\n    - static_configs: \
                 [{{ targets: ['127.0.0.1:{alerts}'] }}]\nscrape_configs:\n{jobs}"
            ),
        );
        let mut alertmanager =
            Command::new(program("prometheus-alertmanager", "prometheus-alertmanager"));
        alertmanager
            .arg("--config.file=alertmanager.yml")
            .arg("--storage.path=alerts")
            .arg(format!("--web.listen-address=127.0.0.1:{alerts}"))
            .arg("--cluster.listen-address=");
        let alertmanager = run("alertmanager", alertmanager, folder.path(), alerts);
        let mut prometheus = Command::new(program("prometheus", "prometheus"));
        prometheus
            .arg("--config.file=prometheus.yml")
            .arg("--storage.tsdb.path=data")
            .arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = run("prometheus", prometheus, folder.path(), port);
        let prometheus = Prometheus {
            _process: process,
            _alertmanager: alertmanager,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            _folder: folder,
        };
        let ready = || prometheus.get("/-/ready").starts_with("HTTP/1.0 200").then_some(());
        eventually("Prometheus is ready", ready);
        prometheus
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(self.address).expect("connect to Prometheus");
        stream.set_read_timeout(Some(DEADLINE)).expect("a deadline");
        write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").expect("ask");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// What it answers to a query now: the values, one a series.
    ///
    /// # Errors
    /// What it says is wrong with the query.
    pub fn query(&self, query: &str) -> Result<Vec<f64>, String> {
        let url = format!("http://{}/api/v1/query", self.address);
        let url = reqwest::Url::parse_with_params(&url, [("query", query)]).expect("a URL");
        let answer = self.get(&format!("{}?{}", url.path(), url.query().unwrap_or_default()));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        let body: serde_json::Value = serde_json::from_str(body).expect(body);
        if body["status"] != "success" {
            return Err(body["error"].to_string());
        }
        let series = body["data"]["result"].as_array().expect("a vector");
        let value = |series: &serde_json::Value| {
            series["value"][1].as_str().expect("a value").parse().expect("a number")
        };
        Ok(series.iter().map(value).collect())
    }
}

fn run(name: &str, mut command: Command, folder: &Path, port: u16) -> Process {
    let log = fs::File::create(folder.join(format!("{name}.log"))).expect("a log");
    command.current_dir(folder).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut process = Process::start(name, &mut command);
    wait_for_port(&mut process, port);
    process
}

/// Runs `promtool`; says what it printed, and fails where it does.
pub fn promtool(arguments: &[&str], input: &str) -> String {
    let mut file = tempfile::tempfile().expect("a file");
    file.write_all(input.as_bytes()).expect("write");
    std::io::Seek::rewind(&mut file).expect("rewind");
    let output = Command::new(program("promtool", "prometheus"))
        .args(arguments)
        .stdin(file)
        .output()
        .expect("run promtool");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "promtool {arguments:?}:\n{said}");
    said
}
