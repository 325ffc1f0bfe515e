//! Loading the driver's library, opening it, and calling it.

use std::collections::HashMap;
use std::ffi::{CString, c_char};
use std::fmt;
use std::path::{Path, PathBuf};
use std::ptr;

use nvml_wrapper::error::NvmlError;
use nvml_wrapper_sys::bindings::{NvmlLib, nvmlDevice_t, nvmlGpuInstance_t, nvmlReturn_t};

use super::mig_devices::Found;
use crate::id::GpuUuid;
use crate::port::{Nvml, NvmlFailure, NvmlLibrary, NvmlResult, NvmlReturn};
use crate::snapshot::Driver;

/// What every NVML user loads where no path is given.
const DEFAULT_NAME: &str = "libnvidia-ml.so.1";

/// Calls a function of the library and turns what it returns into a result that names it.
///
/// It goes through the `Result` fields of [`NvmlLib`]: the methods of the same names panic where
/// the driver's library lacks the function.
///
/// What the caller sees to: a pointer argument is a reference to a live local of the type that
/// the signature names, or a buffer with at least the capacity that is passed beside it; a handle
/// was given by this library in this session.
macro_rules! call {
    ($lib:expr, $function:ident($($argument:expr),* $(,)?)) => {
        match $lib.$function.as_ref() {
            Ok(function) => {
                // SAFETY: the pointer was looked up by the name whose signature the bindings give
                // it, in a library that stays loaded as long as the session; what the arguments
                // must keep is written at the macro and seen to at each use.
                let code = unsafe { function($($argument),*) };
                $crate::backend::nvml::library::check(stringify!($function), code)
            }
            Err(_) => Err($crate::backend::nvml::library::missing(stringify!($function))),
        }
    };
}
pub(super) use call;

/// The failure of a call to a function that this driver's library does not have.
pub(super) const fn missing(call: &'static str) -> NvmlFailure {
    NvmlFailure::new(call, NvmlReturn::FUNCTION_NOT_FOUND)
}

/// A failure that says more: the call succeeded and what it said makes no sense.
pub(super) fn senseless(call: &'static str, what: String) -> NvmlFailure {
    NvmlFailure { call, ret: NvmlReturn::UNKNOWN, detail: Some(what) }
}

/// The result of a call that returned that code.
pub(super) fn check(call: &'static str, code: nvmlReturn_t) -> NvmlResult<()> {
    match NvmlReturn(code) {
        NvmlReturn::SUCCESS => Ok(()),
        ret => Err(NvmlFailure::new(call, ret)),
    }
}

/// A number of the driver's that must fit into a smaller one of ours.
pub(super) fn narrow(call: &'static str, what: &str, number: u32) -> NvmlResult<u8> {
    u8::try_from(number).map_err(|_| senseless(call, format!("{what} is {number}")))
}

/// The version word of a versioned struct: its size, and the version in the highest byte.
///
/// `nvml.h` has it as a macro, which the bindings do not carry.
pub(super) const fn struct_version<T>(version: u32) -> u32 {
    size_of::<T>() as u32 | version << 24
}

/// The text in a buffer that the driver filled: up to the first NUL or the buffer's end. Bytes
/// that are not UTF-8 are escaped.
pub(super) fn text(buffer: &[c_char]) -> String {
    let bytes: Vec<u8> =
        buffer.iter().map(|&c| c.to_ne_bytes()[0]).take_while(|&b| b != 0).collect();
    String::from_utf8(bytes).unwrap_or_else(|error| error.as_bytes().escape_ascii().to_string())
}

/// A handle of the driver's library. It is opaque: nothing here ever looks behind it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle<T>(pub(super) T);

// SAFETY: NVML documents that all its functions may be called from any thread, and a handle is
// only ever handed back to it.
unsafe impl Send for Handle<nvmlDevice_t> {}
// SAFETY: as above.
unsafe impl Send for Handle<nvmlGpuInstance_t> {}

/// NVIDIA's management library of this machine's driver.
///
/// ```no_run
/// use gpushare_core::backend::nvml::RealNvml;
/// use gpushare_core::port::NvmlLibrary;
///
/// let mut nvml = RealNvml::new(None).open().map_err(gpushare_core::Error::from)?;
/// println!("{} GPUs", nvml.device_count().map_err(gpushare_core::Error::from)?);
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug, Default)]
pub struct RealNvml {
    path: Option<PathBuf>,
}

impl RealNvml {
    /// The library at that path, or the one that the system's loader finds as
    /// `libnvidia-ml.so.1`. It is loaded when it is [opened](NvmlLibrary::open), and code in it
    /// runs with all the rights of this process: a path must come from somebody who has them.
    pub const fn new(path: Option<PathBuf>) -> Self {
        Self { path }
    }
}

