//! Forked children: what a process opened is that process's.

use std::panic::catch_unwind;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use gpushare_core::{Error, ErrorCode, Result};

/// How many forks lie between the process that loaded the library and this one. A pid alone does not tell
/// a child from its parent: pids come again, and the first child in a new pid namespace has 1 like
/// the first in any other.
static GENERATION: AtomicU64 = AtomicU64::new(0);

/// The process that opened something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opener {
    pid: u32,
    generation: u64,
}

impl Opener {
    /// This process. From now on its children give up what it leases as soon as they are forked.
    pub(crate) fn this() -> Self {
        static WATCH: Once = Once::new();
        WATCH.call_once(|| {
            // SAFETY: the handler does what is allowed in the child of a process with threads: it
            // waits for no lock, and closes descriptors. Where there is no memory for the
            // registration, children keep their parent's leases until they exec or end.
            let _ = unsafe { libc::pthread_atfork(None, None, Some(forked)) };
        });
        Self { pid: std::process::id(), generation: GENERATION.load(Ordering::Relaxed) }
    }

    pub(crate) fn is_this(self) -> bool {
        self.generation == GENERATION.load(Ordering::Relaxed) && self.pid == std::process::id()
    }

    /// Refuses a child of the process that opened it.
    pub(crate) fn expect_this(self) -> Result<()> {
        if self.is_this() {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidState,
            format!(
                "process {} opened this, and a forked child of it can only read what was read and close; open a node of its own, or call from the parent",
                self.pid
            ),
        ))
    }
}

/// glibc has repaired its allocator before it runs this.
unsafe extern "C" fn forked() {
    // One thread alone is here, and what it does not know yet is its parent's.
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let _ = catch_unwind(gpushare_core::lease::after_fork_in_child);
}
