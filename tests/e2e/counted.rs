//! What goes wrong is counted: every counter and histogram of docs/metrics.md moves.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::load::get;
use crate::metrics::{documented, exposed, sum};
use crate::parts::process::{Process, free_port, program};
use crate::parts::receiver::{Answer, Request};
use crate::scene::{Broker, Plot, Scene};

/// One server refuses whatever it is handed; the other gets through with its third try.
fn unwilling(request: &Request) -> Answer {
    static ASKED: AtomicU32 = AtomicU32::new(0);
    match request.path.as_str() {
        "/notify1" => Answer::status(404, "no such recipient"),
        _ if ASKED.fetch_add(1, Ordering::Relaxed) < 3 => Answer::status(503, "later"),
        _ => Answer::status(200, ""),
    }
}

/// `command`, for which a file that may not grow is an error and no signal.
fn unsignalled(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$@\"", "sh"]);
    shell.arg(command.get_program()).args(command.get_args());
    shell
}

/// The files of a process may not grow beyond so many bytes.
fn limit(process: &Process, bytes: &str) {
    let pid = process.id().to_string();
    let limited = Command::new(program("prlimit", "util-linux"))
        .args(["--pid", &pid, &format!("--fsize={bytes}:unlimited")])
        .status();
    assert!(limited.expect("run prlimit").success());
}

