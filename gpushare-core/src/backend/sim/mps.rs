//! MPS daemons of a simulated node.
//!
//! They answer as the daemons of driver 580 do on an H200, as far as gpushare asks.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::ports::SimulatedPorts;
use super::process::ProcessKind;
use super::state::{FIRST_PID, NodeState};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid};
use crate::mode::{MpsHealth, Priority};
use crate::mps::{
    Client, Command, Dialect, MpsDomain, MpsSettings, Reply, ServerLimits, ServerStatus,
};
use crate::parameters::Access;
use crate::port::{ForeignDaemon, MpsDaemon, MpsHost, NvmlFailure, NvmlReturn};

/// A daemon of ours, or what is left of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MpsState {
    pub access: Access,
    pub admitted: bool,
    pub health: MpsHealth,
    pub settings: MpsSettings,
    pub daemon: Pid,
    /// Its server, once it has had a client.
    pub server: Option<MpsServerState>,
    /// When a setting was last changed, in clock ticks.
    pub changed: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct MpsServerState {
    pub pid: Pid,
    pub limits: ServerLimits,
}

impl MpsState {
    pub(super) fn answers(&self) -> bool {
        self.health == MpsHealth::Answers
    }

    /// Whether it takes new clients.
    pub(super) fn serves(&self) -> bool {
        self.answers() && self.admitted
    }
}

fn refuse<R>(code: ErrorCode, why: impl Into<String>) -> Result<R> {
    Err(Error::new(code, why))
}

impl NodeState {
    /// The daemon of a domain.
    pub(super) fn mps(&self, domain: &MpsDomain) -> Option<&MpsState> {
        match domain {
            MpsDomain::Gpu(gpu) => self.gpus.iter().find(|state| state.uuid == *gpu)?.mps.as_ref(),
            MpsDomain::MigDevice(device) => self.mig_mps.get(device),
        }
    }

    /// The same, to change it.
    pub(super) fn mps_mut(&mut self, domain: &MpsDomain) -> Option<&mut MpsState> {
        match domain {
            MpsDomain::Gpu(gpu) => self.gpu_state(gpu)?.mps.as_mut(),
            MpsDomain::MigDevice(device) => self.mig_mps.get_mut(device),
        }
    }

    /// Puts a daemon there, or takes it away.
    fn set_mps(&mut self, domain: &MpsDomain, mps: Option<MpsState>) {
        match (domain, mps) {
            (MpsDomain::Gpu(gpu), mps) => {
                if let Some(state) = self.gpu_state(gpu) {
                    state.mps = mps;
                }
            }
            (MpsDomain::MigDevice(device), Some(mps)) => {
                self.mig_mps.insert(device.clone(), mps);
            }
            (MpsDomain::MigDevice(device), None) => {
                self.mig_mps.remove(device);
            }
        }
    }

    /// Every daemon of the node.
    pub(super) fn all_mps(&self) -> impl Iterator<Item = &MpsState> {
        self.gpus.iter().filter_map(|gpu| gpu.mps.as_ref()).chain(self.mig_mps.values())
    }

    /// The GPU of a domain, which must answer.
    fn gpu_of(&self, domain: &MpsDomain) -> Result<GpuUuid> {
        let gpu = match domain {
            MpsDomain::Gpu(gpu) => gpu.clone(),
            MpsDomain::MigDevice(device) => match self.mig_device(device) {
                Some((gpu, ..)) => gpu,
                None => {
                    let why = format!("the simulated node has no MIG device {device}");
                    return refuse(ErrorCode::NotFound, why);
                }
            },
        };
        self.gpu(&gpu).map_err(lookup)?;
        Ok(gpu)
    }

    /// The clients of a daemon.
    pub(super) fn mps_clients(&self, domain: &MpsDomain) -> Vec<Pid> {
        let (gpu, instance) = match domain {
            MpsDomain::Gpu(gpu) => (gpu.clone(), None),
            MpsDomain::MigDevice(device) => match self.mig_device(device) {
                Some((gpu, gi, ci)) => (gpu, Some((gi, ci))),
                None => return Vec::new(),
            },
        };
        let processes = self.on_gpu(&gpu).filter(|process| process.instance == instance);
        let clients = processes.filter(|process| process.kind == ProcessKind::MpsClient);
        clients.map(|process| process.pid).collect()
    }

    /// Ends the clients of a daemon, and its server.
    pub(super) fn end_mps_processes(&mut self, domain: &MpsDomain) {
        let clients = self.mps_clients(domain);
        let server = self.mps(domain).and_then(|mps| mps.server.as_ref()).map(|server| server.pid);
        self.processes
            .retain(|process| !clients.contains(&process.pid) && Some(process.pid) != server);
        if let Some(mps) = self.mps_mut(domain) {
            mps.server = None;
        }
    }

    fn now_in_ticks(&self) -> u64 {
        u64::from(self.next_pid - FIRST_PID) * 100
    }

