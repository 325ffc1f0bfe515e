//! Processes and time of this machine.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::process::{PidfdFlags, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use crate::error::{Error, ErrorCode, Result};
use crate::fork;
use crate::id::Pid;
use crate::port::{Clock, ProcessFacts, Processes, Signal};

/// The longest command that is kept.
const MOST_COMMAND: usize = 200;

/// What is read of `/proc/PID/stat` and `/proc/PID/status`: what we look for stands at the beginning.
const MOST_STAT: u64 = 4096;
/// What is read of a command line. A process may make its own as long as its memory.
const MOST_ARGUMENTS: u64 = 4096;
/// The longest environment that is read. A process may make its own as long as its memory.
const MOST_ENVIRONMENT: u64 = 1 << 20;

/// The beginning of a file of `/proc/PID`.
pub(super) fn read_of(pid: Pid, file: &str, most: u64) -> std::io::Result<Vec<u8>> {
    read_most(Path::new(&format!("/proc/{pid}/{file}")), most)
}

fn read_most(path: &Path, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The first 4 KiB of a process's arguments, each with a NUL; empty where they can't be read.
pub(super) fn arguments(pid: Pid) -> Vec<u8> {
    read_of(pid, "cmdline", MOST_ARGUMENTS).unwrap_or_default()
}

/// What a process was started with; none where that can't be read, or is longer than a mebibyte: half
/// of it would say of a variable that it is not there.
pub(super) fn environment_of(pid: Pid) -> Option<Vec<u8>> {
    let bytes = read_of(pid, "environ", MOST_ENVIRONMENT + 1).ok()?;
    (bytes.len() as u64 <= MOST_ENVIRONMENT).then_some(bytes)
}

/// Processes, through `/proc` and pidfds.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemProcesses;

impl SystemProcesses {
    /// The processes of this process's pid namespace.
    pub const fn new() -> Self {
        Self
    }
}

/// What the kernel's `/proc/PID/stat` says, as far as it is needed.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    name: String,
    state: char,
    parent: u32,
    start_time: u64,
}

impl Stat {
    /// The name stands in brackets and may itself hold brackets, spaces and newlines: it ends at
    /// the last closing one.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let (_pid, name) = before.split_once('(')?;
        // The field after the name is the third of proc(5); the start time is the 22nd.
        let mut fields = after.split_ascii_whitespace();
        let state = fields.next()?.chars().next()?;
        let parent = fields.next()?.parse().ok()?;
        let start_time = fields.nth(17)?.parse().ok()?;
        Some(Self { name: name.to_owned(), state, parent, start_time })
    }

    fn read(pid: Pid) -> Option<Self> {
        let bytes = read_of(pid, "stat", MOST_STAT).ok()?;
        let stat = Self::parse(&String::from_utf8_lossy(&bytes))?;
        // A zombie has ended: it holds nothing any more, though a signal still reaches its pid. Not
        // so one whose first thread alone has ended.
        let ended = matches!(stat.state, 'Z' | 'X' | 'x') && !Self::has_threads(pid);
        (!ended).then_some(stat)
    }

    fn has_threads(pid: Pid) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
        tasks.flatten().any(|task| {
            let stat = read_most(&task.path().join("stat"), MOST_STAT).unwrap_or_default();
            let stat = Self::parse(&String::from_utf8_lossy(&stat));
            stat.is_some_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
        })
    }
}

/// The effective user in `/proc/PID/status`. The owner of `/proc/PID` is root for processes that
/// may not be dumped, whoever they run as.
fn uid(status: &str) -> Option<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_ascii_whitespace().nth(1)?.parse().ok()
}

/// A command line as it is shown: its arguments with spaces between, at most [`MOST_COMMAND`]
/// characters, and nothing in it that a terminal would obey.
fn command(arguments: &[u8], name: &str) -> String {
    let text = String::from_utf8_lossy(arguments);
    let text = text.trim_end_matches('\0');
    let shown = if text.is_empty() { format!("[{name}]") } else { text.replace('\0', " ") };
    shown.chars().map(|c| if c.is_control() { '?' } else { c }).take(MOST_COMMAND).collect()
}

