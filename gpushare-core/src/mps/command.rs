//! What a control daemon is told.

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mode::Priority;
use crate::units::{Bytes, ThreadPercentage};

use super::dialect::Feature;

/// The longest command that is sent, with its end. Daemons take about 4,000 bytes and crash on
/// 4,150 (measured on drivers 470 to 580).
pub(crate) const MOST_TEXT: usize = 1024;
/// The smallest percentage that a daemon shows as more than `0.0`.
const LEAST_PERCENTAGE: f64 = 0.05;

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
    /// How a server is: `Status`. From driver 550 on.
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
    /// The clients of every server: `Clients`. From driver 535 on.
    Processes,
    /// The devices that the daemon serves: `Devices`. Driver 580 has it, 555 does not.
    Devices,
    /// The percentage of servers to come: `Percentage`.
    DefaultThreadPercentage,
    /// Sets it: `Percentage`, the one in force now, which is the old one where the daemon did not
    /// like the new one.
    SetDefaultThreadPercentage(ThreadPercentage),
    /// The percentage of a server: `Percentage`. A server that still starts has none (MPS).
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
    /// Sets it: `Done`, which proves nothing. A device that is not there is no error.
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

impl Command {
    /// The line for the daemon, without an end: in the form that every version understands.
    ///
    /// Memory limits are whole mebibytes with an `M`: of `1.5G` a daemon makes `1M`, of `4K` `4M`,
    /// of `1T` `1M` and of `-1` 17,179,869,183 GiB (measured on driver 580).
    pub fn text(&self) -> String {
        let limit = |limit: &Option<Bytes>| match limit {
            Some(limit) => format!("{}M", limit.get() >> 20),
            None => "0".to_owned(),
        };
        match self {
            Self::Servers => "get_server_list".to_owned(),
            Self::StartServer { uid } => format!("start_server -uid {uid}"),
            Self::ServerStatus { server } => format!("get_server_status {server}"),
            Self::Clients { server } => format!("get_client_list {server}"),
            Self::DeviceClients { server: None } => "get_device_client_list".to_owned(),
            Self::DeviceClients { server: Some(server) } => {
                format!("get_device_client_list {server}")
            }
            Self::Processes => "ps".to_owned(),
            Self::Devices => "device_query --csv".to_owned(),
            Self::DefaultThreadPercentage => "get_default_active_thread_percentage".to_owned(),
            Self::SetDefaultThreadPercentage(percentage) => {
                format!("set_default_active_thread_percentage {percentage}")
            }
            Self::ThreadPercentage { server } => format!("get_active_thread_percentage {server}"),
            Self::SetThreadPercentage { server, percentage } => {
                format!("set_active_thread_percentage {server} {percentage}")
            }
            Self::DefaultMemoryLimit { device } => {
                format!("get_default_device_pinned_mem_limit {device}")
            }
            Self::SetDefaultMemoryLimit { device, limit: to } => {
                format!("set_default_device_pinned_mem_limit {device} {}", limit(to))
            }
            Self::MemoryLimit { server, device } => {
                format!("get_device_pinned_mem_limit {server} {device}")
            }
            Self::SetMemoryLimit { server, device, limit: to } => {
                format!("set_device_pinned_mem_limit {server} {device} {}", limit(to))
            }
            Self::DefaultPriority => "get_default_client_priority".to_owned(),
            Self::SetDefaultPriority(priority) => {
                let number = match priority {
                    Priority::Normal => 0,
                    Priority::BelowNormal => 1,
                };
                format!("set_default_client_priority {number}")
            }
            Self::ShutdownServer { server, force: false } => format!("shutdown_server {server}"),
            Self::ShutdownServer { server, force: true } => format!("shutdown_server {server} -f"),
            Self::TerminateClient { server, client } => {
                format!("terminate_client {server} {client}")
            }
            Self::Quit { timeout: None } => "quit".to_owned(),
            Self::Quit { timeout: Some(seconds) } => format!("quit -t {seconds}"),
        }
    }

