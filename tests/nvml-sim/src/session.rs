//! The library's state: the simulated node, the handles that were given out, the calls so far.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use gpushare_core::backend::sim::{Fleet, SimulatedNvml, Simulator};
use gpushare_core::id::{ComputeInstanceId, GpuInstanceId, GpuUuid, MigUuid};
use gpushare_core::port::{Nvml as _, NvmlReturn};

use crate::abi::{Answer, Handle, INVALID, Refusal};
use crate::kill::{self, Place};

/// What a handle stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Gpu(GpuUuid),
    Mig { uuid: MigUuid, gpu: GpuUuid, gi: GpuInstanceId, ci: ComputeInstanceId },
    GpuInstance { gpu: GpuUuid, gi: GpuInstanceId },
    ComputeInstance { gpu: GpuUuid, gi: GpuInstanceId, ci: ComputeInstanceId },
}

/// NVML between its first initialisation and its last shutdown.
pub(crate) struct Session {
    pub(crate) nvml: SimulatedNvml,
    objects: Vec<Object>,
    opened: usize,
}

struct Library {
    session: Option<Session>,
    calls: BTreeMap<&'static str, u64>,
    time: Duration,
}

static LIBRARY: Mutex<Library> =
    Mutex::new(Library { session: None, calls: BTreeMap::new(), time: Duration::ZERO });

fn library() -> MutexGuard<'static, Library> {
    // A panic under the lock was caught and answered; what it left is still a state.
    LIBRARY.lock().unwrap_or_else(PoisonError::into_inner)
}

fn code(answer: std::thread::Result<Answer>) -> u32 {
    match answer {
        Ok(Ok(())) => NvmlReturn::SUCCESS.0,
        Ok(Err(Refusal(ret))) => ret.0,
        Err(_) => NvmlReturn::UNKNOWN.0,
    }
}

/// Counts a call and answers it in the open session.
pub(crate) fn call(name: &'static str, body: impl FnOnce(&mut Session) -> Answer) -> u32 {
    let start = Instant::now();
    code(catch_unwind(AssertUnwindSafe(|| {
        let mut library = library();
        *library.calls.entry(name).or_default() += 1;
        let change = kill::count(name);
        kill::here(change, Place::Before);
        let answer = match library.session.as_mut() {
            Some(session) => body(session),
            None => Err(NvmlReturn::UNINITIALIZED.into()),
        };
        kill::here(change, Place::After);
        library.time += start.elapsed();
        answer
    })))
}

/// Counts a call that needs no session.
pub(crate) fn call_closed(name: &'static str, body: impl FnOnce() -> Answer) -> u32 {
    code(catch_unwind(AssertUnwindSafe(|| {
        *library().calls.entry(name).or_default() += 1;
        body()
    })))
}

/// `nvmlInit`: opens the node, or counts one more who has it open.
pub(crate) fn open(name: &'static str) -> u32 {
    let start = Instant::now();
    code(catch_unwind(AssertUnwindSafe(|| {
        let mut library = library();
        *library.calls.entry(name).or_default() += 1;
        match &mut library.session {
            Some(session) => session.opened += 1,
            None => {
                let nvml = simulator()?.open()?;
                library.session = Some(Session { nvml, objects: Vec::new(), opened: 1 });
            }
        }
        library.time += start.elapsed();
        Ok(())
    })))
}

/// `nvmlShutdown`: closes the node when the last who has it open goes.
pub(crate) fn close(name: &'static str) -> u32 {
    let start = Instant::now();
    code(catch_unwind(AssertUnwindSafe(|| {
        let mut library = library();
        *library.calls.entry(name).or_default() += 1;
        let session = library.session.as_mut().ok_or(NvmlReturn::UNINITIALIZED)?;
        session.opened -= 1;
        if session.opened == 0 {
            library.session = None;
            library.time += start.elapsed();
            report(&std::mem::take(&mut library.calls), std::mem::take(&mut library.time));
        }
        Ok(())
    })))
}

