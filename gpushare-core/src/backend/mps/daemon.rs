//! The life of a daemon: how it starts, how it is found, how it ends.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::access::shut;
use super::control::MpsControl;
use super::listener::listener;
use super::peer::Peer;
use super::place::{ACCESS, CHANGED, CONTROL, Place};
use super::processes::{
    PIPE_DIRECTORY, Process, claims, end, have_ended, may_be_of_directory, of_directory,
};
use super::spawn::{Launch, Started, kill, spawn};
use super::ticks;
use super::wire::{Failure, greet};
use crate::backend::command::trust;
use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mode::MpsHealth;
use crate::mps::{Command, MpsDomain, MpsSettings, Reply, ServerStatus};
use crate::parameters::Access;
use crate::units::ThreadPercentage;

/// How long a daemon may take to greet: it takes less than a millisecond.
const GREETING: Duration = Duration::from_millis(500);
/// How long a daemon may take to listen: it takes 15 ms.
const START: Duration = Duration::from_secs(if cfg!(test) { 2 } else { 10 });
/// How long nothing may be seen of a daemon after its program has ended well.
const SHOW: Duration = Duration::from_secs(1);
/// How long who changes a daemon's life waits for another who does: longer than a start takes.
pub(super) const TURN: Duration = Duration::from_secs(15);
/// How long until the processes are looked through again.
const LOOK: Duration = Duration::from_millis(1);
/// How often a starting daemon is looked at.
const STEP: Duration = Duration::from_millis(5);
/// How long a server that was started is watched: without a GPU it ends within 50 ms.
const SERVER: Duration = Duration::from_millis(200);

/// How long a daemon may take to hear `quit`.
const QUIT_ANSWER: Duration = Duration::from_millis(500);
/// How long it may take to end: it gives who is left a second.
const QUIT_END: Duration = Duration::from_millis(1200);
/// How long one that was signalled may take before it is killed.
const GRACE: Duration = Duration::from_secs(1);
/// How long the kernel may take to bury one that was killed.
const BURIAL: Duration = Duration::from_secs(1);

/// Where systemd runs, and what moves a daemon out of our own cgroup.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// There where systemd runs.
    pub(super) mark: PathBuf,
    /// `systemd-run`.
    pub(super) program: PathBuf,
}

impl Default for Scope {
    fn default() -> Self {
        Self { mark: "/run/systemd/system".into(), program: "/usr/bin/systemd-run".into() }
    }
}

/// How a daemon is.
#[derive(Debug)]
pub(super) struct Found {
    /// Whether it answers.
    pub(super) health: MpsHealth,
    /// Its process, where it is seen.
    pub(super) pid: Option<Pid>,
}

/// Looks whether a daemon is in a place, without a command to it.
///
/// # Errors
/// PERMISSION_DENIED where somebody else's daemon listens, or nobody may ask; IO.
pub(super) fn find(place: &Place) -> Result<Found> {
    let socket = place.socket(CONTROL);
    let seen = |health| Found { health, pid: listener(&socket).ok().flatten() };
    // One that ends while it is asked is looked at once more.
    let answer = match greet(&socket, GREETING) {
        Err(Failure::Died) => greet(&socket, GREETING),
        answer => answer,
    };
    Ok(match answer {
        Ok(peer) => Found { health: MpsHealth::Answers, pid: peer.pid },
        Err(Failure::Absent) => Found { health: MpsHealth::Gone, pid: None },
        Err(Failure::Frozen) => seen(MpsHealth::Frozen),
        Err(Failure::Handshake(_) | Failure::Died) => seen(MpsHealth::Unknown),
        Err(Failure::Denied(why)) => {
            return Err(Error::new(
                ErrorCode::PermissionDenied,
                format!("the MPS daemon at {} may not be asked: {why}", socket.display()),
            )
            .with_needs(vec![socket.display().to_string()]));
        }
        Err(Failure::Foreign(peer)) => return Err(strangers(&socket, &peer)),
        Err(Failure::Other(error)) => return Err(error),
    })
}

