//! The parameters of the modes: what no driver keeps and our records do.

use std::fmt;
use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use crate::mode::{Interval, Mode, Priority};
use crate::terminal::printable;
use crate::units::{Bytes, ThreadPercentage};

/// Parameters of `time_sliced`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct TimeSlicing {
    /// How many leases the GPU admits. Declared: the driver admits any number of processes.
    pub replicas: NonZeroU32,
    /// How long each process's turn is. Enforced by the driver, for contexts made after it is set.
    pub interval: Interval,
}

impl TimeSlicing {
    /// That many replicas, at the driver's default interval.
    pub const fn new(replicas: NonZeroU32) -> Self {
        Self { replicas, interval: Interval::Default }
    }

    /// The same with another interval.
    #[must_use]
    pub const fn with_interval(self, interval: Interval) -> Self {
        Self { interval, ..self }
    }
}

impl Default for TimeSlicing {
    /// Four replicas at the default interval.
    fn default() -> Self {
        const FOUR: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);
        Self::new(FOUR)
    }
}

/// Who may use an MPS daemon.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Access {
    /// The user who asks alone; under sudo, the user behind it.
    #[default]
    Caller,
    /// That user, by name or number.
    User(String),
    /// The members of that group, by name or number.
    Group(String),
    /// Every local user. Up to driver 535 that also lets them change root's settings.
    Any,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Caller => f.write_str("the caller"),
            Self::User(user) => write!(f, "user {}", printable(user)),
            Self::Group(group) => write!(f, "group {}", printable(group)),
            Self::Any => f.write_str("every user"),
        }
    }
}

/// What `mps` does to the compute mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MpsComputeMode {
    /// Sets EXCLUSIVE_PROCESS, so that nobody gets past the daemon. Takes root; not on a MIG device,
    /// which has none.
    #[default]
    ExclusiveProcess,
    /// Leaves it alone: a process that misses the daemon gets the whole GPU (hazard `bypass-possible`).
    Unchanged,
}

/// Parameters of `mps`, of a GPU or of a MIG device.
///
/// The daemon enforces thread percentage and memory limit on every client, and the rights of its
/// directory say who may come in. The priority is a hint to the driver. `max_clients` is declared: it
/// is on record and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsConfig {
    /// The share of threads that each client gets at most: a ceiling, nothing is reserved.
    /// [`sm_count`](crate::hazard::sm_count) says how many SMs that is.
    pub thread_percentage: ThreadPercentage,
    /// The device memory that each client gets at most, its CUDA context included, in whole MiB; none
    /// for no limit.
    #[serde(rename = "pinned_memory_limit_bytes")]
    pub pinned_memory_limit: Option<Bytes>,
    /// How many leases the daemon admits; none for as many as the driver takes.
    /// Declared.
    pub max_clients: Option<NonZeroU32>,
    /// The priority of its clients.
    pub priority: Priority,
    /// Who may use it.
    pub access: Access,
    /// What becomes of the compute mode.
    pub compute_mode: MpsComputeMode,
}

impl Default for MpsConfig {
    /// No limits, normal priority, for the caller alone, compute mode EXCLUSIVE_PROCESS.
    fn default() -> Self {
        Self {
            thread_percentage: ThreadPercentage::FULL,
            pinned_memory_limit: None,
            max_clients: None,
            priority: Priority::Normal,
            access: Access::Caller,
            compute_mode: MpsComputeMode::ExclusiveProcess,
        }
    }
}

/// A mode with its parameters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Parameters {
    /// `exclusive`: there are none.
    Exclusive,
    /// `time_sliced`.
    TimeSliced(TimeSlicing),
    /// `mps`.
    Mps(MpsConfig),
    /// `mig`: the layout is in the driver.
    Mig,
}

impl Parameters {
    /// The mode they belong to.
    pub const fn mode(&self) -> Mode {
        match self {
            Self::Exclusive => Mode::Exclusive,
            Self::TimeSliced(_) => Mode::TimeSliced,
            Self::Mps(_) => Mode::Mps,
            Self::Mig => Mode::Mig,
        }
    }
}
