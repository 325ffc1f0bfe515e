//! The ports beside NVML: MPS daemons, the interval, resets, processes, time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Simulator;
use super::process::holder;
use super::state::{FIRST_PID, NodeState, Presence};
use crate::backend::system::SystemClock;
use crate::error::{Error, ErrorCode, Result};
use crate::id::{GpuUuid, Pid};
use crate::mode::{Interval, MpsHealth};
use crate::mps::MpsDomain;
use crate::port::{
    Clock, ComputePolicy, NvmlFailure, NvmlReturn, ProcessFacts, Processes, Reset, Signal,
};

/// Every port of a simulated node but its store.
#[derive(Debug)]
pub(super) struct SimulatedPorts {
    pub(super) simulator: Simulator,
    beneath: Option<Arc<dyn Processes>>,
}

impl SimulatedPorts {
    pub(super) fn new(simulator: Simulator, beneath: Option<Arc<dyn Processes>>) -> Self {
        Self { simulator, beneath }
    }

    /// Whether the node is one beside this machine's own processes and users.
    pub(super) fn stands_on_a_machine(&self) -> bool {
        self.beneath.is_some()
    }

    pub(super) fn able(&self, which: impl FnOnce(&NodeState) -> bool) -> bool {
        self.simulator.read(which).unwrap_or(false)
    }

    /// A change of a GPU, which takes the time that the rules say.
    fn change<R>(
        &self,
        gpu: &GpuUuid,
        change: impl FnOnce(&mut NodeState) -> Result<R>,
    ) -> Result<R> {
        let latency = self.simulator.read(|node| node.rules.latency_ms)?;
        if latency > 0 {
            self.simulator.inner.clock.sleep(Duration::from_millis(latency));
        }
        self.simulator.change(change)?.map_err(|error| error.of_gpu(gpu))
    }

    /// The same of what an MPS daemon serves.
    pub(super) fn change_domain<R>(
        &self,
        domain: &MpsDomain,
        change: impl FnOnce(&mut NodeState) -> Result<R>,
    ) -> Result<R> {
        let latency = self.simulator.read(|node| node.rules.latency_ms)?;
        if latency > 0 {
            self.simulator.inner.clock.sleep(Duration::from_millis(latency));
        }
        self.simulator.change(change)?.map_err(|error| match domain {
            MpsDomain::Gpu(gpu) => error.of_gpu(gpu),
            MpsDomain::MigDevice(_) => error,
        })
    }
}

fn refuse<R>(code: ErrorCode, why: impl Into<String>) -> Result<R> {
    Err(Error::new(code, why))
}

/// What a tool says of a GPU that the driver does not find.
fn lookup(ret: NvmlReturn) -> Error {
    NvmlFailure::new("nvmlDeviceGetHandleByUUID", ret).into()
}

impl ComputePolicy for SimulatedPorts {
    fn able(&self) -> bool {
        self.able(|node| node.rules.interval_able)
    }

    fn interval(&self, gpu: &GpuUuid) -> Result<Interval> {
        self.simulator.read(|node| node.interval(gpu))?.map_err(|error| error.of_gpu(gpu))
    }

    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()> {
        self.change(gpu, |node| {
            node.interval(gpu)?;
            node.privileged().map_err(|ret| NvmlFailure::new("nvidia-smi compute-policy", ret))?;
            node.gpu_mut(gpu).map_err(lookup)?.interval = interval;
            Ok(())
        })
    }
}

impl NodeState {
    /// The interval of a GPU, where the card and the node have it.
    fn interval(&self, gpu: &GpuUuid) -> Result<Interval> {
        let state = self.gpu(gpu).map_err(lookup)?;
        let product = self.product(state).map_err(lookup)?;
        let supported = match product.compute_capability {
            (7, 0) => self.rules.interval_on_volta,
            (major, _) => major >= 7,
        };
        if !self.rules.interval_able {
            return refuse(ErrorCode::Unsupported, "nvidia-smi is not installed");
        }
        if !supported {
            let why = format!("{} has no time-slice interval", product.nvml_name);
            return refuse(ErrorCode::Unsupported, why);
        }
        Ok(state.interval)
    }
}