fn strangers(socket: &Path, peer: &Peer) -> Error {
    Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "{} of user {} listens at {}, who is neither root nor this user: it is told \
             nothing and not believed; end it, and look how it got there",
            peer.process(),
            peer.uid,
            socket.display()
        ),
    )
    .with_needs(vec![format!("{} to be of root or of this user", socket.display())])
}

/// A daemon that is to be started.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start<'a> {
    /// Where.
    pub(super) place: &'a Place,
    /// Of what.
    pub(super) domain: &'a MpsDomain,
    /// For whom, as it was asked for.
    pub(super) access: &'a Access,
    /// What it begins with.
    pub(super) settings: &'a MpsSettings,
    /// The daemon's program.
    pub(super) program: &'a Path,
}

impl Start<'_> {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// INVALID_STATE where one is there already; INVALID_ARGUMENT for a path that is too long;
    /// PERMISSION_DENIED; LOCKED; IO; MPS when it does not start: then nothing is left of it but
    /// its logs.
    pub(super) fn start(&self, scope: &Scope) -> Result<()> {
        let Self { place, domain, .. } = *self;
        place.expect_short()?;
        trust(self.program)?;
        let _turn = place.lock(TURN)?;
        let leaf = place.make()?;
        let found = find(place)?;
        if found.health != MpsHealth::Gone {
            let process = found.pid.map_or_else(String::new, |pid| format!(", process {pid}"));
            return Err(Error::new(
                ErrorCode::InvalidState,
                format!("an MPS daemon of {domain} is there already{process}; end it first"),
            ));
        }
        // Servers of one that was killed; one that does not listen yet, of somebody who was killed.
        end_processes(place, &[])?;
        shut(&leaf)?;
        leaf.clear()?;
        let started = place
            .make_logs()
            .and_then(|()| leaf.write(ACCESS, &written(self.access)?))
            .and_then(|()| leaf.write(CHANGED, &ticks().to_string()))
            .and_then(|()| self.launch(scope));
        started.inspect_err(|_| {
            if let Err(error) = end_processes(place, &[]).and_then(|()| clear_away(place)) {
                tracing::warn!(%error, %domain, "what is left of an MPS daemon that did not start");
            }
        })
    }

    /// Runs the program, through systemd where it runs, so that the daemon outlives the service, job
    /// or session of who starts it.
    fn launch(&self, scope: &Scope) -> Result<()> {
        let root = rustix::process::geteuid().is_root();
        if root && scope.mark.exists() && trust(&scope.program).is_ok() {
            let options = ["--scope", "--quiet", "--collect", "--slice=system.slice", "--"];
            let mut arguments: Vec<&OsStr> = options.iter().map(OsStr::new).collect();
            arguments.push(self.program.as_os_str());
            match self.run(&scope.program, arguments) {
                Err(error) if error.code() == ErrorCode::Mps => {
                    let domain = self.domain;
                    tracing::warn!(%error, %domain, "an MPS daemon is started without a scope of its own");
                    end_processes(self.place, &[])?;
                }
                ran => return ran,
            }
        }
        self.run(self.program, Vec::new())
    }

    /// Runs a program with these arguments and the one that makes a daemon.
    fn run<'a>(&self, program: &'a Path, mut arguments: Vec<&'a OsStr>) -> Result<()> {
        let deadline = Instant::now() + START;
        arguments.push(OsStr::new("-d"));
        let environment = self.environment();
        let launch = Launch { program, arguments, environment, gid: Some(0) };
        let mut started = spawn(&launch).map_err(|error| Error::io("run", program, error))?;
        let result = wait(self.place, &mut started, deadline);
        result.map_err(|how| {
            kill(&mut started);
            self.failed(&how, &started.output())
        })
    }

    /// All that the daemon and its servers know of us.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        // The daemon looks for its servers' program there: beside its own in the first place.
        let folder = self.program.parent().unwrap_or(Path::new("/usr/bin"));
        let mut path = folder.as_os_str().to_owned();
        path.push(":/usr/bin:/bin:/usr/sbin:/sbin");
        let mut variables = vec![
            (PIPE_DIRECTORY, self.place.path().into_os_string()),
            ("CUDA_MPS_LOG_DIRECTORY", self.place.logs().into_os_string()),
            ("CUDA_VISIBLE_DEVICES", self.domain.as_str().into()),
            ("PATH", path),
        ];
        // From its first moment on: root and the owner of its directory come in before it is opened.
        let percentage = self.settings.thread_percentage;
        if percentage < ThreadPercentage::FULL {
            let percentage = percentage.to_string().into();
            variables.push(("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", percentage));
        }
        if let Some(limit) = self.settings.pinned_memory_limit {
            let limit = format!("0={}M", limit.get() >> 20).into();
            variables.push(("CUDA_MPS_PINNED_DEVICE_MEM_LIMIT", limit));
        }
        variables
    }

    fn failed(&self, how: &str, said: &str) -> Error {
        let said = if said.is_empty() {
            "it said nothing".to_owned()
        } else {
            format!("it said {said:?}")
        };
        let (log, logs) = (self.place.log(), self.place.logs());
        let log = if log.is_empty() {
            format!("there is nothing in {}", logs.display())
        } else {
            format!("{} ends with:\n{log}", logs.display())
        };
        let (domain, program) = (self.domain, self.program.display());
        // CUDA's own number for it, which the daemon of driver 580 ends with.
        let blind = if how.ends_with("exit status: 100") { ": it sees no such device" } else { "" };
        Error::new(
            ErrorCode::Mps,
            format!("no MPS daemon of {domain}: `{program} -d` {how}{blind}; {said}; {log}"),
        )
    }
}