    /// Refuses what a daemon would take for something else, before it is sent.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a memory limit of 0 or of no whole number of mebibytes, a percentage
    /// that a daemon shows as 0, a process or device number that a daemon would read as negative.
    pub fn check(&self) -> Result<()> {
        let refuse = |why: String| {
            let command = self.text();
            let command = command.get(..80).unwrap_or(&command);
            Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("the MPS command `{command}` is not sent: {why}"),
            ))
        };
        if let Self::SetDefaultMemoryLimit { limit: Some(limit), .. }
        | Self::SetMemoryLimit { limit: Some(limit), .. } = self
        {
            if limit.get() == 0 {
                return refuse("a limit of 0 bytes would lift the limit; ask for none".to_owned());
            }
            if limit.get() % (1 << 20) != 0 {
                return refuse(format!(
                    "the limit of {limit} is no whole number of MiB, the unit of MPS daemons"
                ));
            }
        }
        if let Self::SetDefaultThreadPercentage(percentage)
        | Self::SetThreadPercentage { percentage, .. } = self
        {
            if percentage.get() < LEAST_PERCENTAGE {
                return refuse(format!(
                    "below {LEAST_PERCENTAGE} percent a daemon shows 0.0; ask for more"
                ));
            }
        }
        let (pids, other) = self.numbers();
        if let Some(pid) =
            pids.into_iter().flatten().map(Pid::get).find(|&p| p == 0 || i32::try_from(p).is_err())
        {
            return refuse(format!("{pid} is no process id"));
        }
        if let Some(number) = other.filter(|&number| i32::try_from(number).is_err()) {
            return refuse(format!("a daemon would read {number} as negative"));
        }
        if self.text().len() + 2 > MOST_TEXT {
            return refuse(format!("it is longer than {MOST_TEXT} bytes"));
        }
        Ok(())
    }

    /// The processes in it, and another number that has to fit C's `int`.
    const fn numbers(&self) -> ([Option<Pid>; 2], Option<u32>) {
        match *self {
            Self::Servers
            | Self::Processes
            | Self::Devices
            | Self::DefaultThreadPercentage
            | Self::SetDefaultThreadPercentage(_)
            | Self::DefaultPriority
            | Self::SetDefaultPriority(_)
            | Self::DeviceClients { server: None } => ([None, None], None),
            Self::StartServer { uid } => ([None, None], Some(uid)),
            Self::Quit { timeout } => ([None, None], timeout),
            Self::DefaultMemoryLimit { device } | Self::SetDefaultMemoryLimit { device, .. } => {
                ([None, None], Some(device))
            }
            Self::MemoryLimit { server, device } | Self::SetMemoryLimit { server, device, .. } => {
                ([Some(server), None], Some(device))
            }
            Self::ServerStatus { server }
            | Self::Clients { server }
            | Self::DeviceClients { server: Some(server) }
            | Self::ThreadPercentage { server }
            | Self::SetThreadPercentage { server, .. }
            | Self::ShutdownServer { server, .. } => ([Some(server), None], None),
            Self::TerminateClient { server, client } => ([Some(server), Some(client)], None),
        }
    }

    /// Whether it changes something. Such a command goes to `control_privileged`, which only root
    /// and the daemon's user can open; on `control` root itself is refused (drivers 550 and later).
    pub const fn privileged(&self) -> bool {
        matches!(
            self,
            Self::StartServer { .. }
                | Self::SetDefaultThreadPercentage(_)
                | Self::SetThreadPercentage { .. }
                | Self::SetDefaultMemoryLimit { .. }
                | Self::SetMemoryLimit { .. }
                | Self::SetDefaultPriority(_)
                | Self::ShutdownServer { .. }
                | Self::TerminateClient { .. }
                | Self::Quit { .. }
        )
    }

    /// Whether saying it twice is the same as saying it once.
    pub(crate) const fn repeatable(&self) -> bool {
        !matches!(
            self,
            Self::StartServer { .. }
                | Self::ShutdownServer { .. }
                | Self::TerminateClient { .. }
                | Self::Quit { .. }
        )
    }

    /// What a daemon must have to understand it; none where every daemon does.
    pub const fn feature(&self) -> Option<Feature> {
        match self {
            Self::ServerStatus { .. } => Some(Feature::ServerStatus),
            Self::Processes => Some(Feature::ProcessList),
            Self::Devices => Some(Feature::DeviceQuery),
            Self::DefaultMemoryLimit { .. }
            | Self::SetDefaultMemoryLimit { .. }
            | Self::MemoryLimit { .. }
            | Self::SetMemoryLimit { .. } => Some(Feature::MemoryLimit),
            Self::DefaultPriority | Self::SetDefaultPriority(_) => Some(Feature::Priority),
            Self::TerminateClient { .. } => Some(Feature::TerminateClient),
            Self::Servers
            | Self::StartServer { .. }
            | Self::Clients { .. }
            | Self::DeviceClients { .. }
            | Self::DefaultThreadPercentage
            | Self::SetDefaultThreadPercentage(_)
            | Self::ThreadPercentage { .. }
            | Self::SetThreadPercentage { .. }
            | Self::ShutdownServer { .. }
            | Self::Quit { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake;
    use super::*;

    proptest! {
        #[test]
        fn a_command_reads_back_from_its_text(command in fake::any_command()) {
            let text = command.text();
            prop_assert!(!text.contains(['\n', '\0', '\r']) && text.is_ascii(), "{text:?}");
            if command.check().is_ok() {
                prop_assert!(text.len() + 2 <= MOST_TEXT);
                prop_assert_eq!(fake::parse(&text), Some(command), "{}", text);
            }
        }

        #[test]
        fn an_accepted_value_means_to_a_daemon_what_it_means_to_us(bytes in any::<u64>(), round: bool) {
            let bytes = if round { bytes & !0xF_FFFF } else { bytes };
            let limit = Some(Bytes::new(bytes));
            let command = Command::SetDefaultMemoryLimit { device: 0, limit };
            let text = command.text();
            let value = text.split(' ').next_back().unwrap();
            match command.check() {
                Ok(()) => prop_assert_eq!(fake::limit(value), Some(bytes >> 20), "{}", text),
                Err(error) => {
                    prop_assert_eq!(error.code(), ErrorCode::InvalidArgument);
                    prop_assert!(bytes == 0 || bytes % (1 << 20) != 0);
                }
            }
        }
    }

    #[test]
    fn what_a_daemon_would_misread_is_not_sent() {
        let pid = Pid::new;
        let tiny = ThreadPercentage::new(f64::MIN_POSITIVE).unwrap();
        for command in [
            Command::Clients { server: pid(0) },
            Command::Clients { server: pid(u32::MAX) },
            Command::TerminateClient { server: pid(1), client: pid(1 << 31) },
            Command::StartServer { uid: u32::MAX },
            Command::Quit { timeout: Some(u32::MAX) },
            Command::MemoryLimit { server: pid(1), device: u32::MAX },
            Command::SetMemoryLimit { server: pid(1), device: 0, limit: Some(Bytes::new(0)) },
            Command::SetDefaultMemoryLimit { device: 0, limit: Some(Bytes::new(1)) },
            Command::SetDefaultThreadPercentage(tiny),
            Command::SetThreadPercentage { server: pid(1), percentage: tiny },
        ] {
            let error = command.check().unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{error}");
            assert!(error.to_string().len() < 300);
        }
        let least = ThreadPercentage::new(LEAST_PERCENTAGE).unwrap();
        Command::SetDefaultThreadPercentage(least).check().unwrap();
    }
}
