//! Forked children: what a process opened is that process's.

use std::panic::catch_unwind;
use std::sync::Once;

use gpushare_core::{Error, ErrorCode, Result};

/// The process that opened something.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opener(u32);

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
        Self(std::process::id())
    }

    pub(crate) fn is_this(self) -> bool {
        self.0 == std::process::id()
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
                self.0
            ),
        ))
    }
}

/// glibc has repaired its allocator before it runs this.
unsafe extern "C" fn forked() {
    let _ = catch_unwind(gpushare_core::lease::after_fork_in_child);
}
