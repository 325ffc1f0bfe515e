//! What MPS daemons answer to each command, and what their program prints as help.

use super::{chosen, expect_error};
use crate::error::ErrorCode;
use crate::id::Pid;
use crate::mode::Priority;
use crate::mps::{Command, Dialect, Reply};
use crate::units::{Bytes, ThreadPercentage};

/// What an answer may be refused with.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::Unsupported,
    ErrorCode::PermissionDenied,
    ErrorCode::NotFound,
    ErrorCode::InvalidState,
    ErrorCode::Mps,
];

/// What stands between two records.
const BETWEEN: char = '\x1e';

pub(super) fn feed(data: &[u8]) {
    let (which, rest) = chosen(data);
    let commands = commands();
    let command = &commands[which % commands.len()];
    let text = String::from_utf8_lossy(rest);
    let records: Vec<String> = text.split(BETWEEN).map(str::to_owned).collect();
    let reply = Reply::parse(command, &records);
    match &reply {
        Ok(reply) => expect_of(command, reply, text.len()),
        Err(error) => expect_error(error, REFUSED),
    }
    // Several records are the same as several lines.
    let lines = Reply::parse(command, &[records.join("\n")]);
    match (&reply, &lines) {
        (Ok(one), Ok(other)) => assert_eq!(one, other),
        (Err(one), Err(other)) => assert_eq!(one.to_string(), other.to_string()),
        _ => unreachable!("{reply:?} and {lines:?}"),
    }
    let _ = Dialect::of_help(&text);
}

fn commands() -> Vec<Command> {
    let server = Pid::new(422);
    let percentage = ThreadPercentage::FULL;
    let limit = Some(Bytes::new(1 << 30));
    vec![
        Command::Servers,
        Command::Processes,
        Command::Devices,
        Command::DeviceClients { server: None },
        Command::ServerStatus { server },
        Command::Clients { server },
        Command::DefaultThreadPercentage,
        Command::SetDefaultThreadPercentage(percentage),
        Command::ThreadPercentage { server },
        Command::SetThreadPercentage { server, percentage },
        Command::DefaultMemoryLimit { device: 0 },
        Command::SetDefaultMemoryLimit { device: 0, limit },
        Command::MemoryLimit { server, device: 0 },
        Command::SetMemoryLimit { server, device: 0, limit },
        Command::DefaultPriority,
        Command::SetDefaultPriority(Priority::BelowNormal),
        Command::ShutdownServer { server, force: true },
        Command::StartServer { uid: 0 },
        Command::TerminateClient { server, client: Pid::new(7) },
        Command::Quit { timeout: Some(1) },
    ]
}

/// What holds of an answer that was understood.
fn expect_of(command: &Command, reply: &Reply, length: usize) {
    let pids = |pids: &[Pid]| {
        assert!(pids.iter().all(|pid| pid.get() > 0));
        // A digit and a line end each.
        assert!(pids.len() <= length / 2 + 1);
    };
    match (command, reply) {
        (Command::Servers | Command::Clients { .. }, Reply::Pids(found)) => pids(found),
        (Command::DeviceClients { .. }, Reply::DeviceClients(devices)) => {
            devices.iter().for_each(|device| pids(&device.clients));
        }
        (Command::Processes, Reply::Clients(clients)) => {
            let found: Vec<_> = clients.iter().flat_map(|c| [c.pid, c.server]).collect();
            pids(&found);
            let kept: usize = clients.iter().map(|c| c.command.len() + c.device.len()).sum();
            assert!(kept <= length);
        }
        (Command::Devices, Reply::Devices(devices)) => {
            assert!(devices.iter().map(|d| d.name.len() + d.uuid.len()).sum::<usize>() <= length);
        }
        (
            Command::DefaultThreadPercentage
            | Command::SetDefaultThreadPercentage(_)
            | Command::ThreadPercentage { .. }
            | Command::SetThreadPercentage { .. },
            Reply::Percentage(percentage),
        ) => assert!(percentage.get() > 0.0 && percentage.get() <= 100.0),
        (
            Command::DefaultMemoryLimit { .. } | Command::MemoryLimit { .. },
            Reply::MemoryLimit(limit),
        ) => assert!(limit.is_none_or(|limit| limit.get() % (1 << 20) == 0)),
        (Command::ServerStatus { .. }, Reply::Status(_))
        | (Command::DefaultPriority, Reply::Priority(_))
        | (
            Command::StartServer { .. }
            | Command::SetDefaultMemoryLimit { .. }
            | Command::SetMemoryLimit { .. }
            | Command::SetDefaultPriority(_)
            | Command::ShutdownServer { .. }
            | Command::TerminateClient { .. }
            | Command::Quit { .. },
            Reply::Done,
        ) => {}
        _ => unreachable!("{command:?} answers {reply:?}"),
    }
}
