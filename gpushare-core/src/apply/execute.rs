//! Steps on the hardware, each read back.

use std::collections::{BTreeMap, HashMap};

use crate::apply::hooks::AtSteps;
use crate::apply::report::Evicted;
use crate::apply::{Event, Progress};
use crate::error::{Error, ErrorCode, Result};
use crate::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid, ShareId};
use crate::mig::Placement;
use crate::observe::{Observer, Scope};
use crate::plan::state::GpuState;
use crate::plan::step::{ComputeInstanceStep, GpuInstanceStep, MigPlace};
use crate::plan::{Step, expect_visible};
use crate::port::{Activation, MigMode, Nvml, NvmlResult, NvmlReturn, Ports, Signal};
use crate::process::Holder;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::state::journal::{Entry, Header, Journal};
use crate::state::lock::Locks;
use crate::state::record;

/// Where the audit goes: one event for every call that changes something.
const AUDIT: &str = "gpushare::audit";

/// Does steps.
#[derive(Debug)]
pub(super) struct Executor<'a> {
    ports: &'a Ports,
    simulated: bool,
    locks: &'a Locks,
    /// None while a reset needs the driver closed.
    observer: Option<Observer>,
    digest: String,
    gpu_instances: HashMap<(GpuUuid, Placement), GpuInstanceId>,
    compute_instances: HashMap<(GpuUuid, Placement, u8), ComputeInstanceId>,
    mig_devices: HashMap<(GpuUuid, MigPlace), MigUuid>,
    /// Whether clients of MPS daemons that stop are ended, and who was.
    evict: bool,
    evicted: Vec<Evicted>,
    /// Whether steps are being undone.
    undoing: bool,
    /// Shares that we hold ourselves.
    held_back: Vec<ShareId>,
    /// Who is told before a mode changes.
    hooks: Option<AtSteps<'a>>,
}

/// Steps that failed on the way.
#[derive(Debug)]
pub(super) struct Failed {
    /// Why.
    pub(super) error: Error,
    /// How far each GPU got, in the order of the header.
    pub(super) reached: Vec<Reached>,
}

/// How far one GPU got.
#[derive(Clone, Debug, Default)]
pub(super) struct Reached {
    /// How many steps had begun.
    pub(super) begun: usize,
    /// The MIG devices that were created, by step.
    pub(super) created: BTreeMap<usize, MigUuid>,
}

impl<'a> Executor<'a> {
    pub(super) fn new(
        ports: &'a Ports,
        simulated: bool,
        locks: &'a Locks,
        observer: Observer,
        digest: &str,
        snapshot: &Snapshot,
    ) -> Self {
        let mut executor = Self {
            ports,
            simulated,
            locks,
            observer: Some(observer),
            digest: digest.to_owned(),
            gpu_instances: HashMap::new(),
            compute_instances: HashMap::new(),
            mig_devices: HashMap::new(),
            evict: false,
            evicted: Vec::new(),
            undoing: false,
            held_back: Vec::new(),
            hooks: None,
        };
        snapshot.gpus.iter().for_each(|gpu| executor.learn(gpu));
        executor
    }

    /// The same, which holds these shares itself, so that nobody leases them.
    pub(super) fn holding_back(self, shares: Vec<ShareId>) -> Self {
        let observer = self.observer.map(|mut observer| {
            observer.hold_back(shares.iter().cloned());
            observer
        });
        Self { observer, held_back: shares, ..self }
    }

    /// The same, which tells hooks before a mode changes.
    pub(super) fn telling(self, hooks: Option<AtSteps<'a>>) -> Self {
        Self { hooks, ..self }
    }

    /// The same, which may end the clients of MPS daemons that stop.
    pub(super) fn evicting(self, evict: bool) -> Self {
        Self { evict, ..self }
    }