    pub(super) fn run(&mut self, domain: &MpsDomain, command: &Command) -> Result<Reply> {
        let clients = self.mps_clients(domain);
        let now = self.now_in_ticks();
        let privileged = self.acting_uid == 0;
        let Some(mps) = self.mps_mut(domain) else {
            return refuse(ErrorCode::NotFound, format!("no MPS daemon of ours serves {domain}"));
        };
        match mps.health {
            MpsHealth::Answers => {}
            MpsHealth::Frozen => {
                let why = format!(
                    "the MPS daemon of {domain} is frozen: it takes connections and says nothing"
                );
                return refuse(ErrorCode::Timeout, why);
            }
            MpsHealth::Unknown => {
                let why = format!("the MPS daemon of {domain} answers in an unknown way");
                return refuse(ErrorCode::Mps, why);
            }
            MpsHealth::Gone => {
                return refuse(ErrorCode::NotFound, format!("the MPS daemon of {domain} is gone"));
            }
        }
        if command.privileged() && !privileged && mps.daemon.get() == 0 {
            return refuse(ErrorCode::PermissionDenied, "Insufficient privileges");
        }
        let expect = |server: Pid, mps: &MpsState| {
            if mps.server.as_ref().is_some_and(|there| there.pid == server) {
                return Ok(());
            }
            refuse(ErrorCode::NotFound, format!("Server {server} not found"))
        };
        let mut changed = true;
        let reply = match command {
            Command::Servers => {
                changed = false;
                Reply::Pids(mps.server.iter().map(|server| server.pid).collect())
            }
            Command::ServerStatus { server } => {
                changed = false;
                expect(*server, mps)?;
                Reply::Status(ServerStatus::Active)
            }
            Command::Clients { server } => {
                changed = false;
                expect(*server, mps)?;
                Reply::Pids(clients)
            }
            Command::Processes => {
                changed = false;
                let server = mps.server.as_ref().map(|server| server.pid);
                let list = clients.into_iter().zip(2..).filter_map(|(pid, id)| {
                    Some(Client {
                        pid,
                        id,
                        server: server?,
                        device: domain.as_str().chars().take(24).collect(),
                        namespace: 4_026_531_836,
                        command: "python3".to_owned(),
                    })
                });
                Reply::Clients(list.collect())
            }
            Command::DefaultThreadPercentage => {
                changed = false;
                Reply::Percentage(mps.settings.thread_percentage)
            }
            Command::SetDefaultThreadPercentage(percentage) => {
                mps.settings.thread_percentage = *percentage;
                Reply::Percentage(*percentage)
            }
            Command::DefaultMemoryLimit { device: 0 } => {
                changed = false;
                Reply::MemoryLimit(mps.settings.pinned_memory_limit)
            }
            Command::SetDefaultMemoryLimit { device: 0, limit } => {
                mps.settings.pinned_memory_limit = *limit;
                Reply::Done
            }
            Command::DefaultPriority => {
                changed = false;
                Reply::Priority(mps.settings.priority)
            }
            Command::SetDefaultPriority(priority) => {
                mps.settings.priority = *priority;
                Reply::Done
            }
            Command::ThreadPercentage { server } => {
                changed = false;
                expect(*server, mps)?;
                let limits = mps.server.as_ref().map(|server| server.limits.thread_percentage);
                Reply::Percentage(limits.unwrap_or(mps.settings.thread_percentage))
            }
            Command::SetThreadPercentage { server, percentage } => {
                expect(*server, mps)?;
                if let Some(server) = &mut mps.server {
                    server.limits.thread_percentage = *percentage;
                }
                Reply::Percentage(*percentage)
            }
            Command::MemoryLimit { server, device: 0 } => {
                changed = false;
                expect(*server, mps)?;
                Reply::MemoryLimit(mps.server.as_ref().and_then(|s| s.limits.pinned_memory_limit))
            }
            Command::SetMemoryLimit { server, device: 0, limit } => {
                expect(*server, mps)?;
                if let Some(server) = &mut mps.server {
                    server.limits.pinned_memory_limit = *limit;
                }
                Reply::Done
            }
            Command::TerminateClient { server, client } => {
                expect(*server, mps)?;
                if !clients.contains(client) {
                    return refuse(
                        ErrorCode::NotFound,
                        format!("{client} is no client of {server}"),
                    );
                }
                self.end_process(*client);
                return Ok(Reply::Done);
            }
            Command::ShutdownServer { server, .. } => {
                expect(*server, mps)?;
                self.end_mps_processes(domain);
                return Ok(Reply::Done);
            }
            Command::Quit { .. } => {
                self.end_mps_processes(domain);
                if let Some(mps) = self.mps_mut(domain) {
                    mps.health = MpsHealth::Gone;
                }
                return Ok(Reply::Done);
            }
            other => {
                let why = format!("the simulated MPS daemon has no `{}`", other.text());
                return refuse(ErrorCode::Unsupported, why);
            }
        };
        if changed {
            mps.changed = Some(now);
        }
        Ok(reply)
    }
}