impl Reset for SimulatedPorts {
    fn able(&self) -> bool {
        self.able(|node| node.rules.reset_able)
    }

    fn reset(&self, gpu: &GpuUuid) -> Result<()> {
        self.change(gpu, |node| {
            let own = self.simulator.own_sessions(node.loads);
            if !node.rules.reset_able {
                return refuse(ErrorCode::Unsupported, "GPUs of this node can't be reset");
            }
            node.known(gpu)?;
            node.privileged().map_err(|ret| NvmlFailure::new("nvidia-smi --gpu-reset", ret))?;
            let seen = node.on_gpu(gpu).filter(|process| !process.invisible).map(holder);
            let holders: Vec<_> = own.into_iter().chain(seen).collect();
            if !holders.is_empty() || node.on_gpu(gpu).next().is_some() {
                let why = "the GPU is in use; end what uses it first";
                return Err(Error::new(ErrorCode::Busy, why).with_holders(holders));
            }
            let clear = node.rules.reset_clears_compute_mode;
            let state = node.gpu_state(gpu).filter(|state| state.presence != Presence::Gone);
            let state = state.ok_or_else(|| lookup(NvmlReturn::NOT_FOUND))?;
            state.presence = Presence::Present;
            let (mode, was) = (state.compute_mode, state.mig);
            state.set_mig(state.mig_pending);
            if !clear && !was && !state.mig {
                state.compute_mode = mode;
            }
            Ok(())
        })
    }
}

impl Simulator {
    /// Resets a GPU, as the reset port does: the pending MIG mode comes into force, instances go,
    /// and a lost GPU answers again.
    ///
    /// # Errors
    /// BUSY while somebody uses it or NVML is open through this handle; NOT_FOUND;
    /// PERMISSION_DENIED; UNSUPPORTED where the rules allow no reset.
    pub fn reset(&self, gpu: &GpuUuid) -> Result<()> {
        Reset::reset(&SimulatedPorts::new(self.clone(), None), gpu)
    }
}

impl Processes for SimulatedPorts {
    fn own_start_time(&self) -> Option<u64> {
        match &self.beneath {
            Some(beneath) => beneath.own_start_time(),
            None => self.facts(self.own_pid()).map(|facts| facts.start_time),
        }
    }

    fn facts(&self, pid: Pid) -> Option<ProcessFacts> {
        if pid.get() < FIRST_PID {
            return match &self.beneath {
                Some(beneath) => beneath.facts(pid),
                None => (pid == self.own_pid()).then(|| ProcessFacts {
                    start_time: 1,
                    command: "gpushare".to_owned(),
                    program: None,
                    uid: self.own_uid(),
                    parent: None,
                }),
            };
        }
        let facts = self.simulator.read(|node| {
            if node.all_mps().any(|mps| mps.health != MpsHealth::Gone && mps.daemon == pid) {
                return Some(ProcessFacts {
                    start_time: u64::from(pid.get() - FIRST_PID) * 100,
                    command: "nvidia-cuda-mps-control".to_owned(),
                    program: None,
                    uid: 0,
                    parent: Some(Pid::new(1)),
                });
            }
            let process = node.processes.iter().find(|p| p.pid == pid && !p.invisible)?;
            Some(ProcessFacts {
                start_time: process.start_time,
                command: process.command.clone(),
                program: process.program.clone(),
                uid: process.uid,
                parent: Some(process.parent.unwrap_or(Pid::new(1))),
            })
        });
        facts.ok().flatten()
    }

    fn own_pid(&self) -> Pid {
        Pid::new(std::process::id())
    }

    fn own_uid(&self) -> u32 {
        self.simulator.acting_uid().unwrap_or(0)
    }