    pub(super) fn ports(&self) -> &'a Ports {
        self.ports
    }

    /// From now on steps are undone, or done again.
    pub(super) fn undo(&mut self, undoing: bool) {
        self.undoing = undoing;
    }

    pub(super) fn is_undoing(&self) -> bool {
        self.undoing
    }

    pub(super) fn may_evict(&self) -> bool {
        self.evict
    }

    pub(super) fn note_evicted(&mut self, evicted: Evicted) {
        self.evicted.push(evicted);
    }

    /// The clients of MPS daemons that were ended.
    pub(super) fn take_evicted(&mut self) -> Vec<Evicted> {
        std::mem::take(&mut self.evicted)
    }

    /// The uuid of the MIG device there.
    pub(super) fn mig_device(&self, gpu: &GpuUuid, place: MigPlace) -> Option<MigUuid> {
        self.mig_devices.get(&(gpu.clone(), place)).cloned()
    }

    /// Does the steps of a journal's header, in order, and holds the result against the model.
    pub(super) fn run(
        &mut self,
        journal: &mut Journal<'_>,
        header: &Header,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Reached>, Failed> {
        let from = vec![Reached::default(); header.gpus.len()];
        self.run_from(journal, header, from, progress)
    }

    /// Does the steps from these positions on.
    pub(super) fn run_from(
        &mut self,
        journal: &mut Journal<'_>,
        header: &Header,
        mut reached: Vec<Reached>,
        progress: &mut Progress<'_>,
    ) -> Result<Vec<Reached>, Failed> {
        let of = header.gpus.iter().map(|gpu| gpu.steps.len()).sum();
        let mut number: usize = reached.iter().map(|gpu| gpu.begun).sum();
        for (position, gpu) in header.gpus.iter().enumerate() {
            let first = reached.get(position).map_or(0, |reached| reached.begun);
            for (step_number, step) in gpu.steps.iter().enumerate().skip(first) {
                number += 1;
                let event =
                    Event::Step { number, of, gpu: gpu.uuid.clone(), what: step.to_string() };
                if progress(&event).is_break() {
                    let error = Error::new(
                        ErrorCode::Interrupted,
                        format!("stopped before step {number} of {of}, {step}"),
                    );
                    return Err(Failed { error: error.of_gpu(&gpu.uuid), reached });
                }
                let earlier = gpu.steps.get(..step_number).unwrap_or_default();
                let hooks = self.hooks.filter(|_| !self.undoing);
                if let Some(Err(error)) = hooks.map(|hooks| hooks.before(&gpu.uuid, step, earlier))
                {
                    return Err(Failed { error: error.of_gpu(&gpu.uuid), reached });
                }
                if let Err(error) = journal.write(&Entry::Begin(position, step_number)) {
                    return Err(Failed { error, reached });
                }
                if let Some(reached) = reached.get_mut(position) {
                    reached.begun = step_number + 1;
                }
                let created = match self.step(&gpu.uuid, step) {
                    Ok(created) => created,
                    Err(error) => {
                        let error = self.with_holders(&gpu.uuid, step, error);
                        let error =
                            error.of_gpu(&gpu.uuid).context(format!("{step} on GPU {}", gpu.uuid));
                        return Err(Failed { error, reached });
                    }
                };
                if let Some(uuid) = created {
                    if let Some(reached) = reached.get_mut(position) {
                        reached.created.insert(step_number, uuid.clone());
                    }
                    if let Err(error) = journal.write(&Entry::Created(position, step_number, uuid))
                    {
                        return Err(Failed { error, reached });
                    }
                }
            }
        }
        match self.check_result(header) {
            Ok(()) => Ok(reached),
            Err(error) => Err(Failed { error, reached }),
        }
    }

    /// Says who is in the way where the driver only says that somebody is.
    fn with_holders(&mut self, gpu: &GpuUuid, step: &Step, error: Error) -> Error {
        if error.code() != ErrorCode::Busy {
            return error;
        }
        let scope = Scope::gpus([gpu.clone()]);
        let seen = self.observer().and_then(|observer| observer.snapshot(&scope));
        let holders = match seen.as_ref().ok().and_then(|snapshot| snapshot.gpu(gpu)) {
            Some(there) => holders_at(there, step),
            None => Vec::new(),
        };
        if holders.is_empty() {
            return error.context(
                "nobody could be seen there, and yet the driver says IN_USE: DCGM, persistenced or a monitor may hold it",
            );
        }
        let names: Vec<_> = holders.iter().map(ToString::to_string).collect();
        error.with_holders(holders).context(format!("in the way: {}", names.join(", ")))
    }

    /// Observes once more: every GPU must be what the model says.
    fn check_result(&mut self, header: &Header) -> Result<()> {
        let snapshot = self.observe(header)?;
        for gpu in &header.gpus {
            let expected =
                gpu.steps.iter().fold(gpu.before.clone(), |state, step| state.after(step));
            let found = snapshot.gpu(&gpu.uuid).map(GpuState::of);
            // A server that came while its daemon was told may have the limits of before.
            let told = gpu.steps.iter().filter_map(|step| match step {
                Step::StartMps { on, .. }
                | Step::SetMpsDefault { on, .. }
                | Step::SetMpsServers { on, .. } => Some(*on),
                _ => None,
            });
            for on in told {
                let mps = found.as_ref().and_then(|found| found.mps_on(on));
                if mps.is_some_and(|mps| !mps.limits_in_force()) {
                    return Err(Error::new(
                        ErrorCode::Mps,
                        "an MPS server came while its daemon was told, and gives other limits than those that were set; try again",
                    )
                    .of_gpu(&gpu.uuid));
                }
            }
            if !found.is_some_and(|found| found.matches(&expected)) {
                return Err(Error::new(
                    ErrorCode::Driver,
                    format!("every step succeeded, and yet GPU {} is not as planned: somebody else changes it, or the driver did something else than it said", gpu.uuid),
                )
                .of_gpu(&gpu.uuid));
            }
        }
        Ok(())
    }

    /// Observes the GPUs of a header.
    pub(super) fn observe(&mut self, header: &Header) -> Result<Snapshot> {
        let scope = Scope::gpus(header.gpus.iter().map(|gpu| gpu.uuid.clone()));
        let sets_interval = |step: &Step| matches!(step, Step::SetInterval { .. });
        let asks = header.gpus.iter().any(|gpu| gpu.steps.iter().any(sets_interval));
        let scope = if asks { scope.with_intervals() } else { scope };
        let snapshot = self.observer()?.snapshot(&scope)?;
        // An instance that is not shown is not gone.
        for gpu in &snapshot.gpus {
            expect_visible(gpu).map_err(|error| error.of_gpu(&gpu.uuid))?;
        }
        snapshot.gpus.iter().for_each(|gpu| self.learn(gpu));
        Ok(snapshot)
    }

    /// Ids by where instances stand.
    fn learn(&mut self, gpu: &GpuSnapshot) {
        self.forget_instances(&gpu.uuid);
        for gi in gpu.mig.iter().flat_map(|mig| &mig.gpu_instances) {
            self.gpu_instances.insert((gpu.uuid.clone(), gi.placement), gi.id);
            for ci in &gi.compute_instances {
                self.compute_instances.insert((gpu.uuid.clone(), gi.placement, ci.start), ci.id);
                if let Some(uuid) = &ci.uuid {
                    let place = MigPlace::new(gi.placement, ci.start);
                    self.mig_devices.insert((gpu.uuid.clone(), place), uuid.clone());
                }
            }
        }
    }

    fn forget_instances(&mut self, gpu: &GpuUuid) {
        self.gpu_instances.retain(|(uuid, _), _| uuid != gpu);
        self.compute_instances.retain(|(uuid, ..), _| uuid != gpu);
        self.mig_devices.retain(|(uuid, _), _| uuid != gpu);
    }

    pub(super) fn observer(&mut self) -> Result<&mut Observer> {
        if self.observer.is_none() {
            let mut observer = Observer::open(self.ports, self.simulated)?;
            observer.hold_back(self.held_back.iter().cloned());
            self.observer = Some(observer);
        }
        self.observer
            .as_mut()
            .ok_or_else(|| Error::new(ErrorCode::InvalidState, "the driver is closed"))
    }

    /// One call that changes something, with its line in the audit.
    fn change<T>(
        &mut self,
        gpu: &GpuUuid,
        call: &'static str,
        argument: &str,
        change: impl FnOnce(&mut dyn Nvml) -> NvmlResult<T>,
    ) -> Result<T> {
        let clock = self.ports.clock.clone();
        let start = clock.now();
        let result = change(self.observer()?.nvml());
        let micros = clock.now().saturating_sub(start).as_micros();
        let returned = result.as_ref().err().map_or(NvmlReturn::SUCCESS, |failure| failure.ret);
        self.audit(gpu, call, argument, returned.name(), micros);
        Ok(result?)
    }

    pub(super) fn audit(
        &self,
        gpu: &GpuUuid,
        call: &str,
        argument: &str,
        result: &str,
        micros: u128,
    ) {
        let blank = if argument.is_empty() { "" } else { " " };
        tracing::info!(
            target: AUDIT,
            uid = self.ports.processes.own_uid(),
            pid = self.ports.processes.own_pid().get(),
            digest = %self.digest,
            gpu = %gpu,
            call,
            argument,
            result,
            micros = u64::try_from(micros).unwrap_or(u64::MAX),
            "{call}{blank}{argument}",
        );
    }

    pub(super) fn audit_signal(&self, gpu: &GpuUuid, holder: &Holder, signal: Signal) {
        let name = match signal {
            Signal::Terminate => "SIGTERM",
            Signal::Kill => "SIGKILL",
        };
        let holder = holder.without_arguments();
        self.audit(gpu, "pidfd_send_signal", &format!("{name} {holder}"), "", 0);
    }

    /// Does one step and reads it back. Returns the MIG device that it created.
    pub(super) fn step(&mut self, gpu: &GpuUuid, step: &Step) -> Result<Option<MigUuid>> {
        match step {
            Step::CreateGpuInstance(gi) => self.create_gpu_instance(gpu, gi).map(|()| None),
            Step::DestroyGpuInstance(gi) => self.destroy_gpu_instance(gpu, gi).map(|()| None),
            Step::CreateComputeInstance(ci) => self.create_compute_instance(gpu, ci).map(Some),
            Step::DestroyComputeInstance(ci) => {
                self.destroy_compute_instance(gpu, ci).map(|()| None)
            }
            Step::SetMigMode { enable, may_reset } => {
                self.set_mig_mode(gpu, *enable, *may_reset).map(|()| None)
            }
            Step::CallOffMigMode { enabled } => {
                self.set_mig_mode(gpu, *enabled, false).map(|()| None)
            }
            Step::Reset { enable } => self.reset(gpu, *enable).map(|()| None),
            Step::SetComputeMode { to, .. } => {
                let (mode, name) = (*to, to.as_str());
                self.change(gpu, "nvmlDeviceSetComputeMode", name, |nvml| {
                    nvml.set_compute_mode(gpu, mode)
                })?;
                let found = self.observer()?.nvml().compute_mode(gpu)?;
                read_back(found == mode, || {
                    format!("compute mode is {found} after it was set to {mode}")
                })?;
                Ok(None)
            }
            Step::SetInterval { to, .. } => {
                let result = match self.locks.descriptor(gpu) {
                    Some(lock) => self.ports.policy.set_interval_locked(gpu, *to, lock),
                    None => self.ports.policy.set_interval(gpu, *to),
                };
                let word = if result.is_ok() { "SUCCESS" } else { "failed" };
                self.audit(gpu, "nvidia-smi compute-policy --set-timeslice", to.as_str(), word, 0);
                result?;
                let found = self.ports.policy.interval(gpu)?;
                read_back(found == *to, || {
                    format!("the interval is {found} after it was set to {to}")
                })?;
                Ok(None)
            }
            Step::StartMps { on, config } => self.start_mps(gpu, *on, config).map(|()| None),
            Step::StopMps { on, config } => {
                self.stop_mps(gpu, *on, config.is_some()).map(|()| None)
            }
            Step::SetMpsDefault { on, setting } => {
                self.set_mps_default(gpu, *on, setting).map(|()| None)
            }
            Step::SetMpsServers { on, setting } => {
                self.set_mps_servers(gpu, *on, setting).map(|()| None)
            }
            Step::WriteRecord { to, .. } => {
                record::write(self.ports.store.as_ref(), gpu, to.as_deref())?;
                self.audit(gpu, "write record", "", "SUCCESS", 0);
                Ok(None)
            }
        }
    }

    fn gpu_instance_id(&self, gpu: &GpuUuid, placement: Placement) -> Result<GpuInstanceId> {
        self.gpu_instances.get(&(gpu.clone(), placement)).copied().ok_or_else(|| {
            Error::new(ErrorCode::Stale, format!("there is no GPU instance at {placement}"))
        })
    }

    fn create_gpu_instance(&mut self, gpu: &GpuUuid, gi: &GpuInstanceStep) -> Result<()> {
        let (profile, placement) = (gi.profile, gi.placement);
        let argument = format!("{} ({profile}) at {placement}", gi.name);
        let info =
            self.change(gpu, "nvmlDeviceCreateGpuInstanceWithPlacement", &argument, |nvml| {
                nvml.create_gpu_instance(gpu, profile, placement)
            })?;
        self.gpu_instances.insert((gpu.clone(), info.placement), info.id);
        read_back(info.placement == placement && info.profile == profile, || {
            format!("the driver created profile {} at {} instead", info.profile, info.placement)
        })
    }

    fn destroy_gpu_instance(&mut self, gpu: &GpuUuid, gi: &GpuInstanceStep) -> Result<()> {
        let id = self.gpu_instance_id(gpu, gi.placement)?;
        let argument = format!("{} at {} (id {id})", gi.name, gi.placement);
        self.change(gpu, "nvmlGpuInstanceDestroy", &argument, |nvml| {
            nvml.destroy_gpu_instance(gpu, id)
        })?;
        self.gpu_instances.remove(&(gpu.clone(), gi.placement));
        Ok(())
    }

    fn create_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        ci: &ComputeInstanceStep,
    ) -> Result<MigUuid> {
        let id = self.gpu_instance_id(gpu, ci.gpu_instance)?;
        if ci.assumed {
            let profiles = self.observer()?.nvml().compute_profiles(gpu, id)?;
            let known = profiles.iter().any(|profile| {
                profile.id == ci.profile
                    && profile.slices == ci.placement.size
                    && profile.starts.contains(&ci.placement.start)
            });
            read_back(known, || {
                format!(
                    "the plan assumed a compute-instance profile {} ({}) at {}, which this GPU instance does not have",
                    ci.name, ci.profile, ci.placement
                )
            })?;
        }
        // A compute instance that fills its GPU instance has one place to be, and old drivers
        // cannot be told it.
        let placement = ci
            .assumed
            .then_some(ci.placement)
            .or_else(|| (ci.name.compute.is_some()).then_some(ci.placement));
        let argument = format!("{} at {} of {}", ci.name, ci.placement, ci.gpu_instance);
        let profile = ci.profile;
        let info = self.change(
            gpu,
            "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
            &argument,
            |nvml| nvml.create_compute_instance(gpu, id, profile, placement),
        )?;
        self.compute_instances
            .insert((gpu.clone(), ci.gpu_instance, info.placement.start), info.id);
        let place = MigPlace::new(ci.gpu_instance, info.placement.start);
        self.mig_devices.insert((gpu.clone(), place), info.uuid.clone());
        read_back(info.profile == profile && info.placement.start == ci.placement.start, || {
            format!("the driver created profile {} at {} instead", info.profile, info.placement)
        })?;
        Ok(info.uuid)
    }

    fn destroy_compute_instance(&mut self, gpu: &GpuUuid, ci: &ComputeInstanceStep) -> Result<()> {
        let gi = self.gpu_instance_id(gpu, ci.gpu_instance)?;
        let key = (gpu.clone(), ci.gpu_instance, ci.placement.start);
        let id = self.compute_instances.get(&key).copied().ok_or_else(|| {
            Error::new(
                ErrorCode::Stale,
                format!("there is no compute instance at {}", ci.placement),
            )
        })?;
        let argument = format!("{} at {} of {} (id {id})", ci.name, ci.placement, ci.gpu_instance);
        self.change(gpu, "nvmlComputeInstanceDestroy", &argument, |nvml| {
            nvml.destroy_compute_instance(gpu, gi, id)
        })?;
        self.compute_instances.remove(&key);
        self.mig_devices.remove(&(gpu.clone(), MigPlace::new(ci.gpu_instance, ci.placement.start)));
        let profile = ci.profile;
        let left = self.observer()?.nvml().compute_instances(gpu, gi, profile)?;
        read_back(left.iter().all(|there| there.id != id), || {
            "the compute instance is still there".to_owned()
        })
    }

    fn set_mig_mode(&mut self, gpu: &GpuUuid, enable: bool, may_reset: bool) -> Result<()> {
        let argument = if enable { "on" } else { "off" };
        let activation = self
            .change(gpu, "nvmlDeviceSetMigMode", argument, |nvml| nvml.set_mig_mode(gpu, enable))?;
        // Minor number and handles may be others now (nvml.h).
        self.observer()?.forget(gpu);
        match activation {
            Activation::Active => {}
            Activation::Pending(NvmlReturn::IN_USE) => {
                return Err(Error::new(
                    ErrorCode::Busy,
                    "the driver took the change of MIG mode and did not carry it out: somebody uses the GPU",
                ));
            }
            Activation::Pending(_) if may_reset && self.ports.reset.able() => {
                return self.reset(gpu, enable);
            }
            Activation::Pending(why) => {
                return Err(Error::new(
                    ErrorCode::ResetRequired,
                    format!("the change of MIG mode waits for a reset ({})", why.name()),
                ));
            }
        }
        self.check_mig_mode(gpu, enable)
    }

    fn reset(&mut self, gpu: &GpuUuid, enable: bool) -> Result<()> {
        // nvidia-smi refuses while anybody holds the device, and we do.
        self.observer = None;
        let result = match self.locks.descriptor(gpu) {
            Some(lock) => self.ports.reset.reset_locked(gpu, lock),
            None => self.ports.reset.reset(gpu),
        };
        let word = if result.is_ok() { "SUCCESS" } else { "failed" };
        self.audit(gpu, "nvidia-smi --gpu-reset", "", word, 0);
        result?;
        self.forget_instances(gpu);
        self.check_mig_mode(gpu, enable)
    }

    fn check_mig_mode(&mut self, gpu: &GpuUuid, enable: bool) -> Result<()> {
        let found = self.observer()?.nvml().mig_mode(gpu)?;
        let wanted = MigMode { current: enable, pending: enable };
        read_back(found == wanted, || format!("MIG mode is {found:?} after it was set to {enable}"))
    }
}

pub(super) fn read_back(good: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if good { Ok(()) } else { Err(Error::new(ErrorCode::Driver, otherwise())) }
}

/// Who stands where a step would destroy something; on the whole GPU for every other step.
fn holders_at(gpu: &GpuSnapshot, step: &Step) -> Vec<Holder> {
    let instances = gpu.mig.iter().flat_map(|mig| &mig.gpu_instances);
    let mut holders: Vec<Holder> = match step {
        Step::DestroyGpuInstance(gi) => instances
            .filter(|there| there.placement == gi.placement)
            .flat_map(|gi| gi.compute_instances.iter().map(|ci| &ci.usage).chain([&gi.usage]))
            .flat_map(|usage| usage.holders().iter().cloned())
            .collect(),
        Step::DestroyComputeInstance(ci) => instances
            .filter(|there| there.placement == ci.gpu_instance)
            .flat_map(|gi| &gi.compute_instances)
            .filter(|there| there.start == ci.placement.start)
            .flat_map(|ci| ci.usage.holders().iter().cloned())
            .collect(),
        _ => gpu.processes.iter().map(|process| process.holder.clone()).collect(),
    };
    holders.sort();
    holders.dedup();
    holders
}
