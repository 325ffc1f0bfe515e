//! What makes things happen on a simulated node: for tests, and for `gpushare sim`.

use serde::{Deserialize, Serialize};

use super::Simulator;
use super::fleet::Fleet;
use super::mps::MpsState;
use super::process::{Process, ProcessSpec, Target, holder};
use super::rules::Rules;
use super::state::{NodeState, Presence};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid};
use crate::mode::MpsHealth;
use crate::mps::{Command, MpsDomain};
use crate::port::NvmlReturn;
use crate::process::{Holder, HolderKind};

/// A fault of one driver call to come. It strikes once, in whichever process makes the call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FaultSpec {
    /// The NVML function, as [`NvmlFailure::call`](crate::port::NvmlFailure::call) names it.
    pub call: String,
    /// Which of its calls from now: 1 is the next.
    pub nth: u32,
    /// What it returns.
    pub nvml_return: u32,
    /// Whether the call takes effect before it fails.
    pub after_effect: bool,
}

impl FaultSpec {
    /// The next call of that function fails, without effect.
    pub fn next(call: impl Into<String>, ret: NvmlReturn) -> Self {
        Self { call: call.into(), nth: 1, nvml_return: ret.0, after_effect: false }
    }

    /// The same at that call: 1 is the next.
    #[must_use]
    pub fn at(self, nth: u32) -> Self {
        Self { nth, ..self }
    }

    /// The same, after the call took effect.
    #[must_use]
    pub fn after_effect(self) -> Self {
        Self { after_effect: true, ..self }
    }
}

/// How a GPU goes missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Loss {
    /// It is listed and answers GPU_IS_LOST, until a reset or reboot.
    Lost,
    /// It is not listed any more, until a reboot.
    Gone,
}

impl Simulator {
    /// The fleet of the node.
    ///
    /// # Errors
    /// IO, as for every method here: the node's file can't be read or written.
    pub fn fleet(&self) -> Result<Fleet> {
        self.read(|node| node.fleet.clone())
    }

    /// Its GPUs by their place in the fleet, those that went missing included.
    ///
    /// # Errors
    /// IO.
    pub fn gpus(&self) -> Result<Vec<GpuUuid>> {
        self.read(|node| node.gpus.iter().map(|gpu| gpu.uuid.clone()).collect())
    }

    /// Its processes, the invisible ones included.
    ///
    /// # Errors
    /// IO.
    pub fn processes(&self) -> Result<Vec<Process>> {
        self.read(|node| node.processes.clone())
    }

    /// Puts a process on a GPU or an instance, where the driver would let it.
    ///
    /// # Errors
    /// NOT_FOUND; INVALID_STATE for a whole GPU with MIG on or a prohibited compute mode; BUSY where
    /// EXCLUSIVE_PROCESS admits no more; MPS for a client without a daemon, or too many.
    pub fn busy(&self, target: impl Into<Target>, spec: ProcessSpec) -> Result<Pid> {
        let target = target.into();
        self.change(|node| node.admit(&target, spec))?
    }

