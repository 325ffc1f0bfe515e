//! MPS daemons as they were observed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::id::Pid;
use crate::mig::Placement;
use crate::mode::MpsHealth;
use crate::mps::{MpsDomain, ServerStatus};
use crate::parameters::MpsConfig;
use crate::process::{Holder, HolderKind};
use crate::snapshot::{ComputeInstance, GpuSnapshot, MigDevice, Usage};
use crate::terminal::count;
use crate::units::{Bytes, ThreadPercentage};

/// An MPS daemon.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsStatus {
    /// Whether it is ours.
    pub ours: bool,
    /// Whether it answers and lets its clients in.
    pub alive: bool,
    /// Its parameters, where it is ours: limits and priority as it says itself, whom it is for as its
    /// directory says, the rest from our record.
    pub config: Option<MpsConfig>,
    /// Its process, where it is known.
    pub pid: Option<Pid>,
    /// How it is, where it is ours.
    #[serde(default)]
    pub health: Option<MpsHealth>,
    /// Where it listens, where it is ours and has a directory: what its clients have in
    /// `CUDA_MPS_PIPE_DIRECTORY`.
    #[serde(default)]
    pub directory: Option<PathBuf>,
    /// Whether its directory is open to its clients.
    #[serde(default)]
    pub admitted: bool,
    /// Its servers, where it is ours and answers: one for each user with clients, or one for all.
    #[serde(default)]
    pub servers: Vec<MpsServer>,
    /// When a setting of it was last changed through gpushare, in clock ticks since boot.
    #[serde(default)]
    pub changed: Option<u64>,
}

impl MpsStatus {
    /// A daemon that is not ours.
    pub const fn foreign(pid: Pid) -> Self {
        Self {
            ours: false,
            alive: true,
            config: None,
            pid: Some(pid),
            health: None,
            directory: None,
            admitted: true,
            servers: Vec::new(),
            changed: None,
        }
    }

    /// A daemon of ours that is on record and gone.
    pub const fn gone(config: MpsConfig) -> Self {
        Self {
            ours: true,
            alive: false,
            config: Some(config),
            pid: None,
            health: Some(MpsHealth::Gone),
            directory: None,
            admitted: false,
            servers: Vec::new(),
            changed: None,
        }
    }

    /// A daemon of ours that this user may not ask: what our record says of it is shown.
    pub(crate) fn hidden(recorded: Option<MpsConfig>, why: &str) -> Self {
        tracing::debug!(target: "gpushare::mps", why, "an MPS daemon is not asked");
        Self {
            ours: true,
            alive: recorded.is_some(),
            config: recorded,
            pid: None,
            health: None,
            directory: None,
            admitted: false,
            servers: Vec::new(),
            changed: None,
        }
    }

    /// Whether something of ours is there that serves nobody: a daemon that does not answer, or one
    /// whose start or end was not finished.
    pub fn is_unready(&self) -> bool {
        let nothing_left = self.admitted && self.health == Some(MpsHealth::Gone);
        self.ours && !self.alive && self.directory.is_some() && !nothing_left
    }

    /// The server that has a client.
    pub fn server_of(&self, client: Pid) -> Option<&MpsServer> {
        self.servers.iter().find(|server| server.clients.contains(&client))
    }
}

/// A server of an MPS daemon of ours.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsServer {
    /// Its process.
    pub pid: Pid,
    /// How it is, where the daemon can say that (from driver 550 on).
    pub status: Option<ServerStatus>,
    /// The share of threads that clients to come get at most; none where it could not be read.
    pub thread_percentage: Option<ThreadPercentage>,
    /// The device memory that clients to come get at most; none for no limit.
    #[serde(rename = "pinned_memory_limit_bytes")]
    pub pinned_memory_limit: Option<Bytes>,
    /// Its clients.
    pub clients: Vec<Pid>,
    /// Whether its limits are those that were set, and not what the daemon shows of others: whole GiB
    /// from 1 GiB on, rounded down, and percentages to one decimal.
    #[serde(default)]
    pub exact: bool,
}

