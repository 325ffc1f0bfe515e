//! Running another program: with a deadline, without a shell, reading a bounded answer.

use std::ffi::OsStr;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::MemfdFlags;
use rustix::process::{Pid, kill_process_group};

use super::trust::distrusted;
use crate::error::{Error, ErrorCode, Result};
use crate::process::ignores;

/// The most that is kept of what a program prints. `nvidia-smi` prints a few hundred bytes here.
const MOST_OUTPUT: usize = 64 * 1024;
/// How often a program that says nothing is looked at.
const STEP: Duration = Duration::from_millis(20);
/// How often one that can say nothing more is looked at.
const LAST_STEP: Duration = Duration::from_micros(200);
/// How long a killed program may take to die before it is left to the kernel.
const BURIAL: Duration = Duration::from_secs(2);

/// What a program did.
#[derive(Debug)]
pub(super) struct Answer {
    /// How it ended.
    pub(super) status: ExitStatus,
    /// What it printed, on either stream, in the order in which it came.
    pub(super) output: String,
}

impl Answer {
    /// The lines that it printed as one, short enough for an error message.
    pub(super) fn brief(&self) -> String {
        let words = self.output.split_whitespace().collect::<Vec<_>>().join(" ");
        let plain: String = words.chars().filter(|c| !c.is_control()).take(300).collect();
        if plain.is_empty() { "it said nothing".to_owned() } else { format!("it said {plain:?}") }
    }
}

/// Refuses a program that this process should not run: one without an absolute path, and for
/// root one that somebody else could have put there, by the file or by a folder above it.
///
/// # Errors
/// IO when it is not there, PERMISSION_DENIED when it is not to be trusted.
pub(super) fn trust(program: &Path) -> Result<()> {
    let refuse = |why: String| {
        Error::new(ErrorCode::PermissionDenied, format!("{} is not run: {why}", program.display()))
            .with_needs(vec![program.display().to_string()])
    };
    if !program.is_absolute() {
        return Err(refuse("its path is not absolute".to_owned()));
    }
    let found = std::fs::metadata(program).map_err(|error| Error::io("run", program, error))?;
    let mode = found.permissions().mode();
    if !found.is_file() || mode & 0o111 == 0 {
        return Err(refuse("it is no program".to_owned()));
    }
    let why = distrusted(program).map_err(|error| Error::io("look at", program, error))?;
    why.map_or(Ok(()), |why| Err(refuse(why)))
}

/// What a program gets in place of its standard input.
#[derive(Debug)]
pub(super) enum Input<'a> {
    /// Nothing to read.
    Nothing,
    /// A lock to hold: for programs that read nothing.
    Lock(OwnedFd),
    /// A text.
    Text(&'a str),
}

impl Input<'_> {
    /// A text stands in memory of its own: through a pipe it could end us, by SIGPIPE, where the
    /// program does not read it.
    fn into_stdio(self) -> std::io::Result<Stdio> {
        match self {
            Self::Nothing => Ok(Stdio::null()),
            Self::Lock(lock) => Ok(Stdio::from(lock)),
            Self::Text(text) => {
                let memory = rustix::fs::memfd_create("input", MemfdFlags::CLOEXEC)?;
                let mut memory = std::fs::File::from(memory);
                memory.write_all(text.as_bytes())?;
                memory.rewind()?;
                Ok(Stdio::from(memory))
            }
        }
    }
}

/// Runs a program to its end, or to the deadline, when it is killed with all that it started.
///
/// It gets an empty environment but for `PATH` and `LC_ALL=C`, nothing to read, `/` to stand in,
/// a lock to hold if there is one, and a process group of its own: Ctrl-C at our terminal does not
/// reach it half-way.
///
/// # Errors
/// IO or PERMISSION_DENIED when it cannot be run, TIMEOUT at the deadline.
pub(super) fn run(
    program: &Path,
    arguments: &[&str],
    limit: Duration,
    lock: Option<OwnedFd>,
) -> Result<Answer> {
    run_with(program, arguments, &[], limit, lock.map_or(Input::Nothing, Input::Lock))
}

