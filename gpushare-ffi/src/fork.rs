//! Forked children: what a process opened is that process's.

use std::panic::catch_unwind;
use std::sync::Once;

use gpushare_core::{Error, ErrorCode, Result, fork};

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
            // SAFETY: the handlers do what is allowed around a fork of a process with threads: the
            // one lock that the child needs is held over it. Where there is no memory for the
            // registration, children keep their parent's leases until they exec or end.
            let _ = unsafe { libc::pthread_atfork(Some(before), Some(in_parent), Some(in_child)) };
        });
        Self { pid: std::process::id(), generation: fork::generation() }
    }

    pub(crate) fn is_this(self) -> bool {
        self.generation == fork::generation() && self.pid == std::process::id()
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

unsafe extern "C" fn before() {
    let _ = catch_unwind(fork::before);
}

unsafe extern "C" fn in_parent() {
    let _ = catch_unwind(fork::after_in_parent);
}

/// glibc has repaired its allocator before it runs this.
unsafe extern "C" fn in_child() {
    let _ = catch_unwind(fork::after_in_child);
}
