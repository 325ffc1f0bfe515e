//! Hand-over to and from NVIDIA's mig-parted, on simulated nodes.
//!
//! Every config here was written for these tests.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod checkpoints;
mod families;
mod malformed;
mod meaning;
mod node;
mod random;
