//! What a control daemon answers.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mode::Priority;
use crate::terminal::printable;
use crate::units::{Bytes, ThreadPercentage};

use super::command::Command;

/// `CUDA_SUCCESS` and `CUDA_ERROR_INVALID_CONTEXT`, as `terminate_client` prints them.
const CUDA_SUCCESS: &str = "0";
const CUDA_UNKNOWN_CLIENT: &str = "201";
/// How much of an answer stands in an error.
const MOST_QUOTED: usize = 300;

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
    /// The percentage that is in force, rounded to one decimal: daemons show no more.
    Percentage(ThreadPercentage),
    /// The memory limit that is in force, rounded down to whole GiB where it is one or more:
    /// daemons show no more (measured on drivers 535 to 555: 1,025 MiB are shown as `1G`).
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
///
/// A client gives itself its name, line ends included, and so can forge rows: what matters is to be
/// asked for with [`Command::Clients`].
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

impl Reply {
    /// The value in what a daemon answered to a command.
    ///
    /// # Errors
    /// UNSUPPORTED where the daemon does not know the command; PERMISSION_DENIED where it
    /// refused; NOT_FOUND for a server, client or device that it does not have; MPS for anything
    /// that is not understood, with what it was.
    pub fn parse(command: &Command, records: &[String]) -> Result<Self> {
        let lines: Vec<&str> = records
            .iter()
            .flat_map(|record| record.split('\n'))
            .map(|line| line.trim_matches(['\0', '\r', ' ', '\t']))
            .filter(|line| !line.is_empty())
            .collect();
        if let (Some(first), false) = (lines.first(), nobody(command, &lines)) {
            refused(command, first)?;
        }
        let parsed = match command {
            Command::Servers | Command::Clients { .. } => {
                lines.iter().map(|line| pid(line)).collect::<Option<_>>().map(Self::Pids)
            }
            Command::ServerStatus { .. } => one(&lines).and_then(status).map(Self::Status),
            Command::DeviceClients { .. } => device_clients(&lines).map(Self::DeviceClients),
            Command::Processes => processes(&lines).map(Self::Clients),
            Command::Devices => devices(&lines).map(Self::Devices),
            Command::DefaultThreadPercentage
            | Command::SetDefaultThreadPercentage(_)
            | Command::ThreadPercentage { .. }
            | Command::SetThreadPercentage { .. } => {
                one(&lines).and_then(percentage).map(Self::Percentage)
            }
            Command::DefaultMemoryLimit { .. } | Command::MemoryLimit { .. } => {
                memory_limit(&lines).map(Self::MemoryLimit)
            }
            Command::DefaultPriority => match one(&lines) {
                Some("0") => Some(Self::Priority(Priority::Normal)),
                Some("1") => Some(Self::Priority(Priority::BelowNormal)),
                _ => None,
            },
            Command::TerminateClient { .. } => match lines.last() {
                Some(&CUDA_SUCCESS) => Some(Self::Done),
                _ => None,
            },
            Command::StartServer { .. }
            | Command::SetDefaultMemoryLimit { .. }
            | Command::SetMemoryLimit { .. }
            | Command::SetDefaultPriority(_)
            | Command::ShutdownServer { .. }
            | Command::Quit { .. } => lines.is_empty().then_some(Self::Done),
        };
        parsed.ok_or_else(|| not_understood(command, &lines))
    }

    /// A server's or client's processes.
    ///
    /// # Errors
    /// MPS, as for each of these, where it is another answer.
    pub fn pids(self) -> Result<Vec<Pid>> {
        match self {
            Self::Pids(pids) => Ok(pids),
            other => Err(other.mismatch("a list of processes")),
        }
    }

