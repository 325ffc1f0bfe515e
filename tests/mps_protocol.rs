//! What gpushare says to MPS control daemons and understands of their answers, with NVIDIA's own
//! daemons of several drivers.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests fail by panics")]
#![allow(clippy::print_stdout, reason = "times are printed for whoever asks with --nocapture")]

use std::path::Path;
use std::time::{Duration, Instant};

use gpushare_core::ErrorCode;
use gpushare_core::backend::mps::MpsControl;
use gpushare_core::id::Pid;
use gpushare_core::mode::Priority;
use gpushare_core::mps::{Command, Dialect, MpsSetting, MpsSettings, Reply, ServerStatus};
use gpushare_core::units::{Bytes, ThreadPercentage};
use gpushare_tests::mps::{
    Daemon, PATIENCE, Server, each_daemon, each_driver, wait_for, wait_until,
};
use gpushare_tests::nvidia::skipped;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::geteuid;

fn percent(percent: f64) -> ThreadPercentage {
    ThreadPercentage::new(percent).unwrap()
}

fn mebibytes(mebibytes: u64) -> Option<Bytes> {
    Some(Bytes::from_mebibytes(mebibytes))
}

fn start_server(daemon: &Daemon) -> Pid {
    let start = Command::StartServer { uid: geteuid().as_raw() };
    assert_eq!(daemon.control().command(&start).unwrap(), Reply::Done);
    wait_until("a server", || {
        let servers = daemon.control().command(&Command::Servers).unwrap().pids().unwrap();
        servers.first().copied()
    })
}

/// The first driver that has a command, as NVIDIA's programs and tries with them say; none of those
/// that can be had here has `device_query`.
fn since(command: &Command) -> u32 {
    match command.text().split(' ').next().unwrap() {
        "ps" | "terminate_client" => 535,
        name if name.contains("pinned_mem_limit") || name.contains("client_priority") => 535,
        "get_server_status" => 550,
        "device_query" => u32::MAX,
        _ => 470,
    }
}

fn getters(server: Pid) -> Vec<(Command, Result<Reply, ErrorCode>)> {
    vec![
        (Command::Servers, Ok(Reply::Pids(vec![server]))),
        (Command::ServerStatus { server }, Ok(Reply::Status(ServerStatus::Initializing))),
        (Command::Clients { server }, Ok(Reply::Pids(vec![]))),
        (Command::DeviceClients { server: None }, Ok(Reply::DeviceClients(vec![]))),
        (Command::DeviceClients { server: Some(server) }, Ok(Reply::DeviceClients(vec![]))),
        (Command::Processes, Ok(Reply::Clients(vec![]))),
        (Command::Devices, Ok(Reply::Devices(vec![]))),
        (Command::DefaultThreadPercentage, Ok(Reply::Percentage(percent(100.0)))),
        // A server that starts has none.
        (Command::ThreadPercentage { server }, Err(ErrorCode::InvalidState)),
        (Command::DefaultMemoryLimit { device: 0 }, Ok(Reply::MemoryLimit(None))),
        (Command::MemoryLimit { server, device: 0 }, Ok(Reply::MemoryLimit(None))),
        (Command::DefaultPriority, Ok(Reply::Priority(Priority::Normal))),
    ]
}

fn setters(server: Pid) -> Vec<(Command, Result<Reply, ErrorCode>)> {
    let limit = mebibytes(512);
    vec![
        (Command::SetDefaultThreadPercentage(percent(33.3)), Ok(Reply::Percentage(percent(33.3)))),
        (
            Command::SetThreadPercentage { server, percentage: percent(40.0) },
            Err(ErrorCode::InvalidState),
        ),
        (Command::SetDefaultMemoryLimit { device: 0, limit }, Ok(Reply::Done)),
        (Command::SetDefaultMemoryLimit { device: 0, limit: None }, Ok(Reply::Done)),
        (Command::SetMemoryLimit { server, device: 0, limit }, Ok(Reply::Done)),
        (Command::SetDefaultPriority(Priority::BelowNormal), Ok(Reply::Done)),
        (Command::TerminateClient { server, client: Pid::new(1) }, Err(ErrorCode::NotFound)),
    ]
}

fn expect(daemon: &Daemon, control: &MpsControl, list: Vec<(Command, Result<Reply, ErrorCode>)>) {
    for (command, wanted) in list {
        let wanted =
            if since(&command) > daemon.major { Err(ErrorCode::Unsupported) } else { wanted };
        let answer = control.command(&command).map_err(|error| error.code());
        assert_eq!(answer, wanted, "{} on {}", command.text(), daemon.major);
    }
}

