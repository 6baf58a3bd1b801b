//! HAProxy as a value: processes, administrative bits, health, and what a reload makes of them.

use std::collections::BTreeMap;

use evenkeel::model::{AdminBits, BackendName, Health, ServerName, ServerSeen};
use evenkeel::plan::ports::{BalancerError, BalancerState, ProcessId, SetServer, SetState};

/// The first process; every reload makes the next.
pub const FIRST: u32 = 100;

/// A server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Server {
    pub admin: AdminBits,
    /// What its health check finds.
    pub healthy: bool,
    /// It has left maintenance, or come with a new process, and is up until its health check has found out otherwise.
    unproved: bool,
    /// `disabled` in the configuration.
    pub disabled: bool,
    pub sessions: u32,
}

impl Server {
    /// Somebody sets these bits.
    pub fn administer(&mut self, bits: AdminBits) {
        let leaves = self.admin.is_forced_maintenance();
        self.admin = bits;
        self.prove(!bits.is_forced_maintenance() && (leaves || self.unproved));
    }

    /// Whether it is taken for up, until its check has failed; one that is well is up for good reason.
    fn prove(&mut self, is_taken: bool) {
        self.unproved = is_taken && !self.healthy;
    }
}

/// One HAProxy with one backend.
#[derive(Debug, Clone)]
pub struct Haproxy {
    pub backend: BackendName,
    pub process: u32,
    /// Not to be reached.
    pub down: bool,
    /// The configuration names a state file.
    pub state_file: bool,
    pub servers: BTreeMap<ServerName, Server>,
    /// The state file: the bits at the last dump, and who was up without proof.
    file: Option<BTreeMap<ServerName, (AdminBits, bool)>>,
}

impl Haproxy {
    pub fn new(backend: BackendName, servers: Vec<(ServerName, bool)>, state_file: bool) -> Self {
        let servers = servers.into_iter().map(|(name, disabled)| {
            let admin = configured(disabled);
            (name, Server { admin, healthy: true, unproved: false, disabled, sessions: 0 })
        });
        Self {
            backend,
            process: FIRST,
            down: false,
            state_file,
            servers: servers.collect(),
            file: None,
        }
    }

    /// A server as the runtime API shows it.
    pub fn seen(&self, name: &ServerName) -> ServerSeen {
        let server = &self.servers[name];
        let is_up = server.healthy || server.unproved;
        let health = match server.admin.is_forced_maintenance() {
            false if is_up => Health::Up,
            false | true => Health::Down,
        };
        ServerSeen {
            admin: server.admin,
            health,
            weight: 1,
            backup: false,
            sessions: server.sessions,
        }
    }

    pub fn read(&self) -> Result<BalancerState, BalancerError> {
        self.reach()?;
        let servers = self.servers.keys().map(|name| (name.clone(), self.seen(name))).collect();
        let backends = BTreeMap::from([(self.backend.clone(), servers)]);
        Ok(BalancerState { process: ProcessId(self.process), backends })
    }

    pub fn process(&self) -> Result<ProcessId, BalancerError> {
        self.reach()?;
        Ok(ProcessId(self.process))
    }

    /// `set server … state …`, as HAProxy 2.6 does it: ready clears maintenance and drain, drain
    /// clears maintenance, maintenance clears drain; what the configuration says stays.
    pub fn set(&mut self, command: &SetServer) -> Result<(), String> {
        if command.backend != self.backend {
            return Err("No such backend.".to_owned());
        }
        let Some(server) = self.servers.get_mut(&command.server) else {
            return Err("No such server.".to_owned());
        };
        let (maint, drain) = (AdminBits::FORCED_MAINTENANCE, AdminBits::FORCED_DRAIN);
        let rest = server.admin.0 & !(maint | drain);
        server.administer(AdminBits(match command.state {
            SetState::Ready => rest,
            SetState::Drain => rest | drain,
            SetState::Maint => rest | maint,
        }));
        Ok(())
    }

    /// Somebody is up without proof.
    #[allow(dead_code)] // only the simulator has services that are not well
    pub fn is_unproved(&self) -> bool {
        self.servers.values().any(|server| server.unproved)
    }

    /// Every health check has found out how its service is.
    #[allow(dead_code)] // as above
    pub fn check(&mut self) {
        self.servers.values_mut().for_each(|server| server.prove(false));
    }

    pub fn dump_state(&mut self) -> Result<(), BalancerError> {
        self.reach()?;
        if self.state_file {
            let bits = self
                .servers
                .iter()
                .map(|(name, server)| (name.clone(), (server.admin, server.unproved)));
            self.file = Some(bits.collect());
        }
        Ok(())
    }

    /// The bits of a server in the state file, which a reload brings.
    #[allow(dead_code)] // the simulator has no use for it
    pub fn dumped(&self, name: &ServerName) -> Option<AdminBits> {
        self.file.as_ref().and_then(|file| file.get(name)).map(|(bits, _)| *bits)
    }

    /// A new process: with the state file as it was dumped last, or with the configuration alone.
    pub fn reload(&mut self) {
        self.process += 1;
        let file = self.file.as_ref().filter(|_| self.state_file);
        for (name, server) in &mut self.servers {
            let dumped = file.and_then(|file| file.get(name));
            let (bits, unproved) = dumped.copied().unwrap_or((configured(server.disabled), true));
            server.admin = bits;
            server.prove(unproved);
        }
    }

    fn reach(&self) -> Result<(), BalancerError> {
        if self.down {
            let error = "refused".to_owned();
            return Err(BalancerError::Connect { address: "its socket".to_owned(), error });
        }
        Ok(())
    }
}

/// `disabled` in the configuration is maintenance of its own, and sets the bit of forced maintenance, too.
fn configured(disabled: bool) -> AdminBits {
    AdminBits(if disabled { AdminBits::CONFIGURED | AdminBits::FORCED_MAINTENANCE } else { 0 })
}
