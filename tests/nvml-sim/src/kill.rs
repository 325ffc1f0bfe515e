//! The real death of a process, at a call that was named beforehand.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::process::{Signal, getpid, kill_process};

/// The functions that change something, all of them that this library has.
const CHANGES: [&str; 9] = [
    "nvmlDeviceSetComputeMode",
    "nvmlDeviceSetMigMode",
    "nvmlDeviceCreateGpuInstance",
    "nvmlDeviceCreateGpuInstanceWithPlacement",
    "nvmlGpuInstanceDestroy",
    "nvmlGpuInstanceCreateComputeInstance",
    "nvmlGpuInstanceCreateComputeInstanceWithPlacement",
    "nvmlComputeInstanceDestroy",
    "nvmlDeviceSetPersistenceMode",
];

/// Where in a call a process dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Before,
    After,
}

/// Where this process dies: at which of its changes.
fn named() -> Option<(u32, Place)> {
    static NAMED: OnceLock<Option<(u32, Place)>> = OnceLock::new();
    *NAMED.get_or_init(|| {
        let text = std::env::var("GPUSHARE_NVML_KILL_AT").ok()?;
        let (number, place) = match (text.strip_suffix('-'), text.strip_suffix('+')) {
            (Some(number), _) => (number, Place::Before),
            (_, Some(number)) => (number, Place::After),
            _ => return None,
        };
        Some((number.parse().ok()?, place))
    })
}

/// Counts a call. Its number among the changes of this process, if it is one.
pub(crate) fn count(name: &str) -> Option<u32> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    CHANGES.contains(&name).then(|| MADE.fetch_add(1, Ordering::Relaxed) + 1)
}

/// Kills the process if this is where it dies.
pub(crate) fn here(change: Option<u32>, place: Place) {
    if change.is_some() && named() == change.map(|change| (change, place)) {
        // Nothing comes after it: no handler runs, no lock is let go but by the kernel.
        let _ = kill_process(getpid(), Signal::KILL);
    }
}