impl NvmlLibrary for RealNvml {
    fn open(&self) -> NvmlResult<Box<dyn Nvml>> {
        const INIT: &str = "nvmlInit_v2";
        let name = self.path.as_deref().unwrap_or(Path::new(DEFAULT_NAME));
        let opened = nvml_wrapper::Nvml::builder().lib_path(name.as_os_str()).init();
        let nvml = opened.map_err(|error| match error {
            NvmlError::LibloadingError(error) => NvmlFailure {
                call: INIT,
                ret: NvmlReturn::LIBRARY_NOT_FOUND,
                detail: Some(told(name, &error.to_string())),
            },
            NvmlError::FailedToLoadSymbol(_) => missing(INIT),
            error => NvmlFailure::new(INIT, NvmlReturn(error.into())),
        })?;
        // Dropping an opened library that cannot be closed would panic.
        if nvml.lib().nvmlShutdown.is_err() {
            std::mem::forget(nvml);
            return Err(missing("nvmlShutdown"));
        }
        Ok(Box::new(Session { nvml, gpus: HashMap::new(), profile_version: None }))
    }
}

/// What the loader says of a library, with its name once.
fn told(name: &Path, error: &str) -> String {
    let name = name.display().to_string();
    if error.contains(&name) { error.to_owned() } else { format!("{name}: {error}") }
}

/// Which struct the driver describes GPU-instance profiles in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ProfileVersion {
    /// With name and capabilities.
    V3,
    /// With name.
    V2,
    /// Without name: R470 and before.
    V1,
}

/// The library, opened.
pub(super) struct Session {
    nvml: nvml_wrapper::Nvml,
    gpus: HashMap<GpuUuid, Gpu>,
    pub(super) profile_version: Option<ProfileVersion>,
}

/// What a session remembers of a GPU: handles, which never change while they are good.
struct Gpu {
    handle: Handle<nvmlDevice_t>,
    instances: HashMap<u32, Handle<nvmlGpuInstance_t>>,
    mig_devices: Found,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("gpus", &self.gpus.keys()).finish_non_exhaustive()
    }
}

impl Session {
    /// The library's functions.
    pub(super) fn lib(&self) -> &NvmlLib {
        self.nvml.lib()
    }

    /// A function that the bindings leave out because NVIDIA calls it outdated.
    ///
    /// # Safety
    /// `F` must be the function pointer type that `nvml.h` declares for that name.
    pub(super) unsafe fn outdated<F: Copy>(&self, name: &'static str) -> NvmlResult<F> {
        // SAFETY: the caller names the type; the copy is used no longer than the session lives.
        let found = unsafe { self.lib().__library.get::<F>(name.as_bytes()) };
        found.map(|symbol| *symbol).map_err(|_| missing(name))
    }

    pub(super) fn driver(&self) -> NvmlResult<Driver> {
        let mut version = [0; 96];
        let capacity = version.len() as u32;
        call!(self.lib(), nvmlSystemGetDriverVersion(version.as_mut_ptr(), capacity))?;
        let mut cuda = 0;
        // The first version of this function answers from the driver where there is no libcuda.
        let asked = call!(self.lib(), nvmlSystemGetCudaDriverVersion(&mut cuda));
        let cuda = asked.ok().map(|()| format!("{}.{}", cuda / 1000, cuda % 1000 / 10));
        Ok(Driver { version: text(&version), cuda })
    }

    pub(super) fn device_count(&self) -> NvmlResult<u32> {
        let mut count = 0;
        call!(self.lib(), nvmlDeviceGetCount_v2(&mut count))?;
        Ok(count)
    }

    pub(super) fn device(&mut self, index: u32) -> NvmlResult<GpuUuid> {
        let mut handle = ptr::null_mut();
        call!(self.lib(), nvmlDeviceGetHandleByIndex_v2(index, &mut handle))?;
        let uuid = self.uuid_of(handle)?;
        let gpu = uuid.parse::<GpuUuid>().map_err(|_| {
            senseless("nvmlDeviceGetUUID", format!("GPU {index} says that its uuid is {uuid:?}"))
        })?;
        self.remember(gpu.clone(), handle);
        Ok(gpu)
    }

    /// The uuid of a GPU or MIG device, as the driver prints it.
    pub(super) fn uuid_of(&self, handle: nvmlDevice_t) -> NvmlResult<String> {
        let mut uuid = [0; 96];
        let capacity = uuid.len() as u32;
        call!(self.lib(), nvmlDeviceGetUUID(handle, uuid.as_mut_ptr(), capacity))?;
        Ok(text(&uuid))
    }