/// The node that the environment names, in the file where `gpushare --sim` has it too.
fn simulator() -> Answer<Simulator> {
    let named = |name| std::env::var(name).ok().filter(|fleet| !fleet.is_empty());
    let fleet = named("GPUSHARE_NVML_SIM").or_else(|| named("GPUSHARE_SIM"));
    let fleet: Fleet = fleet.ok_or(NvmlReturn::DRIVER_NOT_LOADED)?.parse().map_err(|_| INVALID)?;
    let simulator = match std::env::var_os("GPUSHARE_STATE_DIR") {
        Some(folder) => {
            let name = format!("{}.json", fleet.file_name());
            let file = Path::new(&folder).join("run").join(name);
            Simulator::in_file(&file, fleet)
        }
        None => Simulator::new(fleet),
    };
    simulator.map_err(|_| Refusal(NvmlReturn::OPERATING_SYSTEM))
}

/// Appends the totals to the files that the environment names. A bench that can't have them fails
/// by their absence; the call that it measures must not.
fn report(calls: &BTreeMap<&'static str, u64>, time: Duration) {
    let append = |variable: &str, text: &str| {
        let Some(path) = std::env::var_os(variable) else { return };
        let file = OpenOptions::new().create(true).append(true).open(path);
        let _ = file.and_then(|mut file| file.write_all(text.as_bytes()));
    };
    append("GPUSHARE_NVML_TIME", &format!("{}\n", time.as_nanos()));
    let text: String = calls.iter().map(|(name, count)| format!("{name} {count}\n")).collect();
    append("GPUSHARE_NVML_CALLS", &text);
}

impl Session {
    /// The handle of an object: always the same for the same object.
    pub(crate) fn give(&mut self, object: Object) -> Handle {
        let known = self.objects.iter().position(|known| *known == object);
        let place = known.unwrap_or_else(|| {
            self.objects.push(object);
            self.objects.len() - 1
        });
        // Never null, and aligned as a pointer would be.
        Handle::from_number((place + 1) * 16)
    }

    fn object(&self, handle: Handle) -> Answer<&Object> {
        let number = handle.number();
        let place = (number % 16 == 0).then_some(number / 16).and_then(|n| n.checked_sub(1));
        place.and_then(|place| self.objects.get(place)).ok_or(INVALID)
    }

    /// A GPU or a MIG device.
    pub(crate) fn device(&self, handle: Handle) -> Answer<Object> {
        match self.object(handle)? {
            device @ (Object::Gpu(_) | Object::Mig { .. }) => Ok(device.clone()),
            _ => Err(INVALID),
        }
    }

    /// A GPU, and no MIG device.
    pub(crate) fn gpu(&self, handle: Handle) -> Answer<GpuUuid> {
        match self.object(handle)? {
            Object::Gpu(gpu) => Ok(gpu.clone()),
            Object::Mig { .. } => Err(NvmlReturn::NOT_SUPPORTED.into()),
            _ => Err(INVALID),
        }
    }

    /// The GPU that a device is or is part of.
    pub(crate) fn parent(&self, handle: Handle) -> Answer<GpuUuid> {
        match self.device(handle)? {
            Object::Mig { gpu, .. } => Ok(gpu),
            _ => self.gpu(handle),
        }
    }

    pub(crate) fn gpu_instance(&self, handle: Handle) -> Answer<(GpuUuid, GpuInstanceId)> {
        match self.object(handle)? {
            Object::GpuInstance { gpu, gi } => Ok((gpu.clone(), *gi)),
            _ => Err(INVALID),
        }
    }

    pub(crate) fn compute_instance(
        &self,
        handle: Handle,
    ) -> Answer<(GpuUuid, GpuInstanceId, ComputeInstanceId)> {
        match self.object(handle)? {
            Object::ComputeInstance { gpu, gi, ci } => Ok((gpu.clone(), *gi, *ci)),
            _ => Err(INVALID),
        }
    }

    /// The GPUs, by index.
    pub(crate) fn gpus(&mut self) -> Answer<Vec<GpuUuid>> {
        let count = self.nvml.device_count()?;
        (0..count).map(|index| Ok(self.nvml.device(index)?)).collect()
    }
}
