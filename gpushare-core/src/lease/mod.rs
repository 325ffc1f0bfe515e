//! Leases: the right of one process tree to one share, or to several.
//!
//! A lease is a file that is held: it lasts until it is released, or until the last process that has
//! its descriptor is gone, however that ends. No daemon keeps it. The descriptor is close-on-exec, and
//! stays with this process unless it is asked for: [`Lease::descriptors`], [`Lease::duplicate`],
//! [`Lease::apply_to`].
//!
//! What a tenant does with its share is enforced or declared, and a [`Grant`] says which.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::process::Command;
//!
//! use gpushare_core::Node;
//! use gpushare_core::lease::LeaseRequest;
//!
//! let node = Node::builder().sim("1xH100-80GB").open()?;
//! let lease = node.lease(&LeaseRequest::gpu("0"))?;
//! let mut command = Command::new("true");
//! lease.apply_to(&mut command)?; // CUDA_VISIBLE_DEVICES and the like, and the descriptor
//! assert!(command.status().is_ok_and(|status| status.success()));
//! assert!(node.lease(&LeaseRequest::gpu("0")).is_err(), "it is ours");
//! lease.release()?;
//! # }
//! # Ok::<(), gpushare_core::Error>(())
//! ```

mod acquire;
mod cordon;
mod create;
mod grant;
mod held;
mod leftover;
mod list;
mod look;
mod pick;
mod request;
mod verify;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use serde::Serialize;

pub use crate::snapshot::{DeviceNode, LEASE_VARIABLE, SHARES_VARIABLE};
pub use acquire::Wait;
pub use grant::{Bound, Grant};
pub use list::{GpuLeases, LeaseList};
pub use request::{LeaseRequest, Of};
pub use verify::{CudaDevice, Verification};

use held::Held;

use crate::error::{Error, ErrorCode, Result};
use crate::fork::Caller;
use crate::id::ShareId;
use crate::node::Node;
use crate::port::{LeaseScope, Slot};
use crate::snapshot::Snapshot;
use crate::state::slot;

/// The schema of a serialised lease.
pub const SCHEMA: &str = "gpushare.lease/v1";

/// A lease that this process holds.
///
/// Dropping it gives it back, as [`release`](Self::release) does, but for what was created: that stays.
#[derive(Debug)]
pub struct Lease {
    node: Node,
    document: Document,
    held: Held,
    /// Whether others may have copies of its descriptors.
    handed_on: AtomicBool,
    /// Who took it, and who alone gives it back.
    caller: Caller,
    /// What was created for it, to be destroyed with it.
    created: Vec<crate::id::MigUuid>,
}

/// What a lease says of itself.
#[derive(Clone, Debug, Serialize)]
struct Document {
    schema: &'static str,
    simulated: bool,
    name: String,
    scope: LeaseScope,
    shares: Vec<Grant>,
    variables: BTreeMap<String, String>,
    unset: BTreeSet<String>,
}

impl Node {
    /// Leases what is asked for, of what there is now. The driver is open only while it is looked at.
    ///
    /// # Errors
    /// BUSY when others have it and no waiting was wanted, with the holders; TIMEOUT; NOT_FOUND,
    /// INSUFFICIENT when this node has no such share, with what there is; INVALID_STATE,
    /// RECOVERY_REQUIRED for a GPU of which nothing is leased now; UNSUPPORTED for limits without
    /// MPS; HAZARD; PERMISSION_DENIED for who may not lease here; IO.
    pub fn lease(&self, request: &LeaseRequest) -> Result<Lease> {
        self.lease_with(request, |_| ControlFlow::Continue(()))
    }

    /// Leases what is asked for, and hears every 100 ms of waiting who is in the way. When `waiting`
    /// asks to stop, nothing is leased: INTERRUPTED. It may fork: a child that comes back from it takes
    /// nothing, and its parent waits on.
    ///
    /// # Errors
    /// As [`lease`](Self::lease); INVALID_STATE in a forked child.
    pub fn lease_with(
        &self,
        request: &LeaseRequest,
        mut waiting: impl FnMut(&Wait) -> ControlFlow<()>,
    ) -> Result<Lease> {
        self.acquire(None, request, &mut waiting)
    }