impl MpsServer {
    /// A server of which only the pid is known.
    pub const fn new(pid: Pid) -> Self {
        Self {
            pid,
            status: None,
            thread_percentage: None,
            pinned_memory_limit: None,
            clients: Vec::new(),
            exact: false,
        }
    }
}

/// An MPS daemon of ours, or what is left of one, whose device the node does not have any more:
/// another tool destroyed the MIG device, which is possible while nobody is served.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsStray {
    /// The device that it was started for.
    #[serde(rename = "device")]
    pub domain: MpsDomain,
    /// What there is of it.
    pub mps: MpsStatus,
}

impl MpsStray {
    /// Its clients, as it lists them.
    pub fn clients(&self) -> impl Iterator<Item = Pid> {
        self.mps.servers.iter().flat_map(|server| &server.clients).copied()
    }

    /// Why recovery leaves it, and what to do; none where recovery ends it. Nobody who may be its client
    /// is ended with it.
    pub fn is_left(&self) -> Option<String> {
        let process = self.mps.pid.map_or_else(|| "it".to_owned(), |pid| format!("process {pid}"));
        match self.mps.health {
            Some(MpsHealth::Gone) => None,
            Some(MpsHealth::Answers) => match self.clients().count() {
                // Whoever sees other processes may see other devices too.
                0 if self.mps.pid.is_none() => {
                    Some("it runs in another pid namespace: end it there".to_owned())
                }
                0 => None,
                clients => Some(format!("it has {}: end them first", count(clients, "client"))),
            },
            Some(MpsHealth::Frozen | MpsHealth::Unknown) => {
                Some(format!("it does not say whether it has clients: end {process}"))
            }
            None => Some("this user may not ask it: ask as root or as its user".to_owned()),
        }
    }
}

impl GpuSnapshot {
    /// The MIG device that a compute instance is.
    pub(crate) fn mig_device_of(&self, ci: &ComputeInstance) -> Option<&MigDevice> {
        self.mig_devices.iter().find(|device| ci.uuid.as_ref() == Some(&device.uuid))
    }

    /// The MIG device whose compute instance starts there.
    pub(crate) fn mig_device_at(&self, placement: Placement, start: u8) -> Option<&MigDevice> {
        let mut gis = self.mig.iter().flat_map(|mig| &mig.gpu_instances);
        let gi = gis.find(|gi| gi.placement == placement)?;
        let ci = gi.compute_instances.iter().find(|ci| ci.start == start)?;
        self.mig_device_of(ci)
    }

    /// Who is served by our daemon of a MIG device, or of the whole GPU: whoever ends with it.
    pub(crate) fn mps_tenants(&self, device: Option<&MigDevice>) -> Usage {
        let mps = match device {
            Some(device) => device.mps.as_ref(),
            None => self.mps.as_ref(),
        };
        let Some(mps) = mps.filter(|mps| mps.ours && mps.health != Some(MpsHealth::Gone)) else {
            return Usage::Idle;
        };
        let holder = |pid: Pid| {
            let known = self.processes.iter().find(|process| process.holder.pid == pid);
            known.map_or_else(
                || Holder::new(pid, HolderKind::MpsClient),
                |process| process.holder.clone(),
            )
        };
        let holders: Vec<Holder> = if mps.health == Some(MpsHealth::Answers) {
            mps.servers.iter().flat_map(|server| &server.clients).map(|pid| holder(*pid)).collect()
        } else {
            // It names nobody. Whoever is on the device may be its client.
            match device {
                Some(device) => return device.usage.clone(),
                None if self.processes_hidden => return Usage::Unknown,
                None => {
                    let clients = self.processes.iter().map(|process| &process.holder);
                    clients.filter(|h| h.kind == HolderKind::MpsClient).cloned().collect()
                }
            }
        };
        if holders.is_empty() { Usage::Idle } else { Usage::Busy(holders) }
    }
}
