//! Control daemons that are not ours, as far as they can be seen.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::processes::{PIPE_DIRECTORY, all, is_daemon, value_of, variable};
use crate::backend::system::environment_of;
use crate::error::{Error, Result};
use crate::id::Pid;
use crate::port::ForeignDaemon;

/// Where a daemon listens that was told no directory.
pub(in crate::backend) const DEFAULT: &str = "/tmp/nvidia-mps";

/// The control daemons that listen elsewhere than below `own`.
///
/// A daemon is found by its process, and its directory by the socket at which it listens, or where
/// that cannot be seen by what it was started with. Paths of others are compared as they are written
/// and never followed: whoever chose one could have us hang there.
///
/// # Errors
/// IO when the kernel's list of sockets can't be read.
pub(super) fn foreign(own: &Path) -> Result<Vec<ForeignDaemon>> {
    let list = Path::new("/proc/net/unix");
    let sockets = std::fs::read(list).map_err(|error| Error::io("read", list, error))?;
    let sockets = control_directories(&sockets);
    let true_own = own.canonicalize().unwrap_or_else(|_| own.to_owned());
    let is_ours = |path: &Path| path.starts_with(own) || path.starts_with(&true_own);
    let mut found = Vec::new();
    for pid in all().filter(|&pid| is_daemon(pid)) {
        // Another user's process shows nothing of itself to us, and ours is known by it.
        let Some(environment) = environment_of(pid) else { continue };
        let listens = sockets_of(pid).find_map(|inode| sockets.get(&inode).cloned());
        let told = || {
            let value = value_of(&environment, PIPE_DIRECTORY).map(OsStr::from_bytes);
            value.map_or(DEFAULT.into(), PathBuf::from)
        };
        let directory = listens.unwrap_or_else(told);
        if !is_ours(&directory) {
            found.push(ForeignDaemon { pid: Some(pid), directory, visible: visible(pid) });
        }
    }
    Ok(found)
}

/// The sockets that a process has open, by their inodes. Needs its user or root.
fn sockets_of(pid: Pid) -> impl Iterator<Item = u64> {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    descriptors.filter_map(|descriptor| {
        let link = std::fs::read_link(descriptor.path()).ok()?;
        link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    })
}

fn visible(pid: Pid) -> Option<String> {
    variable(pid, "CUDA_VISIBLE_DEVICES").map(|value| value.to_string_lossy().into_owned())
}

/// The directories in which somebody listens at a socket `control` as daemons do, by the inodes of the
/// sockets.
pub(in crate::backend) fn control_directories(sockets: &[u8]) -> BTreeMap<u64, PathBuf> {
    sockets.split(|&byte| byte == b'\n').filter_map(control_directory).collect()
}

/// A line of `/proc/net/unix`: `slot: references protocol flags type state inode path`.
fn control_directory(line: &[u8]) -> Option<(u64, PathBuf)> {
    const LISTENS: &[u8] = b"00010000";
    const SEQPACKET: &[u8] = b"0005";
    // The path is all that stands after the inode and a space, and may have spaces itself.
    let mut rest = line;
    let mut fields = Vec::with_capacity(7);
    while fields.len() < 7 {
        let start = rest.iter().position(|&byte| byte != b' ')?;
        let field = rest.get(start..)?;
        let end = field.iter().position(|&byte| byte == b' ')?;
        let (field, after) = field.split_at_checked(end)?;
        fields.push(field);
        rest = after;
    }
    let path = rest.strip_prefix(b" ")?;
    if fields.get(3) != Some(&LISTENS) || fields.get(4) != Some(&SEQPACKET) {
        return None;
    }
    let inode = std::str::from_utf8(fields.get(6)?).ok()?.parse().ok()?;
    let path = Path::new(OsStr::from_bytes(path));
    let named = path.is_absolute() && path.file_name() == Some(OsStr::new("control"));
    named.then(|| Some((inode, path.parent()?.to_owned())))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listening_control_sockets_are_picked_from_the_kernels_list() {
        let list = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            ffff8881: 00000002 00000000 00010000 0005 01 461096 /tmp/a b/control\n\
            0000000000000000: 00000002 00000000 00010000 0005 01     7 /tmp/a b/control_privileged\n\
            0000000000000000: 00000003 00000000 00000000 0005 03 9 /tmp/connected/control\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 10 /tmp/stream/control\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 11 @/abstract/control\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 12 control\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 13\n\
            0000000000000000: 00000002 00000000 00010000 0005 01 14 /tmp/\xff/control\n\
            0000000000000000: 000";
        let found = control_directories(list);
        let expected: BTreeMap<u64, PathBuf> = [
            (461_096, PathBuf::from("/tmp/a b")),
            (14, PathBuf::from(OsStr::from_bytes(b"/tmp/\xff"))),
        ]
        .into();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_process_is_known_by_the_inodes_of_its_sockets() {
        use std::os::fd::AsFd as _;
        let (one, other) = std::os::unix::net::UnixStream::pair().unwrap();
        let own: Vec<u64> = sockets_of(Pid::new(std::process::id())).collect();
        for socket in [&one, &other] {
            let inode = rustix::fs::fstat(socket.as_fd()).unwrap().st_ino;
            assert!(own.contains(&inode));
        }
    }
}
