//! Which nodes may be taken to be there, by what a controller has heard: known independently of its core.

use std::collections::BTreeMap;
use std::sync::Arc;

use evenkeel::bus::intake::Document;
use evenkeel::checker::Fact;
use evenkeel::model::*;

/// Silence after which a node may not be taken to be there any more, by the design.
pub const SILENT_MS: u64 = 90_000;

/// What one controller has heard in one life.
#[derive(Debug, Clone, Default)]
pub struct Presence(BTreeMap<NodeName, Heard>);

#[derive(Debug, Clone, Default)]
struct Heard {
    boot: Option<Boot>,
    live_at: Option<Mono>,
    departed: Option<Boot>,
    present: bool,
}

impl Presence {
    /// A document is heard; the fact that it is.
    pub fn hear(&mut self, document: &Document, retained: bool, now: Mono) -> Option<Fact> {
        match document {
            Document::Report(report) => {
                let heard = self.0.entry(report.node.clone()).or_default();
                heard.boot = heard.boot.max(Some(report.boot));
                if !retained {
                    heard.live_at = Some(now);
                }
                Some(Fact::Heard(Arc::new((**report).clone())))
            }
            Document::Alive(alive) => {
                let heard = self.0.entry(alive.node.clone()).or_default();
                if !alive.alive {
                    heard.departed = heard.departed.max(Some(alive.boot));
                } else if heard.departed.is_some_and(|boot| boot <= alive.boot) {
                    heard.departed = None;
                }
                None
            }
            Document::Assignment(assignment, _) => Some(Fact::Found(assignment.clone())),
            Document::Leader(_)
            | Document::Controller(_)
            | Document::Ledger(..)
            | Document::Mailbox(..)
            | Document::Receipt(_)
            | Document::Marker(_)
            | Document::Deleted(_) => None,
        }
    }

    /// What was heard on an earlier connection proves nothing.
    pub fn reconnect(&mut self) {
        self.0.values_mut().for_each(|heard| heard.live_at = None);
    }

    /// Who has come or gone since this was last asked.
    pub fn news(&mut self, now: Mono) -> Vec<Fact> {
        let mut news = Vec::new();
        for (node, heard) in &mut self.0 {
            let gone = |departed: Boot| heard.boot.is_none_or(|boot| boot <= departed);
            let present = heard.live_at.is_some_and(|at| now.since_ms(at) <= SILENT_MS)
                && !heard.departed.is_some_and(gone);
            if heard.present != present {
                heard.present = present;
                news.push(Fact::Presence { node: node.clone(), present });
            }
        }
        news
    }
}