    /// Leases what is asked for, of what a snapshot shows, and asks the driver only where that is not
    /// enough: when a share changes hands, or when it must be waited for. For who leases often.
    ///
    /// # Errors
    /// As [`lease`](Self::lease).
    pub fn lease_in(&self, snapshot: &Snapshot, request: &LeaseRequest) -> Result<Lease> {
        self.acquire(Some(snapshot), request, &mut |_| ControlFlow::Continue(()))
    }

    fn acquire(
        &self,
        given: Option<&Snapshot>,
        request: &LeaseRequest,
        waiting: &mut dyn FnMut(&Wait) -> ControlFlow<()>,
    ) -> Result<Lease> {
        let leased = self.call(|node, caller| {
            let mut waiting = |wait: &Wait| caller.ask(|| waiting(wait));
            acquire::acquire(node, given, request, &mut waiting)
        })?;
        Ok(Lease { node: self.clone(), ..leased })
    }
}

impl Lease {
    /// Its name, which `gpushare leases` shows.
    pub fn name(&self) -> &str {
        &self.document.name
    }

    /// For whom it holds: on a node that is this user's alone, others do not see it.
    pub fn scope(&self) -> LeaseScope {
        self.document.scope
    }

    /// What it gives, by share.
    pub fn grants(&self) -> &[Grant] {
        &self.document.shares
    }

    /// The ids of its shares.
    pub fn shares(&self) -> impl Iterator<Item = &ShareId> {
        self.document.shares.iter().map(|grant| &grant.share)
    }

    /// The variables to set for its tenant.
    pub fn variables(&self) -> &BTreeMap<String, String> {
        &self.document.variables
    }

    /// The variables to remove for its tenant: what an outer environment says of MPS does not count.
    pub fn unset(&self) -> &BTreeSet<String> {
        &self.document.unset
    }

    /// Hands its descriptors on: from now on every child of this process that is started with them
    /// holds the lease too, and it lasts until all of them are gone. One for each share.
    ///
    /// # Errors
    /// INVALID_STATE when it was released; IO.
    pub fn descriptors(&self) -> Result<Vec<OwnedFd>> {
        self.handed_on.store(true, Ordering::Relaxed);
        let failed = |errno: rustix::io::Errno| {
            Error::new(ErrorCode::Io, format!("cannot hand the lease on: {errno}"))
                .with_source(std::io::Error::from(errno))
        };
        self.held.keep_in_children();
        self.held.with(|slots| {
            slots
                .iter()
                .map(|slot| {
                    let copy = slot.file.with(|file| {
                        let flags = fcntl_getfd(file)?;
                        fcntl_setfd(file, flags - FdFlags::CLOEXEC)?;
                        rustix::io::dup(file)
                    });
                    copy.ok_or_else(held::not_ours)?.map_err(failed)
                })
                .collect()
        })?
    }

    /// A copy of the descriptor of the share at that position, close-on-exec: to be handed to one process
    /// and no other, by `dup2` in a forked child, or over a socket. Whoever has a copy holds the
    /// share. Children that are forked have this copy until they exec, and nothing else of the lease.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a position past the end; INVALID_STATE when it was released; IO.
    pub fn duplicate(&self, position: usize) -> Result<OwnedFd> {
        self.handed_on.store(true, Ordering::Relaxed);
        self.held.with(|slots| {
            let slot = slots.get(position).ok_or_else(|| {
                let message = format!("there is no share {position}: there are {}", slots.len());
                Error::new(ErrorCode::InvalidArgument, message)
            })?;
            // Above the three that every program has a meaning for.
            let copy = slot.file.with(|file| rustix::io::fcntl_dupfd_cloexec(file, 3));
            copy.ok_or_else(held::not_ours)?.map_err(|errno| {
                Error::new(ErrorCode::Io, format!("cannot copy the lease's descriptor: {errno}"))
                    .with_source(std::io::Error::from(errno))
            })
        })?
    }