#[test]
fn every_command_answers_with_its_value_or_that_it_is_unknown() {
    each_daemon("commands to MPS daemons", Server::Living, |mut daemon| {
        let server = start_server(&daemon);
        expect(&daemon, &daemon.control(), getters(server));
        expect(&daemon, &daemon.control(), setters(server));
        let none = Pid::new(4_999_999);
        let missing = getters(none).into_iter().chain(setters(none)).map(|(command, _)| command);
        let with_server = |command: &Command| command.text().contains(" 4999999");
        let missing: Vec<_> = missing.filter(with_server).collect();
        assert_eq!(missing.len(), 8);
        let ends = [true, false].map(|force| Command::ShutdownServer { server: none, force });
        let missing = missing.into_iter().chain(ends);
        expect(
            &daemon,
            &daemon.control(),
            missing.map(|command| (command, Err(ErrorCode::NotFound))).collect(),
        );
        let end = Command::ShutdownServer { server, force: true };
        assert_eq!(daemon.control().command(&end).unwrap(), Reply::Done);
        wait_for("the server's end", || {
            daemon.control().command(&Command::Servers).unwrap() == Reply::Pids(vec![])
        });
        let quit = Command::Quit { timeout: None };
        assert_eq!(daemon.control().command(&quit).unwrap(), Reply::Done);
        wait_for("the daemon's end", || daemon.ended());
    });
}

#[test]
fn the_program_answers_what_the_socket_answers() {
    each_daemon("nvidia-cuda-mps-control", Server::Living, |mut daemon| {
        assert_eq!(daemon.through_tool().dialect().unwrap(), Dialect::V2);
        let server = start_server(&daemon);
        expect(&daemon, &daemon.through_tool(), getters(server));
        expect(&daemon, &daemon.through_tool(), setters(server));
        for (command, _) in getters(server).into_iter().chain(getters(Pid::new(1))) {
            let answers = [daemon.control(), daemon.through_tool()].map(|control| {
                control.command(&command).map_err(|error| (error.code(), error.to_string()))
            });
            assert_eq!(answers[0], answers[1], "{} on {}", command.text(), daemon.major);
        }
        let quit = Command::Quit { timeout: Some(1) };
        assert_eq!(daemon.through_tool().command(&quit).unwrap(), Reply::Done);
        wait_for("the daemon's end", || daemon.ended());
        let error = daemon.through_tool().command(&Command::Servers).unwrap_err();
        assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
    });
}

/// How long each took, sorted.
fn timed(times: usize, mut what: impl FnMut()) -> Vec<Duration> {
    let mut took: Vec<_> = std::iter::repeat_with(|| {
        let start = Instant::now();
        what();
        start.elapsed()
    })
    .take(times)
    .collect();
    took.sort();
    took
}

#[test]
fn eight_threads_at_once_lose_no_command_and_say_none_twice() {
    const THREADS: usize = 8;
    const EACH: usize = 50;
    each_daemon("MPS daemons under load", Server::Living, |daemon| {
        let control = daemon.control().with_limit(PATIENCE);
        let work = |thread: usize| {
            let mut number = 0;
            timed(EACH, || {
                number += 1;
                let to = percent((thread * EACH + number) as f64 / 10.0);
                if number % 2 == 0 {
                    control
                        .command(&Command::DefaultThreadPercentage)
                        .unwrap()
                        .percentage()
                        .unwrap();
                } else {
                    let set = Command::SetDefaultThreadPercentage(to);
                    assert_eq!(control.command(&set).unwrap(), Reply::Percentage(to));
                }
            })
        };
        let mut took: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        took.sort();
        // The log is written by a thread of its own; the last command tells that it is complete.
        control.command(&Command::DeviceClients { server: None }).unwrap();
        wait_for("the log", || daemon.log().contains("Cmd:get_device_client_list"));
        let log = daemon.log();
        let said = |text: &str| log.lines().filter(|line| line.contains(text)).count();
        assert_eq!(said("Cmd:"), THREADS * EACH + 1, "{}", daemon.major);
        assert_eq!(said("Cmd:set_default_active_thread_percentage"), THREADS * EACH / 2);
        let alone = timed(200, || drop(control.command(&Command::Servers).unwrap()));
        let tool = daemon.through_tool();
        let program = timed(20, || drop(tool.command(&Command::Servers).unwrap()));
        println!(
            "{}: 8 threads p50 {:?} p99 {:?}; alone p50 {:?} p99 {:?}; the program p50 {:?}",
            daemon.major,
            took[took.len() / 2],
            took[took.len() * 99 / 100],
            alone[100],
            alone[198],
            program[10],
        );
    });
}

#[test]
fn a_frozen_daemon_is_a_timeout_and_answers_again_afterwards() {
    each_daemon("frozen MPS daemons", Server::Living, |daemon| {
        let limit = Duration::from_millis(300);
        let address = SocketAddrUnix::new(daemon.directory().join("control")).unwrap();
        let silent = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        rustix::net::connect(&silent, &address).unwrap();
        for control in [daemon.control(), daemon.through_tool()] {
            let start = Instant::now();
            let error = control.with_limit(limit).command(&Command::Servers).unwrap_err();
            assert_eq!(error.code(), ErrorCode::Timeout, "{error}");
            assert!(error.to_string().contains("frozen"), "{error}");
            assert!(start.elapsed() < limit + Duration::from_secs(2), "{:?}", start.elapsed());
        }
        let error = daemon.control().with_limit(limit).pid().unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout);
        drop(silent);
        assert_eq!(daemon.control().command(&Command::Servers).unwrap(), Reply::Pids(vec![]));
    });
}

