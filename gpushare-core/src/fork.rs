//! Forks: what a process has locked is its own, and a forked child that only computes must not hold it.
//!
//! A lock of flock(2) lasts as long as any process has the open file. exec closes ours; a child that is
//! forked without exec, as worker processes of Python are, would hold the leases, the place in the queue
//! and the locks on GPUs of its parent for as long as it lives. A program that forks so calls
//! [`before`], [`after_in_parent`] and [`after_in_child`] around it, for which pthread_atfork(3) and
//! Python's `os.register_at_fork` are made; the C and Python faces do that by themselves. What starts
//! other programs by exec needs none of it.
//!
//! A child that is made past those handlers (`_Fork`, clone(2)) keeps everything until it ends or execs.

mod caller;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, IntoRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use caller::Caller;

/// The files that this process has locked.
static OWN: Mutex<Own> = Mutex::new(Own { next: 0, files: BTreeMap::new() });

/// How often this process was forked from one that knew it.
static GENERATION: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// Held over a fork, by the thread that forks: the only one that there is in the child.
    static FORKING: RefCell<Option<MutexGuard<'static, Own>>> = const { RefCell::new(None) };
    /// How many more handlers than one are around the fork, as where they were registered twice.
    static AGAIN: Cell<u32> = const { Cell::new(0) };
}

#[derive(Debug)]
struct Own {
    next: u64,
    files: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    /// None when this program lost it.
    file: Option<OwnedFd>,
    /// Device and inode, by which it is told from what may have its number by now.
    identity: Option<Identity>,
    kept_in_children: bool,
}

type Identity = (u64, u64);

fn identity(file: BorrowedFd<'_>) -> Option<Identity> {
    rustix::fs::fstat(file).ok().map(|stat| (stat.st_dev, stat.st_ino))
}

impl Entry {
    fn new(file: OwnedFd) -> Self {
        Self { identity: identity(file.as_fd()), file: Some(file), kept_in_children: false }
    }

    /// The file, unless the program closed its number: what has that number now is not ours to close,
    /// nor to look at.
    fn file(&mut self) -> Option<BorrowedFd<'_>> {
        if self.file.as_ref().is_some_and(|file| identity(file.as_fd()) != self.identity) {
            self.lose();
        }
        self.file.as_ref().map(OwnedFd::as_fd)
    }

    fn lose(&mut self) {
        let _ = self.file.take().map(OwnedFd::into_raw_fd);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _ = self.file();
    }
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It is this process's.
    Here,
    /// This is a forked child, which gave it up.
    GivenUp,
    /// The program closed its descriptor, or put another file in its place.
    Lost,
}

fn locked() -> MutexGuard<'static, Own> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does something with the list. The thread that forks has it already: what else runs in it around the
/// fork, a collection of garbage, say, may close files.
fn own<R>(what: impl FnOnce(&mut Own) -> R) -> R {
    let held = FORKING.try_with(RefCell::take).ok().flatten();
    let forks = held.is_some();
    let mut own = held.unwrap_or_else(locked);
    let answer = what(&mut own);
    if forks {
        let _ = FORKING.try_with(|forking| forking.replace(Some(own)));
    }
    answer
}

/// An open file that forked children give up, with whatever lock of flock(2) it has.
#[derive(Debug)]
pub struct OwnFile {
    number: u64,
}

impl OwnFile {
    /// Opens one. No fork comes in between: this must neither wait nor start a process.
    pub(crate) fn open<E>(
        open: impl FnOnce() -> Result<Option<OwnedFd>, E>,
    ) -> Result<Option<Self>, E> {
        own(|own| {
            let Some(file) = open()? else { return Ok(None) };
            // Whoever had its number until now was closed by the program. It may even be the same file.
            let reused = |entry: &&mut Entry| {
                let theirs = entry.file.as_ref().map(OwnedFd::as_raw_fd);
                theirs == Some(file.as_raw_fd())
            };
            own.files.values_mut().filter(reused).for_each(Entry::lose);
            let number = own.next;
            own.next += 1;
            own.files.insert(number, Entry::new(file));
            Ok(Some(Self { number }))
        })
    }