fn start_shown(scene: &mut Scene, name: &str) -> SocketAddr {
    let port = free_port();
    let mut command = scene.agent_command(name);
    command.arg(format!("--http=127.0.0.1:{port}"));
    let process = scene.spawn(name, &mut unsignalled(&command));
    scene.agents.insert(name.to_owned(), process);
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn start_controller(scene: &mut Scene) {
    let process = scene.spawn("controller", &mut unsignalled(&scene.controller_command()));
    scene.controller = Some(process);
    scene.wait_for("the controller is ready", |scene| {
        scene.get("/readyz").is_ok_and(|(status, _)| status == 200)
    });
}

/// What the controller and agents expose, and which of it has moved, over several lives.
#[derive(Default)]
struct Seen {
    moved: BTreeSet<String>,
}

impl Seen {
    fn look(&mut self, text: &str) {
        for (name, (kind, _)) in exposed(text) {
            let counted = match kind.as_str() {
                "histogram" => sum(text, &format!("{name}_count"), &[]),
                _ => sum(text, &name, &[]),
            };
            if counted > 0.0 {
                self.moved.insert(name);
            }
        }
    }
}

fn agents(addresses: &[SocketAddr], name: &str, labels: &[(&str, &str)]) -> f64 {
    let texts = addresses.iter().filter_map(|address| get(*address, "/metrics").ok());
    texts.map(|(_, text)| sum(&text, name, labels)).sum()
}

fn controller(scene: &Scene, name: &str, labels: &[(&str, &str)]) -> f64 {
    scene.get("/metrics").map_or(0.0, |(_, text)| sum(&text, name, labels))
}

#[test]
fn every_counter_counts() {
    let names = ["lb1", "notify1", "notify2", "web1", "web2"];
    let app = vec![
        ("rollout", "tries = 1"),
        ("rollout", "on_failure = \"rollback\""),
        ("settle", "checks = [\"check_busy\"]"),
        ("settle", "timeout = \"60s\""),
    ];
    let plot = Plot {
        clusters: vec![("alfa", 2)],
        absent: names.to_vec(),
        app,
        answers: unwilling,
        ..Plot::new(Broker::Mosquitto)
    };
    let mut scene = plot.start();
    scene.kill_controller();
    start_controller(&mut scene);
    let shown = names.map(|name| start_shown(&mut scene, name));
    scene.converged("alfa", "1");
    let mut seen = Seen::default();

    // A node fails, and all go back. One notification server refuses to tell, the other is refused for a while.
    scene.touch("web2", "fail");
    scene.write_cluster("alfa", "revision = \"2\"");
    scene.wait_for("it is rolled back", |scene| {
        controller(scene, "evenkeel_rollouts_total", &[("outcome", "rolled_back")]) == 1.0
    });
    scene.remove("web2", "fail");
    scene.wait_for("it is told", |scene| {
        let of =
            |outcome| controller(scene, "evenkeel_notifications_total", &[("outcome", outcome)]);
        of("failed") >= 1.0 && of("delivered") >= 1.0
    });
    for outcome in ["delivered", "delayed", "failed"] {
        let labels = [("outcome", outcome)];
        assert!(agents(&shown, "evenkeel_agent_deliveries_total", &labels) >= 1.0, "{outcome}");
    }
    let failed = [("outcome", "failed")];
    assert_eq!(agents(&shown, "evenkeel_agent_attempts_total", &failed), 1.0);

    // An agent dies in the middle of an upgrade, and checks are not OK at first.
    scene.touch("web1", "gate");
    scene.touch("web1", "busy");
    scene.write_cluster("alfa", "revision = \"3\"\nretry = \"again\"\n[rollout]\ntries = 2");
    scene.says("web1", "waiting for the upgrade to 3, attempt 1");
    let before = assignment(&scene, "web1");
    for address in shown {
        seen.look(&get(address, "/metrics").expect("metrics").1);
    }
    seen.look(&scene.get("/metrics").expect("metrics").1);
    scene.agent("web1").kill();
    let web1 = start_shown(&mut scene, "web1");
    let shown = [shown[0], shown[1], shown[2], web1, shown[4]];
    scene.remove("web1", "gate");
    scene.wait_for("the attempt counts as interrupted", |_| {
        agents(&shown, "evenkeel_agent_attempts_total", &[("outcome", "interrupted")]) == 1.0
    });
    scene.wait_for("its checks are not OK", |_| {
        agents(&shown, "evenkeel_agent_checks_total", &[("result", "critical")]) >= 1.0
    });
    scene.remove("web1", "busy");
    scene.lb("lb1").reload();
    scene.converged("alfa", "3");
    scene.wait_for("the reload is seen", |_| {
        agents(&shown, "evenkeel_agent_haproxy_reloads_total", &[]) >= 1.0
    });

    // Strangers speak, and what was asked under an earlier epoch comes late.
    scene.kill_controller();
    start_controller(&mut scene);
    scene.converged("alfa", "3");
    scene.publish("nodes/stranger/report", b"[");
    scene.publish("nodes/web1/assignment/shop", b"[");
    scene.publish("nodes/no name/report", b"hear hear");
    scene.publish("nodes/web1/assignment/shop", &before);
    scene.wait_for("all of that is counted", |scene| {
        controller(scene, "evenkeel_documents_refused_total", &[]) >= 1.0
            && controller(scene, "evenkeel_bus_foreign_total", &[]) >= 1.0
            && agents(&shown, "evenkeel_agent_documents_refused_total", &[]) >= 1.0
            && agents(&shown, "evenkeel_agent_assignments_total", &[("outcome", "refused")]) >= 1.0
    });

    // There is no room for a while.
    limit(scene.controller.as_ref().expect("a controller"), "1");
    limit(scene.agent("web2"), "1");
    scene.write_cluster("alfa", "revision = \"4\"");
    scene.wait_for("nothing can be written", |scene| {
        controller(scene, "evenkeel_state_write_failures_total", &[]) >= 1.0
            && controller(scene, "evenkeel_history_write_failures_total", &[]) >= 1.0
    });
    limit(scene.controller.as_ref().expect("a controller"), "unlimited");
    scene.wait_for("nor at an agent", |_| {
        agents(&shown, "evenkeel_agent_state_write_failures_total", &[]) >= 1.0
    });
    limit(scene.agent("web2"), "unlimited");
    scene.converged("alfa", "4");
    scene.wait_for("what has happened is kept after all", |scene| {
        controller(scene, "evenkeel_history_failing", &[]) == 0.0
    });

    for address in shown {
        seen.look(&get(address, "/metrics").expect("metrics").1);
    }
    seen.look(&scene.get("/metrics").expect("metrics").1);
    let counts = |kind: &str| kind == "counter" || kind == "histogram";
    let documented = documented().into_iter().filter(|(_, (kind, _))| counts(kind));
    let still: Vec<String> =
        documented.map(|(name, _)| name).filter(|name| !seen.moved.contains(name)).collect();
    assert!(still.is_empty(), "nothing has moved {still:?}");
}

/// What the broker retains for a node.
fn assignment(scene: &Scene, node: &str) -> Vec<u8> {
    let topic = format!("evenkeel/default/nodes/{node}/assignment/shop");
    let output = Command::new(program("mosquitto_sub", "mosquitto-clients"))
        .args([
            "-V",
            "5",
            "-W",
            "20",
            "-C",
            "1",
            "-N",
            "-p",
            &scene.bus().to_string(),
            "-t",
            &topic,
        ])
        .output()
        .expect("run mosquitto_sub");
    assert!(output.status.success(), "{output:?}");
    output.stdout
}
