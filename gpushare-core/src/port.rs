//! The ports: everything that touches the outside, as traits.
//!
//! Each method of [`Nvml`] is one driver call, or one of NVML's two-step calls, in safe types and
//! nothing more: no decision, no retry, no cache of anything that can change. That makes a port
//! thin enough to be simulated, counted, and made to fail at any call.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::id::{
    ComputeInstanceId, ComputeProfileId, GpuInstanceId, GpuUuid, MigUuid, MinorNumber, PciAddress,
    PciDeviceId, Pid, ProfileId, ProfileIndex,
};
use crate::mig::{ComputeProfile, Placement, Profile};
use crate::mode::{ComputeMode, Interval};
use crate::parameters::MpsConfig;
use crate::snapshot::Driver;
use crate::units::Bytes;

macro_rules! returns {
    ($($name:ident = $code:literal),* $(,)?) => {
        /// What an NVML function returned, every code of it. nvml-wrapper has no variant for 23 to 30.
        #[derive(Clone, Copy, PartialEq, Eq, Hash)]
        pub struct NvmlReturn(pub u32);

        #[allow(missing_docs, reason = "the names are nvml.h's")]
        impl NvmlReturn {
            $(pub const $name: Self = Self($code);)*

            /// The name, as `nvml.h` spells it without the prefix.
            pub const fn name(self) -> &'static str {
                match self.0 {
                    $($code => stringify!($name),)*
                    _ => "a code that this version of gpushare does not know",
                }
            }
        }
    };
}

returns! {
    SUCCESS = 0,
    UNINITIALIZED = 1,
    INVALID_ARGUMENT = 2,
    NOT_SUPPORTED = 3,
    NO_PERMISSION = 4,
    ALREADY_INITIALIZED = 5,
    NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7,
    INSUFFICIENT_POWER = 8,
    DRIVER_NOT_LOADED = 9,
    TIMEOUT = 10,
    IRQ_ISSUE = 11,
    LIBRARY_NOT_FOUND = 12,
    FUNCTION_NOT_FOUND = 13,
    CORRUPTED_INFOROM = 14,
    GPU_IS_LOST = 15,
    RESET_REQUIRED = 16,
    OPERATING_SYSTEM = 17,
    LIB_RM_VERSION_MISMATCH = 18,
    IN_USE = 19,
    MEMORY = 20,
    NO_DATA = 21,
    VGPU_ECC_NOT_SUPPORTED = 22,
    INSUFFICIENT_RESOURCES = 23,
    FREQ_NOT_SUPPORTED = 24,
    ARGUMENT_VERSION_MISMATCH = 25,
    DEPRECATED = 26,
    NOT_READY = 27,
    GPU_NOT_FOUND = 28,
    INVALID_STATE = 29,
    RESET_TYPE_NOT_SUPPORTED = 30,
    UNKNOWN = 999,
}

impl fmt::Debug for NvmlReturn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}

/// A driver call that did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NvmlFailure {
    /// The NVML function.
    pub call: &'static str,
    /// What it returned; FUNCTION_NOT_FOUND where this driver's library does not have it.
    pub ret: NvmlReturn,
    /// More that is known, such as the path of a library that could not be loaded.
    pub detail: Option<String>,
}

impl NvmlFailure {
    /// A call that returned that code.
    pub const fn new(call: &'static str, ret: NvmlReturn) -> Self {
        Self { call, ret, detail: None }
    }

    /// The error for it: the code of ours that says what a caller can do about it.
    pub fn into_error(self) -> Error {
        let (code, what) = match self.ret {
            NvmlReturn::INVALID_ARGUMENT => (ErrorCode::Driver, "the driver refused the arguments"),
            NvmlReturn::NOT_SUPPORTED => {
                (ErrorCode::Unsupported, "this GPU or driver does not support it")
            }
            NvmlReturn::NO_PERMISSION => {
                (ErrorCode::PermissionDenied, "the driver wants more privilege: run it as root")
            }
            NvmlReturn::NOT_FOUND | NvmlReturn::GPU_NOT_FOUND => {
                (ErrorCode::NotFound, "the driver does not know it (any more)")
            }
            NvmlReturn::DRIVER_NOT_LOADED => {
                (ErrorCode::NotFound, "the NVIDIA driver is not loaded")
            }
            NvmlReturn::LIBRARY_NOT_FOUND => {
                (ErrorCode::NotFound, "the NVIDIA driver's library is not installed")
            }
            NvmlReturn::FUNCTION_NOT_FOUND => {
                (ErrorCode::Unsupported, "this driver's library does not have that function")
            }
            NvmlReturn::TIMEOUT => (ErrorCode::Timeout, "the driver took too long"),
            NvmlReturn::GPU_IS_LOST => {
                (ErrorCode::Driver, "the GPU is lost: it needs a reset or a reboot")
            }
            NvmlReturn::RESET_REQUIRED => (ErrorCode::ResetRequired, "the GPU needs a reset"),
            NvmlReturn::IN_USE => (ErrorCode::Busy, "somebody uses it"),
            NvmlReturn::INSUFFICIENT_RESOURCES => {
                (ErrorCode::Insufficient, "the GPU has no room for it")
            }
            _ => (ErrorCode::Driver, "the driver failed"),
        };
        let detail = self.detail.as_deref().map(|d| format!(": {d}")).unwrap_or_default();
        Error::new(code, format!("{what} ({} returned {:?}{detail})", self.call, self.ret))
            .with_driver_call(self.call, self.ret.0, self.ret.name())
    }
}

