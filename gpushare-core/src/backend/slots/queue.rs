//! The queue: tickets of those who wait, in the order in which they came.
//!
//! A ticket is a file that its owner holds by flock(2) and names after the time. It ends with its
//! process, however that ends; then it is passed over, and removed by who may.

use std::os::fd::AsRawFd as _;
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{AtFlags, FlockOperation, inotify};
use rustix::io::Errno;

use super::watch::Watch;
use super::{Folder, READABLE, SCRATCH, SLOTS, scratch, since_boot};
use crate::error::{Error, Result};
use crate::fork::{Caller, OwnFile};
use crate::port::Ticket;

/// How often who cannot be told looks again.
const POLL: Duration = Duration::from_millis(2);

/// Nanoseconds since boot with that many digits sort as text.
const DIGITS: usize = 20;

/// A ticket of ours.
#[derive(Debug)]
struct FileTicket {
    folder: Arc<Folder>,
    name: String,
    /// Holds the ticket.
    _file: Option<OwnFile>,
    caller: Caller,
    /// Where the kernel tells us of other tickets; none where it tells no more of this user's processes.
    watch: Option<Watch>,
    /// The same for slots, once it was needed.
    releases: Option<Watch>,
}

pub(super) fn join(folder: Arc<Folder>, content: &[u8]) -> Result<Box<dyn Ticket>> {
    let new = scratch();
    let remove = |name: &str| {
        let _ = rustix::fs::unlinkat(&folder.directory, name, AtFlags::empty());
    };
    let file = OwnFile::open(|| {
        let file = folder.make(&new, content, READABLE)?;
        // Nobody knows it by that name: it is ours at once.
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|errno| {
            remove(&new);
            folder.error("lock", &new)(errno)
        })?;
        Ok::<_, Error>(Some(file.into()))
    })?;
    let name = format!("{:0DIGITS$}-{}", since_boot(), new.trim_start_matches(SCRATCH));
    if let Err(errno) = rustix::fs::renameat(&folder.directory, &new, &folder.directory, &name) {
        remove(&new);
        return Err(folder.error("write", &name)(errno));
    }
    let watch = Watch::new();
    let caller = Caller::this();
    Ok(Box::new(FileTicket { folder, name, _file: file, caller, watch, releases: None }))
}

impl Drop for FileTicket {
    fn drop(&mut self) {
        // A forked child must not take its parent's place away.
        if self.caller.is_this() {
            let _ = rustix::fs::unlinkat(&self.folder.directory, &self.name, AtFlags::empty());
        }
    }
}

impl Ticket for FileTicket {
    fn name(&self) -> &str {
        &self.name
    }

    fn wait_for(&mut self, ahead: &str, most: Duration) {
        let Some(watch) = &mut self.watch else {
            std::thread::sleep(POLL.min(most));
            return;
        };
        // Its owner has it open for writing; others only to see whether it is held.
        let ends = inotify::WatchFlags::CLOSE_WRITE
            | inotify::WatchFlags::ATTRIB
            | inotify::WatchFlags::DELETE_SELF
            | inotify::WatchFlags::ONESHOT;
        let path = format!("/proc/self/fd/{}/{ahead}", self.folder.directory.as_raw_fd());
        match watch.add(&path, ends) {
            Ok(()) => {}
            // It is gone already, or there is no /proc.
            Err(Errno::NOENT) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                if rustix::fs::statat(&self.folder.directory, ahead, flags).is_ok() {
                    std::thread::sleep(POLL.min(most));
                }
                return;
            }
            Err(_) => {
                std::thread::sleep(POLL.min(most));
                return;
            }
        }
        // What it says is no news: one ticket was watched.
        let _ = watch.wait(most);
    }

    fn wait_for_release(&mut self, most: Duration) -> bool {
        if self.releases.is_none() {
            self.releases = self.watch_slots();
        }
        let Some(releases) = &self.releases else {
            std::thread::sleep(most);
            return false;
        };
        // We were told of our own attempts, too.
        releases.drain();
        releases.wait(most)
    }
}

impl FileTicket {
    fn watch_slots(&self) -> Option<Watch> {
        let mut releases = Watch::new()?;
        // Who holds a slot may only read it.
        let path = format!("/proc/self/fd/{}/../{SLOTS}", self.folder.directory.as_raw_fd());
        let closed = inotify::WatchFlags::CLOSE_NOWRITE | inotify::WatchFlags::ONLYDIR;
        releases.add(&path, closed).ok()?;
        Some(releases)
    }
}

pub(super) fn list(folder: &Folder) -> Result<Vec<String>> {
    let mut names: Vec<String> = folder.names()?.into_iter().map(|(name, _)| name).collect();
    names.retain(|name| is_ticket(name));
    names.sort();
    Ok(names)
}

pub(crate) fn is_ticket(name: &str) -> bool {
    let digits = name.bytes().take_while(u8::is_ascii_digit).count();
    digits == DIGITS && name.as_bytes().get(DIGITS) == Some(&b'-')
}

pub(super) fn still_waits(folder: &Folder, ticket: &str) -> bool {
    // What cannot be opened is no ticket that anybody can be told from a dead one.
    let Ok(Some(own)) = OwnFile::open(|| folder.open(ticket)) else { return false };
    let shared = own.with(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockShared));
    if shared == Some(Err(Errno::WOULDBLOCK)) {
        return true;
    }
    let _ = rustix::fs::unlinkat(&folder.directory, ticket, AtFlags::empty());
    false
}
