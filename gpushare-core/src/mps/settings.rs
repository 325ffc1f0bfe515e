//! What a daemon limits: the part of an MPS configuration that the daemon itself holds.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mode::Priority;
use crate::parameters::MpsConfig;
use crate::units::{Bytes, ThreadPercentage};

/// What a daemon gives every client of the servers that it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct MpsSettings {
    /// The share of threads that each client gets at most.
    pub thread_percentage: ThreadPercentage,
    /// The device memory that each client gets at most, its CUDA context included; none for no limit.
    #[serde(rename = "pinned_memory_limit_bytes")]
    pub pinned_memory_limit: Option<Bytes>,
    /// The priority of its clients.
    pub priority: Priority,
}

impl MpsSettings {
    /// What a daemon begins with: no limits, normal priority.
    pub const UNLIMITED: Self = Self {
        thread_percentage: ThreadPercentage::FULL,
        pinned_memory_limit: None,
        priority: Priority::Normal,
    };

    /// The settings that lead from these to those, in the order in which they are made.
    pub fn changes(&self, to: &Self) -> Vec<MpsSetting> {
        let mut changes = Vec::new();
        if self.thread_percentage != to.thread_percentage {
            changes.push(MpsSetting::ThreadPercentage {
                from: self.thread_percentage,
                to: to.thread_percentage,
            });
        }
        if self.pinned_memory_limit != to.pinned_memory_limit {
            changes.push(MpsSetting::PinnedMemoryLimit {
                from: self.pinned_memory_limit,
                to: to.pinned_memory_limit,
            });
        }
        if self.priority != to.priority {
            changes.push(MpsSetting::Priority { from: self.priority, to: to.priority });
        }
        changes
    }

    /// These with one setting changed.
    #[must_use]
    pub const fn with(mut self, change: &MpsSetting) -> Self {
        match *change {
            MpsSetting::ThreadPercentage { to, .. } => self.thread_percentage = to,
            MpsSetting::PinnedMemoryLimit { to, .. } => self.pinned_memory_limit = to,
            MpsSetting::Priority { to, .. } => self.priority = to,
        }
        self
    }
}

impl From<&MpsConfig> for MpsSettings {
    fn from(config: &MpsConfig) -> Self {
        Self {
            thread_percentage: config.thread_percentage,
            pinned_memory_limit: config.pinned_memory_limit,
            priority: config.priority,
        }
    }
}

/// A change of one setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "setting", rename_all = "snake_case")]
#[non_exhaustive]
pub enum MpsSetting {
    /// The share of threads.
    ThreadPercentage {
        /// What it is.
        from: ThreadPercentage,
        /// What it becomes.
        to: ThreadPercentage,
    },
    /// The memory limit.
    PinnedMemoryLimit {
        /// What it is.
        from: Option<Bytes>,
        /// What it becomes.
        to: Option<Bytes>,
    },
    /// The priority.
    Priority {
        /// What it is.
        from: Priority,
        /// What it becomes.
        to: Priority,
    },
}

impl MpsSetting {
    /// The change back.
    #[must_use]
    pub const fn inverse(self) -> Self {
        match self {
            Self::ThreadPercentage { from, to } => Self::ThreadPercentage { from: to, to: from },
            Self::PinnedMemoryLimit { from, to } => Self::PinnedMemoryLimit { from: to, to: from },
            Self::Priority { from, to } => Self::Priority { from: to, to: from },
        }
    }
}

impl fmt::Display for MpsSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let limit = |limit: &Option<Bytes>| limit.map_or("none".to_owned(), |l| l.to_string());
        match self {
            Self::ThreadPercentage { from, to } => {
                write!(f, "thread percentage {to} (was {from})")
            }
            Self::PinnedMemoryLimit { from, to } => {
                write!(f, "pinned memory limit {} (was {})", limit(to), limit(from))
            }
            Self::Priority { from, to } => write!(f, "client priority {to} (was {from})"),
        }
    }
}
