//! The slots of a lease, while they are held.

use std::sync::{Mutex, PoisonError};

use crate::error::{Error, ErrorCode, Result};
use crate::fork::Standing;
use crate::port::Slot;

/// Slots that are held by this process, until they are let go or dropped.
#[derive(Debug)]
pub(super) struct Held {
    slots: Mutex<Option<Vec<Slot>>>,
}

/// What a lease says that this process does not have.
pub(super) fn not_ours() -> Error {
    Error::new(
        ErrorCode::InvalidState,
        "the lease was given back, or is another process's: this is a forked child",
    )
}

/// What a lease says whose descriptor is not its own any more.
fn lost(slot: &Slot) -> Error {
    Error::new(
        ErrorCode::InvalidState,
        format!(
            "the lease of {} is lost: its descriptor was closed by this program, and the share may be somebody else's. The descriptor is the lease's own: release the lease, or close a copy",
            slot.share
        ),
    )
}

impl Held {
    pub(super) fn new(slots: Vec<Slot>) -> Self {
        Self { slots: Mutex::new(Some(slots)) }
    }

    /// Does something with the slots.
    pub(super) fn with<R>(&self, what: impl FnOnce(&[Slot]) -> R) -> Result<R> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(slots) = &*slots else { return Err(not_ours()) };
        for slot in slots {
            match slot.file.standing() {
                Standing::Here => {}
                Standing::Lost => return Err(lost(slot)),
                Standing::GivenUp => return Err(not_ours()),
            }
        }
        Ok(what(slots))
    }

    pub(super) fn keep_in_children(&self) {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        slots.iter().flatten().for_each(|slot| slot.file.keep_in_children());
    }

    pub(super) fn let_go(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}
