//! Who makes a call: a child that is forked in the middle of it must not go on with it.

use std::ops::ControlFlow;

use super::generation;

/// The process that began something, to tell it from its forked children.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pid: u32,
    generation: u64,
}

impl Caller {
    /// This process.
    pub fn this() -> Self {
        Self { pid: std::process::id(), generation: generation() }
    }

    /// Its pid.
    pub const fn pid(self) -> u32 {
        self.pid
    }

    /// Whether it is this process: by its pid, which a child past the handlers of [`fork`](super) has
    /// another of, and by the generation, which a child in a new pid namespace has another of.
    pub fn is_this(self) -> bool {
        self.generation == generation() && self.pid == std::process::id()
    }

    /// Asks a function of the caller's whether to go on. What comes back from it in a child that it
    /// forked stops, and is not asked again.
    pub(crate) fn ask(self, function: impl FnOnce() -> ControlFlow<()>) -> ControlFlow<()> {
        if !self.is_this() {
            return ControlFlow::Break(());
        }
        match function() {
            ControlFlow::Continue(()) if self.is_this() => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }
}
