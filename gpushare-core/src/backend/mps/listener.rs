//! Who listens at a socket, without a word to it.

use std::path::Path;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::peer::peer;
use crate::id::Pid;

/// The process that listens at a control socket; none for one outside this pid namespace.
///
/// It is what the kernel noted when the process began to listen. The connection is closed at once: a
/// daemon serves nobody else while it waits for a client's first word.
///
/// # Errors
/// CONNREFUSED and NOENT where nobody listens, AGAIN where too many wait already, ACCESS.
pub(super) fn listener(socket: &Path) -> Result<Option<Pid>, Errno> {
    let address = SocketAddrUnix::new(socket)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let connection =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::net::connect(&connection, &address)?;
    Ok(peer(&connection)?.pid)
}