impl fmt::Display for NvmlFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} returned {:?}", self.call, self.ret)
    }
}

impl From<NvmlFailure> for Error {
    fn from(failure: NvmlFailure) -> Self {
        failure.into_error()
    }
}

/// The result of a driver call.
pub type NvmlResult<T> = std::result::Result<T, NvmlFailure>;

/// The driver's library, not yet opened: holds no device.
pub trait NvmlLibrary: Send + Sync + fmt::Debug {
    /// Opens the library (`nvmlInit`). What it returns holds devices open until it is dropped.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, DRIVER_NOT_LOADED, or what the driver returns.
    fn open(&self) -> NvmlResult<Box<dyn Nvml>>;
}

/// MIG mode: now, and after a reset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MigMode {
    /// Whether it is on.
    pub current: bool,
    /// Whether it will be on after a reset.
    pub pending: bool,
}

/// What became of a change of MIG mode: NVML hides it beside its return code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// It is in force.
    Active,
    /// It waits for a reset, for this reason (IN_USE, RESET_REQUIRED, …).
    Pending(NvmlReturn),
}

/// What PCI says of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PciInfo {
    /// Its address.
    pub address: PciAddress,
    /// Device and vendor.
    pub device_id: PciDeviceId,
    /// Subsystem device and vendor: with the device id, the model.
    pub subsystem_id: u32,
}

/// Whether the driver knows a profile index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProfileAnswer {
    /// The profile, without its placements.
    Profile(Profile),
    /// This GPU does not have it.
    NotOnThisGpu,
    /// No GPU has it, nor any index after it: the documented end of the loop.
    End,
}

/// A GPU instance, as the driver describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GpuInstanceInfo {
    /// Its id.
    pub id: GpuInstanceId,
    /// Its profile.
    pub profile: ProfileId,
    /// Where it stands.
    pub placement: Placement,
}

/// A compute instance, as the driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComputeInstanceInfo {
    /// Its id.
    pub id: ComputeInstanceId,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Where it stands, in compute slices of its GPU instance.
    pub placement: Placement,
    /// The uuid of the MIG device that it is.
    pub uuid: MigUuid,
}

/// A compute instance without the uuid of the MIG device that it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnnamedComputeInstance {
    /// Its id.
    pub id: ComputeInstanceId,
    /// Its profile.
    pub profile: ComputeProfileId,
    /// Where it stands, in compute slices of its GPU instance.
    pub placement: Placement,
}

impl From<&ComputeInstanceInfo> for UnnamedComputeInstance {
    fn from(info: &ComputeInstanceInfo) -> Self {
        Self { id: info.id, profile: info.profile, placement: info.placement }
    }
}

/// A MIG device, as anybody may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigDeviceInfo {
    /// Its uuid.
    pub uuid: MigUuid,
    /// Its GPU instance.
    pub gi: GpuInstanceId,
    /// Its compute instance.
    pub ci: ComputeInstanceId,
    /// Compute slices of its GPU instance.
    pub gpu_slices: u8,
    /// Its own compute slices.
    pub compute_slices: u8,
    /// Its memory.
    pub memory: Bytes,
    /// Its streaming multiprocessors.
    pub sm_count: u32,
}

/// What kind of context a process has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextKind {
    /// CUDA.
    Compute,
    /// Graphics.
    Graphics,
    /// A client of MPS.
    MpsClient,
}

/// A process on a GPU, as the driver lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    /// Its pid.
    pub pid: Pid,
    /// The instance that it is on.
    pub instance: Option<(GpuInstanceId, ComputeInstanceId)>,
    /// Its device memory, where the driver says.
    pub memory: Option<Bytes>,
}

