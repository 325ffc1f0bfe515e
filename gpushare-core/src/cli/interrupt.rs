//! Ctrl-C: the first one asks to stop, and what is done is rolled back. A second one changes nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, ErrorCode, Result};
use crate::process::ignores;

/// Listens for SIGINT and SIGTERM, which no longer end the process.
#[derive(Debug)]
pub(super) struct Interrupt {
    asked: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    /// Begins to listen, until it is dropped.
    pub(super) fn listen() -> Result<Self> {
        Self::listen_to([SIGINT, SIGTERM])
    }

    /// The same, but for signals that whoever started this process has it ignore: what it becomes is to
    /// ignore them too.
    pub(super) fn listen_unless_ignored() -> Result<Self> {
        Self::listen_to([SIGINT, SIGTERM].into_iter().filter(|signal| !ignored(*signal)))
    }

    fn listen_to(signals: impl IntoIterator<Item = i32>) -> Result<Self> {
        let mut interrupt = Self { asked: Arc::default(), handlers: Vec::new() };
        for signal in signals {
            let handler = signal_hook::flag::register(signal, interrupt.asked.clone());
            interrupt.handlers.push(handler.map_err(|error| {
                Error::new(ErrorCode::Io, format!("cannot listen for signal {signal}: {error}"))
                    .with_source(error)
            })?);
        }
        Ok(interrupt)
    }

    /// Whether somebody asked to stop.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// The same for apply.
    pub(super) fn flow(&self) -> ControlFlow<()> {
        if self.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Whether this process was started with a signal ignored, as nohup and background jobs are.
pub(super) fn ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignores(&status, signal)
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
