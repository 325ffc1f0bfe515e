//! Starting a program that is to outlive us and to have nothing of ours.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::fs::{Mode, OFlags, RawDir, SeekFrom};
use rustix::io::FdFlags;
use rustix::process::{Pid, Signal};

/// What a program is started with.
#[derive(Debug)]
pub(super) struct Launch<'a> {
    /// The program, by its absolute path.
    pub(super) program: &'a Path,
    /// Its arguments.
    pub(super) arguments: Vec<&'a OsStr>,
    /// All of its environment.
    pub(super) environment: Vec<(&'a str, OsString)>,
    /// As root: its group, without any other.
    pub(super) gid: Option<u32>,
}

/// The most that is kept of what the program prints.
const MOST_OUTPUT: u64 = 16 * 1024;

/// A program that was started, and what it prints.
#[derive(Debug)]
pub(super) struct Started {
    /// The process. It is the first of a session and a process group of its own.
    pub(super) child: Child,
    output: File,
}

impl Started {
    /// What it has printed so far, on one line.
    pub(super) fn output(&self) -> String {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = [0; 1024];
        let read = self.output.read_at(&mut bytes, 0).unwrap_or(0);
        let text = String::from_utf8_lossy(bytes.get(..read).unwrap_or_default());
        text.trim_end_matches('\0').split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// Starts a program.
///
/// It stands in `/`, reads nothing, has umask 022, no signal blocked or ignored, the highest limits that
/// it may have, no descriptor but
/// the three of every program, and what it prints goes into memory: a pipe would end a daemon that
/// prints when we are gone. Should this thread end before the program does, it is killed; not so
/// what it left behind on purpose, as a daemon does.
pub(super) fn spawn(launch: &Launch<'_>) -> io::Result<Started> {
    let output = memory()?;
    let mut command = Command::new(launch.program);
    command
        .args(&launch.arguments)
        .env_clear()
        .envs(launch.environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    let root = rustix::process::geteuid().is_root();
    if let Some(gid) = launch.gid.filter(|_| root) {
        command.gid(gid);
    }
    let parent = rustix::process::getpid();
    let prepare = move || prepare(parent, root);
    // SAFETY: between fork and exec only async-signal-safe calls may be made. `prepare` makes
    // system calls alone, on its own stack: it allocates nothing and takes no lock.
    #[allow(unsafe_code, reason = "std has no safe way to run system calls in the child")]
    unsafe {
        command.pre_exec(prepare);
    }
    Ok(Started { child: command.spawn()?, output: File::from(output) })
}

/// A file in memory that does not grow over what is kept.
fn memory() -> io::Result<OwnedFd> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create, seek};
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = memfd_create("gpushare-output", flags)?;
    ftruncate(&file, MOST_OUTPUT)?;
    fcntl_add_seals(&file, SealFlags::GROW | SealFlags::SHRINK)?;
    seek(&file, SeekFrom::Start(0))?;
    Ok(file)
}

/// What the child does before it becomes the program.
fn prepare(parent: Pid, root: bool) -> io::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    if rustix::process::getppid() != Some(parent) {
        // It ended before that.
        return Err(rustix::io::Errno::SRCH.into());
    }
    rustix::process::setsid()?;
    // The sockets' rights, measured: `control` 0666 whatever the umask, `control_privileged` 0755.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    if root {
        rustix::thread::set_thread_groups(&[])?;
    }
    raise_limits();
    reset_signals();
    keep_no_descriptor()
}

/// The limits of our own terminal or job are not for a daemon that serves many: it holds descriptors for
/// each client. What is not allowed stays as it is.
fn raise_limits() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    // Not more: programs that close all descriptors there may be would take minutes.
    const DESCRIPTORS: u64 = 65_536;
    let files = getrlimit(Resource::Nofile);
    let most = files.maximum.unwrap_or(DESCRIPTORS).min(DESCRIPTORS);
    if files.current.is_some_and(|current| current < most) {
        let raised = Rlimit { current: Some(most), maximum: files.maximum };
        let _ = setrlimit(Resource::Nofile, raised);
    }
    for resource in [Resource::Fsize, Resource::As, Resource::Cpu] {
        let Rlimit { maximum, .. } = getrlimit(resource);
        // Only root may raise what is the most.
        if setrlimit(resource, Rlimit { current: None, maximum: None }).is_err() {
            let _ = setrlimit(resource, Rlimit { current: maximum, maximum });
        }
    }
}

/// No signal blocked or ignored: whoever started us may have done either, and the program would keep
/// it. One that ignores SIGCHLD never hears how its servers ended.
fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default disposition runs no code of ours. Signals that cannot be set answer
        // with an error and nothing happens.
        #[allow(unsafe_code, reason = "rustix has no signal dispositions")]
        unsafe {
            libc::signal(signal, libc::SIG_DFL);
        }
    }
    let mut none = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: it writes a whole set to where the pointer leads, which is ours.
    #[allow(unsafe_code, reason = "rustix has no signal masks")]
    unsafe {
        libc::sigemptyset(none.as_mut_ptr());
    }
    // SAFETY: the set was written in the line before, and the old one is not asked for.
    #[allow(unsafe_code, reason = "rustix has no signal masks")]
    unsafe {
        libc::sigprocmask(libc::SIG_SETMASK, none.as_ptr(), std::ptr::null_mut());
    }
}

/// Has every descriptor above the first three closed by exec, not now: std's own, through which it
/// hears that exec failed, must live until then.
///
/// By the list in /proc and not by close_range(2), which kernels before 5.11 lack in this form.
pub(crate) fn keep_no_descriptor() -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let list = rustix::fs::open(c"/proc/self/fd", flags, Mode::empty())?;
    let mut space = [MaybeUninit::uninit(); 4096];
    let mut entries = RawDir::new(&list, &mut space);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let Some(number) = number(entry.file_name().to_bytes()) else { continue };
        if number < 3 {
            continue;
        }
        // SAFETY: it was listed as open a moment ago, and this is the only thread of the process: none
        // is closed meanwhile. Were one, a flag would be set on none or on another, and no more.
        #[allow(unsafe_code, reason = "descriptors of others have only a number")]
        let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
        rustix::io::fcntl_setfd(descriptor, FdFlags::CLOEXEC)?;
    }
    Ok(())
}

/// A decimal number; none for `.` and `..`.
fn number(digits: &[u8]) -> Option<i32> {
    digits.iter().try_fold(0_i32, |number, digit| {
        let digit = digit.is_ascii_digit().then(|| i32::from(digit - b'0'))?;
        number.checked_mul(10)?.checked_add(digit)
    })
}

/// Kills what was started, with all that is in its process group, and waits a moment for its end.
pub(super) fn kill(started: &mut Started) {
    if let Some(group) = i32::try_from(started.child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself by now.
        let _ = rustix::process::kill_process_group(group, Signal::KILL);
    }
    for _ in 0..1000 {
        if !matches!(started.child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
