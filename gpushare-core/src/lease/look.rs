//! Looking at the GPUs for a lease: with the driver open as long as it is looked at again at once.
//! Where nobody else holds a GPU open, opening it takes longer than all the rest.

use std::cell::RefCell;

use crate::error::Result;
use crate::id::{GpuUuid, ShareId};
use crate::lease::request::{LeaseRequest, Of};
use crate::node::Node;
use crate::observe::{Observer, Scope};
use crate::snapshot::Snapshot;

/// A node that is looked at.
#[derive(Debug)]
pub(super) struct Look<'a> {
    node: &'a Node,
    observer: RefCell<Option<Observer>>,
}

impl<'a> Look<'a> {
    pub(super) fn new(node: &'a Node) -> Self {
        Self { node, observer: RefCell::new(None) }
    }

    fn with<R>(&self, look: impl FnOnce(&mut Observer) -> Result<R>) -> Result<R> {
        let mut open = self.observer.take();
        let mut observer = match open.take() {
            Some(observer) => observer,
            None => self.node.observer()?,
        };
        let seen = look(&mut observer);
        // One that failed is opened anew.
        if seen.is_ok() {
            self.observer.replace(Some(observer));
        }
        seen
    }

    /// What a request is about, and no other GPU where it names one by uuid.
    pub(super) fn at(&self, request: &LeaseRequest) -> Result<Snapshot> {
        if let Some(gpu) = named(request) {
            let snapshot = self.with(|observer| observer.snapshot(&Scope::gpus([gpu])))?;
            if !snapshot.gpus.is_empty() {
                return Ok(snapshot);
            }
        }
        self.with(|observer| observer.snapshot(&Scope::all()))
    }

    /// One GPU, while we hold a share of it that is not leased yet.
    pub(super) fn holding(&self, share: &ShareId, gpu: &GpuUuid) -> Result<Snapshot> {
        self.with(|observer| {
            observer.hold_back([share.clone()]);
            let snapshot = observer.snapshot(&Scope::gpus([gpu.clone()]));
            observer.let_go(share);
            snapshot
        })
    }

    /// Closes the driver, before it is waited for others.
    pub(super) fn close(&self) {
        self.observer.take();
    }
}

/// The GPU that a request names by its whole uuid. What is visible of it takes all of them.
fn named(request: &LeaseRequest) -> Option<GpuUuid> {
    let uuid = match &request.of {
        Of::Share(share) => share.device().parse::<GpuUuid>().ok(),
        Of::Gpu(selector) if selector.len() == WHOLE => selector.parse().ok(),
        _ => None,
    };
    uuid.filter(|_| request.visible.is_none())
}

/// The length of a uuid as NVML prints it.
const WHOLE: usize = 40;
