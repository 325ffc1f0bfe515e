//! What a control daemon answers.

use serde::{Deserialize, Serialize};

use crate::id::Pid;
use crate::mode::Priority;
use crate::units::{Bytes, ThreadPercentage};

/// An answer, as a value.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reply {
    /// The command said nothing, or that it was done.
    Done,
    /// Processes.
    Pids(Vec<Pid>),
    /// How a server is.
    Status(ServerStatus),
    /// The percentage that is in force.
    Percentage(ThreadPercentage),
    /// The memory limit that is in force.
    MemoryLimit(Option<Bytes>),
    /// The priority that is in force.
    Priority(Priority),
    /// Clients of every server.
    Clients(Vec<Client>),
    /// Clients by device.
    DeviceClients(Vec<DeviceClients>),
    /// Devices.
    Devices(Vec<Device>),
}

/// How a server is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ServerStatus {
    /// It starts.
    Initializing,
    /// It serves.
    Active,
    /// A client's error has ended its work; it goes when its clients are gone.
    Fault,
}

/// A client in the list of every server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Client {
    /// Its process.
    pub pid: Pid,
    /// The daemon's number for it.
    pub id: u32,
    /// Its server.
    pub server: Pid,
    /// The device's uuid, as far as the daemon prints it: 24 characters.
    pub device: String,
    /// The inode of its pid namespace.
    pub namespace: u64,
    /// The name of its program.
    pub command: String,
}

/// The clients on a device.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct DeviceClients {
    /// The device's number among those that the daemon sees.
    pub device: u32,
    /// The clients.
    pub clients: Vec<Pid>,
}

/// A device that a daemon serves.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Device {
    /// Its number among those that the daemon sees.
    pub ordinal: u32,
    /// Its uuid.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// The server that says so; none for the daemon's own view.
    pub server: Option<Pid>,
}