    /// Does something with it; none where it is not [here](Self::standing). No fork comes in between:
    /// this must neither wait, nor start a process, nor use another such file.
    pub(crate) fn with<R>(&self, what: impl FnOnce(BorrowedFd<'_>) -> R) -> Option<R> {
        own(|own| own.files.get_mut(&self.number)?.file().map(what))
    }

    /// What became of it.
    pub(crate) fn standing(&self) -> Standing {
        own(|own| match own.files.get_mut(&self.number).map(Entry::file) {
            Some(Some(_)) => Standing::Here,
            Some(None) => Standing::Lost,
            None => Standing::GivenUp,
        })
    }

    /// Whether it is still this process's.
    pub fn is_here(&self) -> bool {
        self.standing() == Standing::Here
    }

    /// Lets forked children have it, too, from now on.
    pub(crate) fn keep_in_children(&self) {
        own(|own| {
            if let Some(entry) = own.files.get_mut(&self.number) {
                entry.kept_in_children = true;
            }
        });
    }
}

impl Drop for OwnFile {
    fn drop(&mut self) {
        // It is closed before a fork can come.
        own(|own| drop(own.files.remove(&self.number)));
    }
}

/// Whether it is an inner pair of handlers that ends, and the outer one ends the fork.
fn is_inner() -> bool {
    let again = AGAIN.try_with(Cell::get).unwrap_or(0);
    let _ = AGAIN.try_with(|count| count.set(again.saturating_sub(1)));
    again > 0
}

/// Before a fork, in the thread that forks. Waits for what other threads have begun, which takes
/// microseconds. Each call has its [`after_in_parent`] or [`after_in_child`]; pairs within a pair do nothing.
pub fn before() {
    if FORKING.try_with(|forking| forking.borrow().is_some()).unwrap_or(false) {
        let _ = AGAIN.try_with(|count| count.set(count.get() + 1));
        return;
    }
    let own = locked();
    let _ = FORKING.try_with(|forking| forking.replace(Some(own)));
}

/// After a fork, or one that failed, in the thread that called [`before`].
pub fn after_in_parent() {
    if is_inner() {
        return;
    }
    let _ = FORKING.try_with(RefCell::take);
}

/// After a fork, in the child: gives up the leases of the parent but for those whose descriptors were
/// asked for, its place in the queue and its locks. Whoever has a lease of the parent's in the child
/// gets INVALID_STATE from it.
pub fn after_in_child() {
    if is_inner() {
        return;
    }
    GENERATION.fetch_add(1, Ordering::Relaxed);
    let held = FORKING.try_with(RefCell::take).ok().flatten();
    // Without `before` another thread may have had it at the fork, and it never comes free.
    let own = held.or_else(|| match OWN.try_lock() {
        Ok(own) => Some(own),
        Err(std::sync::TryLockError::Poisoned(own)) => Some(own.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    });
    if let Some(mut own) = own {
        own.files.retain(|_, entry| entry.kept_in_children);
    }
}

/// Which process this is, among all that were forked one from the other: unlike a pid it is none of a
/// child in a new pid namespace.
pub fn generation() -> u64 {
    GENERATION.load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handlers_within_handlers_do_nothing() {
        let is_held = || {
            let try_it = || matches!(OWN.try_lock(), Err(std::sync::TryLockError::WouldBlock));
            std::thread::scope(|scope| scope.spawn(try_it).join()).unwrap()
        };
        for pairs in 1..5 {
            (0..pairs).for_each(|_| before());
            for _ in 0..pairs {
                assert!(is_held());
                // Files may be closed by whoever forks.
                own(|_| ());
                after_in_parent();
            }
            assert!(FORKING.with_borrow(Option::is_none));
            drop(locked());
        }
    }
}
