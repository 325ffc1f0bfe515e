//! Ctrl-C: the first one asks to stop, and what is done is rolled back. A second one changes nothing.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::error::{Error, ErrorCode, Result};

/// Listens for SIGINT and SIGTERM, which no longer end the process.
#[derive(Debug)]
pub(super) struct Interrupt {
    asked: Arc<AtomicBool>,
    handlers: Vec<SigId>,
}

impl Interrupt {
    /// Begins to listen, until it is dropped.
    pub(super) fn listen() -> Result<Self> {
        let mut interrupt = Self { asked: Arc::default(), handlers: Vec::new() };
        for signal in [SIGINT, SIGTERM] {
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

impl Drop for Interrupt {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            signal_hook::low_level::unregister(handler);
        }
    }
}
