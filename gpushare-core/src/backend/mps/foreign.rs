//! Control daemons that are not ours, as far as they can be seen.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use super::listener::listener;
use super::processes::{PIPE_DIRECTORY, all, is_daemon, variable};
use crate::error::{Error, Result};
use crate::id::Pid;
use crate::port::ForeignDaemon;

/// Where a daemon listens that was told no directory.
const DEFAULT: &str = "/tmp/nvidia-mps";

/// The control daemons that listen elsewhere than below `own`.
///
/// A daemon is found by its socket, and where that cannot be reached from here, as in a container,
/// by its process.
///
/// # Errors
/// IO when the kernel's list of sockets can't be read.
pub(super) fn foreign(own: &Path) -> Result<Vec<ForeignDaemon>> {
    let list = Path::new("/proc/net/unix");
    let sockets = std::fs::read(list).map_err(|error| Error::io("read", list, error))?;
    let mut found: Vec<ForeignDaemon> = Vec::new();
    let mut seen = BTreeSet::new();
    for directory in control_directories(&sockets).into_iter().filter(|path| !is_below(path, own)) {
        let Ok(Some(pid)) = listener(&directory.join("control")) else { continue };
        if is_daemon(pid) && seen.insert(pid) {
            found.push(ForeignDaemon { pid: Some(pid), directory, visible: visible(pid) });
        }
    }
    for pid in all().filter(|&pid| is_daemon(pid)) {
        if seen.contains(&pid) {
            continue;
        }
        // The environment of another user's process says nothing to us, and ours is known by it.
        if std::fs::read(format!("/proc/{pid}/environ")).is_err() {
            continue;
        }
        let directory = variable(pid, PIPE_DIRECTORY).map_or(DEFAULT.into(), PathBuf::from);
        if !is_below(&directory, own) {
            found.push(ForeignDaemon { pid: Some(pid), directory, visible: visible(pid) });
        }
    }
    Ok(found)
}

fn visible(pid: Pid) -> Option<String> {
    variable(pid, "CUDA_VISIBLE_DEVICES").map(|value| value.to_string_lossy().into_owned())
}

/// Whether a directory is one of ours, by whatever name it goes.
fn is_below(directory: &Path, own: &Path) -> bool {
    let true_name = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
    directory.starts_with(own) || true_name(directory).starts_with(true_name(own))
}

/// The directories in which somebody listens at a socket `control` as daemons do, in the order of
/// their names.
fn control_directories(sockets: &[u8]) -> BTreeSet<PathBuf> {
    let directories = sockets.split(|&byte| byte == b'\n').filter_map(control_directory);
    directories.collect()
}

/// A line of `/proc/net/unix`: `slot: references protocol flags type state inode path`.
fn control_directory(line: &[u8]) -> Option<PathBuf> {
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
    let path = Path::new(OsStr::from_bytes(path));
    let named = path.is_absolute() && path.file_name() == Some(OsStr::new("control"));
    named.then(|| path.parent().map(Path::to_owned))?
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
        let expected: BTreeSet<PathBuf> =
            [PathBuf::from("/tmp/a b"), PathBuf::from(OsStr::from_bytes(b"/tmp/\xff"))].into();
        assert_eq!(found, expected);
    }

    #[test]
    fn ours_are_ours_by_any_name() {
        let folder = tempfile::tempdir().unwrap();
        let (own, link) = (folder.path().join("own"), folder.path().join("link"));
        std::fs::create_dir_all(own.join("GPU-1")).unwrap();
        std::os::unix::fs::symlink(&own, &link).unwrap();
        assert!(is_below(&own.join("GPU-1"), &own));
        assert!(is_below(&link.join("GPU-1"), &own));
        assert!(is_below(&own.join("GPU-1"), &link));
        assert!(!is_below(folder.path(), &own));
        assert!(!is_below(&folder.path().join("owner"), &own));
    }
}
