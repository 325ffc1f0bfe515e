//! Who is at the other end of a connection, by the kernel's word.

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _};

use rustix::io::Errno;

use crate::id::Pid;

/// Who listens on a socket: what the kernel noted when the process began to listen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// Its process; none for one outside this pid namespace.
    pub(super) pid: Option<Pid>,
    /// Its user.
    pub(super) uid: u32,
}

impl Peer {
    /// Its process in words.
    pub(super) fn process(self) -> String {
        self.pid.map_or_else(
            || "a process outside this pid namespace".to_owned(),
            |pid| format!("process {pid}"),
        )
    }
}

/// Asks who listens at the other end.
///
/// Not by rustix: its pids are never 0, which is what the kernel says of a process outside this pid
/// namespace.
///
/// # Errors
/// Those of getsockopt(2).
pub(super) fn peer(socket: impl AsFd) -> Result<Peer, Errno> {
    let mut found = libc::ucred { pid: 0, uid: 0, gid: 0 };
    let mut length = size_of::<libc::ucred>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed. The kernel writes at most `length`
    // bytes, which is what `found` has room for, and every value of its integers is one.
    #[allow(unsafe_code, reason = "rustix cannot hold the pid 0")]
    let answer = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_PEERCRED,
            (&raw mut found).cast(),
            &raw mut length,
        )
    };
    if answer != 0 {
        let error = std::io::Error::last_os_error();
        return Err(Errno::from_io_error(&error).unwrap_or(Errno::IO));
    }
    let pid = u32::try_from(found.pid).ok().filter(|&pid| pid != 0).map(Pid::new);
    Ok(Peer { pid, uid: found.uid })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_its_own_peer() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        let own = Pid::new(std::process::id());
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(peer(&one), Ok(Peer { pid: Some(own), uid }));
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(peer(&file), Err(Errno::NOTSOCK));
    }
}
