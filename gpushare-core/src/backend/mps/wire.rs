//! What control daemons speak on their socket.
//!
//! Undocumented by NVIDIA; seen on the wire with daemons of drivers 470, 535, 550, 555 and 580,
//! with one and the same exchange over AF_UNIX SOCK_SEQPACKET, little-endian:
//!
//! ```text
//! daemon  OUTBHELL\0
//! client  OUTBCRED\0 with its credentials, which the kernel checks
//! client  u32 4: a session of commands
//! client  u64 length; the command, a line feed and a NUL; u64 0: no more commands
//! daemon  u32 0 and text, for each answer; an empty answer is no record
//! daemon  u32 1 and an i32 that means nothing: the end
//! ```
//!
//! A daemon holds one session at a time and closes any other after its greeting: what is closed before
//! an answer was not executed (measured: 400 commands of 8 threads, 657 times closed and said
//! again, 400 in the daemon's log), so it is said again. A client that says nothing freezes the daemon for everybody, and a
//! command of 4,150 bytes crashes it. So there is a deadline over all, one command a session, all of it
//! sent at once, and none longer than 1,024 bytes.

use std::hash::{BuildHasher as _, Hasher as _};
use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType, UCred,
};

use super::peer::{Peer, peer};
use crate::error::{Error, ErrorCode};
use crate::mps::MOST_TEXT;

const GREETING: &[u8] = b"OUTBHELL\0";
const CREDENTIALS: &[u8] = b"OUTBCRED\0";
/// What a session of commands calls itself; 2 is a CUDA program.
const COMMANDS: u32 = 4;
/// What a record begins with.
const TEXT: u32 = 0;
const END: u32 = 1;
/// The longest record that is read. 60 clients in the list of every server are 5 kB.
const MOST_RECORD: usize = 64 * 1024;
/// The most that an answer may have.
const MOST_RECORDS: usize = 256;
const MOST_ANSWER: usize = 256 * 1024;
/// The first and the longest pause before a command is said again.
const FIRST_PAUSE: Duration = Duration::from_micros(200);
const LONGEST_PAUSE: Duration = Duration::from_millis(3);

/// Why there is no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// There is no socket, or nobody listens on it.
    Absent,
    /// The socket is not for us.
    Denied(String),
    /// Somebody listens, and says nothing in time.
    Frozen,
    /// Somebody speaks, but not what is known here.
    Handshake(String),
    /// The connection broke after the command was taken: whether it was executed is not known.
    Died,
    /// Whoever listens is neither root nor this user. Nothing was said.
    Foreign(Peer),
    /// Something else.
    Other(Error),
}

/// Connects, hears who it is and the greeting, and goes.
///
/// The pid of a daemon in a pid namespace that is not visible from here is not known.
pub(super) fn greet(socket: &Path, within: Duration) -> Result<Peer, Failure> {
    let deadline = Deadline::after(within);
    retry(&deadline, || {
        let session = Session::open(socket, deadline)?;
        session.greeting()?;
        Ok(session.peer)
    })
}

/// Says one command and gives the records of the answer, each without its NUL.
///
/// A command is said again as long as the daemon was busy with another session. Where it can't have
/// been executed that is said with another failure than `Died`.
pub(super) fn ask(socket: &Path, line: &str, within: Duration) -> Result<Vec<String>, Failure> {
    let line = expect_sendable(line)?;
    let deadline = Deadline::after(within);
    let mut said = false;
    let answer = retry(&deadline, || {
        let session = Session::open(socket, deadline)?;
        session.greeting()?;
        session.say(&line, &mut said)?;
        session.answer()
    });
    match answer {
        // It was there when it got the command, and is not any more.
        Err(Failure::Absent) if said => Err(Failure::Died),
        answer => answer,
    }
}

/// Says one command that ends the daemon. Once it has gone out, an answer that does not come is
/// no failure: daemons often end before they answer, and wait for their clients before that.
///
/// A daemon that was busy with another session may not have heard it. Whoever says it waits for the
/// end of the process, and says it again.
pub(super) fn tell(socket: &Path, line: &str, within: Duration) -> Result<Vec<String>, Failure> {
    let line = expect_sendable(line)?;
    let deadline = Deadline::after(within);
    let mut said = false;
    retry(&deadline, || {
        let session = Session::open(socket, deadline)?;
        session.greeting()?;
        session.say(&line, &mut said)?;
        match session.answer() {
            Err(Attempt::Again | Attempt::Failed(Failure::Died | Failure::Frozen)) => Ok(vec![]),
            answer => answer,
        }
    })
}

