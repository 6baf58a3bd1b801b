//! Every key that a desired file can have: its type, its default, and what it means. Said here once,
//! for the decoder, the JSON Schema and the reference.

use toml::Spanned;
use toml::de::{DeString, DeValue};

use crate::model::{
    BackendName, CheckName, ClusterName, NodeName, NotifyOn, OnFailure, RecipientName, Revision,
    ServerTemplate, TakeOut,
};

use super::fault::FAULTS_MAX;
use super::form::{Batch, Facts, Floor, Form, Line, List, Millis, Version, Whole, hint};
use super::table::{Field, Need, Reader, Slot, Table, table};

table! {
    /// How an app is rolled out. A cluster's file can have each of these tables, too; what it says
    /// there goes before what `app.toml` says, key by key.
    App {
        /// The version of the format; 1 is the only one.
        version: Version = Need::Default("1");
        /// Where the nodes get their traffic from. Leave it out, and there is nothing to take out.
        load_balancer: LoadBalancer = Need::Optional;
        /// How a revision is brought to the nodes.
        rollout: Rollout = Need::Default("{}");
        /// When a node counts as fit for service.
        settle: Settle = Need::Default("{}");
        /// Who is told of what.
        notify: Notify = Need::Default("{}");
    }

    /// What a cluster should be.
    Cluster {
        /// The revision that its nodes should run.
        revision: Revision = Need::Required;
        /// How many nodes must be there. Either this or `nodes` is required.
        expect: Whole<1> = Need::Optional;
        /// The nodes that must be there, by name.
        nodes: List<NodeName, 1> = Need::Optional;
        /// Facts that a node must have to be a member; of the nodes whose agents have a role for the
        /// app. If not given: the fact `cluster` with the name of the file.
        select: Facts = Need::Optional;
        /// Any change grants fresh attempts at the same revision; say why.
        retry: Line = Need::Default("\"\"");
        /// A new revision starts only when each of these clusters has converged on the same one.
        after: List<ClusterName, 0> = Need::Default("[]");
        /// Nodes to keep out of service: taken out as the floor allows, not upgraded, neither failed
        /// nor missing.
        hold: List<NodeName, 0> = Need::Default("[]");
        /// Change nothing: permits that no node has seen are withdrawn, running upgrades finish.
        paused: bool = Need::Default("false");
    }

    /// Where the nodes get their traffic from.
    LoadBalancer {
        /// The HAProxy backend with the app's servers. It belongs to this app alone.
        backend: BackendName = Need::Required;
        /// How many load balancers must obey; 1, if neither this nor `nodes` is given.
        expect: Whole<1> = Need::Optional;
        /// The load balancers that must obey, by name, instead of `expect`.
        nodes: List<NodeName, 1> = Need::Optional;
        /// The server's name in HAProxy: `{node}` is the node's name, any other `{word}` its fact.
        server: ServerTemplate = Need::Default("\"{node}\"");
        /// How long to wait for sessions to end before maintenance.
        drain: Millis<0> = Need::Default("\"0s\"");
        /// The floor of ready servers, per load balancer and backend; a percentage is rounded up.
        min_ready: Floor = Need::Default("\"40%\"");
    }

    /// How a revision is brought to the nodes.
    Rollout {
        /// How many are taken out at once: `cluster` is as many as the floor allows, put back
        /// together when all of them have settled; `batch` is only what is being upgraded, put back
        /// one by one.
        take_out: TakeOut = Need::Default("\"cluster\"");
        /// Nodes of the app that upgrade at once; a percentage is rounded down, but at least 1.
        batch: Batch = Need::Default("2");
        /// Attempts per node, revision and retry.
        tries: Whole<1> = Need::Default("2");
        /// Time limit of one attempt.
        upgrade_timeout: Millis<10> = Need::Default("\"10m\"");
        /// What follows when more than `max_failed` nodes have failed: nothing more is upgraded, or
        /// every node goes back to the last converged revision.
        on_failure: OnFailure = Need::Default("\"hold\"");
        /// Failed nodes that a rollout tolerates.
        max_failed: Whole<0> = Need::Default("0");
        /// Expected nodes that may be absent; never all of them.
        max_missing: Whole<0> = Need::Default("0");
    }

    /// When a node counts as fit for service.
    Settle {
        /// The checks that must be OK, as the node's NRPE configuration names them.
        checks: List<CheckName, 0> = Need::Default("[\"check_load\"]");
        /// Time from one round of checks to the next; the first runs at once.
        interval: Millis<10> = Need::Default("\"10s\"");
        /// How long the checks may take to become OK.
        timeout: Millis<10> = Need::Default("\"100s\"");
        /// How long they must stay OK, and the server UP, after the node was put back.
        soak: Millis<0> = Need::Default("\"0s\"");
    }

    /// Who is told of what.
    Notify {
        /// Who is told; nobody, if empty. What a name stands for is known to the notification
        /// servers only.
        recipients: List<RecipientName, 0> = Need::Default("[]");
        /// Of what: a rollout has converged, something needs a person, or no longer does.
        on: List<NotifyOn, 0> = Need::Default("[\"completed\", \"failed\", \"recovered\"]");
    }
}

/// Takes down that there is no such key among `known`; with what may have been meant, or where it
/// belongs.
pub(super) fn unknown_key(
    key: &Spanned<DeString<'_>>,
    known: fn() -> Vec<Field>,
    reader: &mut Reader<'_>,
) {
    let word = &**key.get_ref();
    if reader.flaws.len() > FAULTS_MAX {
        // Nobody will see it, and hints are dear.
        return reader.flaw(key.span(), "unknown key".to_owned());
    }
    let elsewhere = [
        ("[load_balancer]", LoadBalancer::fields()),
        ("[rollout]", Rollout::fields()),
        ("[settle]", Settle::fields()),
        ("[notify]", Notify::fields()),
        ("the cluster's own file", Cluster::fields()),
    ];
    let mut hint = hint(word, known().iter().map(|field| field.key));
    if hint.is_empty()
        && let Some((home, _)) =
            elsewhere.iter().find(|(_, fields)| fields.iter().any(|field| field.key == word))
    {
        hint = format!("; it belongs in {home}");
    }
    reader.flaw(key.span(), format!("unknown key {word:?}{hint}"));
}

/// What a cluster's file says: its own keys, and tables of `app.toml`.
pub(super) fn cluster_fields() -> Vec<Field> {
    Cluster::fields().into_iter().chain(App::fields()).collect()
}