    fn environment(&self, pid: Pid, names: &[&str]) -> Option<Vec<(String, String)>> {
        if let Some(beneath) = self.beneath.as_ref().filter(|_| pid.get() < FIRST_PID) {
            return beneath.environment(pid, names);
        }
        let variables = self.simulator.read(|node| {
            let process = node.processes.iter().find(|p| p.pid == pid && !p.invisible)?;
            process.environment.clone()
        });
        let variables = variables.ok().flatten()?;
        Some(variables.into_iter().filter(|(name, _)| names.contains(&name.as_str())).collect())
    }

    fn in_first_pid_namespace(&self) -> bool {
        true
    }

    fn signal(&self, pid: Pid, start_time: u64, signal: Signal) -> Result<()> {
        if let Some(beneath) = self.beneath.as_ref().filter(|_| pid.get() < FIRST_PID) {
            return beneath.signal(pid, start_time, signal);
        }
        self.simulator.change(|node| {
            let process = node
                .processes
                .iter()
                .find(|p| p.pid == pid && p.start_time == start_time && !p.invisible);
            // One that is gone by now is what was wanted.
            let Some(process) = process else { return Ok(()) };
            if node.acting_uid != 0 && node.acting_uid != process.uid {
                return refuse(
                    ErrorCode::PermissionDenied,
                    format!("user {} may not signal pid {pid}", node.acting_uid),
                );
            }
            if signal == Signal::Kill || !process.stubborn {
                node.end_process(pid);
            }
            Ok(())
        })?
    }
}

/// The time of a node: the real one, or one that passes only while somebody sleeps, so that what the
/// hardware takes costs nothing. Whoever waits for another thread waits in real time.
pub(super) enum Time {
    Real(Instant),
    /// Nanoseconds.
    Virtual(AtomicU64),
}

impl Time {
    /// When virtual time begins, in seconds since 1970: the first of November 2026.
    const BEGIN: u64 = 1_793_491_200;

    pub(super) fn real_clock() -> Self {
        Self::Real(Instant::now())
    }

    pub(super) fn virtual_clock() -> Self {
        Self::Virtual(AtomicU64::new(0))
    }

    pub(super) fn now(&self) -> Duration {
        match self {
            Self::Real(start) => start.elapsed(),
            Self::Virtual(nanos) => Duration::from_nanos(nanos.load(Ordering::SeqCst)),
        }
    }

    pub(super) fn sleep(&self, duration: Duration) {
        match self {
            Self::Real(_) => std::thread::sleep(duration),
            Self::Virtual(nanos) => {
                let step = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX >> 1);
                nanos.fetch_add(step, Ordering::SeqCst);
            }
        }
    }
}

impl fmt::Debug for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self, Self::Real(_)) { "real" } else { "virtual" };
        write!(f, "{kind} {:?}", self.now())
    }
}

impl Clock for SimulatedPorts {
    fn now(&self) -> Duration {
        self.simulator.inner.clock.now()
    }

    fn unix_time(&self) -> u64 {
        match &self.simulator.inner.clock {
            Time::Real(_) => {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
            }
            Time::Virtual(_) => Time::BEGIN + self.now().as_secs(),
        }
    }

    fn ticks(&self) -> u64 {
        match &self.simulator.inner.clock {
            // Processes that share the node must count alike.
            Time::Real(_) => SystemClock::new().ticks(),
            Time::Virtual(_) => u64::try_from(self.now().as_millis() / 10).unwrap_or(u64::MAX),
        }
    }

    fn sleep(&self, duration: Duration) {
        self.simulator.inner.clock.sleep(duration);
    }

    // Who shares a node in memory are threads of this process, and no simulated time passes for them. Nor
    // may their waiting run down each other's.
    fn time_of_others(&self) -> Duration {
        SystemClock::new().now()
    }

    fn wait_for_others(&self, duration: Duration) {
        SystemClock::new().sleep(duration);
    }

    fn boot_id(&self) -> Result<String> {
        self.simulator.read(NodeState::boot_id)
    }

    fn driver_load(&self) -> Option<u64> {
        self.simulator.read(|node| node.loads).ok()
    }
}
