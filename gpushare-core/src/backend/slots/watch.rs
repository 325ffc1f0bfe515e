//! Being told by the kernel when a file is closed.
//!
//! To give an inotify instance back takes the kernel milliseconds, which the next holder of a share
//! would wait for: instances are kept for the next who waits in this process.

use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify;
use rustix::io::Errno;

/// Instances that nobody uses, and the process that they are of: a forked child shares its parent's
/// events and makes its own.
static IDLE: Mutex<(u32, Vec<OwnedFd>)> = Mutex::new((0, Vec::new()));
/// How many are kept. A user has 128.
const MOST_IDLE: usize = 8;

/// An inotify instance that watches at most one thing.
#[derive(Debug)]
pub(super) struct Watch {
    instance: Option<OwnedFd>,
    /// What is watched.
    descriptor: Option<i32>,
    pid: u32,
}

impl Watch {
    /// None where the kernel gives this user no more.
    pub(super) fn new() -> Option<Self> {
        let pid = std::process::id();
        // Never waited for: after a fork nobody may be there to let go of it.
        let idle = IDLE.try_lock().ok().and_then(|mut idle| {
            let (of, instances) = &mut *idle;
            if *of == pid { instances.pop() } else { None }
        });
        let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
        let instance = idle.or_else(|| inotify::init(flags).ok())?;
        Some(Self { instance: Some(instance), descriptor: None, pid })
    }

    /// Watches that instead of what it watched.
    pub(super) fn add(&mut self, path: &str, what: inotify::WatchFlags) -> Result<(), Errno> {
        self.clear();
        let instance = self.instance.as_ref().ok_or(Errno::BADF)?;
        self.descriptor = Some(inotify::add_watch(instance, path, what)?);
        Ok(())
    }

    /// Waits at most that long until something happened since it was asked last.
    pub(super) fn wait(&self, most: Duration) -> bool {
        let Some(instance) = &self.instance else { return false };
        let timeout = Timespec::try_from(most).ok();
        let mut event = [PollFd::new(instance, PollFlags::IN)];
        poll(&mut event, timeout.as_ref()).is_ok_and(|ready| ready > 0)
    }

    /// Forgets what happened.
    pub(super) fn drain(&self) {
        let Some(instance) = &self.instance else { return };
        let mut buffer = [0_u8; 4096];
        while rustix::io::read(instance, &mut buffer).is_ok_and(|read| read > 0) {}
    }

    fn clear(&mut self) {
        if let (Some(instance), Some(descriptor)) = (&self.instance, self.descriptor.take()) {
            // It may be gone with what it watched.
            let _ = inotify::remove_watch(instance, descriptor);
            self.drain();
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if self.pid != std::process::id() {
            return;
        }
        self.clear();
        let Ok(mut idle) = IDLE.try_lock() else { return };
        let (of, instances) = &mut *idle;
        if *of != self.pid {
            *of = self.pid;
            instances.clear();
        }
        if instances.len() < MOST_IDLE {
            instances.extend(self.instance.take());
        }
    }
}
