//! HAProxy as a value: processes, administrative bits, and what a reload makes of them.

use std::collections::BTreeMap;

use evenkeel::model::{AdminBits, Health, NodeName, ServerName, ServerSeen};
use evenkeel::plan::ports::{BalancerState, ProcessId, SetServer, SetState};

use crate::plot::{backend, server};

/// One HAProxy with the app's backend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Haproxy {
    pub process: u32,
    pub servers: BTreeMap<ServerName, AdminBits>,
    /// The state file: the bits at the last dump; none where none is configured.
    file: Option<BTreeMap<ServerName, AdminBits>>,
}

impl Haproxy {
    pub fn new<'a>(webs: impl Iterator<Item = &'a NodeName>, state_file: bool) -> Self {
        let servers: BTreeMap<_, _> = webs.map(|web| (server(web), AdminBits(0))).collect();
        let file = state_file.then(|| servers.clone());
        Self { process: 1, servers, file }
    }

    /// A server as the runtime API shows it; every service is healthy.
    pub fn seen(&self, name: &ServerName) -> ServerSeen {
        let admin = self.servers[name];
        let health = if admin.is_out() { Health::Down } else { Health::Up };
        ServerSeen { admin, health, weight: 1, backup: false, sessions: 0 }
    }

    pub fn read(&self) -> BalancerState {
        let servers = self.servers.keys().map(|name| (name.clone(), self.seen(name))).collect();
        let backends = BTreeMap::from([(backend(), servers)]);
        BalancerState { process: ProcessId(self.process), backends }
    }

    /// `set server … state …`: ready clears maintenance and drain, each of them clears the other.
    pub fn set(&mut self, command: &SetServer) -> Result<(), String> {
        let bits = self.servers.get_mut(&command.server).ok_or("No such server.")?;
        let (maint, drain) = (AdminBits::FORCED_MAINTENANCE, AdminBits::FORCED_DRAIN);
        let rest = bits.0 & !(maint | drain);
        *bits = AdminBits(match command.state {
            SetState::Ready => rest,
            SetState::Drain => rest | drain,
            SetState::Maint => rest | maint,
        });
        Ok(())
    }

    pub fn dump(&mut self) {
        if let Some(file) = &mut self.file {
            *file = self.servers.clone();
        }
    }

    /// A new process: with the state file as it was dumped last, or with the configuration alone.
    pub fn reload(&mut self) {
        self.process += 1;
        match &self.file {
            Some(file) => self.servers = file.clone(),
            None => self.servers.values_mut().for_each(|bits| *bits = AdminBits(0)),
        }
    }
}