/// The driver's library, opened. Dropping it closes it (`nvmlShutdown`).
///
/// GPUs are named by uuid; an implementation may keep handles, and finds them again after every
/// change of MIG mode and every reset, as NVML demands.
pub trait Nvml: Send + fmt::Debug {
    /// Versions of driver and CUDA.
    fn driver(&mut self) -> NvmlResult<Driver>;
    /// How many GPUs there are.
    fn device_count(&mut self) -> NvmlResult<u32>;
    /// The GPU with that index.
    fn device(&mut self, index: u32) -> NvmlResult<GpuUuid>;
    /// The minor number of its device node.
    fn minor_number(&mut self, gpu: &GpuUuid) -> NvmlResult<MinorNumber>;
    /// Its PCI address and ids.
    fn pci_info(&mut self, gpu: &GpuUuid) -> NvmlResult<PciInfo>;
    /// Its product name.
    fn name(&mut self, gpu: &GpuUuid) -> NvmlResult<String>;
    /// Its memory in all.
    fn memory_total(&mut self, gpu: &GpuUuid) -> NvmlResult<Bytes>;
    /// Its compute capability, major and minor.
    fn compute_capability(&mut self, gpu: &GpuUuid) -> NvmlResult<(u32, u32)>;
    /// Its CUDA cores.
    fn core_count(&mut self, gpu: &GpuUuid) -> NvmlResult<u32>;

    /// Its compute mode.
    fn compute_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<ComputeMode>;
    /// Sets its compute mode.
    fn set_compute_mode(&mut self, gpu: &GpuUuid, mode: ComputeMode) -> NvmlResult<()>;
    /// Its MIG mode; NOT_SUPPORTED where it has none.
    fn mig_mode(&mut self, gpu: &GpuUuid) -> NvmlResult<MigMode>;
    /// Changes its MIG mode. `Ok` does not mean that it is in force: read the activation.
    fn set_mig_mode(&mut self, gpu: &GpuUuid, enable: bool) -> NvmlResult<Activation>;

    /// The GPU-instance profile with that index.
    fn profile(&mut self, gpu: &GpuUuid, index: ProfileIndex) -> NvmlResult<ProfileAnswer>;
    /// Where instances of a profile may stand, whether MIG is on or not.
    fn placements(&mut self, gpu: &GpuUuid, profile: ProfileId) -> NvmlResult<Vec<Placement>>;
    /// The GPU instances of a profile. Needs privilege.
    fn gpu_instances(
        &mut self,
        gpu: &GpuUuid,
        profile: &Profile,
    ) -> NvmlResult<Vec<GpuInstanceInfo>>;
    /// Creates a GPU instance at a placement.
    fn create_gpu_instance(
        &mut self,
        gpu: &GpuUuid,
        profile: ProfileId,
        placement: Placement,
    ) -> NvmlResult<GpuInstanceInfo>;
    /// Destroys a GPU instance; IN_USE while it has compute instances or users.
    fn destroy_gpu_instance(&mut self, gpu: &GpuUuid, gi: GpuInstanceId) -> NvmlResult<()>;

    /// The compute-instance profiles of an existing GPU instance, with their placements.
    fn compute_profiles(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
    ) -> NvmlResult<Vec<ComputeProfile>>;
    /// The compute instances of a profile in a GPU instance. Needs privilege.
    fn compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<ComputeInstanceInfo>>;
    /// The same without their uuids, which cost most drivers a search through all MIG devices.
    fn unnamed_compute_instances(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
    ) -> NvmlResult<Vec<UnnamedComputeInstance>> {
        let instances = self.compute_instances(gpu, gi, profile)?;
        Ok(instances.iter().map(UnnamedComputeInstance::from).collect())
    }
    /// Creates a compute instance, at a placement where one is given.
    fn create_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        profile: ComputeProfileId,
        placement: Option<Placement>,
    ) -> NvmlResult<ComputeInstanceInfo>;
    /// Destroys a compute instance; IN_USE while somebody uses it.
    fn destroy_compute_instance(
        &mut self,
        gpu: &GpuUuid,
        gi: GpuInstanceId,
        ci: ComputeInstanceId,
    ) -> NvmlResult<()>;

    /// The MIG devices, through their own handles: what a caller without privilege can see.
    fn mig_devices(&mut self, gpu: &GpuUuid) -> NvmlResult<Vec<MigDeviceInfo>>;
    /// The processes with a context of that kind. On a GPU with MIG on, for a privileged caller
    /// those of all instances.
    fn processes(&mut self, gpu: &GpuUuid, kind: ContextKind) -> NvmlResult<Vec<ProcessInfo>>;
}

/// MPS daemons of this node.
pub trait MpsHost: Send + Sync + fmt::Debug {
    /// Whether daemons can be started here at all.
    fn able(&self) -> bool;
    /// The daemon of ours that serves a GPU: its parameters and whether it answers.
    fn probe(&self, gpu: &GpuUuid) -> Result<Option<MpsDaemon>>;
    /// Starts a daemon for a GPU and waits until it answers.
    fn start(&self, gpu: &GpuUuid, config: &MpsConfig) -> Result<()>;
    /// Ends our daemon of a GPU and waits until it is gone.
    fn stop(&self, gpu: &GpuUuid) -> Result<()>;
}