/// An access as it is noted.
fn written(access: &Access) -> Result<String> {
    serde_json::to_string(access).map_err(|error| {
        Error::new(ErrorCode::Io, format!("an access cannot be noted: {error}")).with_source(error)
    })
}

/// Starts a server and sees whether it stays: daemons answer that all went well also where it dies at
/// once (measured on drivers 470 to 555).
///
/// # Errors
/// MPS with the last lines of the logs when it has ended within [`SERVER`]; those of the commands.
pub(super) fn start_server(place: &Place, control: &MpsControl, uid: u32) -> Result<Reply> {
    let servers = || control.command(&Command::Servers).and_then(Reply::pids);
    let before = servers()?;
    let reply = control.command(&Command::StartServer { uid })?;
    let deadline = Instant::now() + SERVER;
    let mut started = None;
    while Instant::now() < deadline {
        let now = servers()?;
        match started {
            None => started = now.into_iter().find(|pid| !before.contains(pid)),
            Some(pid) if !now.contains(&pid) => {
                return Err(Error::new(
                    ErrorCode::Mps,
                    format!(
                        "the MPS server {pid} of user {uid} was started and has ended; the logs in \
                         {} end with: {}",
                        place.logs().display(),
                        place.log()
                    ),
                ));
            }
            Some(server) => {
                let status = control.command(&Command::ServerStatus { server });
                if matches!(status, Ok(Reply::Status(ServerStatus::Active))) {
                    break;
                }
            }
        }
        std::thread::sleep(STEP);
    }
    Ok(reply)
}

/// Waits until a daemon answers that is being started; says how it failed.
fn wait(place: &Place, started: &mut Started, deadline: Instant) -> Result<(), String> {
    let seconds = START.as_secs();
    let status = loop {
        match started.child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(STEP),
            Ok(None) => return Err(format!("did not return within {seconds} s")),
            Err(error) => return Err(format!("cannot be waited for: {error}")),
        }
    };
    if !status.success() {
        return Err(format!("ended with {status}"));
    }
    let ended = Instant::now();
    loop {
        match find(place) {
            Ok(Found { health: MpsHealth::Answers, .. }) => return Ok(()),
            // The native exchange is not known; the command line's own client may know it.
            Ok(Found { health: MpsHealth::Unknown, .. }) => return Ok(()),
            Err(error) => return Err(format!("started what is not used: {error}")),
            Ok(found) if Instant::now() >= deadline => {
                return Err(format!("started a daemon that is {} after {seconds} s", found.health));
            }
            Ok(Found { health: MpsHealth::Gone, .. })
                if ended.elapsed() > SHOW && of_directory(&place.path()).is_empty() =>
            {
                return Err(format!("ended with {status} and left no daemon"));
            }
            Ok(_) => std::thread::sleep(STEP),
        }
    }
}