    /// The numbers of its own descriptors, handed on as [`descriptors`](Self::descriptors) does: for
    /// interfaces that pass descriptors by number. They are the lease's and not to be closed.
    ///
    /// # Errors
    /// INVALID_STATE when it was released; IO.
    pub fn raw_descriptors(&self) -> Result<Vec<RawFd>> {
        self.descriptors()?;
        self.held.with(|slots| {
            let number = |slot: &Slot| slot.file.with(|file| file.as_raw_fd());
            slots.iter().map(|slot| number(slot).ok_or_else(held::not_ours)).collect()
        })?
    }

    /// Makes a command its tenant: sets and removes variables, and hands the descriptors on to it (and
    /// to every child of this process from now on).
    ///
    /// # Errors
    /// INVALID_STATE when it was released; IO.
    pub fn apply_to(&self, command: &mut Command) -> Result<()> {
        self.descriptors()?;
        for name in &self.document.unset {
            command.env_remove(name);
        }
        command.envs(&self.document.variables);
        Ok(())
    }

    /// Refuses a lease that is void: its GPU was partitioned anew, reset or lost, it was released, or this
    /// program closed its descriptor.
    ///
    /// # Errors
    /// INVALID_STATE saying why.
    pub fn check(&self) -> Result<()> {
        self.held.with(|_| ())?;
        let snapshot = self.node.snapshot()?;
        let known = |share: &ShareId| {
            snapshot.gpus.iter().any(|gpu| gpu.shares.iter().any(|known| known.id == *share))
        };
        match self.shares().find(|share| !known(share)) {
            None => Ok(()),
            Some(share) => Err(Error::new(
                ErrorCode::InvalidState,
                format!(
                    "the lease of {share} is void: no GPU of this node has that share any more"
                ),
            )),
        }
    }

    /// Gives it back: at once for this process; children that have its descriptors keep it until they
    /// are gone. What was created for it and is to be given back is destroyed. Whoever is killed gives
    /// nothing back: what was created for them stays. A forked child only closes what it has of it.
    ///
    /// # Errors
    /// INVALID_STATE where this program closed its descriptor: somebody else may have had the share since.
    /// Of what was created, and stays: BUSY where such a child has it, or somebody who was quicker to
    /// lease it, with who; as [`Node::apply`]. The lease is given back all the same.
    pub fn release(self) -> Result<()> {
        if !self.caller.is_this() {
            return Ok(());
        }
        let held = self.held.with(|_| ());
        if held.is_ok() && self.handed_on.load(Ordering::Relaxed) {
            self.note_that_it_is_released();
        }
        self.held.let_go();
        tracing::debug!(target: "gpushare::lease", "gave back lease {}", self.document.name);
        // Whoever leased the share since has what was created, too.
        held.map_err(|error| match &self.created[..] {
            [] => error,
            _ => error.context("what was created for the lease stays"),
        })?;
        self.node.call(|node, _| {
            let given_back = create::give_back(node, &self.created);
            given_back.map_err(|error| error.context("the lease is given back"))
        })
    }

    /// Says beside its slots that who has them now is not who took them. While they are ours still:
    /// afterwards the next one notes what is theirs.
    fn note_that_it_is_released(&self) {
        let ports = self.node.ports();
        let (slots, own) = (ports.slots.as_ref(), ports.processes.own_pid());
        let author = ports.processes.own_uid();
        for share in self.shares() {
            let noted = slot::read(slots, Some(share)).and_then(|notes| {
                let ours = notes.into_iter().filter(|noted| noted.author == author);
                let mut note = ours.map(|noted| noted.note);
                let note = note.find(|note| note.pid == own && note.name == self.document.name);
                note.map_or(Ok(()), |mut note| {
                    note.released = true;
                    slot::write(slots, share, &note)
                })
            });
            if let Err(error) = noted {
                tracing::warn!(target: "gpushare::lease", %error, %share, "who has the share is not noted");
            }
        }
    }

    /// What it says of itself, as a document of schema [`SCHEMA`].
    pub fn to_json(&self) -> String {
        // Every value in it serialises.
        serde_json::to_string(&self.document).unwrap_or_default()
    }
}
