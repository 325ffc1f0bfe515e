//! A simulated node, as a script has it.

use std::ops::ControlFlow;
use std::sync::Arc;

use gpushare_core::Result;
use gpushare_core::apply::Source;
use gpushare_core::backend::sim::{
    Faults, MemoryStore, Process, ProcessKind, ProcessSpec, Rules, Simulator,
};
use gpushare_core::hazard::HazardName;
use gpushare_core::id::{ComputeInstanceId, GpuInstanceId, MigUuid, Pid};
use gpushare_core::mode::{ComputeMode, Interval};
use gpushare_core::observe::Scope;
use gpushare_core::plan::Request;
use gpushare_core::plan::state::GpuState;
use gpushare_core::port::Store;
use gpushare_core::snapshot::MigDevice;
use gpushare_core::{ApplyOptions, Error, ErrorCode, Event, Node, Report, Snapshot, Spec};

use super::script::{Daemon, Goal, Planted, Script};
use crate::plant::Flawed;

/// A node before what is asked for, to be copied for each run.
#[derive(Debug)]
pub(super) struct Base {
    simulator: Simulator,
    store: MemoryStore,
    planted: Option<Planted>,
    /// Who works on the node, clients of its daemons among them.
    pub(super) tenants: Vec<Tenant>,
}

/// Who works on the node, and on which instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Tenant {
    pub(super) process: Process,
    pub(super) device: Option<Device>,
}

/// A MIG device with its ids.
pub(super) type Device = (MigUuid, GpuInstanceId, ComputeInstanceId);

/// A node with a switch for faults.
#[derive(Debug)]
pub(super) struct World {
    pub(super) simulator: Simulator,
    pub(super) node: Node,
    pub(super) faults: Faults,
    planted: Option<Planted>,
    unsynced: Option<Arc<Flawed>>,
}

impl Base {
    /// The node that a script begins with.
    pub(super) fn of(script: &Script) -> Result<Self> {
        let simulator = Simulator::new(script.fleet.parse()?)?;
        simulator.set_rules(willing(&script.rules))?;
        let store = MemoryStore::new();
        let world = World::over(&simulator, &store, None);
        if script.prior {
            let ports = world.node.ports();
            let mut nvml = ports.nvml.open()?;
            for gpu in simulator.gpus()? {
                nvml.set_compute_mode(&gpu, ComputeMode::ExclusiveProcess)?;
                ports.policy.set_interval(&gpu, Interval::Long)?;
            }
        }
        if let Some(spec) = script.from.spec() {
            world.node.apply(&spec.parse()?, &options(true))?;
        }
        if let Some(enable) = script.pending {
            let mut rules = willing(&script.rules);
            rules.mode_change_stays_pending = true;
            simulator.set_rules(rules)?;
            let mut nvml = world.node.ports().nvml.open()?;
            for gpu in simulator.gpus()? {
                nvml.set_mig_mode(&gpu, enable)?;
            }
            drop(nvml);
        }
        // Creations and destructions are counted from here.
        simulator.set_rules(script.rules.clone())?;
        let snapshot = world.node.snapshot()?;
        let mut tenants = Vec::new();
        for _ in 0..script.clients {
            tenants.extend(serve(&simulator, &snapshot)?);
        }
        for gpu in simulator.gpus()? {
            match script.daemon {
                Daemon::Serves => {}
                Daemon::Frozen => simulator.freeze_mps_daemon(&gpu, true)?,
                Daemon::Killed => simulator.kill_mps_daemon(&gpu)?,
            }
        }
        let tenant = script.tenant.map(|number| work(&simulator, &snapshot, number)).transpose()?;
        tenants.extend(tenant);
        Ok(Self { simulator, store, planted: script.planted, tenants })
    }

    pub(super) fn world(&self) -> Result<World> {
        Ok(World::over(&self.simulator.copy()?, &self.store.copy(), self.planted))
    }
}

/// The same with a driver that refuses nothing.
pub(super) fn willing(rules: &Rules) -> Rules {
    let mut rules = rules.clone();
    (rules.insufficient_at_create, rules.in_use_at_destroy) = (None, None);
    rules
}

/// One client more on every daemon.
fn serve(simulator: &Simulator, snapshot: &Snapshot) -> Result<Vec<Tenant>> {
    let client = || ProcessSpec::new("python serve.py").doing(ProcessKind::MpsClient);
    let mut clients = Vec::new();
    for gpu in &snapshot.gpus {
        if gpu.mps.is_some() {
            clients.push(tenant(simulator, simulator.busy(&gpu.uuid, client())?, None)?);
        }
        for device in gpu.mig_devices.iter().filter(|device| device.mps.is_some()) {
            let pid = simulator.busy(&device.uuid, client())?;
            clients.push(tenant(simulator, pid, Some(ids(device)))?);
        }
    }
    Ok(clients)
}