    /// The handle of a GPU, found by its uuid where it is not known yet.
    pub(super) fn handle(&mut self, gpu: &GpuUuid) -> NvmlResult<nvmlDevice_t> {
        if let Some(known) = self.gpus.get(gpu) {
            return Ok(known.handle.0);
        }
        const CALL: &str = "nvmlDeviceGetHandleByUUID";
        let uuid = CString::new(gpu.as_str())
            .map_err(|_| NvmlFailure::new(CALL, NvmlReturn::INVALID_ARGUMENT))?;
        let mut handle = ptr::null_mut();
        call!(self.lib(), nvmlDeviceGetHandleByUUID(uuid.as_ptr(), &mut handle))?;
        self.remember(gpu.clone(), handle);
        Ok(handle)
    }

    fn remember(&mut self, gpu: GpuUuid, handle: nvmlDevice_t) {
        let instances = HashMap::new();
        let mig_devices = Found::default();
        self.gpus.insert(gpu, Gpu { handle: Handle(handle), instances, mig_devices });
    }

    /// Forgets all handles of a GPU. NVML wants them found again after a change of MIG mode.
    pub(super) fn forget(&mut self, gpu: &GpuUuid) {
        self.gpus.remove(gpu);
    }

    /// Forgets which MIG devices a GPU has.
    pub(super) fn forget_mig_devices(&mut self, gpu: &GpuUuid) {
        self.put_mig_devices(gpu, Found::default());
    }

    pub(super) fn take_mig_devices(&mut self, gpu: &GpuUuid) -> Found {
        self.gpus.get_mut(gpu).map(|gpu| std::mem::take(&mut gpu.mig_devices)).unwrap_or_default()
    }

    pub(super) fn put_mig_devices(&mut self, gpu: &GpuUuid, found: Found) {
        if let Some(gpu) = self.gpus.get_mut(gpu) {
            gpu.mig_devices = found;
        }
    }

    pub(super) fn known_instance(&self, gpu: &GpuUuid, gi: u32) -> Option<nvmlGpuInstance_t> {
        self.gpus.get(gpu)?.instances.get(&gi).map(|handle| handle.0)
    }

    pub(super) fn remember_instance(&mut self, gpu: &GpuUuid, gi: u32, handle: nvmlGpuInstance_t) {
        if let Some(gpu) = self.gpus.get_mut(gpu) {
            gpu.instances.insert(gi, Handle(handle));
        }
    }

    pub(super) fn forget_instance(&mut self, gpu: &GpuUuid, gi: u32) {
        if let Some(gpu) = self.gpus.get_mut(gpu) {
            gpu.instances.remove(&gi);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, ErrorCode};

    #[test]
    fn a_library_that_is_not_there_is_not_found_and_named() {
        let path = PathBuf::from("/nonexistent/libnvidia-ml.so.1");
        let failure = RealNvml::new(Some(path)).open().unwrap_err();
        assert_eq!(failure.ret, NvmlReturn::LIBRARY_NOT_FOUND);
        let error = Error::from(failure);
        assert_eq!(error.code(), ErrorCode::NotFound);
        assert!(error.to_string().contains("/nonexistent/libnvidia-ml.so.1"), "{error}");
    }

    #[test]
    fn a_library_of_something_else_is_refused_by_its_missing_function() {
        // Every test process has a C library loaded, which has no NVML in it.
        let failure = RealNvml::new(Some("libc.so.6".into())).open().unwrap_err();
        assert_eq!(failure, missing("nvmlInit_v2"));
    }

    #[test]
    fn texts_end_at_a_nul_or_with_the_buffer_and_lose_nothing() {
        let buffer = |bytes: &[u8]| bytes.iter().map(|&b| b as c_char).collect::<Vec<_>>();
        assert_eq!(text(&buffer(b"NVIDIA H200\0rest")), "NVIDIA H200");
        assert_eq!(text(&buffer(b"full")), "full");
        assert_eq!(text(&[]), "");
        assert_eq!(text(&buffer(b"a\xff\0")), "a\\xff");
        assert_eq!(text(&buffer("ä".as_bytes())), "ä");
    }

    #[test]
    fn struct_versions_are_those_that_nvidia_smi_sends() {
        use nvml_wrapper_sys::bindings::{
            nvmlComputeInstanceProfileInfo_v2_st, nvmlGpuInstanceProfileInfo_v2_st,
            nvmlGpuInstanceProfileInfo_v3_st,
        };
        assert_eq!(struct_version::<nvmlGpuInstanceProfileInfo_v2_st>(2), 0x0200_0098);
        assert_eq!(struct_version::<nvmlGpuInstanceProfileInfo_v3_st>(3), 0x0300_0098);
        assert_eq!(struct_version::<nvmlComputeInstanceProfileInfo_v2_st>(2), 0x0200_0088);
    }
}
