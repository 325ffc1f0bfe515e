//! What implements the ports. Only the node's builder names a backend.

pub mod nvml;
#[cfg(feature = "sim")]
pub mod sim;
