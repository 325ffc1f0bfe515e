//! What NVML functions return.

use std::fmt;

use crate::error::{Error, ErrorCode};

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
        let needs = (code == ErrorCode::PermissionDenied).then(|| "root".to_owned());
        Error::new(code, format!("{what} ({} returned {:?}{detail})", self.call, self.ret))
            .with_driver_call(self.call, self.ret.0, self.ret.name())
            .with_needs(needs.into_iter().collect())
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
pub type NvmlResult<T> = Result<T, NvmlFailure>;