/// Ends the daemon of a place with its servers, and removes its directory.
///
/// # Errors
/// PERMISSION_DENIED where it is another user's; LOCKED; MPS when a process outlives a kill; IO;
/// INVALID_STATE when something is in the directory that no daemon leaves, or the daemon runs in
/// another pid namespace.
pub(super) fn stop(place: &Place, control: &MpsControl) -> Result<()> {
    if place.open()?.is_none() && of_directory(&place.path()).is_empty() {
        return Ok(());
    }
    let _turn = place.lock(TURN)?;
    for pid in claims(&place.path()).pretenders {
        let directory = place.path();
        let directory = directory.display();
        tracing::warn!(%pid, %directory, "a process that is not ours says that it is of this MPS daemon");
    }
    let found = match place.open()? {
        Some(_) => find(place)?,
        None => Found { health: MpsHealth::Gone, pid: None },
    };
    if found.health == MpsHealth::Answers && found.pid.is_none() {
        return Err(Error::new(
            ErrorCode::InvalidState,
            format!(
                "the MPS daemon in {} runs in another pid namespace and is left as it is: end it there, \
                 for instance in its container",
                place.path().display()
            ),
        ));
    }
    // What the kernel noted when somebody began to listen: the pid may have passed on since.
    let process = found.pid.filter(|&pid| may_be_of_directory(pid, &place.path()));
    let process = process.and_then(Process::now);
    let hears = matches!(found.health, MpsHealth::Answers | MpsHealth::Unknown);
    if let Some(process) = process.filter(|_| hears) {
        quit(control, process);
    }
    end_processes(place, process.as_slice())?;
    clear_away(place)
}

/// Asks a daemon to end, and waits for its end. It need not: whoever is left is signalled.
fn quit(control: &MpsControl, process: Process) {
    let quit = Command::Quit { timeout: Some(1) };
    let control = control.clone().with_limit(QUIT_ANSWER);
    // One that was busy with another command may not have heard it.
    for _ in 0..2 {
        let told = control.command(&quit);
        tracing::debug!(?told, directory = %control.directory().display(), "an MPS daemon was told to quit");
        if have_ended(&[process], QUIT_END) {
            return;
        }
    }
}

/// Ends these, and every control daemon and server that was started with this directory.
///
/// A program that makes itself a daemon forks twice, and each process ends when the next is there: it
/// can slip through between the kernel's list and a look at each. So nothing must be seen several times
/// in a row.
fn end_processes(place: &Place, known: &[Process]) -> Result<()> {
    const EMPTY_LOOKS: u32 = 3;
    const ROUNDS: u32 = 20;
    let mut known = known.to_vec();
    let mut empty = 0;
    for _ in 0..ROUNDS {
        let mut left = of_directory(&place.path());
        left.extend(known.drain(..).filter(|process| !have_ended(&[*process], Duration::ZERO)));
        if left.is_empty() {
            empty += 1;
            if empty == EMPTY_LOOKS {
                return Ok(());
            }
            std::thread::sleep(LOOK);
            continue;
        }
        empty = 0;
        end(&left, GRACE)?;
        if !have_ended(&left, BURIAL) {
            let pids: Vec<_> = left.iter().map(|process| process.pid.to_string()).collect();
            return Err(Error::new(
                ErrorCode::Mps,
                format!(
                    "processes {} of the MPS daemon in {} do not end, though killed: the driver \
                     holds them",
                    pids.join(", "),
                    place.path().display()
                ),
            ));
        }
    }
    Err(Error::new(
        ErrorCode::Mps,
        format!(
            "somebody starts MPS daemons in {} again and again while they are ended",
            place.path().display()
        ),
    ))
}

/// Removes the directory of a daemon that has ended.
fn clear_away(place: &Place) -> Result<()> {
    if let Some(leaf) = place.open()? {
        leaf.clear()?;
    }
    place.remove()
}