/// What a tool says of a GPU that the driver does not find.
fn lookup(ret: NvmlReturn) -> Error {
    NvmlFailure::new("nvmlDeviceGetHandleByUUID", ret).into()
}

impl MpsHost for SimulatedPorts {
    fn able(&self) -> bool {
        self.able(|node| node.rules.mps_able)
    }

    fn dialect(&self) -> Result<Dialect> {
        if MpsHost::able(self) {
            return Ok(Dialect::V2);
        }
        refuse(ErrorCode::Unsupported, "nvidia-cuda-mps-control is not installed")
    }

    fn probe(&self, domain: &MpsDomain) -> Result<Option<MpsDaemon>> {
        self.simulator.read(|node| {
            let mps = node.mps(domain)?;
            Some(MpsDaemon {
                access: mps.access.clone(),
                admitted: mps.admitted,
                health: mps.health,
                pid: (mps.health != MpsHealth::Gone).then_some(mps.daemon),
                directory: PathBuf::from(format!("/run/gpushare/simulated/mps/{domain}")),
                changed: mps.changed,
            })
        })
    }

    fn expect_startable(&self, _: &MpsDomain, access: &Access) -> Result<()> {
        if self.stands_on_a_machine() {
            return crate::backend::mps::expect_known(access);
        }
        // In memory nobody is asked who is there.
        let unknown = |name: &str| {
            let why = format!("the simulated node has no {access}");
            if name.starts_with("nobody-") { refuse(ErrorCode::NotFound, why) } else { Ok(()) }
        };
        match access {
            Access::User(name) | Access::Group(name) => unknown(name),
            _ => Ok(()),
        }
    }

    fn start(&self, domain: &MpsDomain, access: &Access, settings: &MpsSettings) -> Result<()> {
        self.change_domain(domain, |node| {
            if !node.rules.mps_able {
                return refuse(ErrorCode::Unsupported, "nvidia-cuda-mps-control is not installed");
            }
            if let Access::User(user) = access {
                if node.acting_uid != 0 && user.parse() != Ok(node.acting_uid) {
                    let why = format!(
                        "only root can give user {user} access to an MPS daemon; this is user {}",
                        node.acting_uid
                    );
                    let error = Error::new(ErrorCode::PermissionDenied, why);
                    return Err(error.with_needs(vec!["root".to_owned()]));
                }
            }
            let gpu = node.gpu_of(domain)?;
            if matches!(domain, MpsDomain::Gpu(_)) && node.gpu(&gpu).map_err(lookup)?.mig {
                let why = "MIG is on: an MPS daemon serves a MIG device, not all of the GPU";
                return refuse(ErrorCode::Mps, why);
            }
            if node.mps(domain).is_some_and(|mps| mps.health != MpsHealth::Gone) {
                let why = "an instance of this daemon is already running";
                return refuse(ErrorCode::InvalidState, why);
            }
            let daemon = Pid::new(node.next_pid);
            node.next_pid += 1;
            let state = MpsState {
                access: access.clone(),
                admitted: false,
                health: MpsHealth::Answers,
                // Priority has no variable.
                settings: MpsSettings { priority: Priority::Normal, ..*settings },
                daemon,
                server: None,
                changed: Some(node.now_in_ticks()),
            };
            node.set_mps(domain, Some(state));
            Ok(())
        })
    }

    fn command(&self, domain: &MpsDomain, command: &Command) -> Result<Reply> {
        command.check()?;
        let serves_all = |node: &NodeState| {
            node.mps(domain).is_some_and(|mps| mps.access == Access::Any && mps.admitted)
        };
        // Whoever may not change the node's file may ask a daemon that serves every user all the same.
        if !command.privileged() && self.simulator.read(serves_all)? {
            return self.simulator.read(NodeState::clone)?.run(domain, command);
        }
        self.simulator.change(|node| node.run(domain, command))?
    }

    fn admit(&self, domain: &MpsDomain, admit: bool) -> Result<()> {
        self.change_domain(domain, |node| match node.mps_mut(domain) {
            Some(mps) => {
                mps.admitted = admit;
                Ok(())
            }
            None => refuse(ErrorCode::NotFound, format!("no MPS daemon of ours serves {domain}")),
        })
    }

    fn stop(&self, domain: &MpsDomain) -> Result<()> {
        self.change_domain(domain, |node| {
            node.end_mps_processes(domain);
            node.set_mps(domain, None);
            Ok(())
        })
    }

    fn log(&self, _: &MpsDomain) -> String {
        String::new()
    }

    fn domains(&self) -> Result<Vec<MpsDomain>> {
        self.simulator.read(|node| {
            let served = node.gpus.iter().filter(|gpu| gpu.mps.is_some());
            let gpus = served.map(|gpu| MpsDomain::from(&gpu.uuid));
            gpus.chain(node.mig_mps.keys().map(MpsDomain::from)).collect()
        })
    }

    fn foreign(&self) -> Result<Vec<ForeignDaemon>> {
        Ok(Vec::new())
    }
}
