//! What an MPS daemon gives and how it is, in words.

use super::page::{Role, Table};
use crate::mode::{MpsHealth, Priority};
use crate::mps::sm_count;
use crate::parameters::MpsConfig;
use crate::snapshot::{MigDevice, MpsStatus};
use crate::terminal::count;
use crate::units::ThreadPercentage;

pub(super) const fn role(mps: &MpsStatus) -> Role {
    if mps.alive { Role::Plain } else { Role::Alarm }
}

/// How a daemon is, in words that go on after it.
pub(super) fn health(mps: &MpsStatus) -> &'static str {
    mps.health.map_or("is not to be seen by this user", |health| match health {
        MpsHealth::Answers if mps.admitted => "serves",
        MpsHealth::Answers => "is closed to its clients",
        MpsHealth::Frozen => "is frozen: it takes connections and says nothing",
        MpsHealth::Unknown => "answers in a way that gpushare does not know",
        MpsHealth::Gone => "is gone",
    })
}

/// The daemon of a MIG device, in a line below the device.
pub(crate) fn below(table: &mut Table, device: &MigDevice) {
    let Some(mps) = device.mps.as_ref().filter(|mps| mps.ours) else { return };
    let config = mps.config.as_ref();
    let limits =
        config.map_or("limits not known".to_owned(), |config| limits(config, device.sm_count));
    let text = if mps.alive { limits } else { format!("the daemon {}; {limits}", health(mps)) };
    table.below(role(mps), format!("MPS: {text}"));
}

/// What each client gets, in words.
pub(super) fn limits(config: &MpsConfig, total: Option<u32>) -> String {
    let mut parts = Vec::new();
    if config.thread_percentage < ThreadPercentage::FULL {
        let sms = total.map(|total| sm_count(config.thread_percentage, total));
        let sms = sms.map(|sms| format!(" ({sms} SMs)")).unwrap_or_default();
        parts.push(format!("{} % of the threads{sms} for each client", config.thread_percentage));
    }
    parts.extend(config.pinned_memory_limit.map(|limit| format!("{limit} for each client")));
    // The daemon itself takes more than that: it is leases that are counted.
    parts.extend(
        config.max_clients.map(|most| format!("leases for {}", count(most.get(), "client"))),
    );
    if config.priority != Priority::Normal {
        parts.push("priority below normal".to_owned());
    }
    if parts.is_empty() { "no limits".to_owned() } else { parts.join(", ") }
}