    /// How a server is.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn status(self) -> Result<ServerStatus> {
        match self {
            Self::Status(status) => Ok(status),
            other => Err(other.mismatch("the status of a server")),
        }
    }

    /// A percentage.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn percentage(self) -> Result<ThreadPercentage> {
        match self {
            Self::Percentage(percentage) => Ok(percentage),
            other => Err(other.mismatch("a thread percentage")),
        }
    }

    /// A memory limit; none where there is none.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn memory_limit(self) -> Result<Option<Bytes>> {
        match self {
            Self::MemoryLimit(limit) => Ok(limit),
            other => Err(other.mismatch("a memory limit")),
        }
    }

    /// A priority.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn priority(self) -> Result<Priority> {
        match self {
            Self::Priority(priority) => Ok(priority),
            other => Err(other.mismatch("a priority")),
        }
    }

    /// Clients of every server.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn clients(self) -> Result<Vec<Client>> {
        match self {
            Self::Clients(clients) => Ok(clients),
            other => Err(other.mismatch("a list of clients")),
        }
    }

    /// Clients by device.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn device_clients(self) -> Result<Vec<DeviceClients>> {
        match self {
            Self::DeviceClients(clients) => Ok(clients),
            other => Err(other.mismatch("a list of clients by device")),
        }
    }

    /// Devices.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn devices(self) -> Result<Vec<Device>> {
        match self {
            Self::Devices(devices) => Ok(devices),
            other => Err(other.mismatch("a list of devices")),
        }
    }

    /// That it was done.
    ///
    /// # Errors
    /// MPS where it is another answer.
    pub fn done(self) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            other => Err(other.mismatch("nothing")),
        }
    }

    fn mismatch(&self, wanted: &str) -> Error {
        let found = quoted(&format!("{self:?}"));
        Error::new(ErrorCode::Mps, format!("an MPS daemon was to answer {wanted}: it was {found}"))
    }
}

/// Whether the answer says that there is no server and therefore no client.
fn nobody(command: &Command, lines: &[&str]) -> bool {
    *command == Command::Processes && lines == ["Server not found"]
}