#[test]
fn sockets_that_a_daemon_left_behind_are_no_daemon() {
    each_daemon("stale sockets of MPS daemons", Server::Living, |mut daemon| {
        daemon.kill();
        assert!(daemon.directory().join("control").exists());
        let nowhere = MpsControl::in_directory("/nonexistent").with_tool(&daemon.tool);
        let controls = [
            daemon.control(),
            daemon.through_tool(),
            nowhere.clone().native_only(),
            nowhere.tool_only(),
        ];
        for control in controls {
            for command in [Command::Servers, Command::Quit { timeout: None }] {
                let error = control.command(&command).unwrap_err();
                assert_eq!(error.code(), ErrorCode::NotFound, "{} {error}", daemon.major);
            }
        }
    });
}

#[test]
fn settings_are_made_and_read_back() {
    each_daemon("settings of MPS daemons", Server::Living, |daemon| {
        for control in [daemon.control(), daemon.through_tool()] {
            let mut run = |command: &Command| control.command(command);
            let before = MpsSettings::read(&mut run).unwrap();
            assert_eq!(before, MpsSettings::UNLIMITED, "{}", daemon.major);
            let old = daemon.major < 535;
            let mut to = before;
            for percentage in [0.05, 0.25, 33.35, 33.3, 99.96, 25.0] {
                to.thread_percentage = percent(percentage);
                for change in before.changes(&to) {
                    MpsSettings::set_default(&change, &mut run).unwrap();
                }
                assert!(to.is_shown_as(&MpsSettings::read(&mut run).unwrap()), "{percentage}");
            }
            for limit in [1, 512, 1023, 1024, 1025, 6144, 143_771, 17_592_186_044_415] {
                let limit = mebibytes(limit);
                let change = MpsSetting::PinnedMemoryLimit { from: None, to: limit };
                let made = MpsSettings::set_default(&change, &mut run);
                if old {
                    assert_eq!(made.unwrap_err().code(), ErrorCode::Unsupported);
                } else {
                    made.unwrap();
                    to.pinned_memory_limit = limit;
                    assert!(to.is_shown_as(&MpsSettings::read(&mut run).unwrap()), "{limit:?}");
                }
            }
            to.priority = if old { Priority::Normal } else { Priority::BelowNormal };
            for change in before.changes(&to) {
                MpsSettings::set_default(&change, &mut run).unwrap();
            }
            for change in before.changes(&to) {
                MpsSettings::set_default(&change.inverse(), &mut run).unwrap();
            }
            assert_eq!(MpsSettings::read(&mut run).unwrap(), before);
        }
    });
}

#[test]
fn a_server_that_does_not_come_up_is_noticed() {
    each_daemon("MPS servers that fail", Server::Failing, |daemon| {
        let start = Command::StartServer { uid: geteuid().as_raw() };
        assert_eq!(daemon.control().command(&start).unwrap(), Reply::Done);
        wait_for("the failure in the log", || daemon.log().contains("exited with status 1"));
        let servers = daemon.control().command(&Command::Servers).unwrap();
        assert_eq!(servers, Reply::Pids(vec![]), "{}", daemon.major);
    });
}

#[test]
fn quit_with_a_timeout_ends_a_daemon_with_a_server() {
    each_daemon("the end of MPS daemons", Server::Living, |mut daemon| {
        start_server(&daemon);
        let quit = Command::Quit { timeout: Some(1) };
        assert_eq!(daemon.control().command(&quit).unwrap(), Reply::Done);
        wait_for("the daemon's end", || daemon.ended());
    });
}

/// Of drivers 470 to 555 none sends such a server more than SIGTERM, and all wait for it for ever.
#[test]
fn quit_does_not_end_a_daemon_whose_server_hangs_and_does_not_hold_us_up() {
    each_daemon("MPS servers that hang", Server::Hanging, |mut daemon| {
        start_server(&daemon);
        let limit = Duration::from_millis(1500);
        let start = Instant::now();
        let quit = Command::Quit { timeout: Some(1) };
        assert_eq!(daemon.control().with_limit(limit).command(&quit).unwrap(), Reply::Done);
        assert!(start.elapsed() < limit + Duration::from_secs(1), "{:?}", start.elapsed());
        assert!(!daemon.ended(), "{} has learnt to end: say so in the documents", daemon.major);
        let error = daemon.control().with_limit(limit / 5).command(&Command::Servers).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout, "{error}");
    });
}

#[test]
fn another_users_daemon_is_not_spoken_to() {
    let test = "another user's MPS daemon";
    if !geteuid().is_root() {
        return skipped(test, "only root starts one");
    }
    each_driver(test, |major, folder: &Path| {
        let daemon = Daemon::start_as(major, folder, Server::Living, Some(65_534));
        for command in [Command::Servers, Command::Quit { timeout: None }] {
            let error = daemon.control().command(&command).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied, "{error}");
            assert!(error.to_string().contains("65534"), "{error}");
        }
        assert!(!daemon.log().contains("Cmd:"));
    });
}
