//! The simulated driver behind NVIDIA's C ABI: a `libnvidia-ml.so.1` for tests.
//!
//! Load it by its path, or put it first in `LD_LIBRARY_PATH` as `libnvidia-ml.so.1`: gpushare's
//! own backend, the real nvidia-smi and nvidia-ml-py then work on a node that is not there.
//!
//! * `GPUSHARE_SIM`: the fleet, such as `2xH100-80GB`. Without it `nvmlInit` is DRIVER_NOT_LOADED.
//!   `GPUSHARE_NVML_SIM` says the same to this library alone: gpushare itself then takes the node
//!   for a real one.
//! * `GPUSHARE_STATE_DIR`: the folder of the node's state, which all processes with that folder
//!   share, `gpushare --sim` included. Its folder `run` must be there. Without it the node lives
//!   in memory and is this process's own.
//! * `GPUSHARE_NVML_CALLS`: a file that gets, at every last `nvmlShutdown`, a line for each
//!   function with the number of its calls since the first `nvmlInit`.
//! * `GPUSHARE_NVML_TIME`: a file that gets, at every last `nvmlShutdown`, a line with the
//!   nanoseconds that this process spent in this library since the first `nvmlInit`.
//! * `GPUSHARE_NVML_KILL_AT`: `3-` or `3+`. At its third call of a function that changes something
//!   the process kills itself with SIGKILL, before the call takes effect or after.
//! * `GPUSHARE_NVML_CI_DEVICE`: `mig` makes the device in a compute instance's description the
//!   MIG device. It is the GPU otherwise, as nvidia-smi takes it.
//!
//! Never part of a release: what the real driver decides, the simulator only imitates.
#![allow(unsafe_code, reason = "a C ABI: pointers come in from C")]
#![allow(clippy::missing_safety_doc, reason = "nvml.h is the contract of every function")]

mod abi;
mod compute_instances;
mod devices;
mod gpu_instances;
mod internal;
mod kill;
mod processes;
mod profiles;
mod session;
mod system;
