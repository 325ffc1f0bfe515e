//! The directory of a node in memory: made when it is first needed, and removed with the node.
//!
//! A process that was killed, or that ended without dropping its nodes, leaves its directory behind. Each
//! is held by flock(2) as long as its node is there, so it can be told which are nobody's, and the next
//! process of the same user that makes one removes them.

use std::ffi::CStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Dir, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::process::Pid;

use super::{MOST_TRIES, NOTES, QUEUE, SLOTS};
use crate::backend::directory::PRIVATE;
use crate::error::{Error, Result};
use crate::fork::OwnFile;

/// How the name of each begins; a pid follows, a number and eight digits.
const PREFIX: &str = "gpushare-";

/// A directory that is there once it was needed.
#[derive(Debug)]
pub(super) struct Temporary {
    pid: u32,
    made: OnceLock<Made>,
}

#[derive(Debug)]
struct Made {
    path: PathBuf,
    /// Says that somebody is there.
    _life: OwnFile,
}

impl Temporary {
    pub(super) fn new() -> Self {
        Self { pid: std::process::id(), made: OnceLock::new() }
    }

    /// Where it is, once it was made.
    pub(super) fn path(&self) -> Option<&Path> {
        self.made.get().map(|made| made.path.as_path())
    }

    /// Makes it where it is not there.
    ///
    /// # Errors
    /// IO.
    pub(super) fn make(&self) -> Result<()> {
        if self.made.get().is_none() {
            let made = make_in(&std::env::temp_dir())?;
            // Another thread may have been quicker.
            if let Err(made) = self.made.set(made) {
                remove(&made.path);
            }
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // A forked child must not take it from its parent.
        if let Some(made) = self.made.get().filter(|_| self.pid == std::process::id()) {
            remove(&made.path);
        }
    }
}

fn make_in(above: &Path) -> Result<Made> {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    for _ in 0..MOST_TRIES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep(above);
        }
        let salt = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_nsec;
        let path = above.join(format!("{PREFIX}{}-{number}-{salt:08x}", std::process::id()));
        let failed = |errno: Errno| Error::io("make the directory", &path, errno.into());
        match rustix::fs::mkdirat(CWD, &path, Mode::from_raw_mode(PRIVATE)) {
            Ok(()) => {}
            Err(Errno::EXIST) => continue,
            Err(errno) => return Err(failed(errno)),
        }
        match OwnFile::open(|| hold(CWD, &path)) {
            Ok(Some(life)) => return Ok(Made { path, _life: life }),
            // A process of another pid namespace took it for one that was left.
            Ok(None) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(failed(errno)),
        }
    }
    Err(Error::io("make a directory in", above, Errno::EXIST.into()))
}

/// Opens a directory and locks it; none where another has it, or it is not there any more.
fn hold(
    above: impl AsFd,
    path: impl rustix::path::Arg + Copy,
) -> rustix::io::Result<Option<OwnedFd>> {
    let directory = open(&above, path)?;
    match rustix::fs::flock(&directory, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => return Ok(None),
        Err(errno) => return Err(errno),
    }
    let own = rustix::fs::fstat(&directory)?;
    let there = rustix::fs::statat(above, path, AtFlags::SYMLINK_NOFOLLOW)?;
    let same = (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino);
    Ok(same.then_some(directory))
}

fn open(above: impl AsFd, path: impl rustix::path::Arg) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(above, path, flags, Mode::empty())
}

/// Removes those that this user's dead processes left. What fails here is left to the next one.
fn sweep(above: &Path) {
    let Ok(directory) = open(CWD, above) else { return };
    let Ok(entries) = Dir::read_from(&directory) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().ok().and_then(process_of).is_some_and(|pid| !is_there(pid)) {
            let _ = sweep_one(&directory, name);
        }
    }
}

/// The process that made a directory of that name, if it is one of ours.
fn process_of(name: &str) -> Option<Pid> {
    let mut parts = name.strip_prefix(PREFIX)?.split('-');
    let (pid, number, salt) = (parts.next()?, parts.next()?, parts.next()?);
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let hexadecimal = salt.len() == 8 && salt.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ours = parts.next().is_none() && digits(pid) && digits(number) && hexadecimal;
    Pid::from_raw(pid.parse().ok()?).filter(|_| ours)
}

fn is_there(pid: Pid) -> bool {
    rustix::process::test_kill_process(pid) != Err(Errno::SRCH)
}

/// Removes one, if it is this user's alone and nobody holds it: a pid that is not seen here may be one of
/// another pid namespace.
fn sweep_one(above: &OwnedFd, name: &CStr) -> rustix::io::Result<()> {
    let Some(directory) = hold(above, name)? else { return Ok(()) };
    let stat = rustix::fs::fstat(&directory)?;
    let own = rustix::process::geteuid().as_raw();
    if stat.st_uid != own || stat.st_mode & 0o7777 != PRIVATE {
        return Ok(());
    }
    clear(&directory)?;
    rustix::fs::unlinkat(above, name, AtFlags::REMOVEDIR)
}

/// Removes one of ours.
fn remove(path: &Path) {
    if let Ok(directory) = open(CWD, path) {
        let _ = clear(&directory);
    }
    let _ = rustix::fs::unlinkat(CWD, path, AtFlags::REMOVEDIR);
}

