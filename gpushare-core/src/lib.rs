//! gpushare shares NVIDIA GPUs.
#![deny(missing_docs)]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("gpushare drives NVIDIA's Linux driver and builds for Linux only");

pub mod apply;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
pub mod gpu;
pub mod hazard;
pub mod id;
pub mod mig;
pub mod mode;
pub mod node;
pub mod observe;
pub mod parameters;
pub mod plan;
pub mod port;
pub mod process;
pub mod snapshot;
pub mod spec;
pub mod state;
pub mod units;

pub use apply::{ApplyOptions, Event, Report};
pub use error::{Error, ErrorCode, Outcome, Result};
pub use node::Node;
pub use plan::Plan;
pub use snapshot::Snapshot;
pub use spec::Spec;
