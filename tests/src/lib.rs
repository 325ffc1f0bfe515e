//! Tests across the crates of gpushare, and what they share.

pub mod conformance;
pub mod mps;
pub mod nvidia;
pub mod nvml_sim;