/// The name of the program that a process runs, unless it is somebody's own: they can give it any name.
fn program(pid: Pid) -> Option<String> {
    let link = format!("/proc/{pid}/exe");
    let name = fs::read_link(&link).ok()?.file_name()?.to_str()?.to_owned();
    let roots = fs::metadata(&link).is_ok_and(|program| program.uid() == 0);
    Some(if roots { name } else { format!("{name}, not root's") })
}

/// The kernel gives the first pid namespace this inode on every machine (`PROC_PID_INIT_INO`).
pub(super) fn in_first_pid_namespace() -> bool {
    const FIRST: u64 = 0xEFFF_FFFC;
    fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == FIRST)
}

impl Processes for SystemProcesses {
    fn facts(&self, pid: Pid) -> Option<ProcessFacts> {
        let stat = Stat::read(pid)?;
        let status = read_of(pid, "status", MOST_STAT).ok()?;
        let arguments = arguments(pid);
        // The pid may have passed to another process between the reads.
        if Stat::read(pid)?.start_time != stat.start_time {
            return self.facts(pid);
        }
        Some(ProcessFacts {
            start_time: stat.start_time,
            command: command(&arguments, &stat.name),
            program: program(pid),
            uid: uid(&String::from_utf8_lossy(&status))?,
            parent: (stat.parent != 0).then(|| Pid::new(stat.parent)),
        })
    }

    fn own_pid(&self) -> Pid {
        Pid::new(std::process::id())
    }

    fn own_start_time(&self) -> Option<u64> {
        // No lock: a forked child would wait for a thread that it does not have. What is read between
        // the two writes is of the process before, which has another number.
        static OF: AtomicU64 = AtomicU64::new(0);
        static KNOWN: AtomicU64 = AtomicU64::new(0);
        let pid = self.own_pid();
        let this = fork::generation() << 32 | u64::from(pid.get());
        if OF.load(Ordering::Acquire) == this {
            return Some(KNOWN.load(Ordering::Relaxed));
        }
        let start_time = Stat::read(pid)?.start_time;
        KNOWN.store(start_time, Ordering::Relaxed);
        OF.store(this, Ordering::Release);
        Some(start_time)
    }

    fn own_uid(&self) -> u32 {
        rustix::process::geteuid().as_raw()
    }

    fn caller_uid(&self) -> u32 {
        caller(self.own_uid(), environment("SUDO_UID").as_deref())
    }

    fn environment(&self, pid: Pid, names: &[&str]) -> Option<Vec<(String, String)>> {
        let bytes = environment_of(pid)?;
        let entries = bytes.split(|byte| *byte == 0).map(String::from_utf8_lossy);
        let pairs = entries.filter_map(|entry| {
            let (name, value) = entry.split_once('=')?;
            names.contains(&name).then(|| (name.to_owned(), value.to_owned()))
        });
        Some(pairs.collect())
    }

    fn in_first_pid_namespace(&self) -> bool {
        in_first_pid_namespace()
    }

    /// A pidfd holds the process, so the start time that is read after it was opened is that of
    /// the process that the signal goes to. One that has ended meanwhile needs no signal.
    fn signal(&self, pid: Pid, start_time: u64, signal: Signal) -> Result<()> {
        let failed = |doing: &str, error: rustix::io::Errno| {
            let code = match error {
                rustix::io::Errno::PERM => ErrorCode::PermissionDenied,
                rustix::io::Errno::NOSYS => ErrorCode::Unsupported,
                _ => ErrorCode::Io,
            };
            Error::new(code, format!("cannot {doing} process {pid}: {error}"))
                .with_source(std::io::Error::from(error))
        };
        let raw = i32::try_from(pid.get()).ok().and_then(rustix::process::Pid::from_raw);
        let Some(raw) = raw else {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{pid} is no process that can be signalled"),
            ));
        };
        let process = match pidfd_open(raw, PidfdFlags::empty()) {
            Ok(process) => process,
            Err(rustix::io::Errno::SRCH) => return Ok(()),
            Err(error) => return Err(failed("hold", error)),
        };
        if Stat::read(pid).is_none_or(|stat| stat.start_time != start_time) {
            return Ok(());
        }
        let signal = match signal {
            Signal::Terminate => rustix::process::Signal::TERM,
            Signal::Kill => rustix::process::Signal::KILL,
        };
        match pidfd_send_signal(&process, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(failed("signal", error)),
        }
    }
}