/// The error of an answer that refuses the command.
fn refused(command: &Command, first: &str) -> Result<()> {
    let text = command.text();
    let said = quoted(first);
    let starts = |words: &[&str]| words.iter().any(|word| first.starts_with(word));
    if starts(&["Unknown command"]) {
        let known = command.feature().map_or_else(String::new, |feature| {
            format!("; the daemon of driver {} knows it", feature.since())
        });
        return Err(Error::new(
            ErrorCode::Unsupported,
            format!("this MPS daemon does not know `{text}`{known}: it said {said}"),
        ));
    }
    if starts(&["Insufficient privileges", "Not enough privilege"]) {
        return Err(Error::new(
            ErrorCode::PermissionDenied,
            format!("the MPS daemon refused `{text}`: it said {said}"),
        )
        .with_needs(vec!["root, or the user that started the daemon".to_owned()]));
    }
    if first.starts_with("Server ") && first.contains("not found")
        || starts(&["Server not found", "Invalid process", "Invalid device ordinal"])
    {
        return Err(Error::new(
            ErrorCode::NotFound,
            format!("the MPS daemon has nothing of what `{text}` names: it said {said}"),
        ));
    }
    match command {
        Command::TerminateClient { server, client } if first == CUDA_UNKNOWN_CLIENT => {
            Err(Error::new(
                ErrorCode::NotFound,
                format!(
                    "process {client} is no client of the MPS server {server}: `{text}` answered {said}"
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn not_understood(command: &Command, lines: &[&str]) -> Error {
    let text = command.text();
    let starts =
        matches!(command, Command::ThreadPercentage { .. } | Command::SetThreadPercentage { .. });
    if lines.is_empty() && starts {
        return Error::new(
            ErrorCode::InvalidState,
            format!(
                "the MPS daemon answered nothing to `{text}`, as it does while the server starts; \
                 try again when the server is active"
            ),
        );
    }
    let message = match (lines, command) {
        ([], _) => format!("the MPS daemon answered nothing to `{text}`"),
        (_, Command::TerminateClient { .. }) => format!(
            "the MPS daemon failed to end the client: `{text}` answered the CUDA error {}",
            quoted(&lines.join(" "))
        ),
        _ => format!(
            "the MPS daemon answered `{text}` with what gpushare does not understand: {}",
            quoted(&lines.join(" | "))
        ),
    };
    Error::new(ErrorCode::Mps, message)
}

/// Text from outside for a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(MOST_QUOTED).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("\"{}{more}\"", printable(&short))
}

fn one<'a>(lines: &[&'a str]) -> Option<&'a str> {
    match lines {
        [line] => Some(line),
        _ => None,
    }
}

/// A whole number in digits alone: Rust's parser takes a sign too.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn pid(text: &str) -> Option<Pid> {
    number(text).filter(|pid| *pid > 0).map(Pid::new)
}

fn status(text: &str) -> Option<ServerStatus> {
    match text {
        "INITIALIZING" => Some(ServerStatus::Initializing),
        "ACTIVE" => Some(ServerStatus::Active),
        "FAULT" => Some(ServerStatus::Fault),
        _ => None,
    }
}

fn percentage(text: &str) -> Option<ThreadPercentage> {
    let plain = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let percent = plain.then(|| text.parse().ok()).flatten()?;
    ThreadPercentage::new(percent).ok()
}

/// `4G`, `512M`, or nothing where there is no limit.
fn memory_limit(lines: &[&str]) -> Option<Option<Bytes>> {
    let text = match lines {
        [] => return Some(None),
        [text] if text.starts_with("No default pinned memory limit") => return Some(None),
        [text] => *text,
        _ => return None,
    };
    let (digits, shift) = text
        .strip_suffix('G')
        .map(|digits| (digits, 30))
        .or_else(|| text.strip_suffix('M').map(|digits| (digits, 20)))?;
    let limit: u64 = number(digits)?;
    Some(Some(Bytes::new(limit.checked_mul(1 << shift)?)))
}

/// ```text
/// [0] 00:00.0, NVIDIA H200
/// 441.1
/// ```
/// A client's line is its pid, and from some driver on a point and a number.
fn device_clients(lines: &[&str]) -> Option<Vec<DeviceClients>> {
    let mut devices: Vec<DeviceClients> = Vec::new();
    for line in lines {
        if let Some(head) = line.strip_prefix('[') {
            let device = number(head.split(']').next()?)?;
            devices.push(DeviceClients { device, clients: Vec::new() });
        } else {
            let client = pid(line.split('.').next()?)?;
            let clients = &mut devices.last_mut()?.clients;
            if !clients.contains(&client) {
                clients.push(client);
            }
        }
    }
    Some(devices)
}

/// ```text
/// PID       ID        SERVER         DEVICE                    NAMESPACE      COMMAND
/// 442       2         422            GPU-8f3b98ec-0635-dff0    4026531836     python3
/// ```
fn processes(lines: &[&str]) -> Option<Vec<Client>> {
    let Some((head, rows)) = lines.split_first() else { return Some(Vec::new()) };
    if nobody(&Command::Processes, lines) {
        return Some(Vec::new());
    }
    let heads: Vec<&str> = head.split_whitespace().collect();
    if heads != ["PID", "ID", "SERVER", "DEVICE", "NAMESPACE", "COMMAND"] {
        return None;
    }
    let mut clients: Vec<Client> = Vec::new();
    for row in rows {
        match (client(row), clients.last_mut()) {
            (Some(client), _) => clients.push(client),
            // The name of the client before it has a line end.
            (None, Some(before)) => {
                before.command.push(' ');
                before.command.push_str(row);
            }
            (None, None) => return None,
        }
    }
    Some(clients)
}

fn client(row: &str) -> Option<Client> {
    let mut rest = row;
    let mut column = || {
        let (column, after) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        rest = after.trim_start();
        column
    };
    Some(Client {
        pid: pid(column())?,
        id: number(column())?,
        server: pid(column())?,
        device: column().to_owned(),
        namespace: number(column())?,
        command: rest.to_owned(),
    })
}

/// ```text
/// Default
/// Device Ordinal,PCI IDs,UUID,Name,Attributes
/// 0,0000:00.06.00,GPU-8f3b98ec-0635-dff0-ff24-353df283557b,NVIDIA H200,N/A
/// ```
/// and the same for each server, under `Server PID`.
fn devices(lines: &[&str]) -> Option<Vec<Device>> {
    let mut devices = Vec::new();
    let mut of: Option<Option<Pid>> = None;
    for line in lines {
        if *line == "Default" {
            of = Some(None);
        } else if let Some(server) = line.strip_prefix("Server ") {
            of = Some(Some(pid(server)?));
        } else if *line != "Device Ordinal,PCI IDs,UUID,Name,Attributes" {
            let mut columns = line.splitn(4, ',');
            let ordinal = number(columns.next()?)?;
            let (_pci, uuid) = (columns.next()?, columns.next()?);
            let (name, _attributes) = columns.next()?.rsplit_once(',')?;
            let (uuid, name) = (uuid.to_owned(), name.to_owned());
            devices.push(Device { ordinal, uuid, name, server: of? });
        }
    }
    of.is_some().then_some(devices)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::fake;
    use super::*;

    const GPU: &str = "GPU-8f3b98ec-0635-dff0-ff24-353df283557b";

    fn ask(command: &Command, text: &str) -> Result<Reply> {
        Reply::parse(command, &[text.to_owned()])
    }

    fn pids(numbers: &[u32]) -> Vec<Pid> {
        numbers.iter().copied().map(Pid::new).collect()
    }

    /// Answers with the shape that driver 580 gave on an H200.
    #[test]
    fn answers_of_a_real_daemon_are_understood() {
        let server = Pid::new(422);
        let found = ask(&Command::Clients { server }, "442\n441\n").unwrap();
        assert_eq!(found.pids().unwrap(), pids(&[442, 441]));
        // Several records are the same as several lines.
        let records = ["442".to_owned(), "441".to_owned()];
        let found = Reply::parse(&Command::Servers, &records).unwrap();
        assert_eq!(found.pids().unwrap(), pids(&[442, 441]));
        let found = ask(&Command::ServerStatus { server }, "ACTIVE\0").unwrap();
        assert_eq!(found.status().unwrap(), ServerStatus::Active);
        let list = "[0] 00:00.0, NVIDIA H200\n441.1\n442.1\n441.2\n[1] 00:00.0, NVIDIA H200\n";
        let found = ask(&Command::DeviceClients { server: None }, list).unwrap();
        let by_device = [
            DeviceClients { device: 0, clients: pids(&[441, 442]) },
            DeviceClients { device: 1, clients: vec![] },
        ];
        assert_eq!(found.device_clients().unwrap(), by_device);
        let list = "PID       ID        SERVER         DEVICE                    NAMESPACE      COMMAND        \n\
                    442       2         422            GPU-8f3b98ec-0635-dff0    4026531836     python3        \n\
                    441       3         422            GPU-8f3b98ec-0635-dff0    4026531836     my job 1       \n";
        let clients = ask(&Command::Processes, list).unwrap().clients().unwrap();
        let first = Client {
            pid: Pid::new(442),
            id: 2,
            server,
            device: "GPU-8f3b98ec-0635-dff0".to_owned(),
            namespace: 4_026_531_836,
            command: "python3".to_owned(),
        };
        assert_eq!(clients[0], first);
        assert_eq!((clients[1].id, clients[1].command.as_str()), (3, "my job 1"));
        let list = format!(
            "Default\nDevice Ordinal,PCI IDs,UUID,Name,Attributes\n0,0000:00.06.00,{GPU},NVIDIA H200,N/A\n\n\
             Server 422\nDevice Ordinal,PCI IDs,UUID,Name,Attributes\n0,0000:00.06.00,{GPU},NVIDIA, H200,N/A\n"
        );
        let devices = ask(&Command::Devices, &list).unwrap().devices().unwrap();
        let device = |name: &str, server| Device {
            ordinal: 0,
            uuid: GPU.to_owned(),
            name: name.to_owned(),
            server,
        };
        assert_eq!(devices, [device("NVIDIA H200", None), device("NVIDIA, H200", Some(server))]);
    }

    #[test]
    fn values_are_read_in_the_form_in_which_daemons_show_them() {
        let limit = |text: &str| ask(&Command::DefaultMemoryLimit { device: 0 }, text);
        for (text, bytes) in [
            ("4G", Some(4 << 30)),
            ("512M", Some(512 << 20)),
            ("17179869183G", Some(17_179_869_183 << 30)),
            ("", None),
            ("No default pinned memory limit set for the device!", None),
        ] {
            let found = limit(text).unwrap().memory_limit().unwrap();
            assert_eq!(found, bytes.map(Bytes::new), "{text}");
        }
        for text in ["4", "G", "-1G", "+1G", "1.5G", "4X", "17179869184G", "4G\n5G", "4 G"] {
            assert_eq!(limit(text).unwrap_err().code(), ErrorCode::Mps, "{text}");
        }
        let percentage = |text: &str| ask(&Command::DefaultThreadPercentage, text);
        assert_eq!(percentage("33.3").unwrap().percentage().unwrap().get(), 33.3);
        for text in ["", "0.0", "101.0", "-1", "nan", "inf", "1e1", "25.0\n25.0", "."] {
            assert_eq!(percentage(text).unwrap_err().code(), ErrorCode::Mps, "{text}");
        }
        for (text, priority) in [("0", Priority::Normal), ("1", Priority::BelowNormal)] {
            let found = ask(&Command::DefaultPriority, text).unwrap();
            assert_eq!(found.priority().unwrap(), priority);
        }
        assert!(ask(&Command::DefaultPriority, "2").is_err());
    }

    #[test]
    fn refusals_have_their_codes() {
        let server = Pid::new(1);
        let client = Pid::new(7);
        let terminate = Command::TerminateClient { server, client };
        for (command, text, code) in [
            (Command::Processes, "Unknown command \"ps\"", ErrorCode::Unsupported),
            (Command::Servers, "Unknown command \"x\"", ErrorCode::Unsupported),
            (Command::Clients { server }, "Server 1 not found", ErrorCode::NotFound),
            (Command::MemoryLimit { server, device: 0 }, "Server 1 not found", ErrorCode::NotFound),
            (
                Command::Quit { timeout: None },
                "Not enough privilege to execute quit command",
                ErrorCode::PermissionDenied,
            ),
            (
                Command::SetDefaultPriority(Priority::Normal),
                "Insufficient privileges for UID 0. Control deamon settings can only be modified \
                 by the user started it or by the root user.",
                ErrorCode::PermissionDenied,
            ),
            (
                Command::SetDefaultPriority(Priority::Normal),
                "Invalid priority value - must be 0 or 1!",
                ErrorCode::Mps,
            ),
            (
                Command::SetDefaultMemoryLimit { device: 99, limit: None },
                "Invalid device ordinal!",
                ErrorCode::NotFound,
            ),
            (terminate.clone(), "201", ErrorCode::NotFound),
            (terminate.clone(), "Server 1 not found\nServer 1 not found!\n1", ErrorCode::NotFound),
            (terminate.clone(), "Server 1 not found!\n1", ErrorCode::NotFound),
            (terminate.clone(), "1", ErrorCode::Mps),
            (terminate.clone(), "", ErrorCode::Mps),
            (Command::StartServer { uid: 0 }, "1234", ErrorCode::Mps),
            (Command::ServerStatus { server }, "SLEEPING", ErrorCode::Mps),
            (Command::Servers, "-5", ErrorCode::Mps),
            (Command::Servers, "0", ErrorCode::Mps),
            (Command::Devices, "", ErrorCode::Mps),
            (Command::ThreadPercentage { server }, "", ErrorCode::InvalidState),
        ] {
            let error = ask(&command, text).unwrap_err();
            assert_eq!(error.code(), code, "{command:?} {text:?}: {error}");
        }
        assert_eq!(ask(&terminate, "0").unwrap(), Reply::Done);
        let unknown = ask(&Command::Processes, "Unknown command \"ps\"").unwrap_err().to_string();
        assert!(unknown.contains("`ps`") && unknown.contains("535"), "{unknown}");
        // No server, no clients.
        assert_eq!(ask(&Command::Processes, "Server not found").unwrap(), Reply::Clients(vec![]));
    }

    #[test]
    fn a_client_cannot_make_the_list_unreadable_by_its_name() {
        let list = "PID ID SERVER DEVICE NAMESPACE COMMAND\n442 2 422 GPU-1 4 a\nUnknown command\n\
                    443 3 422 GPU-1 4 b\n";
        let clients = ask(&Command::Processes, list).unwrap().clients().unwrap();
        let names: Vec<_> = clients.iter().map(|client| client.command.as_str()).collect();
        assert_eq!(names, ["a Unknown command", "b"]);
    }

    proptest! {
        #[test]
        fn any_answer_is_a_value_or_a_short_error(
            command in fake::any_command(),
            records in prop::collection::vec(fake::any_answer(), 0..4),
        ) {
            if let Err(error) = Reply::parse(&command, &records) {
                let text = error.to_string();
                prop_assert!(text.chars().count() < 900, "{text}");
                prop_assert!(!text.contains(char::is_control), "{text:?}");
            }
        }

        #[test]
        fn an_answer_of_another_kind_is_no_value(command in fake::any_command()) {
            let mut daemon = fake::Daemon::new();
            if let Ok(reply) = daemon.run(&command) {
                let taken = [
                    reply.clone().pids().is_ok(),
                    reply.clone().status().is_ok(),
                    reply.clone().percentage().is_ok(),
                    reply.clone().memory_limit().is_ok(),
                    reply.clone().priority().is_ok(),
                    reply.clone().clients().is_ok(),
                    reply.clone().device_clients().is_ok(),
                    reply.clone().devices().is_ok(),
                    reply.done().is_ok(),
                ];
                prop_assert_eq!(taken.iter().filter(|taken| **taken).count(), 1);
            }
        }
    }
}
