//! MPS as values: what a control daemon serves, what it is told, and what it answers.
//!
//! Nothing here talks to a daemon: a [`Command`] is rendered and its answer parsed, both pure. Who
//! sends it is the port [`MpsHost`](crate::port::MpsHost).

mod command;
mod dialect;
mod domain;
#[cfg(test)]
mod fake;
mod reply;
mod settings;

pub use command::Command;
pub(crate) use command::MOST_TEXT;
pub use dialect::{Dialect, Feature};
pub use domain::MpsDomain;
pub use reply::{Client, Device, DeviceClients, Reply, ServerStatus};
pub use settings::{MpsSetting, MpsSettings, ServerLimits};
