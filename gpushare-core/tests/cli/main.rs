//! The `gpushare` command, run as people run it, on simulated nodes.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests")]

mod advise;
mod boot;
mod commands;
mod containers;
mod doctor;
mod documents;
mod golden;
mod handover;
mod hostile;
mod interrupted;
mod leases;
mod metrics;
mod mps;
mod mps_answers;
mod mps_commands;
mod place;
mod resolve;
mod schema;
mod terminal;
mod usage;
