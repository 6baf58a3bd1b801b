//! What `status`, `nodes`, `why` and `forget` print.

use std::collections::BTreeMap;

use evenkeel::controller::view::{NodeView, View};
use evenkeel::model::{AdminBits, NodeName, Presence, Standing};
use expect_test::expect;

use crate::fleet::{cluster, node};
use crate::program::ask;
use crate::stage::{converged, midway, run, showing, telling, view};

#[test]
fn status_of_a_fleet_at_rest() {
    let controller = showing(&converged());
    expect![[r#"
        APP   CLUSTER  PHASE      TARGET  NODES  ROLLOUT  MESSAGE
        shop  alfa     converged  1       5/5    -        every node serves 1
        shop  bravo    converged  1       4/4    -        every node serves 1

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            9 of 9  4      present

        shop is declared by commit 0123456789ab: Bump alfa
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["status"]).quiet());
    expect![[r#"
        APP   CLUSTER  PHASE      TARGET  NODES  ROLLOUT  MESSAGE
        shop  bravo    converged  1       4/4    -        every node serves 1

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            9 of 9  4      present

        shop is declared by commit 0123456789ab: Bump alfa
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["status", "shop/bravo"]).quiet());
}

#[test]
fn status_in_the_middle_of_a_rollout() {
    let controller = showing(&midway());
    expect![[r#"
        APP   CLUSTER  PHASE        TARGET  NODES  ROLLOUT       MESSAGE
        shop  alfa     progressing  2       0/5    ff7b1eda183a  towards 2
        shop  bravo    converged    1       4/4    -             every node serves 1

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            4 of 9  4      present

        shop is declared by commit 0123456789ab: Bump alfa
        exit code 2
    "#]]
    .assert_eq(&ask(&controller, &["status"]).quiet());
}

#[test]
fn status_of_a_fleet_in_trouble() {
    let mut world = midway();
    world.nodes.get_mut(&node("web4")).unwrap().presence = Presence::Unknown;
    world.nodes.get_mut(&node("web7")).unwrap().presence = Presence::Departed;
    world.desired.get_mut(&cluster("bravo")).unwrap().standing =
        Standing::LastGood("shop/bravo.toml:1:1: not TOML\n  revision 1".to_owned());
    world.failing.insert(node("web1"));
    run(&mut world, 100);
    expect![[r#"
        APP   CLUSTER  PHASE     TARGET  NODES  ROLLOUT       MESSAGE
        shop  alfa     degraded  2       2/5    ff7b1eda183a  1 expected nodes are not there, 0 may be absent: web4
        shop  bravo    degraded  1       3/4    -             1 expected nodes are not there, 0 may be absent: web7

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            6 of 9  4      present

        shop/alfa unreachable: 1 expected nodes are not there, 0 may be absent: web4
        shop/bravo unreachable: 1 expected nodes are not there, 0 may be absent: web7
        shop/bravo desired invalid: shop/bravo.toml:1:1: not TOML
        shop/bravo desired invalid:   revision 1

        shop is declared by commit 0123456789ab: Bump alfa
        exit code 1
    "#]].assert_eq(&ask(&showing(&world), &["status"]).quiet());
}

#[test]
fn status_is_never_fine_before_it_is_known() {
    let mut blank = view(&converged());
    blank.bus_live = false;
    blank.apps.clear();
    let controller = telling(vec![Some(blank)]);
    let said = ask(&controller, &["status"]).quiet();
    expect![[r#"
        the controller is not connected to the bus
        exit code 2
    "#]]
    .assert_eq(&said);
    assert_eq!(ask(&controller, &["status", "shop"]).quiet(), said);
    let mut unled = view(&converged());
    unled.apps.values_mut().for_each(|app| {
        app.epoch = None;
        app.clusters.clear();
    });
    assert_eq!(ask(&telling(vec![Some(unled.clone())]), &["status"]).code, 2);
    // Led, and still nothing is known of it: its files were never good.
    unled.apps.values_mut().for_each(|app| app.epoch = Some(1));
    expect![[r#"
        APP   CLUSTER  PHASE  TARGET  NODES  ROLLOUT  MESSAGE
        shop  -        -      -       -      -        no cluster is known: its files have gone, or were never without a fault

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            9 of 9  4      present

        shop is declared by commit 0123456789ab: Bump alfa
        exit code 1
    "#]].assert_eq(&ask(&telling(vec![Some(unled)]), &["status"]).quiet());
}

#[test]
fn unknown_names_are_answered_with_known_ones() {
    let controller = showing(&converged());
    let said = |arguments: &[&str]| ask(&controller, arguments).failed(&controller.url());
    expect![[r#"
        evenkeel: there is no app shap; known: shop
        exit code 4
    "#]]
    .assert_eq(&said(&["status", "shap"]));
    expect![[r#"
        evenkeel: there is no cluster shop/alpha; known: alfa, bravo
        exit code 4
    "#]]
    .assert_eq(&said(&["status", "shop/alpha"]));
    expect![[r#"
        evenkeel: there is no app shap; known: shop
        exit code 4
    "#]]
    .assert_eq(&said(&["nodes", "--app", "shap"]));
    expect![[r#"
        evenkeel: there is no node wbe4; known: web4, lb1, web1, web2, web3, web5, web6, web7 and 4 more
        exit code 4
    "#]].assert_eq(&said(&["why", "wbe4"]));
    expect![[r#"
        evenkeel: there is no app shap; known: shop
        exit code 4
    "#]]
    .assert_eq(&said(&["plan", "shap"]));
    expect![[r#"
        evenkeel: there is no node lb2; known: lb1, web2, web1, web3, web4, web5, web6, web7 and 4 more
        exit code 4
    "#]].assert_eq(&said(&["plan", "--fail", "lb2"]));
    expect![[r#"
        evenkeel: there is no node nobody; known: lb1, stray, web1, web2, web3, web4, web5, web6 and 4 more
        exit code 4
    "#]].assert_eq(&said(&["forget", "nobody"]));
}

#[test]
fn nodes_in_a_table() {
    let controller = showing(&midway());
    expect![[r#"
        NODE   PRESENCE  CLUSTER     REVISION  AT THE LBS          CHECKS   DECISION
        lb1    present   shop        -         -                   -        serves the fleet
        push1  present   -           -         -                   -        delivers messages
        stray  present   -           -         -                   -        no app concerns it, and its agent has no role
        web1   present   shop/alfa   2         maintenance (ours)  settled  withdrawing the permit to upgrade
        web2   present   shop/alfa   2         maintenance (ours)  settled  withdrawing the permit to upgrade
        web3   present   shop/alfa   1         maintenance (ours)  -        upgrading to 2, attempt 1 of 2
        web4   present   shop/alfa   1         maintenance (ours)  -        upgrading to 2, attempt 1 of 2
        web5   present   shop/alfa   1         maintenance (ours)  -        waiting for a place in the batch: 2 of 2 are upgrading
        web6   present   shop/bravo  1         ready               -        in service at 1
        web7   present   shop/bravo  1         ready               -        in service at 1
        web8   present   shop/bravo  1         ready               -        in service at 1
        web9   present   shop/bravo  1         ready               -        in service at 1
        exit code 0
    "#]].assert_eq(&ask(&controller, &["nodes"]).quiet());
}

#[test]
fn nodes_that_are_asked_for() {
    let mut world = midway();
    world.nodes.get_mut(&node("web7")).unwrap().presence = Presence::Departed;
    let controller = showing(&world);
    let names = |arguments: &[&str]| {
        let all = ["nodes", "--output", "json"].iter().chain(arguments).copied();
        let ended = ask(&controller, &all.collect::<Vec<_>>());
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        let nodes: BTreeMap<NodeName, NodeView> = serde_json::from_str(&ended.out).unwrap();
        nodes.keys().map(NodeName::to_string).collect::<Vec<_>>().join(" ")
    };
    for (filters, expected) in [
        (&["cluster=bravo"][..], "web6 web7 web8 web9"),
        (&["cluster=bravo", "presence=departed"], "web7"),
        (&["role=balancer"], "lb1"),
        (&["role=notify"], "push1"),
        (&["rack=r\u{1b}[2J"], "push1 stray"),
        (&["app=shop", "role=balancer"], "lb1"),
        (&["rack=r1"], ""),
    ] {
        let arguments: Vec<&str> = filters.iter().flat_map(|filter| ["--where", filter]).collect();
        assert_eq!(names(&arguments), expected, "{filters:?}");
    }
    assert_eq!(names(&["--app", "shop"]), "lb1 web1 web2 web3 web4 web5 web6 web7 web8 web9");
    let none = ask(&controller, &["nodes", "--where", "rack=r1"]);
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", "no nodes\n"));
    assert_eq!(ask(&controller, &["nodes", "--where", "rack"]).code, 4);
}

#[test]
fn why_a_node_waits() {
    let controller = showing(&midway());
    expect![[r#"
        web3 in shop/alfa: upgrading to 2, attempt 1 of 2
          since         3m 12s (2027-01-15T07:56:47Z)
          runs          1
          goal          2
          at lb1        server web3: maintenance (ours)

        web3 is present
          roles         app
          agent         0.1.0
          fact          cluster = alfa
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["why", "web3"]).quiet());
}

#[test]
fn why_a_node_is_not_in_service() {
    let mut world = converged();
    let report = world.nodes.get_mut(&node("lb1")).unwrap().report.as_mut().unwrap();
    let balancer = std::sync::Arc::make_mut(report).balancer.as_mut().unwrap();
    let evenkeel::model::BackendSeen::Servers(servers) =
        balancer.backends.values_mut().next().unwrap()
    else {
        panic!("no servers")
    };
    servers.values_mut().next().unwrap().seen.admin = AdminBits(1);
    expect![[r#"
        web1 in shop/alfa: blocked: maintenance at load balancer lb1 that evenkeel did not set
          since         3m 12s (2027-01-15T07:56:47Z)
          runs          1
          goal          1
          at lb1        server web1: ready

        web1 is present
          roles         app
          agent         0.1.0
          fact          cluster = alfa
        exit code 0
    "#]]
    .assert_eq(&ask(&showing(&world), &["why", "web1"]).quiet());
}

#[test]
fn why_shows_what_a_failed_command_wrote() {
    let mut view = view(&converged());
    let node = view.nodes.get_mut(&node("web1")).unwrap();
    let part = node.apps.values_mut().next().unwrap();
    part.last_attempt = Some("2 #1 failed: exit code 1".to_owned());
    part.last_output = Some("unpacking  \n\x1b[2Jno space left\n".to_owned());
    expect![[r#"
        web1 in shop/alfa: in service at 1
          since         3m 12s (2027-01-15T07:56:47Z)
          runs          1
          goal          1
          at lb1        server web1: ready
          last attempt  2 #1 failed: exit code 1
            its output  unpacking
            its output  �[2Jno space left

        web1 is present
          roles         app
          agent         0.1.0
          fact          cluster = alfa
        exit code 0
    "#]]
    .assert_eq(&ask(&telling(vec![Some(view)]), &["why", "web1"]).quiet());
}

#[test]
fn why_of_those_that_serve() {
    let controller = showing(&converged());
    expect![[r#"
        lb1 in shop: serves the fleet
          since         3m 12s (2027-01-15T07:56:47Z)
          backend       app: 9 of 9 servers are ready, the floor is 4

        lb1 is present
          roles         balancer
          agent         0.1.0
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["why", "lb1"]).quiet());
    expect![[r#"
        push1: delivers messages

        push1 is present
          roles         notify
          agent         0.1.0
          fact          rack = r�[2J
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["why", "push1"]).quiet());
    expect![[r#"
        stray: no app concerns it, and its agent has no role

        stray is present
          agent         0.1.0
          fact          rack = r�[2J
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["why", "stray"]).quiet());
}

#[test]
fn json_reads_back() {
    let world = midway();
    let controller = showing(&world);
    let told = ask(&controller, &["status", "--output", "json"]);
    assert_eq!((told.code, told.err.as_str()), (2, ""));
    let value = |view: &View| serde_json::to_value(view).unwrap();
    let read: View = serde_json::from_str(&told.out).unwrap();
    assert_eq!(value(&read), value(&view(&world)));

    let told = ask(&controller, &["status", "shop/bravo", "--output", "json"]);
    let read: View = serde_json::from_str(&told.out).unwrap();
    assert_eq!(told.code, 0);
    assert_eq!(read.apps.values().map(|app| app.clusters.len()).sum::<usize>(), 1);
    assert_eq!(read.nodes.len(), 4);

    let told = ask(&controller, &["why", "web3", "--output", "json"]);
    let read: NodeView = serde_json::from_str(&told.out).unwrap();
    let expected = &view(&world).nodes[&node("web3")];
    assert_eq!(serde_json::to_value(&read).unwrap(), serde_json::to_value(expected).unwrap());
}

#[test]
fn forgetting() {
    let controller = showing(&converged());
    expect![[r#"
        web9 is forgotten
        exit code 0
    "#]]
    .assert_eq(&ask(&controller, &["forget", "web9"]).quiet());
    expect![[r#"
        evenkeel: web1 is not forgotten: its agent is connected
        exit code 1
    "#]]
    .assert_eq(&ask(&controller, &["forget", "web1"]).failed(&controller.url()));
}
