//! From any mess the agent converges, and no attempt is ever made twice.

use std::collections::BTreeSet;

use super::balancer::ordered;
use super::node::{failure, lb_report, permitted, unpermitted};
use super::rig::*;
use crate::agent::core::Event;
use crate::model::Order::{In, Out};
use crate::model::*;

/// Enough for every pair of faults to come close together a few times.
const SEEDS: u64 = 200;

/// What goes wrong on any node.
fn disturb(rig: &mut Rig, chance: &mut fastrand::Rng) {
    match chance.u8(0..8) {
        0 => rig.restart(),
        1 => rig.send(Event::Disconnected),
        2 => rig.connect(),
        3 => rig.disk_error = chance.bool().then_some("full"),
        4 => rig.slow_disk = true,
        5 => rig.pass(chance.u64(1..3_000)),
        _ => {
            if rig.is_writing() {
                rig.write();
            }
        }
    }
}

fn calm(rig: &mut Rig) {
    rig.disk_error = None;
    rig.slow_disk = false;
    while rig.is_writing() {
        rig.write();
    }
    rig.pass(1_000); // the disk is tried again
    rig.send(Event::Disconnected);
    rig.connect();
}

fn either(chance: &mut fastrand::Rng) -> Order {
    if chance.bool() { Out } else { In }
}

#[test]
fn a_load_balancer_converges() {
    for seed in 0..SEEDS {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::connected(balancer());
        let mut generation = 1;
        for _ in 0..40 {
            match chance.u8(0..8) {
                0 | 1 => {
                    let orders = [("s1", either(&mut chance)), ("s2", either(&mut chance))];
                    let mut order = ordered(generation, &orders);
                    let drain_ms = if chance.bool() { 2_000 } else { 0 };
                    order.balance.get_mut(&backend()).unwrap().drain_ms = drain_ms;
                    rig.assign(order);
                    generation += 1;
                }
                2 => rig.haproxy.reload(),
                3 => rig.haproxy.by_hand("s1", *chance.choice(&[0, 1, 8]).unwrap()),
                4 => rig.haproxy.down = chance.bool(),
                5 => rig.haproxy.servers.get_mut("s2").unwrap().sessions = chance.u32(0..2),
                _ => disturb(&mut rig, &mut chance),
            }
        }
        rig.haproxy.down = false;
        calm(&mut rig);
        rig.assign(ordered(generation, &[("s1", Out), ("s2", In)]));
        rig.pass(5_000);
        assert_eq!(rig.obeyed().done, Some(stamp(generation)), "seed {seed}");
        assert_eq!(rig.haproxy.admin("s1") & 1, 1, "seed {seed}");
        assert!(rig.server("s1").owned.is_some(), "seed {seed}");
        assert_eq!(rig.haproxy.admin("s2"), 0, "seed {seed}: nobody else touched it");
        assert_eq!(rig.server("s2").owned, None, "seed {seed}");
        assert_eq!(rig.refusal(), None, "seed {seed}");
    }
}

#[test]
fn a_node_converges_and_never_repeats_itself() {
    let mut started = 0;
    for seed in 0..SEEDS {
        let mut chance = fastrand::Rng::with_seed(seed);
        let mut rig = Rig::connected(web());
        let mut made: BTreeSet<u32> = BTreeSet::new();
        let (mut generation, mut attempt, mut sequence) = (1, 1, 1);
        let mut ran = 0;
        for _ in 0..150 {
            match chance.u8(0..10) {
                0 | 1 => {
                    rig.assign(permitted(generation, attempt));
                    generation += 1;
                }
                2 => {
                    rig.assign(unpermitted(generation));
                    generation += 1;
                }
                3 => attempt += 1,
                4 | 5 => {
                    sequence += 1;
                    rig.hear(Report { sequence, ..lb_report(Out, 3, 1) });
                }
                6 if !rig.upgrades.is_empty() => {
                    rig.upgrades.clear();
                    ran = 0;
                    let result = if chance.bool() { Ok(()) } else { Err(failure()) };
                    rig.upgrade_ends(result);
                }
                _ => {
                    disturb(&mut rig, &mut chance);
                    ran = ran.min(rig.upgrades.len());
                }
            }
            assert!(rig.upgrades.len() <= 1, "seed {seed}: one at a time");
            if rig.upgrades.len() > ran {
                let number = rig.disk.as_ref().unwrap().attempts[&app()].attempt;
                assert!(made.insert(number), "seed {seed}: attempt {number} twice");
                started += 1;
            }
            ran = rig.upgrades.len();
        }
        calm(&mut rig);
        if !rig.upgrades.is_empty() {
            rig.upgrades.clear();
            rig.upgrade_ends(Ok(()));
        }
        rig.assign(unpermitted(generation));
        rig.hear(Report { sequence: sequence + 1, ..lb_report(Out, 3, 1) });
        rig.assign(permitted(generation + 1, attempt + 1));
        assert_eq!(rig.upgrades.len(), 1, "seed {seed}: {:?}", rig.refusal());
    }
    assert!(started > SEEDS / 2, "the script leads somewhere: {started} attempts");
}
