//! A control daemon for tests that lies the way the real ones do: it takes text, reads numbers as C
//! does, changes or ignores what it does not like and says nothing about it.

use proptest::prelude::*;

use super::command::Command;
use super::reply::Reply;
use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mode::Priority;
use crate::units::{Bytes, ThreadPercentage};

/// What C's `atof` makes of it, as far as tests go.
fn float(text: &str) -> f64 {
    let digits = text.trim_start_matches('-');
    let end = digits.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(digits.len());
    let value: f64 = digits.get(..end).and_then(|number| number.parse().ok()).unwrap_or(0.0);
    if text.starts_with('-') { -value } else { value }
}

/// The limit that a daemon makes of a value, in MiB; none where it keeps the old one.
///
/// Measured on driver 580: `4G` 4G, `4g` 4G, `4GB` 4G, `4M` 4M, `512` 512M, `512MB` 512M, `1.5G`
/// 1M, `1T` 1M, `4K` 4M, `4X` 4M, `-1` 17179869183G, `0` no limit, empty unchanged.
pub(super) fn limit(value: &str) -> Option<u64> {
    if value.is_empty() {
        return None;
    }
    let negative = value.starts_with('-');
    let rest = value.trim_start_matches('-');
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, unit) = rest.split_at(end);
    let mut number: u64 = digits.get(..16.min(digits.len()))?.parse().unwrap_or(0);
    if matches!(unit.bytes().next(), Some(b'G' | b'g')) {
        number = number.wrapping_mul(1024);
    }
    if negative {
        number = number.wrapping_neg();
    }
    // It is kept in bytes.
    Some(number.wrapping_mul(1 << 20) >> 20)
}

fn shown(mebibytes: u64) -> String {
    match mebibytes {
        0 => String::new(),
        1..1024 => format!("{mebibytes}M"),
        _ => format!("{}G", mebibytes / 1024),
    }
}

/// One daemon with one server and one device.
#[derive(Debug)]
pub(super) struct Daemon {
    percentages: [f64; 2],
    limits: [u64; 2],
    priority: u32,
    /// Whether it is as old as that of driver 470.
    pub(super) old: bool,
    /// Whether it forgets what it is told.
    pub(super) deaf: bool,
}

pub(super) const SERVER: Pid = Pid::new(422);

impl Daemon {
    pub(super) fn new() -> Self {
        let (percentages, limits) = ([100.0; 2], [0; 2]);
        Self { percentages, limits, priority: 0, old: false, deaf: false }
    }

    /// What a line does and answers.
    pub(super) fn say(&mut self, line: &str) -> Vec<String> {
        let words: Vec<&str> = line.split(' ').collect();
        let unknown = || vec![format!("Unknown command \"{}\"", words[0])];
        let new = ["mem_limit", "priority", "ps", "terminate", "status", "device_query"];
        if self.old && new.iter().any(|new| words[0].contains(new)) {
            return unknown();
        }
        // A command with a server names it first.
        let of_server = !words[0].contains("default");
        let word = |place: usize| words.get(place + usize::from(of_server)).copied().unwrap_or("");
        let at = usize::from(of_server);
        let takes_server = words.len() > 1
            && of_server
            && !words[0].starts_with("start")
            && !matches!(words[0], "device_query" | "quit");
        if takes_server && words[1] != SERVER.to_string() {
            return vec![format!("Server {} not found", words[1])];
        }
        let verb = words[0].replace("default_", "");
        match verb.as_str() {
            "set_active_thread_percentage" | "get_active_thread_percentage" => {
                let asked = float(word(1));
                if verb.starts_with("set") && asked > 0.0 && asked <= 100.0 && !self.deaf {
                    self.percentages[at] = asked;
                }
                vec![format!("{:.1}", self.percentages[at])]
            }
            "set_device_pinned_mem_limit" => {
                // A device that is not there is not looked for.
                if let (Some(limit), "0", false) = (limit(word(2)), word(1), self.deaf) {
                    self.limits[at] = limit;
                }
                vec![]
            }
            "get_device_pinned_mem_limit" if word(1) == "0" => {
                vec![shown(self.limits[at])].into_iter().filter(|text| !text.is_empty()).collect()
            }
            "get_device_pinned_mem_limit" => vec![],
            "set_client_priority" => match word(1) {
                "0" | "1" => {
                    if !self.deaf {
                        self.priority = word(1).parse().unwrap();
                    }
                    vec![]
                }
                _ => vec!["Invalid priority value - must be 0 or 1!".to_owned()],
            },
            "get_client_priority" => vec![self.priority.to_string()],
            "get_server_list" => vec![SERVER.to_string()],
            "get_client_list"
            | "get_device_client_list"
            | "shutdown_server"
            | "quit"
            | "start_server" => vec![],
            "get_server_status" => vec!["ACTIVE".to_owned()],
            "ps" => vec!["PID ID SERVER DEVICE NAMESPACE COMMAND".to_owned()],
            "device_query" => {
                vec!["Default\nDevice Ordinal,PCI IDs,UUID,Name,Attributes\n".to_owned()]
            }
            "terminate_client" => vec!["201".to_owned()],
            _ => unknown(),
        }
    }

