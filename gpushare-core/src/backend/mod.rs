//! What implements the ports. Only the node's builder names a backend.

pub mod cdi;
mod command;
pub mod devices;
pub(crate) mod directory;
pub mod files;
pub(crate) mod hooks;
pub mod machine;
pub mod mps;
pub mod nvidia_smi;
#[allow(unsafe_code, reason = "NVML is a C library, and half of it has no safe wrapper")]
pub mod nvml;
#[cfg(feature = "sim")]
pub mod sim;
pub mod slots;
pub(crate) mod stored;
pub mod system;
pub(crate) mod trust;
