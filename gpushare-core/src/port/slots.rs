//! Slots: what a share is held by.
//!
//! A slot is a file that is held by flock(2). A lease is a slot that is held, and lasts as long as a
//! process has the descriptor. Beside the slots lie notes, which say what was leased and prove
//! nothing, and the tickets of those who wait.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::fork::OwnFile;
use crate::id::{Pid, ShareId};

/// For whom a lease holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LeaseScope {
    /// For every user of the node.
    Node,
    /// For the processes of one user: others do not see it.
    Private,
}

/// What came of taking a slot.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Slot(Slot),
    /// Another process holds it.
    Held,
    /// The share has no slot yet, or none any more.
    Missing,
}

/// A slot that is held: by this descriptor and all that were made of it.
#[derive(Debug)]
pub struct Slot {
    /// Of which share.
    pub share: ShareId,
    /// What holds it. Close-on-exec.
    pub file: OwnFile,
}

/// A slot that somebody holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldSlot {
    /// Of which share.
    pub share: ShareId,
    /// The process that took it, where this process can see it. It may be gone, and a child of its
    /// hold on.
    pub pid: Option<Pid>,
}

/// What lies beside a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Of which share.
    pub share: ShareId,
    /// The user who wrote it.
    pub author: u32,
    /// What it says.
    pub content: Vec<u8>,
}

/// A place in the queue, until it is dropped or its process ends.
pub trait Ticket: Send + fmt::Debug {
    /// Its name.
    fn name(&self) -> &str;
    /// Waits at most that long until the owner of that ticket is gone. It may return early.
    fn wait_for(&mut self, ahead: &str, most: Duration);
    /// Waits at most that long until somebody lets go of a slot. Returns whether that may be so: it is
    /// told a moment before it is free, and not always.
    fn wait_for_release(&mut self, most: Duration) -> bool;
}

/// Slots, notes and tickets of a node.
pub trait Slots: Send + Sync + fmt::Debug {
    /// For whom leases hold.
    fn scope(&self) -> LeaseScope;
    /// Whether this user may make slots: then a share that has none gets it when it is asked for.
    fn may_prepare(&self) -> bool;
    /// Makes the slots of these shares, as far as they are not there. One that was removed from under
    /// its holder is not made again while they can be seen to hold it.
    ///
    /// # Errors
    /// PERMISSION_DENIED when the slots are another user's; IO.
    fn prepare(&self, shares: &[ShareId]) -> Result<()>;
    /// Whether each of these shares has a slot, held or not.
    ///
    /// # Errors
    /// IO.
    fn are_there(&self, shares: &[ShareId]) -> Result<bool>;
    /// Takes a slot if it is free, without waiting.
    ///
    /// # Errors
    /// PERMISSION_DENIED for who may not lease here; INVALID_STATE for what is no slot; IO.
    fn try_take(&self, share: &ShareId) -> Result<Taken>;
    /// Removes the slot of a share that is no more, and what lies beside it. The slot must be held.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    fn retire(&self, slot: &Slot) -> Result<()>;
    /// The slots that are held now.
    ///
    /// # Errors
    /// IO.
    fn held(&self) -> Result<Vec<HeldSlot>>;
    /// All processes that hold a slot, be it that it was removed since, as far as this process may see:
    /// who holds it when the one who took it is gone. It looks at every process of the machine.
    fn openers(&self) -> Vec<(ShareId, Pid)>;
    /// Whether there is something that [`sweep`](Self::sweep) would remove.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    fn has_litter(&self, known: &BTreeSet<ShareId>) -> Result<bool>;
    /// Removes what is nobody's: slots and notes of shares that are not among these and that nobody
    /// holds, and what a process left that was killed while it wrote.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    fn sweep(&self, known: &BTreeSet<ShareId>) -> Result<()>;
    /// Writes this user's note of a share.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    fn note(&self, share: &ShareId, content: &[u8]) -> Result<()>;
    /// The notes of a share, or of all shares, in no order.
    ///
    /// # Errors
    /// IO.
    fn notes(&self, share: Option<&ShareId>) -> Result<Vec<Note>>;
    /// Joins the queue at its end.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    fn join(&self, content: &[u8]) -> Result<Box<dyn Ticket>>;
    /// The tickets of all who wait, first come first. Those whose processes are gone may be among them.
    ///
    /// # Errors
    /// IO.
    fn queue(&self) -> Result<Vec<String>>;
    /// What a ticket says, which never changes; none where it cannot be read.
    fn ticket(&self, name: &str) -> Option<Vec<u8>>;
    /// Whether the owner of a ticket still waits. One who does not is removed where that is allowed.
    fn still_waits(&self, ticket: &str) -> bool;
}
