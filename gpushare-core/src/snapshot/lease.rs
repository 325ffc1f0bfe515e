//! Leases as they were observed.

use serde::{Deserialize, Serialize};

use crate::id::Pid;
use crate::units::{Bytes, ThreadPercentage};

/// The variable by which a process of a lease can be told: the ids of its shares, with commas between.
pub const SHARES_VARIABLE: &str = "GPUSHARE_SHARES";
/// The variable with the name of the lease.
pub const LEASE_VARIABLE: &str = "GPUSHARE_LEASE";

/// What a lease asks of its tenant beside the share itself.
///
/// Declared: the tenant's environment says so. Where the server's own ceiling is as low, the server
/// holds it to that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeaseTerms {
    /// The share of threads of an MPS client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thread_percentage: Option<ThreadPercentage>,
    /// The device memory of an MPS client, its CUDA context included.
    #[serde(
        default,
        rename = "pinned_memory_limit_bytes",
        skip_serializing_if = "Option::is_none"
    )]
    pub pinned_memory_limit: Option<Bytes>,
}

impl LeaseTerms {
    /// Whether nothing is asked.
    pub const fn is_empty(&self) -> bool {
        self.thread_percentage.is_none() && self.pinned_memory_limit.is_none()
    }
}

/// A lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct LeaseStatus {
    /// Its name, which all shares of one lease have; none where nothing was noted of it.
    pub name: Option<String>,
    /// When it began, in seconds since 1970, as its taker said.
    pub since: Option<u64>,
    /// What it asks of its tenant.
    pub terms: LeaseTerms,
    /// The process for which it is held, where that is not the holder itself.
    pub for_pid: Option<Pid>,
    /// Whether the process that took it is gone or has released it, and others hold on to it.
    pub inherited: bool,
}
