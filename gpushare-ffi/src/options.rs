//! How a node is opened, and the forms that several options have.

use std::ffi::{c_char, c_void};
use std::time::Duration;

use gpushare_core::hazard::HazardName;
use gpushare_core::{Error, ErrorCode, Node, Result};

use crate::log::gpushare_log_fn;
use crate::structs::{Versioned, flag};
use crate::text::{path, text};

/// How a node is opened. Set everything to zero, then `struct_size`, then what you want otherwise.
///
/// What is NULL is taken from the environment where that has it (GPUSHARE_SIM, GPUSHARE_STATE_DIR,
/// GPUSHARE_NVML_PATH, GPUSHARE_NVIDIA_SMI, GPUSHARE_MPS_CONTROL), unless the program is set-id or
/// `ignore_environment` is set. A daemon that changes GPUs sets it: its environment may be another's.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct gpushare_node_options {
    /// sizeof(gpushare_node_options)
    pub struct_size: u32,
    /// The most that is logged: a gpushare_log_level.
    pub log_level: u32,
    /// A simulated node, "8xH100-80GB" or "2xA100-40GB,1xA30-24GB"; NULL for this machine. Without a
    /// state directory it is in memory and this handle's own, but for its leases, which are files in a
    /// directory of its own below TMPDIR or /tmp, gpushare-PID-..., that goes with the node.
    pub sim: *const c_char,
    /// Where records, journals, locks and leases are, instead of /var/lib/gpushare and /run/gpushare. A
    /// relative path counts from the directory that the process is in now.
    pub state_dir: *const c_char,
    /// The driver's library instead of the system's libnvidia-ml.so.1: an absolute path.
    pub nvml_path: *const c_char,
    /// nvidia-smi instead of /usr/bin/nvidia-smi: an absolute path.
    pub nvidia_smi: *const c_char,
    /// nvidia-cuda-mps-control instead of the one in /usr/bin: an absolute path.
    pub mps_control: *const c_char,
    /// Hears what happens within the calls of this node and of what came of it; NULL for nobody.
    pub log: gpushare_log_fn,
    /// What `log` gets as its last argument.
    pub log_user: *mut c_void,
    /// Whether the GPUSHARE_ variables of the environment count for nothing.
    pub ignore_environment: u32,
    /// Must be 0.
    pub reserved: u32,
}

// SAFETY: it is `repr(C)`, starts with its size, and zero is NULL and 0 everywhere.
unsafe impl Versioned for gpushare_node_options {
    const NAME: &'static str = "gpushare_node_options";
    const FIRST: usize = 64;
}

impl gpushare_node_options {
    /// Opens what they describe.
    ///
    /// # Safety
    /// Its strings are NULL or end in NUL.
    pub(crate) unsafe fn open(&self) -> Result<Node> {
        expect_unused(self.reserved)?;
        let mut builder = Node::builder().ignore_environment(flag(self.ignore_environment));
        // SAFETY: the caller says so.
        if let Some(sim) = unsafe { text(self.sim, "sim") }? {
            builder = builder.sim(sim);
        }
        // SAFETY: as above.
        if let Some(directory) = unsafe { path(self.state_dir) } {
            builder = builder.state_dir(directory);
        }
        // SAFETY: as above.
        if let Some(library) = unsafe { path(self.nvml_path) } {
            builder = builder.nvml_path(library);
        }
        // SAFETY: as above.
        if let Some(program) = unsafe { path(self.nvidia_smi) } {
            builder = builder.nvidia_smi(program);
        }
        // SAFETY: as above.
        if let Some(program) = unsafe { path(self.mps_control) } {
            builder = builder.mps_control(program);
        }
        builder.open()
    }
}

/// Refuses what a newer header may give a meaning.
pub(crate) fn expect_unused(reserved: u32) -> Result<()> {
    if reserved == 0 {
        return Ok(());
    }
    Err(refuse(format!("reserved is {reserved}: set every byte to zero first")))
}

fn refuse(why: String) -> Error {
    Error::new(ErrorCode::InvalidArgument, why)
}

/// Longer than any machine runs.
const FOR_EVER: f64 = 1e9;

/// How long may be waited, in seconds: none is for ever.
pub(crate) fn timeout(seconds: f64) -> Result<Option<Duration>> {
    if seconds.is_nan() {
        return Err(refuse("timeout_s is not a number".to_owned()));
    }
    let bounded = (0.0..=FOR_EVER).contains(&seconds);
    Ok(bounded.then(|| Duration::from_secs_f64(seconds)))
}

/// So many seconds.
pub(crate) fn seconds(seconds: f64, what: &str) -> Result<Duration> {
    if (0.0..=FOR_EVER).contains(&seconds) {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(refuse(format!("{what} is {seconds}: give seconds, from 0 on")))
}

/// Names of hazards with commas between.
pub(crate) fn hazards(list: Option<&str>) -> Result<Vec<HazardName>> {
    let names = list.unwrap_or_default().split(',').map(str::trim).filter(|name| !name.is_empty());
    let known = |name: &str| {
        HazardName::ALL.iter().copied().find(|known| known.as_str() == name).ok_or_else(|| {
            let all: Vec<_> = HazardName::ALL.iter().map(|known| known.as_str()).collect();
            refuse(format!("allow_hazards: {name:?} is no hazard; there are {}", all.join(", ")))
        })
    };
    names.map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_bounded_or_for_ever() {
        assert_eq!(timeout(0.0).unwrap(), Some(Duration::ZERO));
        assert_eq!(timeout(-0.0).unwrap(), Some(Duration::ZERO));
        assert_eq!(timeout(0.25).unwrap(), Some(Duration::from_millis(250)));
        for for_ever in [-1.0, f64::MIN, f64::INFINITY, f64::NEG_INFINITY, 1e300] {
            assert_eq!(timeout(for_ever).unwrap(), None);
        }
        assert!(timeout(f64::NAN).is_err());
        for bad in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert!(seconds(bad, "drain_s").is_err());
        }
        assert_eq!(seconds(1.5, "drain_s").unwrap(), Duration::from_millis(1500));
    }

    #[test]
    fn hazards_are_known_by_name() {
        assert_eq!(hazards(None).unwrap(), []);
        assert_eq!(hazards(Some("")).unwrap(), []);
        let all: Vec<_> = HazardName::ALL.iter().map(|name| name.as_str()).collect();
        assert_eq!(hazards(Some(&all.join(", "))).unwrap(), HazardName::ALL);
        assert!(hazards(Some("bypass")).unwrap_err().message().contains("bypass-possible"));
    }
}
