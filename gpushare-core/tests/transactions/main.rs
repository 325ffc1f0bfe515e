//! Apply and recover as transactions, on the simulated driver: whatever fails, at whatever call,
//! the node is in the old state or in the new one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod attach;
mod boot;
mod cdi;
mod consent;
mod hooks;
mod leases;
mod mps;
mod observation;
mod recovery;
mod scenario;
mod strays;
mod threads;
mod typed;
