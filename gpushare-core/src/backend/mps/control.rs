//! A control daemon by its directory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::wire::{self, Failure};
use super::{PROGRAM, tool};
use crate::error::{Error, ErrorCode, Result};
use crate::id::Pid;
use crate::mps::{Command, Dialect, Reply};

/// How long a command may take. A busy daemon of driver 580 answers in 0.1 ms, beside seven other
/// sessions within 50 ms.
const LIMIT: Duration = Duration::from_secs(2);

/// An MPS control daemon, named by the directory in which it listens: what its clients have in
/// `CUDA_MPS_PIPE_DIRECTORY`.
///
/// Commands go over the daemon's socket. Where that speaks what gpushare does not know they go through
/// NVIDIA's `nvidia-cuda-mps-control`, with the same answers, 20 to 60 times slower. Nothing is held
/// between commands, and each is over within the limit. A command is said to nobody but root's daemons
/// and this user's.
///
/// A daemon takes one command at a time from all that speak to it; one that is busy is asked again.
///
/// ```no_run
/// use gpushare_core::backend::mps::MpsControl;
/// use gpushare_core::mps::Command;
///
/// let daemon = MpsControl::in_directory("/run/my-mps");
/// for server in daemon.command(&Command::Servers)?.pids()? {
///     println!("{:?}", daemon.command(&Command::Clients { server })?.pids()?);
/// }
/// # Ok::<(), gpushare_core::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct MpsControl {
    directory: PathBuf,
    tool: PathBuf,
    limit: Duration,
    way: Way,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Either,
    Socket,
    Tool,
}

impl MpsControl {
    /// The daemon that listens in that directory. Nothing is looked at yet.
    pub fn in_directory(directory: impl Into<PathBuf>) -> Self {
        let (directory, tool) = (directory.into(), PROGRAM.into());
        Self { directory, tool, limit: LIMIT, way: Way::Either }
    }

    /// The same with another `nvidia-cuda-mps-control` than `/usr/bin/nvidia-cuda-mps-control`. Its
    /// path must be absolute; as root only a file is run that belongs to root and that others
    /// cannot write.
    #[must_use]
    pub fn with_tool(self, tool: impl Into<PathBuf>) -> Self {
        Self { tool: tool.into(), ..self }
    }

    /// The same with another limit than two seconds for each command.
    #[must_use]
    pub fn with_limit(self, limit: Duration) -> Self {
        Self { limit, ..self }
    }

    /// The same without the program: a daemon whose socket speaks something unknown is MPS.
    #[must_use]
    pub fn native_only(self) -> Self {
        Self { way: Way::Socket, ..self }
    }

    /// The same without the socket.
    #[must_use]
    pub fn tool_only(self) -> Self {
        Self { way: Way::Tool, ..self }
    }

    /// Where it listens.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// What the program speaks, and with it the daemons that it starts.
    ///
    /// # Errors
    /// UNSUPPORTED where it is not there, PERMISSION_DENIED where it is not to be trusted, TIMEOUT, IO.
    pub fn dialect(&self) -> Result<Dialect> {
        tool::dialect(&self.tool)
    }

    /// The daemon's process, by the kernel's word for its socket, once it has greeted. It is told nothing.
    ///
    /// # Errors
    /// As [`command`](Self::command); NOT_FOUND for a process outside this pid namespace.
    pub fn pid(&self) -> Result<Pid> {
        match wire::greet(&self.socket(false), self.limit) {
            Ok(peer) => peer.pid.ok_or_else(|| {
                let daemon = self.directory.display();
                let why = "runs in another pid namespace: it has no pid here";
                Error::new(ErrorCode::NotFound, format!("the MPS daemon in {daemon} {why}"))
            }),
            Err(failure) => Err(self.error(failure, "connect")),
        }
    }

    /// Says one command and waits for its answer.
    ///
    /// Changes need root or the daemon's user. That a daemon took one proves little: read back,
    /// as [`MpsSettings`](crate::mps::MpsSettings) does. [`Command::Quit`] may be over before the
    /// daemon is.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for a command that a daemon would misread; NOT_FOUND where no daemon
    /// listens, or it lacks the server or client; UNSUPPORTED where it does not know the command;
    /// PERMISSION_DENIED where the socket or the daemon refuses, or the daemon is another
    /// user's; TIMEOUT where it does not answer within the limit; MPS for any other bad answer, and
    /// where it died meanwhile.
    pub fn command(&self, command: &Command) -> Result<Reply> {
        command.check()?;
        let records = self.say(command).map_err(|failure| self.error(failure, &command.text()))?;
        Reply::parse(command, &records)
    }

    fn say(&self, command: &Command) -> Result<Vec<String>, Failure> {
        let tool = || tool::ask(&self.tool, &self.directory, command, self.limit);
        match self.way {
            Way::Tool => tool(),
            Way::Socket => self.say_natively(command),
            Way::Either => match self.say_natively(command) {
                Err(Failure::Handshake(why)) if self.unsaid(command) => {
                    tracing::debug!(directory = %self.directory.display(), why, "MPS by its program");
                    tool()
                }
                answer => answer,
            },
        }
    }

    fn say_natively(&self, command: &Command) -> Result<Vec<String>, Failure> {
        let socket = self.socket(command.privileged());
        match command {
            Command::Quit { .. } => wire::tell(&socket, &command.text(), self.limit),
            _ => wire::ask(&socket, &command.text(), self.limit),
        }
    }

    /// Whether a command to a daemon that answered strangely does no harm when it is said again: it
    /// was not said at all where the greeting is strange already.
    fn unsaid(&self, command: &Command) -> bool {
        command.repeatable()
            || matches!(
                wire::greet(&self.socket(command.privileged()), self.limit),
                Err(Failure::Handshake(_))
            )
    }

    fn socket(&self, privileged: bool) -> PathBuf {
        self.directory.join(if privileged { "control_privileged" } else { "control" })
    }

    fn error(&self, failure: Failure, doing: &str) -> Error {
        let daemon = format!("the MPS daemon in {}", self.directory.display());
        match failure {
            Failure::Absent => {
                Error::new(ErrorCode::NotFound, format!("{daemon} is not there: `{doing}`"))
            }
            Failure::Denied(why) => Error::new(
                ErrorCode::PermissionDenied,
                format!("{daemon} is not for this user: `{doing}`: {why}"),
            )
            .with_needs(vec!["root, or the user that started the daemon".to_owned()]),
            Failure::Frozen => Error::new(
                ErrorCode::Timeout,
                format!(
                    "{daemon} is frozen: it listens, and did not answer `{doing}` within {} s; a \
                     program that connected and says nothing holds it up, or it waits for its \
                     clients to end: end that program, or the daemon by a signal",
                    self.limit.as_secs_f32()
                ),
            ),
            Failure::Handshake(why) => {
                Error::new(ErrorCode::Mps, format!("{daemon} answered `{doing}` strangely: {why}"))
            }
            Failure::Died => Error::new(
                ErrorCode::Mps,
                format!("{daemon} broke off; whether it has done `{doing}` is not known"),
            ),
            Failure::Foreign(peer) => Error::new(
                ErrorCode::PermissionDenied,
                format!(
                    "{daemon} is {} of user {}, neither root's nor this user's, and is \
                     not told `{doing}`",
                    peer.process(),
                    peer.uid
                ),
            )
            .with_needs(vec![format!("user {}, or a daemon of this user", peer.uid)]),
            Failure::Other(error) => error.context(format!("`{doing}` to {daemon}")),
        }
    }
}
