//! MPS as values: what a control daemon serves, what it is told, and what it answers.
//!
//! Nothing here talks to a daemon: a [`Command`] is rendered and its answer parsed, both pure. Who
//! sends it is the port [`MpsHost`](crate::port::MpsHost).

mod command;
mod dialect;
mod domain;
mod multiprocessors;
mod reply;
mod settings;

pub use command::Command;
pub use dialect::{Dialect, Feature};
pub use domain::MpsDomain;
pub(crate) use multiprocessors::sm_share;
pub use multiprocessors::{MINIMUM_SM, sm_count};
pub use reply::{Client, Device, DeviceClients, Reply, ServerStatus};
pub use settings::{MpsSetting, MpsSettings};