/// Somebody begins to work on that MIG device of the first GPU, or on that GPU.
fn work(simulator: &Simulator, snapshot: &Snapshot, number: usize) -> Result<Tenant> {
    let gpu = &snapshot.gpus[0];
    let device = gpu.mig_devices.get(number % gpu.mig_devices.len().max(1)).cloned();
    let spec = ProcessSpec::new("python train.py");
    let pid = match &device {
        Some(device) => simulator.busy(&device.uuid, spec)?,
        None => simulator.busy(&gpu.uuid, spec)?,
    };
    tenant(simulator, pid, device.as_ref().map(ids))
}

pub(super) fn tenant(simulator: &Simulator, pid: Pid, device: Option<Device>) -> Result<Tenant> {
    process(simulator, pid)?.map(|process| Tenant { process, device }).ok_or_else(|| {
        Error::new(ErrorCode::NotFound, format!("process {pid} came and is not there"))
    })
}

pub(super) fn ids(device: &MigDevice) -> Device {
    (device.uuid.clone(), device.gi, device.ci)
}

pub(super) fn process(simulator: &Simulator, pid: Pid) -> Result<Option<Process>> {
    Ok(simulator.processes()?.into_iter().find(|process| process.pid == pid))
}

/// What a careful caller accepts on a node where nothing else is at stake.
fn options(consent: bool) -> ApplyOptions {
    ApplyOptions::new()
        .allow_reset(true)
        .allow_evict(consent)
        .allow_hazard(HazardName::BypassPossible)
        .allow_hazard(HazardName::HopperUnmeasured)
}

impl World {
    fn over(simulator: &Simulator, store: &MemoryStore, planted: Option<Planted>) -> Self {
        let store: Arc<dyn Store> = Arc::new(store.clone());
        let unsynced = (planted == Some(Planted::JournalNotSynced))
            .then(|| Arc::new(Flawed::unsynced(store.clone())));
        let store = unsynced.clone().map_or(store, |unsynced| unsynced);
        let (ports, faults) = Faults::wrap(simulator.ports(store));
        let node = Node::with_ports(ports, true);
        Self { simulator: simulator.clone(), node, faults, planted, unsynced }
    }

    /// The process has died.
    pub(super) fn forget(&self) -> Result<()> {
        self.unsynced.as_ref().map_or(Ok(()), |unsynced| unsynced.forget())
    }

    pub(super) fn recover(&self) -> Result<()> {
        if self.planted == Some(Planted::NothingUndone) {
            for journal in self.journals()? {
                self.node.discard(&journal)?;
            }
        }
        self.node.recover().map(drop)
    }

    /// What a script asks for.
    pub(super) fn request(&self, script: &Script) -> Result<Request> {
        Ok(match &script.goal {
            Goal::Leave(mode) => Request::Leave { mode: *mode, gpus: self.simulator.gpus()? },
            Goal::Apply(wanted) => {
                let spec: Spec = wanted.spec().unwrap_or_default().parse()?;
                Request::Apply(spec)
            }
        })
    }

    pub(super) fn change(&self, request: &Request, consent: bool) -> Result<Report> {
        let go_on = |_: &Event| ControlFlow::Continue(());
        self.node.apply_with(Source::Request(request), &options(consent), go_on)
    }

    /// The state of each GPU without ids and uuids, intervals included.
    pub(super) fn states(&self) -> Result<Vec<GpuState>> {
        let snapshot = self.node.observer()?.snapshot(&Scope::all().with_intervals())?;
        Ok(snapshot.gpus.iter().map(GpuState::of).collect())
    }

    /// The MIG devices of each GPU.
    pub(super) fn devices(&self) -> Result<Vec<Vec<Device>>> {
        let snapshot = self.node.snapshot()?;
        Ok(snapshot.gpus.iter().map(|gpu| gpu.mig_devices.iter().map(ids).collect()).collect())
    }

    pub(super) fn journals(&self) -> Result<Vec<String>> {
        self.node.ports().store.list("journal")
    }

    /// Calls off what waits for a reset.
    pub(super) fn call_off(&self) -> Result<()> {
        let snapshot = self.node.snapshot()?;
        let mut nvml = self.node.ports().nvml.open()?;
        for gpu in &snapshot.gpus {
            if let Some(mig) = &gpu.mig {
                nvml.set_mig_mode(&gpu.uuid, mig.enabled)?;
            }
        }
        Ok(())
    }

    /// The GPUs whose locks somebody has.
    pub(super) fn locked(&self) -> Result<Vec<String>> {
        let store = &self.node.ports().store;
        let mut locked = Vec::new();
        for gpu in self.simulator.gpus()? {
            if store.try_lock(&format!("lock/{gpu}.lock"))?.is_none() {
                locked.push(gpu.to_string());
            }
        }
        Ok(locked)
    }
}