/// A variable, unless this program runs with more rights than its caller.
pub(crate) fn environment(name: &str) -> Option<OsString> {
    if has_more_rights_than_its_caller() {
        return None;
    }
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// What the kernel told the dynamic linker, AT_SECURE: set-id, or file capabilities. Such a process
/// often may not read its own auxiliary vector; then it has them.
fn has_more_rights_than_its_caller() -> bool {
    const AT_SECURE: usize = 23;
    const WORD: usize = size_of::<usize>();
    let Ok(vector) = fs::read("/proc/self/auxv") else { return true };
    let word = |bytes: &[u8]| bytes.try_into().map(usize::from_ne_bytes).unwrap_or(AT_SECURE);
    vector
        .chunks_exact(2 * WORD)
        .map(|pair| pair.split_at(WORD))
        .any(|(key, value)| word(key) == AT_SECURE && word(value) != 0)
}

/// The user behind a process: root's caller, whom sudo names, or the user of the process itself.
fn caller(own: u32, sudo: Option<&OsStr>) -> u32 {
    let named = || sudo?.to_str()?.parse().ok().filter(|&uid| uid != u32::MAX);
    if own == 0 { named().unwrap_or(own) } else { own }
}

/// The machine's clocks, its boot, and the load of NVIDIA's module.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemClock;

impl SystemClock {
    /// The clock of this machine.
    pub const fn new() -> Self {
        Self
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        let now = clock_gettime(ClockId::Monotonic);
        let nanoseconds = u32::try_from(now.tv_nsec).unwrap_or(0);
        Duration::new(u64::try_from(now.tv_sec).unwrap_or(0), nanoseconds)
    }

    fn ticks(&self) -> u64 {
        let now = clock_gettime(ClockId::Boottime);
        let hundredths = now.tv_sec.saturating_mul(100).saturating_add(now.tv_nsec / 10_000_000);
        u64::try_from(hundredths).unwrap_or(0)
    }

    fn unix_time(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }

    fn boot_id(&self) -> Result<String> {
        let path = Path::new("/proc/sys/kernel/random/boot_id");
        let id = fs::read_to_string(path).map_err(|error| Error::io("read", path, error))?;
        Ok(id.trim().to_owned())
    }

    /// sysfs numbers its directories as they come: the inode of the module's is a new one after
    /// every load.
    fn driver_load(&self) -> Option<u64> {
        fs::metadata("/sys/module/nvidia").ok().map(|module| module.ino())
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    fn pid_of(child: &Child) -> Pid {
        Pid::new(child.id())
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let rest = "S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4242 1 2";
        for name in ["sleep", "a) S 1 (b", "tab\tand\nline", ""] {
            let stat = Stat::parse(&format!("12 ({name}) {rest}")).unwrap();
            assert_eq!((stat.name.as_str(), stat.state, stat.parent), (name, 'S', 7));
            assert_eq!(stat.start_time, 4242);
        }
        for text in ["", "12", "12 (x)", "12 (x) S", "12 (x) S 1 2 3"] {
            assert_eq!(Stat::parse(text), None, "{text}");
        }
    }

    #[test]
    fn commands_are_short_and_harmless() {
        assert_eq!(command(b"a\0b c\0", "a"), "a b c");
        assert_eq!(command(b"", "kthread"), "[kthread]");
        assert_eq!(command(b"x\x1b[2J\n", "x"), "x?[2J?");
        assert_eq!(command(&[b'x'; 999], "x").len(), MOST_COMMAND);
        assert_eq!(command(b"\xff", "x"), "\u{fffd}");
    }

    #[test]
    fn no_process_makes_us_read_without_end() {
        let long = "x".repeat(120_000);
        let child = |count: usize| {
            let mut command = Command::new("sleep");
            command.arg("1000").env("WANTED", "1");
            for number in 0..count {
                command.env(format!("LONG{number}"), &long);
            }
            command.spawn().unwrap()
        };
        // It becomes the program a moment after it was spawned.
        let wait = |done: &dyn Fn() -> bool| {
            let start = std::time::Instant::now();
            while !done() && start.elapsed() < Duration::from_secs(5) {
                std::thread::sleep(Duration::from_millis(1));
            }
        };
        let wanted = vec![("WANTED".to_owned(), "1".to_owned())];
        for (count, expected) in [(1, Some(wanted)), (12, None)] {
            let mut child = child(count);
            let look = || SystemProcesses::new().environment(pid_of(&child), &["WANTED"]);
            wait(&|| look() == expected);
            let seen = look();
            child.kill().unwrap();
            child.wait().unwrap();
            assert_eq!(seen, expected);
        }
        let mut command = Command::new("sh");
        command.args(["-c", "read x", &long]);
        let mut child = command.stdin(std::process::Stdio::piped()).spawn().unwrap();
        wait(&|| arguments(pid_of(&child)).len() == 4096);
        let length = arguments(pid_of(&child)).len();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(length, 4096);
    }

    #[test]
    fn the_effective_user_is_the_second() {
        assert_eq!(uid("Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\n"), Some(2));
        assert_eq!(uid("Name:\tx\n"), None);
    }

    #[test]
    fn a_process_is_known_until_it_has_ended() {
        let processes = SystemProcesses::new();
        let own = processes.facts(processes.own_pid()).unwrap();
        assert_eq!(own.uid, processes.own_uid());
        let mut child = sleeper();
        let pid = pid_of(&child);
        let facts = processes.facts(pid).unwrap();
        assert_eq!(facts.parent, Some(processes.own_pid()));
        assert!(facts.start_time >= own.start_time);

        // Another process that had this pid is left alone.
        processes.signal(pid, facts.start_time + 1, Signal::Kill).unwrap();
        assert_eq!(child.try_wait().unwrap(), None);
        processes.signal(pid, facts.start_time, Signal::Terminate).unwrap();
        while processes.facts(pid).is_some() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Now it is a zombie: its pid is still taken, and it counts as gone.
        assert!(Path::new(&format!("/proc/{pid}")).exists());
        processes.signal(pid, facts.start_time, Signal::Kill).unwrap();
        let ended = child.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(15));
        processes.signal(pid, facts.start_time, Signal::Kill).unwrap();
        assert_eq!(processes.facts(pid), None);
    }

    #[test]
    fn sudo_names_the_caller_of_root_alone() {
        let caller = |own, sudo: &str| caller(own, Some(OsStr::new(sudo)));
        assert_eq!((caller(0, "1000"), caller(0, "0"), caller(7, "1000")), (1000, 0, 7));
        for nonsense in ["", "x", "-1", "4294967295", "4294967296", "1000 "] {
            assert_eq!(caller(0, nonsense), 0, "{nonsense:?}");
        }
        assert_eq!(super::caller(0, None), 0);
    }

    #[test]
    fn what_is_no_pid_is_refused() {
        for pid in [0, u32::MAX] {
            let error = SystemProcesses::new().signal(Pid::new(pid), 1, Signal::Kill).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert_eq!(SystemProcesses::new().facts(Pid::new(pid)), None);
        }
    }

    #[test]
    fn time_goes_on_and_the_boot_has_an_id() {
        let clock = SystemClock::new();
        let before = clock.now();
        clock.sleep(Duration::from_millis(2));
        assert!(clock.now() >= before + Duration::from_millis(2));
        assert!(clock.unix_time() > 1_700_000_000);
        assert_eq!(clock.boot_id().unwrap().len(), 36);
    }
}