    /// A command as it goes through the library.
    pub(super) fn run(&mut self, command: &Command) -> Result<Reply> {
        command.check()?;
        Reply::parse(command, &self.say(&command.text()))
    }

    /// The same for lines that the library would not write, to see what would come of them.
    pub(super) fn default_limit(&mut self, value: &str) -> Option<Bytes> {
        self.say(&format!("set_default_device_pinned_mem_limit 0 {value}"));
        let command = Command::DefaultMemoryLimit { device: 0 };
        self.run(&command).and_then(Reply::memory_limit).unwrap()
    }
}

/// The command that a text is, by a reader of its own.
pub(super) fn parse(text: &str) -> Option<Command> {
    let words: Vec<&str> = text.split(' ').collect();
    let pid = |text: &str| text.parse().ok().map(Pid::new);
    let device = |text: &str| text.parse().ok();
    let percentage = |text: &str| text.parse().ok().and_then(|p| ThreadPercentage::new(p).ok());
    let limit = |text: &str| -> Option<Option<Bytes>> {
        match text {
            "0" => Some(None),
            _ => text.strip_suffix('M')?.parse().ok().map(|m| Some(Bytes::from_mebibytes(m))),
        }
    };
    let device_of = |text: &str| device(text);
    Some(match words[..] {
        ["get_server_list"] => Command::Servers,
        ["start_server", "-uid", uid] => Command::StartServer { uid: uid.parse().ok()? },
        ["get_server_status", server] => Command::ServerStatus { server: pid(server)? },
        ["get_client_list", server] => Command::Clients { server: pid(server)? },
        ["get_device_client_list"] => Command::DeviceClients { server: None },
        ["get_device_client_list", server] => Command::DeviceClients { server: Some(pid(server)?) },
        ["ps"] => Command::Processes,
        ["device_query", "--csv"] => Command::Devices,
        ["get_default_active_thread_percentage"] => Command::DefaultThreadPercentage,
        ["set_default_active_thread_percentage", to] => {
            Command::SetDefaultThreadPercentage(percentage(to)?)
        }
        ["get_active_thread_percentage", server] => {
            Command::ThreadPercentage { server: pid(server)? }
        }
        ["set_active_thread_percentage", server, to] => {
            Command::SetThreadPercentage { server: pid(server)?, percentage: percentage(to)? }
        }
        ["get_default_device_pinned_mem_limit", of] => {
            Command::DefaultMemoryLimit { device: device_of(of)? }
        }
        ["set_default_device_pinned_mem_limit", of, to] => {
            Command::SetDefaultMemoryLimit { device: device(of)?, limit: limit(to)? }
        }
        ["get_device_pinned_mem_limit", server, of] => {
            Command::MemoryLimit { server: pid(server)?, device: device(of)? }
        }
        ["set_device_pinned_mem_limit", server, of, to] => {
            Command::SetMemoryLimit { server: pid(server)?, device: device(of)?, limit: limit(to)? }
        }
        ["get_default_client_priority"] => Command::DefaultPriority,
        ["set_default_client_priority", "0"] => Command::SetDefaultPriority(Priority::Normal),
        ["set_default_client_priority", "1"] => Command::SetDefaultPriority(Priority::BelowNormal),
        ["shutdown_server", server] => {
            Command::ShutdownServer { server: pid(server)?, force: false }
        }
        ["shutdown_server", server, "-f"] => {
            Command::ShutdownServer { server: pid(server)?, force: true }
        }
        ["terminate_client", server, client] => {
            Command::TerminateClient { server: pid(server)?, client: pid(client)? }
        }
        ["quit"] => Command::Quit { timeout: None },
        ["quit", "-t", seconds] => Command::Quit { timeout: Some(seconds.parse().ok()?) },
        _ => return None,
    })
}