/// An MPS daemon of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpsDaemon {
    /// What it was started with.
    pub config: MpsConfig,
    /// Whether it answers.
    pub alive: bool,
    /// Its process.
    pub pid: Option<Pid>,
}

/// The time-slice interval, for which NVML has no function.
pub trait ComputePolicy: Send + Sync + fmt::Debug {
    /// Whether it can be read and set here at all.
    fn able(&self) -> bool;
    /// The interval of a GPU.
    fn interval(&self, gpu: &GpuUuid) -> Result<Interval>;
    /// Sets the interval of a GPU.
    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()>;
    /// Sets the interval of a GPU in a process that holds the GPU's lock too: should we die
    /// meanwhile, nobody else changes the GPU before that process has ended.
    fn set_interval_locked(&self, gpu: &GpuUuid, interval: Interval, lock: OwnedFd) -> Result<()> {
        drop(lock);
        self.set_interval(gpu, interval)
    }
}

/// Resets a GPU, for which NVML has no function.
pub trait Reset: Send + Sync + fmt::Debug {
    /// Whether GPUs can be reset here at all.
    fn able(&self) -> bool;
    /// Resets one GPU and no other. No NVML of ours may be open.
    fn reset(&self, gpu: &GpuUuid) -> Result<()>;
    /// Resets one GPU in a process that holds the GPU's lock too: should we die meanwhile, nobody
    /// else changes the GPU before that process has ended.
    fn reset_locked(&self, gpu: &GpuUuid, lock: OwnedFd) -> Result<()> {
        drop(lock);
        self.reset(gpu)
    }
}

/// What the system knows of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessFacts {
    /// When it started, in clock ticks since boot.
    pub start_time: u64,
    /// Its command.
    pub command: String,
    /// The user it runs as.
    pub uid: u32,
    /// Its parent.
    pub parent: Option<Pid>,
}

/// A signal that eviction sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM: please end.
    Terminate,
    /// SIGKILL: end.
    Kill,
}

/// Processes of this machine.
pub trait Processes: Send + Sync + fmt::Debug {
    /// What is known of a process; none when it is gone or a zombie.
    fn facts(&self, pid: Pid) -> Option<ProcessFacts>;
    /// This process.
    fn own_pid(&self) -> Pid;
    /// The user that this process runs as.
    fn own_uid(&self) -> u32;
    /// Signals exactly that process, not one that got its pid since.
    fn signal(&self, pid: Pid, start_time: u64, signal: Signal) -> Result<()>;
}

/// Holds a lock until it is dropped.
pub trait LockGuard: Send + fmt::Debug {
    /// Another descriptor of the lock, for a helper process to hold it too; none where the lock is
    /// no file.
    fn descriptor(&self) -> Option<OwnedFd> {
        None
    }
}

/// Durable files and locks below our directories.
///
/// Names are relative: `journal/x.jsonl`. A store that is simulated drops at a crash what was not synced.
pub trait Store: Send + Sync + fmt::Debug {
    /// The whole file; none when it is not there.
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>>;
    /// Replaces the file: after it returns, the new content is durable, and at no time is it half there.
    fn replace(&self, name: &str, content: &[u8]) -> Result<()>;
    /// Appends to the file and makes it durable.
    fn append(&self, name: &str, content: &[u8]) -> Result<()>;
    /// Removes the file durably; not being there is no error.
    fn remove(&self, name: &str) -> Result<()>;
    /// The names of the files in a folder, sorted.
    fn list(&self, folder: &str) -> Result<Vec<String>>;
    /// Moves a file within the store durably.
    fn rename(&self, from: &str, to: &str) -> Result<()>;
    /// Takes a lock if it is free, without waiting.
    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>>;
    /// Where the durable files are, for messages.
    fn place(&self) -> &Path;
}

/// Time, and which life of machine and driver this is.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Time since some fixed moment, never going back.
    fn now(&self) -> Duration;
    /// Seconds since 1970, for records that people read.
    fn unix_time(&self) -> u64;
    /// Waits.
    fn sleep(&self, duration: Duration);
    /// The kernel's boot id.
    fn boot_id(&self) -> Result<String>;
    /// A number that differs for every load of the driver's module, where it can be told.
    fn driver_load(&self) -> Option<u64>;
}

/// All ports of a node together.
#[derive(Clone, Debug)]
pub struct Ports {
    /// The driver.
    pub nvml: Arc<dyn NvmlLibrary>,
    /// MPS daemons.
    pub mps: Arc<dyn MpsHost>,
    /// The time-slice interval.
    pub policy: Arc<dyn ComputePolicy>,
    /// Resets.
    pub reset: Arc<dyn Reset>,
    /// Processes.
    pub processes: Arc<dyn Processes>,
    /// Durable files and locks.
    pub store: Arc<dyn Store>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}