/// The command as it is sent.
fn expect_sendable(line: &str) -> Result<Vec<u8>, Failure> {
    let refuse = |why: String| {
        Failure::Other(Error::new(
            ErrorCode::InvalidArgument,
            format!("an MPS command is not sent: {why}"),
        ))
    };
    if line.len() + 2 > MOST_TEXT {
        let length = line.len();
        return Err(refuse(format!(
            "it has {length} bytes, and daemons crash on long ones; {} is the most",
            MOST_TEXT - 2
        )));
    }
    if line.contains(['\n', '\r', '\0']) {
        return Err(refuse("it is more than one line".to_owned()));
    }
    let mut bytes = line.as_bytes().to_vec();
    bytes.extend(b"\n\0");
    Ok(bytes)
}

/// How one attempt ended when it did not succeed.
enum Attempt {
    /// The daemon was busy with somebody else.
    Again,
    Failed(Failure),
}

impl From<Failure> for Attempt {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn retry<T>(
    deadline: &Deadline,
    mut attempt: impl FnMut() -> Result<T, Attempt>,
) -> Result<T, Failure> {
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(Attempt::Failed(failure)) => return Err(failure),
            Err(Attempt::Again) => {}
        }
        // Half of it to one and a half: clients that were refused together do not come together again.
        let random = std::hash::RandomState::new().build_hasher().finish();
        let jitter = 500 + u32::try_from(random % 1000).unwrap_or_default();
        let left = deadline.left();
        if left.is_zero() {
            return Err(Failure::Frozen);
        }
        std::thread::sleep((pause * jitter / 1000).min(left));
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// A moment by which all is over.
#[derive(Clone, Copy, Debug)]
struct Deadline(Option<Instant>);

impl Deadline {
    fn after(within: Duration) -> Self {
        Self(Instant::now().checked_add(within))
    }

    fn left(self) -> Duration {
        self.0.map_or(Duration::MAX, |at| at.saturating_duration_since(Instant::now()))
    }
}

/// One connection.
struct Session {
    socket: OwnedFd,
    peer: Peer,
    deadline: Deadline,
}

impl Session {
    /// Connects, and goes on only with root or this user.
    fn open(path: &Path, deadline: Deadline) -> Result<Self, Attempt> {
        let other = |doing: &str, errno: Errno| {
            Attempt::Failed(Failure::Other(Error::io(doing, path, errno.into())))
        };
        let address = SocketAddrUnix::new(path).map_err(|errno| match errno {
            Errno::NAMETOOLONG => Attempt::Failed(Failure::Other(Error::new(
                ErrorCode::InvalidArgument,
                format!("{} is too long for the path of a socket", path.display()),
            ))),
            errno => other("connect to", errno),
        })?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
                .map_err(|errno| other("make a socket for", errno))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            // So many wait to be accepted that no more can.
            Err(Errno::AGAIN | Errno::INTR) => return Err(Attempt::Again),
            Err(Errno::NOENT | Errno::CONNREFUSED | Errno::NOTDIR) => {
                return Err(Failure::Absent.into());
            }
            Err(errno @ (Errno::ACCESS | Errno::PERM)) => {
                return Err(Failure::Denied(format!("{}: {errno}", path.display())).into());
            }
            Err(Errno::PROTOTYPE) => {
                return Err(Failure::Handshake("it is a socket of another type".to_owned()).into());
            }
            Err(errno) => return Err(other("connect to", errno)),
        }
        let peer = peer(&socket).map_err(|errno| other("ask who listens on", errno))?;
        if peer.uid != 0 && peer.uid != rustix::process::geteuid().as_raw() {
            return Err(Failure::Foreign(peer).into());
        }
        Ok(Self { socket, peer, deadline })
    }

    fn greeting(&self) -> Result<(), Attempt> {
        let mut space = [0; 64];
        match self.receive(&mut space)? {
            0 => Err(Attempt::Again),
            length if space.get(..length) == Some(GREETING) => Ok(()),
            length => Err(unknown("a greeting", space.get(..length).unwrap_or(&space))),
        }
    }