fn any_pid() -> impl Strategy<Value = Pid> {
    prop_oneof![Just(SERVER), any::<u32>().prop_map(Pid::new), (1..99_999_u32).prop_map(Pid::new)]
}

fn any_limit() -> impl Strategy<Value = Option<Bytes>> {
    prop_oneof![
        Just(None),
        any::<u64>().prop_map(|bytes| Some(Bytes::new(bytes))),
        (1..200_000_u64).prop_map(|m| Some(Bytes::from_mebibytes(m))),
    ]
}

fn any_percentage() -> impl Strategy<Value = ThreadPercentage> {
    prop_oneof![
        (1..=1000_u32).prop_map(|tenths| f64::from(tenths) / 10.0),
        f64::MIN_POSITIVE..=100.0,
        Just(1e-300),
    ]
    .prop_map(|percent| ThreadPercentage::new(percent).unwrap())
}

/// Any command, sensible or not.
pub(super) fn any_command() -> impl Strategy<Value = Command> {
    let numbers = (any_pid(), any_pid(), prop_oneof![0..16_u32, any::<u32>()]);
    (0..21_u32, numbers, any_limit(), any_percentage(), any::<bool>()).prop_map(
        |(which, (server, client, device), limit, percentage, yes)| match which {
            0 => Command::Servers,
            1 => Command::StartServer { uid: device },
            2 => Command::ServerStatus { server },
            3 => Command::Clients { server },
            4 => Command::DeviceClients { server: yes.then_some(server) },
            5 => Command::Processes,
            6 => Command::Devices,
            7 => Command::DefaultThreadPercentage,
            8 => Command::SetDefaultThreadPercentage(percentage),
            9 => Command::ThreadPercentage { server },
            10 => Command::SetThreadPercentage { server, percentage },
            11 => Command::DefaultMemoryLimit { device },
            12 => Command::SetDefaultMemoryLimit { device, limit },
            13 => Command::MemoryLimit { server, device },
            14 => Command::SetMemoryLimit { server, device, limit },
            15 => Command::DefaultPriority,
            16 => Command::SetDefaultPriority(Priority::Normal),
            17 => Command::SetDefaultPriority(Priority::BelowNormal),
            18 => Command::ShutdownServer { server, force: yes },
            19 => Command::TerminateClient { server, client },
            _ => Command::Quit { timeout: yes.then_some(device) },
        },
    )
}

/// Anything, and what looks like an answer.
pub(super) fn any_answer() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[0-9GMK.,:\\[\\] \n-]{0,40}",
        "(PID ID SERVER DEVICE NAMESPACE COMMAND|Default|Server [0-9]{1,12}|\\[[0-9]{1,12})\n\\PC{0,60}",
        "(Unknown command|Insufficient privileges|Server [0-9]* not found)\\PC{0,2000}",
        "\\PC{0,4000}",
    ]
}

/// An error that no daemon of the fake's kind gives: for tests of what is done about it.
pub(super) fn failure() -> Error {
    Error::new(ErrorCode::Timeout, "the daemon does not answer")
}
