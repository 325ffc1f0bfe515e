//! The slots of a lease, while they are held.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::error::{Error, ErrorCode, Result};
use crate::port::Slot;

/// Slots that are held by this process, until they are let go or dropped.
#[derive(Debug)]
pub(super) struct Held {
    slots: Mutex<Option<Vec<Slot>>>,
    kept_in_children: AtomicBool,
}

/// All that this process holds.
static ALL: Mutex<Vec<Weak<Held>>> = Mutex::new(Vec::new());

impl Held {
    pub(super) fn new(slots: Vec<Slot>) -> Arc<Self> {
        let held = Arc::new(Self {
            slots: Mutex::new(Some(slots)),
            kept_in_children: AtomicBool::new(false),
        });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|held| held.strong_count() > 0);
        all.push(Arc::downgrade(&held));
        held
    }

    /// Does something with the slots.
    pub(super) fn with<R>(&self, what: impl FnOnce(&[Slot]) -> R) -> Result<R> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slots {
            Some(slots) => Ok(what(slots)),
            None => Err(Error::new(
                ErrorCode::InvalidState,
                "the lease was given back, or is another process's: this is a forked child",
            )),
        }
    }

    pub(super) fn keep_in_children(&self) {
        self.kept_in_children.store(true, Ordering::Relaxed);
    }

    pub(super) fn let_go(&self) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

/// Gives up the leases of a parent in its forked child, but for those whose descriptors were asked for:
/// else a child that only computes would hold its parent's shares. Programs that fork without exec
/// call it in the child; the C and Python faces do.
pub fn after_fork_in_child() {
    // A lock that another thread held at the fork is never let go here; its lease is held on to.
    let Ok(mut all) = ALL.try_lock() else { return };
    for held in all.drain(..).filter_map(|held| held.upgrade()) {
        if !held.kept_in_children.load(Ordering::Relaxed) {
            if let Ok(mut slots) = held.slots.try_lock() {
                slots.take();
            }
        }
    }
}
