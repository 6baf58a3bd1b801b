//! `status --wait` over a sequence of states.

use evenkeel::controller::view::View;
use evenkeel::model::{Cause, Presence};
use expect_test::expect;

use crate::parts::process::free_port;
use crate::program::{ask, evenkeel, finish};
use crate::stage::{converged, declare, midway, run, telling, view};

fn done() -> View {
    let mut world = midway();
    run(&mut world, 100);
    view(&world)
}

fn not_ready() -> View {
    let mut view = view(&converged());
    view.bus_live = false;
    view.apps.clear();
    view
}

#[test]
fn it_follows_to_the_end_over_a_restart_of_the_controller() {
    let states =
        vec![Some(view(&midway())), None, Some(not_ready()), Some(view(&midway())), Some(done())];
    let controller = telling(states);
    let ended = ask(&controller, &["status", "--wait", "shop/alfa"]);
    controller.wait_for(5);
    expect![[r#"
        shop/alfa: progressing, 0 of 5 at 2: towards 2
        waiting: http://controller/api/v1/state answers 503 Service Unavailable: the controller is stopping
        waiting: the controller is not connected to the bus
    "#]].assert_eq(&ended.err.replace(&controller.url(), "http://controller"));
    expect![[r#"
        APP   CLUSTER  PHASE      TARGET  NODES  ROLLOUT  MESSAGE
        shop  alfa     converged  2       5/5    -        every node serves 2

        APP   BACKEND  LOAD BALANCER  READY   FLOOR  AGENT
        shop  app      lb1            9 of 9  4      present

        shop is declared by commit 0123456789ab: Bump alfa
    "#]]
    .assert_eq(&ended.out);
    assert_eq!(ended.code, 0);
}

#[test]
fn it_ends_with_what_it_came_to() {
    let mut world = converged();
    declare(&mut world, "alfa", "2");
    world.failing.insert(crate::fleet::node("web1"));
    run(&mut world, 100);
    let controller = telling(vec![Some(view(&midway())), Some(view(&world))]);
    assert_eq!(ask(&controller, &["status", "--wait", "--output", "json"]).code, 1);
    controller.wait_for(2);
}

#[test]
fn who_may_be_heard_any_moment_is_waited_for() {
    let mut world = converged();
    for name in ["web1", "web2"] {
        world.nodes.get_mut(&crate::fleet::node(name)).unwrap().presence = Presence::Unknown;
    }
    let old = view(&world);
    let mut young = old.clone();
    let cluster = crate::fleet::cluster;
    let alfa =
        young.apps.values_mut().find_map(|app| app.clusters.get_mut(&cluster("alfa"))).unwrap();
    alfa.young.insert(Cause::Unreachable);
    // Without waiting it is told as it is.
    assert_eq!(ask(&telling(vec![Some(young.clone())]), &["status"]).code, 1);

    let controller = telling(vec![Some(young.clone()), Some(view(&converged()))]);
    let ended = ask(&controller, &["status", "--wait", "shop/alfa"]);
    controller.wait_for(2);
    expect![[r#"
        shop/alfa: degraded, 3 of 5 at 1: 2 expected nodes are not there, 0 may be absent: web1, web2
        waiting: shop/alfa: 2 expected nodes are not there, 0 may be absent: web1, web2; this may pass by itself
    "#]].assert_eq(&ended.err);
    assert_eq!(ended.code, 0);

    // Others are not waited for, and nobody is for good.
    assert_eq!(ask(&telling(vec![Some(young)]), &["status", "--wait", "shop/bravo"]).code, 0);
    assert_eq!(ask(&telling(vec![Some(old)]), &["status", "--wait"]).code, 1);
}

#[test]
fn a_commit_that_is_not_read_yet() {
    let before = || Some(view(&converged()));
    let mut young = view(&converged());
    young.apps.clear();
    // What ran before is converged still, and would be taken for the end.
    let controller = telling(vec![Some(young), before(), Some(view(&midway())), Some(done())]);
    let wait = ["status", "shop/alfa", "--wait", "--revision", "2"];
    let ended = ask(&controller, &wait);
    controller.wait_for(4);
    expect![[r#"
        waiting: there is no app shop; none is known yet
        shop/alfa: converged, 5 of 5 at 1: every node serves 1
        waiting: shop/alfa is declared at 1, not yet at 2
        shop/alfa: progressing, 0 of 5 at 2: towards 2
    "#]]
    .assert_eq(&ended.err);
    assert_eq!(ended.code, 0);
}

#[test]
fn the_time_is_up() {
    let controller = telling(vec![Some(view(&midway()))]);
    let ended = ask(&controller, &["status", "--wait", "--timeout", "0s"]);
    expect![[r#"
        shop/alfa: progressing, 0 of 5 at 2: towards 2
        shop/bravo: converged, 4 of 4 at 1: every node serves 1
        not settled within 0s: shop/alfa has 0 of 5
    "#]]
    .assert_eq(&ended.err);
    assert_eq!(ended.code, 2);
    assert!(ended.out.starts_with("APP "), "{}", ended.out);

    let controller = telling(vec![Some(view(&converged()))]);
    let wait = ["status", "shop/alfa", "--wait", "--revision", "2", "--timeout", "0s"];
    let ended = ask(&controller, &wait);
    expect![[r#"
        shop/alfa: converged, 5 of 5 at 1: every node serves 1
        waiting: shop/alfa is declared at 1, not yet at 2
        not settled within 0s: shop/alfa is declared at 1, not yet at 2
    "#]]
    .assert_eq(&ended.err);
    assert_eq!(ended.code, 2);

    let address = format!("http://127.0.0.1:{}", free_port());
    let arguments = ["status", "--wait", "--timeout", "0s", "--controller", &address];
    assert_eq!(finish(&mut evenkeel(&arguments)).code, 1);
}

#[test]
fn what_belongs_to_waiting_needs_it() {
    for arguments in [["status", "--revision", "2"], ["status", "--timeout", "1s"]] {
        assert_eq!(finish(&mut evenkeel(&arguments)).code, 4, "{arguments:?}");
    }
}

#[test]
fn watching_has_no_end_and_is_for_people() {
    for other in [&["--wait"][..], &["--output", "json"]] {
        let arguments = [&["status", "--watch"][..], other].concat();
        assert_eq!(finish(&mut evenkeel(&arguments)).code, 4, "{arguments:?}");
    }
    // Asking again does not help.
    let controller = telling(vec![Some(view(&converged()))]);
    let ended = ask(&controller, &["status", "shop/charlie", "--watch"]);
    assert_eq!((ended.code, ended.out.as_str()), (4, ""), "{}", ended.err);
}
