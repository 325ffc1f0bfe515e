//! Locks: one for each GPU, taken in the order of uuids.

use std::ops::ControlFlow;
use std::os::fd::OwnedFd;
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::port::{Clock, LockGuard, Store};

/// How often a waiting caller looks again and is asked whether to stop.
const POLL: Duration = Duration::from_millis(100);

/// Locks of GPUs, held until they are dropped.
#[derive(Debug, Default)]
pub(crate) struct Locks {
    guards: Vec<(GpuUuid, Box<dyn LockGuard>)>,
}

impl Locks {
    /// Another descriptor of the lock of a GPU, for a helper process to hold it too.
    pub(crate) fn descriptor(&self, gpu: &GpuUuid) -> Option<OwnedFd> {
        let (_, guard) = self.guards.iter().find(|(locked, _)| locked == gpu)?;
        guard.descriptor()
    }
}

/// Takes the locks of these GPUs, which must be in ascending order.
///
/// `timeout` bounds the waiting: zero does not wait, none waits for ever. `waiting` is called every
/// 100 ms meanwhile and can ask to stop.
///
/// # Errors
/// LOCKED when another process has one and waiting was not wanted, TIMEOUT when it took too long,
/// INTERRUPTED when the caller asked to stop, PERMISSION_DENIED and IO.
pub(crate) fn acquire(
    store: &dyn Store,
    clock: &dyn Clock,
    gpus: &[GpuUuid],
    timeout: Option<Duration>,
    waiting: &mut dyn FnMut(&GpuUuid) -> ControlFlow<()>,
) -> Result<Locks> {
    let start = clock.time_of_others();
    let mut guards = Vec::with_capacity(gpus.len());
    for gpu in gpus {
        let name = format!("lock/{gpu}.lock");
        let guard = loop {
            if let Some(guard) = store.try_lock(&name)? {
                break guard;
            }
            let waited = clock.time_of_others().saturating_sub(start);
            if timeout.is_some_and(|timeout| waited >= timeout) {
                let by = holder(store, &name);
                let (code, how) = match timeout {
                    Some(Duration::ZERO) => (ErrorCode::Locked, String::new()),
                    _ => (ErrorCode::Timeout, format!(" for {:.1} s", waited.as_secs_f64())),
                };
                return Err(Error::new(
                    code,
                    format!("another gpushare process{by} is changing GPU {gpu}{how}; wait for it, or give a longer timeout"),
                )
                .of_gpu(gpu));
            }
            if waiting(gpu).is_break() {
                return Err(Error::new(
                    ErrorCode::Interrupted,
                    format!("stopped while waiting for the lock of GPU {gpu}"),
                )
                .of_gpu(gpu));
            }
            clock.wait_for_others(POLL);
        };
        guards.push((gpu.clone(), guard));
    }
    Ok(Locks { guards })
}

/// Who holds a lock, as far as its file says.
fn holder(store: &dyn Store, name: &str) -> String {
    let content = store.read(name).ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&content);
    match text.trim().parse::<u32>() {
        Ok(pid) => format!(" (pid {pid})"),
        Err(_) => String::new(),
    }
}