    /// All that a session of one command says, at once.
    fn say(&self, line: &[u8], said: &mut bool) -> Result<(), Attempt> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        control.push(SendAncillaryMessage::ScmCredentials(UCred {
            pid: rustix::process::getpid(),
            uid: rustix::process::geteuid(),
            gid: rustix::process::getegid(),
        }));
        self.when_writable(|| {
            let record = [IoSlice::new(CREDENTIALS)];
            rustix::net::sendmsg(&self.socket, &record, &mut control, SendFlags::NOSIGNAL)
        })?;
        self.send(&COMMANDS.to_ne_bytes())?;
        let length = line.len() as u64;
        self.send(&length.to_ne_bytes())?;
        self.send(line)?;
        *said = true;
        match self.send(&0_u64.to_ne_bytes()) {
            // The daemon may have taken the command and gone: the answer tells.
            Err(Attempt::Again) => Ok(()),
            sent => sent,
        }
    }

    fn send(&self, record: &[u8]) -> Result<(), Attempt> {
        self.when_writable(|| rustix::net::send(&self.socket, record, SendFlags::NOSIGNAL))
    }

    fn when_writable(
        &self,
        mut send: impl FnMut() -> rustix::io::Result<usize>,
    ) -> Result<(), Attempt> {
        loop {
            match send() {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::OUT)?,
                Err(Errno::PIPE | Errno::CONNRESET) => return Err(Attempt::Again),
                Err(errno) => return Err(broken(errno)),
            }
        }
    }

    /// The records of text up to the end.
    fn answer(&self) -> Result<Vec<String>, Attempt> {
        let mut records: Vec<String> = Vec::new();
        let mut space = vec![0; MOST_RECORD];
        let mut read = 0;
        loop {
            let length = match self.receive(&mut space) {
                Ok(0) | Err(Attempt::Again) if records.is_empty() => return Err(Attempt::Again),
                Ok(0) | Err(Attempt::Again) => return Err(Failure::Died.into()),
                received => received?,
            };
            let record = space.get(..length).unwrap_or_default();
            let Some((kind, text)) = record.split_first_chunk::<4>() else {
                return Err(unknown("half a record", record));
            };
            match u32::from_ne_bytes(*kind) {
                TEXT => {}
                END => return Ok(records),
                _ => return Err(unknown("a record", record)),
            }
            read += length;
            if records.len() >= MOST_RECORDS || read > MOST_ANSWER {
                return Err(unknown("an answer without end", text));
            }
            let text = text.strip_suffix(b"\0").unwrap_or(text);
            records.push(String::from_utf8_lossy(text).into_owned());
        }
    }

    /// One record; its length is 0 where the other side has closed.
    fn receive(&self, space: &mut [u8]) -> Result<usize, Attempt> {
        let mut closed = 0;
        loop {
            let room = space.len();
            match rustix::net::recv(&self.socket, &mut *space, RecvFlags::TRUNC) {
                Ok((_, length)) if length > room => {
                    return Err(unknown(&format!("a record of {length} bytes"), space));
                }
                // Linux looks for a record and then whether the other side is gone, and says so also
                // where a record came in between. Seen once in some 200,000 commands.
                Ok((_, 0)) if closed < 2 => closed += 1,
                Ok((_, length)) => return Ok(length),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => self.wait(PollFlags::IN)?,
                // A daemon that closes with something unread resets the connection, and the kernel
                // says so before it hands out the records that were sent before: they are still there.
                Err(Errno::CONNRESET) if closed < 2 => closed += 1,
                Err(Errno::CONNRESET | Errno::PIPE) => return Err(Attempt::Again),
                Err(errno) => return Err(broken(errno)),
            }
        }
    }

    fn wait(&self, flags: PollFlags) -> Result<(), Attempt> {
        let left = self.deadline.left();
        if left.is_zero() {
            return Err(Failure::Frozen.into());
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(&self.socket, flags)], Some(&timeout)) {
            Ok(0) => Err(Failure::Frozen.into()),
            Ok(_) | Err(Errno::INTR) => Ok(()),
            Err(errno) => Err(broken(errno)),
        }
    }
}

fn unknown(what: &str, bytes: &[u8]) -> Attempt {
    let shown: String = String::from_utf8_lossy(bytes).chars().take(40).collect();
    Failure::Handshake(format!("{what} that gpushare does not know, beginning with {shown:?}"))
        .into()
}

fn broken(errno: Errno) -> Attempt {
    Failure::Other(
        Error::new(ErrorCode::Io, format!("the connection to an MPS daemon failed: {errno}"))
            .with_source(std::io::Error::from(errno)),
    )
    .into()
}

#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) mod fuzzing {
    //! What is heard of a daemon that sends these records, for who feeds them.

    use super::*;

    pub(crate) const MOST_RECORDS: usize = super::MOST_RECORDS;
    pub(crate) const MOST_ANSWER: usize = super::MOST_ANSWER;

    /// A session of one command with who says that at once and then nothing more.
    pub(crate) fn exchange(records: &[&[u8]]) -> Result<Vec<String>, String> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let pair = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None);
        let (daemon, socket) = pair.map_err(|errno| errno.to_string())?;
        for record in records {
            // More than the kernel holds is never sent.
            if rustix::net::send(&daemon, record, SendFlags::NOSIGNAL).is_err() {
                break;
            }
        }
        let _ = rustix::net::shutdown(&daemon, rustix::net::Shutdown::Write);
        let deadline = Deadline::after(Duration::from_secs(2));
        let session = Session { socket, peer: Peer { pid: None, uid: 0 }, deadline };
        let heard = session
            .greeting()
            .and_then(|()| session.say(b"get_server_list\n\0", &mut false))
            .and_then(|()| session.answer());
        heard.map_err(|attempt| match attempt {
            Attempt::Again => "again".to_owned(),
            Attempt::Failed(Failure::Handshake(why)) => why,
            Attempt::Failed(Failure::Died) => "died".to_owned(),
            Attempt::Failed(failure) => unreachable!("{failure:?}"),
        })
    }
}

#[cfg(test)]
mod tests;
