//! The whole of it, on real parts: the shipped binary in every role, real HAProxy, both brokers,
//! real plugins. Each test builds its own fleet in its own directory, on its own ports.

#[path = "../parts/mod.rs"]
mod parts;

mod browser;
mod load;
mod logs;
mod scene;
mod truth;
mod web;

/// Each scenario is two tests: one with the embedded broker, one with Mosquitto.
macro_rules! on_both_brokers {
    ($($(#[$doc:meta])* fn $name:ident($broker:ident) $body:block)*) => {$(
        mod $name {
            use super::*;
            $(#[$doc])*
            fn scenario($broker: Broker) $body
            #[test]
            fn embedded() {
                scenario(Broker::Embedded);
            }
            #[test]
            fn mosquitto() {
                scenario(Broker::Mosquitto);
            }
        }
    )*};
}

mod balancers;
mod controls;
mod counted;
mod crowd;
mod dashboards;
mod demo;
mod failures;
mod history;
mod killed;
mod messages;
mod metrics;
mod page;
mod rollouts;
mod trust;
mod watch;
