//! MPS daemons of this node.

use std::fmt;
use std::path::PathBuf;

use crate::error::Result;
use crate::id::Pid;
use crate::mode::MpsHealth;
use crate::mps::{Command, Dialect, MpsDomain, MpsSettings, Reply};
use crate::parameters::Access;

/// MPS daemons of this node.
///
/// Each daemon of ours has a directory of its own, named by its domain, in which it listens. What
/// makes a daemon ours is that it listens there: nobody else can write to that directory.
pub trait MpsHost: Send + Sync + fmt::Debug {
    /// Whether daemons can be started here at all.
    fn able(&self) -> bool;
    /// What the program that starts daemons speaks.
    ///
    /// # Errors
    /// UNSUPPORTED where it is not there.
    fn dialect(&self) -> Result<Dialect>;
    /// What there is of ours for a domain: none where there is no directory of it. Says nothing to
    /// the daemon; bounded, also where the daemon is frozen.
    fn probe(&self, domain: &MpsDomain) -> Result<Option<MpsDaemon>>;
    /// Refuses, before anything is touched, an access that cannot be given here: an unknown user or
    /// group, or another user where this one is not root; and a directory that cannot be used.
    fn expect_startable(&self, domain: &MpsDomain, access: &Access) -> Result<()>;
    /// Makes the directory, open to nobody else, starts a daemon in it and waits until it answers.
    /// It begins with these settings, as far as it takes them from its environment. What an earlier
    /// daemon left there is cleared away first.
    fn start(&self, domain: &MpsDomain, access: &Access, settings: &MpsSettings) -> Result<()>;
    /// One command to our daemon, and its answer. A command that the daemon lacks is UNSUPPORTED, a
    /// refusal PERMISSION_DENIED, a daemon that does not answer in time TIMEOUT, no daemon NOT_FOUND,
    /// any other bad answer MPS.
    fn command(&self, domain: &MpsDomain, command: &Command) -> Result<Reply>;
    /// Opens the directory to those whom the access names, or closes it to all new clients.
    fn admit(&self, domain: &MpsDomain, admit: bool) -> Result<()>;
    /// Ends our daemon and its servers and removes their directory: by `quit` with one second for
    /// whoever is left, and where that does not end it, by signals. Bounded. Where nothing runs it
    /// removes what is left. The logs stay.
    fn stop(&self, domain: &MpsDomain) -> Result<()>;
    /// The last lines that a daemon of ours and its servers wrote, for messages.
    fn log(&self, domain: &MpsDomain) -> String;
    /// The domains that something of ours is there for: a daemon, or the directory that a dead one
    /// left. Whether their devices are still there is not looked at.
    fn domains(&self) -> Result<Vec<MpsDomain>>;
    /// Control daemons of this machine that are not ours, as far as they can be seen. They are
    /// never told anything.
    fn foreign(&self) -> Result<Vec<ForeignDaemon>>;
}

/// What there is of ours for a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MpsDaemon {
    /// Whom it was started for, as it was asked for.
    pub access: Access,
    /// Whether they are let in.
    pub admitted: bool,
    /// Whether it answers.
    pub health: MpsHealth,
    /// Its process, by the credentials of its socket.
    pub pid: Option<Pid>,
    /// Where it listens: what its clients have in `CUDA_MPS_PIPE_DIRECTORY`.
    pub directory: PathBuf,
    /// When a setting of it was last changed through us, in clock ticks since boot.
    pub changed: Option<u64>,
}

/// A control daemon that is not ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignDaemon {
    /// Its process, where it can be seen.
    pub pid: Option<Pid>,
    /// Where it listens.
    pub directory: PathBuf,
    /// Its `CUDA_VISIBLE_DEVICES`, where that can be read.
    pub visible: Option<String>,
}
