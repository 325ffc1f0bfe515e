//! What a control daemon is told.

use crate::id::Pid;
use crate::mode::Priority;
use crate::units::{Bytes, ThreadPercentage};

/// A command of a control daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Command {
    /// The servers that run: [`Reply::Pids`](super::Reply::Pids).
    Servers,
    /// Starts a server for a user now and not with its first client: `Done`, which proves nothing.
    StartServer {
        /// The user.
        uid: u32,
    },
    /// How a server is: `Status`.
    ServerStatus {
        /// The server.
        server: Pid,
    },
    /// The clients of a server: `Pids`.
    Clients {
        /// The server.
        server: Pid,
    },
    /// The clients by device: `DeviceClients`.
    DeviceClients {
        /// Of that server alone.
        server: Option<Pid>,
    },
    /// The clients of every server: `Clients`.
    Processes,
    /// The devices that the daemon serves: `Devices`.
    Devices,
    /// The percentage of servers to come: `Percentage`.
    DefaultThreadPercentage,
    /// Sets it: `Percentage`.
    SetDefaultThreadPercentage(ThreadPercentage),
    /// The percentage of a server: `Percentage`.
    ThreadPercentage {
        /// The server.
        server: Pid,
    },
    /// Sets it, for clients to come: `Percentage`.
    SetThreadPercentage {
        /// The server.
        server: Pid,
        /// The percentage.
        percentage: ThreadPercentage,
    },
    /// The memory limit of servers to come, on a device by its ordinal: `MemoryLimit`.
    DefaultMemoryLimit {
        /// The device's number among those that the daemon sees.
        device: u32,
    },
    /// Sets it: `Done`.
    SetDefaultMemoryLimit {
        /// The device's number among those that the daemon sees.
        device: u32,
        /// The limit; none lifts it.
        limit: Option<Bytes>,
    },
    /// The memory limit of a server: `MemoryLimit`.
    MemoryLimit {
        /// The server.
        server: Pid,
        /// The device's number among those that the daemon sees.
        device: u32,
    },
    /// Sets it, for clients to come: `Done`.
    SetMemoryLimit {
        /// The server.
        server: Pid,
        /// The device's number among those that the daemon sees.
        device: u32,
        /// The limit; none lifts it.
        limit: Option<Bytes>,
    },
    /// The priority of clients to come: `Priority`.
    DefaultPriority,
    /// Sets it: `Done`.
    SetDefaultPriority(Priority),
    /// Ends a server: `Done`.
    ShutdownServer {
        /// The server.
        server: Pid,
        /// Whether it does not wait for its clients.
        force: bool,
    },
    /// Ends a client's use of the GPU: `Done`. Its process lives on with a sticky error.
    TerminateClient {
        /// The server.
        server: Pid,
        /// The client.
        client: Pid,
    },
    /// Ends the daemon: `Done`, which proves nothing.
    Quit {
        /// After that many seconds without regard to clients; none waits for them for ever.
        timeout: Option<u32>,
    },
}
