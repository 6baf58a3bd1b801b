//! The reference fleet: its processes, started in order.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use super::guard::Guard;
use super::ports::{self, MissingProgram};
use super::process::{Ended, Processes, Program, Role, StartError};
use super::release;
use super::repository::{GitError, Repository};
use super::site::{APP, NOTIFIERS, Site};
use super::web;

/// How long a process may take to listen. On a busy machine a process needs a second or two.
const START_MAX: Duration = Duration::from_secs(30);

/// Why the fleet cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum FleetError {
    /// A program is missing.
    #[error(transparent)]
    Missing(#[from] MissingProgram),
    /// Not every path can be written into every configuration file.
    #[error(
        "the demo cannot use the directory {path:?}: {why}; choose another with --dir, or with TMPDIR"
    )]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        why: &'static str,
    },
    /// A file cannot be written, a port not be had.
    #[error("cannot {what}")]
    System {
        /// What was attempted.
        what: String,
        /// The system's error.
        #[source]
        error: io::Error,
    },
    /// A process cannot be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A process ended.
    #[error("{} ended: {}", .0.name, .0.how)]
    Ended(Ended),
    /// A process does not listen.
    #[error("{name} does not listen on port {port} after {START_MAX:?}")]
    Silent {
        /// Which.
        name: String,
        /// Where it should.
        port: u16,
    },
    /// The desired files are faulty, and shown as the controller would show them.
    #[error("the demo's desired files have a fault; is --min-ready a count or a percentage?\n{0}")]
    Desired(String),
    /// Git does not do its part.
    #[error(transparent)]
    Git(#[from] GitError),
}

pub(super) fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> FleetError {
    let what = what.into();
    move |error| FleetError::System { what, error }
}

/// The fleet, running.
pub struct Fleet {
    site: Site,
    /// The desired directory.
    pub repository: Repository,
    /// Its processes.
    pub processes: Processes,
}

impl Fleet {
    /// Writes the files, and starts everything.
    ///
    /// # Errors
    /// [`FleetError`]
    pub async fn start(site: Site, oncall: &str) -> Result<Fleet, FleetError> {
        site.write_all(oncall)?;
        let repository = Repository::new(&site.desired(), ports::git(), &site.desired_files())?;
        let snapshot = crate::desired::load(&site.desired());
        if let Some(fault) = snapshot.all_faults().next() {
            return Err(FleetError::Desired(fault.rendered.clone()));
        }
        let guard = Guard::start(Path::new(&site.exe)).map_err(system("start the demo's guard"))?;
        let processes = Processes::new(&site.dir.join("log"), Some(guard));
        let fleet = Fleet { site, repository, processes };
        fleet.start_parts().await?;
        fleet.start_agents()?;
        Ok(fleet)
    }

    /// Where everything is.
    pub fn site(&self) -> &Site {
        &self.site
    }

    async fn start_parts(&self) -> Result<(), FleetError> {
        let site = &self.site;
        if let Some(mosquitto) = &site.mosquitto {
            let args = vec!["-c".into(), site.dir.join("mosquitto.conf").into()];
            let command = mosquitto.clone();
            let name = "mosquitto".to_owned();
            self.processes.start(Program { name, command, args, role: Role::Part })?;
        }
        for web in &site.webs {
            self.processes.start(site.web(web))?;
        }
        for web in &site.webs {
            self.listens(&web.name, web.port).await?;
        }
        let dir = site.dir.join("haproxy");
        let args = vec![
            "-W".into(),
            "-f".into(),
            dir.join("haproxy.cfg").into(),
            "-S".into(),
            dir.join("master.sock").into(),
        ];
        let (name, command) = ("haproxy".to_owned(), site.haproxy.clone());
        self.processes.start(Program { name, command, args, role: Role::Part })?;
        self.listens("haproxy", site.front_port).await?;
        self.processes.start(site.controller())?;
        self.listens("controller", site.bus_port).await?;
        self.listens("controller", site.http_port).await
    }

    fn start_agents(&self) -> Result<(), FleetError> {
        let webs = self.site.webs.iter().map(|web| web.name.as_str());
        for name in webs.chain(["lb1"]).chain(NOTIFIERS) {
            self.processes.start(self.site.agent(name))?;
        }
        Ok(())
    }

    async fn listens(&self, name: &str, port: u16) -> Result<(), FleetError> {
        let began = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let ended = self.processes.ended().map_err(system("look after the processes"))?;
            if let Some(ended) = ended {
                return Err(FleetError::Ended(ended));
            }
            if began.elapsed() > START_MAX {
                return Err(FleetError::Silent { name: name.to_owned(), port });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Makes a revision available to the servers, as a build does, before anybody asks for it.
    ///
    /// # Errors
    /// [`FleetError::System`]
    pub fn publish(&self, revision: &str) -> Result<(), FleetError> {
        if !self.site.shape.release_layout {
            return Ok(()); // the command makes it up
        }
        let archive = self.site.dir.join(format!("releases/{APP}-{revision}.tar.gz"));
        release::publish(&archive, &web::release(revision))
            .map_err(system(format!("write {}", archive.display())))
    }
}