    /// Ends a process.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn idle(&self, pid: Pid) -> Result<()> {
        self.change(|node| {
            let before = node.processes.len();
            node.end_process(pid);
            if node.processes.len() < before {
                return Ok(());
            }
            Err(Error::new(ErrorCode::NotFound, format!("no simulated process has pid {pid}")))
        })?
    }

    /// Ends all processes on a GPU, and says how many.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn idle_all(&self, gpu: &GpuUuid) -> Result<usize> {
        self.change(|node| {
            node.known(gpu)?;
            let pids: Vec<_> = node.on_gpu(gpu).map(|process| process.pid).collect();
            pids.iter().for_each(|pid| node.end_process(*pid));
            Ok(pids.len())
        })?
    }

    /// Kills the MPS daemon of a GPU or MIG device, its server and clients: what is left is a dead
    /// daemon of ours.
    ///
    /// # Errors
    /// NOT_FOUND where none runs.
    pub fn kill_mps_daemon(&self, domain: impl Into<MpsDomain>) -> Result<()> {
        let domain = domain.into();
        self.change(|node| {
            running_mps(node, &domain)?;
            node.end_mps_processes(&domain);
            running_mps(node, &domain)?.health = MpsHealth::Gone;
            Ok(())
        })?
    }

    /// Freezes the MPS daemon of a GPU or MIG device, as a client does that connects and says nothing,
    /// or thaws it.
    ///
    /// # Errors
    /// NOT_FOUND where none runs.
    pub fn freeze_mps_daemon(&self, domain: impl Into<MpsDomain>, frozen: bool) -> Result<()> {
        let domain = domain.into();
        self.change(|node| {
            let health = if frozen { MpsHealth::Frozen } else { MpsHealth::Answers };
            running_mps(node, &domain)?.health = health;
            Ok(())
        })?
    }

    /// Tells the MPS daemon of a domain something behind gpushare's back.
    ///
    /// # Errors
    /// NOT_FOUND where none runs.
    pub fn tell_mps_daemon(&self, domain: &MpsDomain, command: &Command) -> Result<()> {
        self.change(|node| {
            running_mps(node, domain)?;
            node.run(domain, command).map(drop)
        })?
    }

    /// Lets a driver call to come fail.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for call number 0, or a return of 0, which is success.
    pub fn fault(&self, fault: FaultSpec) -> Result<()> {
        if fault.nth == 0 || fault.nvml_return == NvmlReturn::SUCCESS.0 {
            let why = "a fault strikes call 1 or a later one, and returns no SUCCESS";
            return Err(Error::new(ErrorCode::InvalidArgument, why));
        }
        self.change(|node| node.faults.push(fault))
    }

    /// The faults that have not struck yet.
    ///
    /// # Errors
    /// IO.
    pub fn faults(&self) -> Result<Vec<FaultSpec>> {
        self.read(|node| node.faults.clone())
    }

    /// Forgets the faults that have not struck yet.
    ///
    /// # Errors
    /// IO.
    pub fn clear_faults(&self) -> Result<()> {
        self.change(|node| node.faults.clear())
    }

    /// Reboots the machine: every process ends, lost GPUs are back, and what no driver keeps is gone.
    ///
    /// # Errors
    /// IO.
    pub fn reboot(&self) -> Result<()> {
        self.change(|node| {
            node.boots += 1;
            node.gpus.iter_mut().for_each(|gpu| gpu.presence = Presence::Present);
            node.load_driver();
        })
    }

    /// Unloads the driver and loads it again.
    ///
    /// # Errors
    /// BUSY while a process uses a GPU, or NVML is open through this handle.
    pub fn reload(&self) -> Result<()> {
        self.change(|node| {
            let open = self.own_sessions(node.loads);
            let seen = node.processes.iter().filter(|process| !process.invisible).map(holder);
            let holders: Vec<_> = open.into_iter().chain(seen).collect();
            if !(holders.is_empty() && node.processes.is_empty()) {
                let why = "the driver is in use; end what uses it first";
                return Err(Error::new(ErrorCode::Busy, why).with_holders(holders));
            }
            node.load_driver();
            Ok(())
        })?
    }

    /// Takes a GPU away.
    ///
    /// # Errors
    /// NOT_FOUND.
    pub fn lose(&self, gpu: &GpuUuid, loss: Loss) -> Result<()> {
        self.change(|node| {
            node.known(gpu)?;
            if let Some(gpu) = node.gpu_state(gpu) {
                gpu.presence = match loss {
                    Loss::Lost => Presence::Lost,
                    Loss::Gone => Presence::Gone,
                };
            }
            Ok(())
        })?
    }

    /// The rules that have no source, as they are set.
    ///
    /// # Errors
    /// IO.
    pub fn rules(&self) -> Result<Rules> {
        self.read(|node| node.rules.clone())
    }

    /// Sets the rules that have no source. Creations and destructions are counted anew.
    ///
    /// # Errors
    /// IO.
    pub fn set_rules(&self, rules: Rules) -> Result<()> {
        self.change(|node| {
            node.rules = rules;
            node.creates = 0;
            node.destroys = 0;
        })
    }

    /// The user that the driver takes its caller for.
    ///
    /// # Errors
    /// IO.
    pub fn acting_uid(&self) -> Result<u32> {
        self.read(|node| node.acting_uid)
    }

    /// Lets the driver take its caller for that user. It begins with root, so that anybody can try
    /// everything.
    ///
    /// # Errors
    /// IO.
    pub fn act_as(&self, uid: u32) -> Result<()> {
        self.change(|node| {
            node.acting_uid = uid;
            node.mig_config = false;
        })
    }

    /// The same, a user who may open the capability node `mig/config`: instances are theirs to list,
    /// create and destroy, and nothing else is.
    ///
    /// # Errors
    /// IO.
    pub fn act_as_mig_configurer(&self, uid: u32) -> Result<()> {
        self.change(|node| {
            node.acting_uid = uid;
            node.mig_config = true;
        })
    }

    /// This process as a holder, where it has NVML open.
    pub(super) fn own_sessions(&self, load: u64) -> Option<Holder> {
        let open = self.sessions().get(&load).copied().unwrap_or(0);
        (open > 0).then(|| Holder::new(Pid::new(std::process::id()), HolderKind::Compute))
    }
}

impl NodeState {
    /// The fault that strikes this call, and whether it does so after its effect.
    pub(super) fn take_fault(&mut self, call: &str) -> Option<(NvmlReturn, bool)> {
        for fault in self.faults.iter_mut().filter(|fault| fault.call == call) {
            fault.nth = fault.nth.saturating_sub(1);
        }
        let due = self.faults.iter().position(|fault| fault.nth == 0)?;
        let fault = self.faults.remove(due);
        Some((NvmlReturn(fault.nvml_return), fault.after_effect))
    }
}

fn running_mps<'a>(node: &'a mut NodeState, domain: &MpsDomain) -> Result<&'a mut MpsState> {
    node.mps_mut(domain)
        .filter(|mps| mps.health != MpsHealth::Gone)
        .ok_or_else(|| Error::new(ErrorCode::NotFound, format!("no MPS daemon of {domain} runs")))
}
