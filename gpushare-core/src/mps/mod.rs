//! MPS as values: what a control daemon serves, what it is told, and what it answers.
//!
//! Nothing here talks to a daemon: a [`Command`] is rendered and its answer parsed, both pure. Who
//! sends it is the port [`MpsHost`](crate::port::MpsHost). [`attachment`] judges from what was seen
//! whether a process is a client of ours.

mod attach;
mod command;
mod dialect;
mod domain;
#[cfg(test)]
mod fake;
mod multiprocessors;
mod reply;
mod settings;

pub use attach::{
    ATTACHMENT_SCHEMA, AtMost, Attachment, ContextFacts, DaemonFacts, Declared, DomainFacts,
    ProcessFacts, ServerFacts, attachment,
};
pub use command::Command;
pub(crate) use command::MOST_TEXT;
pub(crate) use dialect::anyone_may_set;
pub use dialect::{Dialect, Feature};
pub use domain::MpsDomain;
pub(crate) use multiprocessors::sm_share;
pub use multiprocessors::{MINIMUM_SM, sm_count};
pub use reply::{Client, Device, DeviceClients, Reply, ServerStatus};
pub use settings::{MpsSetting, MpsSettings, ServerLimits};
