//! Which of NVIDIA's MPS interfaces a daemon speaks.

use serde::{Deserialize, Serialize};

/// Which of NVIDIA's MPS interfaces a program or daemon speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Dialect {
    /// The commands of the drivers up to 580.
    V2,
    /// The same with static partitions of SMs: from driver 590.
    V2StaticPartitioning,
    /// Named servers and namespaces: from driver 615.
    V3,
}

/// What not every daemon has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Feature {
    /// `ps`: from driver 535 on (470 lacks it).
    ProcessList,
    /// `terminate_client`: from driver 535 on.
    TerminateClient,
    /// Memory limits: from driver 535 on.
    MemoryLimit,
    /// The clients' priority: from driver 535 on.
    Priority,
    /// `get_server_status`: from driver 550 on.
    ServerStatus,
    /// `device_query`: driver 580 has it, 555 does not.
    DeviceQuery,
}
