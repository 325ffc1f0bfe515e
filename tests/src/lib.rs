//! What the tests across crates share.

pub mod nvidia;
pub mod nvml_sim;
