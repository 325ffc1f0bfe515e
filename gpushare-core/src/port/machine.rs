//! The machine around the GPUs, for the doctor.

use std::fmt;

use crate::doctor::MachineFacts;
use crate::id::Pid;

/// The machine around the GPUs: the driver's files, its nodes, containers, MPS where nobody asked for it.
pub trait Machine: Send + Sync + fmt::Debug {
    /// What is seen of it, and what these processes declare of MPS in their environments. Changes
    /// nothing, says nothing to any daemon, and is bounded. What cannot be looked at is among the
    /// facts, so this does not fail.
    fn facts(&self, processes: &[Pid]) -> MachineFacts;
}