/// The same with more in its environment and something to read.
///
/// # Errors
/// As [`run`].
pub(super) fn run_with(
    program: &Path,
    arguments: &[&str],
    environment: &[(&str, &OsStr)],
    limit: Duration,
    input: Input<'_>,
) -> Result<Answer> {
    trust(program)?;
    expect_to_hear_of_its_end(program)?;
    let deadline = Instant::now() + limit;
    let input = input.into_stdio().map_err(|error| Error::io("give input to", program, error))?;
    let mut child = Command::new(program)
        .args(arguments)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C")
        .envs(environment.iter().copied())
        .current_dir("/")
        .stdin(input)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| Error::io("run", program, error))?;
    let mut output = Vec::new();
    let ended = listen(&mut child, &mut output, deadline);
    let status = match ended {
        Ok(Some(status)) => status,
        ended => {
            bury(&mut child);
            let said = String::from_utf8_lossy(&output);
            let command = format!("{} {}", program.display(), arguments.join(" "));
            return Err(match ended {
                Err(error) => Error::io("read the output of", program, error),
                Ok(_) => Error::new(
                    ErrorCode::Timeout,
                    format!(
                        "`{command}` did not end within {} s and was killed; so far it said {:?}",
                        limit.as_secs_f32(),
                        said.chars().take(300).collect::<String>()
                    ),
                ),
            });
        }
    };
    Ok(Answer { status, output: String::from_utf8_lossy(&output).into_owned() })
}

/// Refuses to run a program where the kernel would not keep how it ended: whether it did what it was
/// asked to could not be known.
fn expect_to_hear_of_its_end(program: &Path) -> Result<()> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    if !ignores(&status, rustix::process::Signal::CHILD.as_raw()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidState,
        format!(
            "{} is not run: this process ignores SIGCHLD, and would not hear how it ended; set it to its default",
            program.display()
        ),
    ))
}

/// Reads until the program has ended; none when the deadline comes first.
fn listen(
    child: &mut Child,
    output: &mut Vec<u8>,
    deadline: Instant,
) -> std::io::Result<Option<ExitStatus>> {
    let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
    loop {
        let status = child.try_wait()?;
        // What an ended program has said is in the pipes already, even where something that it
        // started holds them open.
        let wait = match status {
            Some(_) => Duration::ZERO,
            // It has closed its output: it is about to end.
            None if out.is_none() && err.is_none() => {
                LAST_STEP.min(deadline.saturating_duration_since(Instant::now()))
            }
            None => STEP.min(deadline.saturating_duration_since(Instant::now())),
        };
        let mut heard = false;
        let timeout = Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) };
        let (ready_out, ready_err) = {
            let mut streams = Vec::with_capacity(2);
            streams.extend(out.as_ref().map(|out| PollFd::new(out, PollFlags::IN)));
            streams.extend(err.as_ref().map(|err| PollFd::new(err, PollFlags::IN)));
            match poll(&mut streams, Some(&timeout)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let mut ready = streams.iter().map(|stream| !stream.revents().is_empty());
            let ready_out = out.is_some() && ready.next().unwrap_or(false);
            (ready_out, err.is_some() && ready.next().unwrap_or(false))
        };
        let mut chunk = [0; 4096];
        if let Some(stream) = out.as_mut().filter(|_| ready_out) {
            match stream.read(&mut chunk)? {
                0 => out = None,
                read => heard = keep(output, chunk.get(..read)),
            }
        }
        if let Some(stream) = err.as_mut().filter(|_| ready_err) {
            match stream.read(&mut chunk)? {
                0 => err = None,
                read => heard |= keep(output, chunk.get(..read)),
            }
        }
        match status {
            Some(status) if !heard => return Ok(Some(status)),
            _ if Instant::now() >= deadline => return Ok(None),
            _ => {}
        }
    }
}

/// Keeps what was read as long as there is room; says that something was read.
fn keep(output: &mut Vec<u8>, chunk: Option<&[u8]>) -> bool {
    let room = MOST_OUTPUT.saturating_sub(output.len());
    output.extend(chunk.unwrap_or_default().iter().take(room));
    true
}

/// Kills a program with all that it started, and waits for its end, though not for ever: one that
/// hangs in the driver dies when the driver lets it.
fn bury(child: &mut Child) {
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        // It may have ended by itself by now; then there is nobody left to kill.
        let _ = kill_process_group(group, rustix::process::Signal::KILL);
    }
    let until = Instant::now() + BURIAL;
    while Instant::now() < until {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