/// Removes what is made in one, and nothing else: where there is more, it stays.
fn clear(directory: &OwnedFd) -> rustix::io::Result<()> {
    for name in [SLOTS, NOTES, QUEUE] {
        let folder = match open(directory, name) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => continue,
            Err(errno) => return Err(errno),
        };
        for entry in Dir::read_from(&folder)?.flatten() {
            // Its own name and that of what is above it are refused.
            let _ = rustix::fs::unlinkat(&folder, entry.file_name(), AtFlags::empty());
        }
        rustix::fs::unlinkat(directory, name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs::{Permissions, create_dir, set_permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    /// A process that was there and is no more.
    fn dead() -> u32 {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        child.id()
    }

    /// What a node leaves that had leases.
    fn left(above: &Path, name: &str) -> PathBuf {
        let path = above.join(name);
        create_dir(&path).unwrap();
        for folder in [SLOTS, NOTES, QUEUE] {
            create_dir(path.join(folder)).unwrap();
            std::fs::write(path.join(folder).join("GPU-a::0.slot"), "").unwrap();
        }
        set_permissions(&path, Permissions::from_mode(0o700)).unwrap();
        path
    }

    fn names(above: &Path) -> BTreeSet<String> {
        let entries = std::fs::read_dir(above).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn what_is_made_is_held_and_goes() {
        let above = tempfile::tempdir().unwrap();
        let made = make_in(above.path()).unwrap();
        let name = names(above.path()).into_iter().next().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        assert_eq!(process_of(&name).map(Pid::as_raw_pid), Some(own));
        assert_eq!(hold(CWD, &made.path).unwrap().map(drop), None, "it is held");
        let path = made.path.clone();
        let temporary = Temporary { pid: std::process::id(), made: OnceLock::from(made) };
        temporary.make().unwrap();
        assert_eq!(temporary.path(), Some(path.as_path()), "it is made once");
        drop(temporary);
        assert!(names(above.path()).is_empty());
        let made = make_in(above.path()).unwrap();
        let forked = Temporary { pid: std::process::id() + 1, made: OnceLock::from(made) };
        drop(forked);
        assert_eq!(names(above.path()).len(), 1, "it is another process's");
    }

    #[test]
    fn what_a_dead_process_left_is_swept_and_nothing_else() {
        let above = tempfile::tempdir().unwrap();
        let (above, dead) = (above.path(), dead());
        left(above, &format!("gpushare-{dead}-0-0123abcd"));
        create_dir(above.join(format!("gpushare-{dead}-12-00000000"))).unwrap();
        let empty = above.join(format!("gpushare-{dead}-12-00000000"));
        set_permissions(&empty, Permissions::from_mode(0o700)).unwrap();
        let gone = names(above);

        // Each of these is not as one that is swept in one respect.
        left(above, &format!("gpushare-{}-0-0123abcd", std::process::id()));
        for name in ["gpushare-0", "gpushare-0-0-0123abcd", "gpushare--1-0-0123abcd", "gpushare"] {
            left(above, name);
        }
        for tail in ["-0-0123abc", "-0-0123abcx", "--0123abcd", "-0-0123abcd-0", "", "-0"] {
            left(above, &format!("gpushare-{dead}{tail}"));
        }
        left(above, &format!("other-{dead}-0-0123abcd"));
        let seen = left(above, &format!("gpushare-{dead}-1-0123abcd"));
        set_permissions(&seen, Permissions::from_mode(0o755)).unwrap();
        let held = left(above, &format!("gpushare-{dead}-2-0123abcd"));
        let _held = hold(CWD, &held).unwrap().unwrap();
        let elsewhere = left(above, "elsewhere");
        symlink(&elsewhere, above.join(format!("gpushare-{dead}-3-0123abcd"))).unwrap();
        std::fs::write(above.join(format!("gpushare-{dead}-4-0123abcd")), "").unwrap();
        if rustix::process::geteuid().is_root() {
            let others = left(above, &format!("gpushare-{dead}-5-0123abcd"));
            chown(&others, Some(65534), None).unwrap();
        }
        let all = names(above);
        sweep(above);
        assert_eq!(all.difference(&names(above)).cloned().collect::<BTreeSet<_>>(), gone);
        for path in [&seen, &held, &elsewhere] {
            assert_eq!(std::fs::read_dir(path.join(SLOTS)).unwrap().count(), 1, "{path:?}");
        }

        // What we have not made stays, and what leads elsewhere is not followed.
        let more = left(above, &format!("gpushare-{dead}-6-0123abcd"));
        std::fs::write(more.join("more"), "").unwrap();
        let leads = above.join(format!("gpushare-{dead}-7-0123abcd"));
        create_dir(&leads).unwrap();
        set_permissions(&leads, Permissions::from_mode(0o700)).unwrap();
        symlink(elsewhere.join(SLOTS), leads.join(SLOTS)).unwrap();
        sweep(above);
        assert!(more.join("more").exists() && leads.join(SLOTS).is_symlink());
        assert_eq!(std::fs::read_dir(elsewhere.join(SLOTS)).unwrap().count(), 1);
    }
}
