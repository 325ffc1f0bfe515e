//! Slots on disk: files that are held by flock(2), below the directory of what does not outlive this
//! life of the machine.
//!
//! `slots/` holds one file for each share. Whoever owns the directory makes and removes them; all
//! others may only hold them, so that nobody can take a slot away from under its holder.
//! `leases/` and `queue/` hold files of everybody who leases, and prove nothing: a lease is the lock.

mod holders;
mod queue;
mod temporary;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::directory::{Directory, PRIVATE, Shared, open_shared};
use crate::error::{Error, ErrorCode, Result};
use crate::fork::OwnFile;
use crate::id::{Pid, ShareId};
use crate::port::{HeldSlot, LeaseScope, Note, Slot, Slots, Taken, Ticket};
use temporary::Temporary;

/// The files that are held.
const SLOTS: &str = "slots";
/// What was leased, in the words of who leased it.
const NOTES: &str = "leases";
/// Who waits.
const QUEUE: &str = "queue";
/// How the names of files begin that are being written.
const SCRATCH: &str = ".new-";
/// How long one may be.
const ABANDONED: Duration = Duration::from_secs(60);
/// How the names of slots end.
const SLOT: &str = ".slot";

/// Who may lease, where the machine has a group of that name.
const GROUP: &str = "gpushare";

/// A note or a ticket is a few hundred bytes; what is longer is none.
const LONGEST: u64 = 4 << 10;

/// Notes are filled up with blanks to a multiple of this.
const NOTE: usize = 512;

/// How often a slot that was replaced while it was taken is tried again.
const MOST_TRIES: u32 = 16;

/// Slots in a directory.
#[derive(Debug)]
pub struct FileSlots {
    place: Place,
    scope: LeaseScope,
    /// The three directories, as they were last opened.
    known: Mutex<BTreeMap<&'static str, Arc<Folder>>>,
}

#[derive(Debug)]
enum Place {
    /// A directory of ours.
    Given(Directory),
    /// One of a node in memory.
    Temporary(Temporary),
}

impl FileSlots {
    /// Slots below a directory.
    pub(crate) fn below(directory: &Directory) -> Self {
        let named = directory.path();
        let root_owns = std::fs::symlink_metadata(&named)
            .map(|meta| std::os::unix::fs::MetadataExt::uid(&meta) == 0)
            .unwrap_or_else(|_| rustix::process::geteuid().is_root());
        let scope = if root_owns { LeaseScope::Node } else { LeaseScope::Private };
        Self { place: Place::Given(directory.clone()), scope, known: Mutex::default() }
    }

    /// Slots of this process and its children alone, in a directory that is made when it is first
    /// needed and is removed with the handle. One that a process left that was killed is removed by the next
    /// process of the same user that makes one.
    pub fn temporary() -> Self {
        let place = Place::Temporary(Temporary::new());
        Self { place, scope: LeaseScope::Private, known: Mutex::default() }
    }

    fn path(&self) -> PathBuf {
        match &self.place {
            Place::Given(directory) => directory.path(),
            Place::Temporary(temporary) => temporary.path().map(Path::to_owned).unwrap_or_default(),
        }
    }

    /// The directory above; none when it is not there and was not to be made.
    fn above(&self, make: bool) -> Result<Option<OwnedFd>> {
        match &self.place {
            Place::Given(directory) => directory.open(make),
            Place::Temporary(temporary) => {
                if make {
                    temporary.make()?;
                }
                match temporary.path() {
                    Some(path) => Directory::new(path)?.private().open(false),
                    None => Ok(None),
                }
            }
        }
    }

    /// One of the three directories; none when it is not there.
    fn folder(&self, name: &'static str) -> Result<Option<Arc<Folder>>> {
        // Never waited for: after a fork nobody may be there to let go of it.
        let known = self.known.try_lock().ok().and_then(|known| known.get(name).cloned());
        if let Some(folder) = known.filter(|folder| folder.is_still_there()) {
            return Ok(Some(folder));
        }
        let Some(above) = self.above(false)? else { return Ok(None) };
        let folder = self.folder_in(&above, name, None)?;
        if let Ok(mut known) = self.known.try_lock() {
            match &folder {
                Some(folder) => known.insert(name, folder.clone()),
                None => known.remove(name),
            };
        }
        Ok(folder)
    }

    fn folder_in(
        &self,
        above: &OwnedFd,
        name: &'static str,
        make: Option<Shared>,
    ) -> Result<Option<Arc<Folder>>> {
        let path = self.path().join(name);
        let opened = open_shared(above, OsStr::new(name), &path, make);
        match opened {
            Ok(None) => Ok(None),
            Ok(Some(directory)) => {
                let stat = rustix::fs::fstat(&directory);
                let stat = stat.map_err(|errno| Error::io("look at", &path, errno.into()))?;
                Ok(Some(Arc::new(Folder { directory, path, identity: Identity::of(&stat) })))
            }
            Err(error) if error.code() == ErrorCode::PermissionDenied => Err(not_admitted(error)),
            Err(error) => Err(error),
        }
    }

    /// One of the directories in which everybody has files of their own.
    fn common_folder(&self, name: &'static str) -> Result<Arc<Folder>> {
        if let Some(folder) = self.folder(name)? {
            return Ok(folder);
        }
        if !self.may_prepare() {
            return Err(no_slots(&self.path()));
        }
        // It was removed, or nobody leased yet.
        let gone = || Error::new(ErrorCode::Io, format!("{} is gone", self.path().display()));
        let above = self.above(true)?.ok_or_else(gone)?;
        self.folder_in(&above, name, Some(admitted(self.scope).1))?.ok_or_else(gone)
    }
}

fn no_slots(path: &Path) -> Error {
    Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "nobody may lease here yet: {} has no slots, and root makes them (`gpushare leases` as root does)",
            path.display()
        ),
    )
    .with_needs(vec!["root".to_owned()])
}

fn not_admitted(error: Error) -> Error {
    if !error.message().contains("ermission denied") {
        return error;
    }
    let needs = vec![format!("membership in the group {GROUP}")];
    error
        .context(format!("only members of the group {GROUP} lease on this machine"))
        .with_needs(needs)
}

/// Whom the directories are made for.
fn admitted(scope: LeaseScope) -> (Shared, Shared) {
    if scope == LeaseScope::Private || !rustix::process::geteuid().is_root() {
        let own = Shared { mode: PRIVATE, group: None };
        return (own, own);
    }
    match crate::backend::mps::group_number(GROUP) {
        Some(group) => (
            Shared { mode: 0o750, group: Some(group) },
            Shared { mode: 0o1770, group: Some(group) },
        ),
        None => (Shared { mode: 0o755, group: None }, Shared { mode: 0o1777, group: None }),
    }
}

/// The name of a share in names of files: a uuid has no `+` and no `~`.
fn encode(share: &ShareId) -> String {
    share.to_string().replace('/', "+")
}

fn decode(name: &str) -> Option<ShareId> {
    name.replace('+', "/").parse().ok()
}

pub(crate) fn share_of(slot: &str) -> Option<ShareId> {
    decode(slot.strip_suffix(SLOT)?)
}

#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) mod fuzzing {
    //! The names of files, for who feeds them.

    pub(crate) use super::queue::is_ticket;
    pub(crate) use super::{is_abandoned, share_of};

    pub(crate) fn slot_of(share: &super::ShareId) -> String {
        super::encode(share) + super::SLOT
    }
}

/// An open directory.
#[derive(Debug)]
struct Folder {
    directory: OwnedFd,
    path: PathBuf,
    identity: Identity,
}

/// What a directory was when it was looked at and found to be one that can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
    owner: u32,
    mode: u32,
}

impl Identity {
    fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino, owner: stat.st_uid, mode: stat.st_mode }
    }
}

impl Folder {
    /// Whether its path leads to it, and it is as it was. As long as it is open no other has its inode.
    fn is_still_there(&self) -> bool {
        let stat = rustix::fs::lstat(&self.path);
        stat.is_ok_and(|stat| Identity::of(&stat) == self.identity)
    }

    fn error(&self, doing: &str, name: &str) -> impl Fn(Errno) -> Error {
        let (doing, path) = (doing.to_owned(), self.path.join(name));
        move |errno| Error::io(&doing, &path, errno.into())
    }

    /// The names in it that are not being written, with their inodes.
    fn names(&self) -> Result<Vec<(String, u64)>> {
        let mut names = self.all_names()?;
        names.retain(|(name, _)| !name.starts_with('.'));
        Ok(names)
    }

    fn all_names(&self) -> Result<Vec<(String, u64)>> {
        let entries =
            rustix::fs::Dir::read_from(&self.directory).map_err(self.error("list", ""))?;
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(self.error("list", ""))?;
            if let Ok(name) = entry.file_name().to_str() {
                if entry.file_type() != FileType::Directory {
                    names.push((name.to_owned(), entry.ino()));
                }
            }
        }
        Ok(names)
    }

    fn remove(&self, name: &str) {
        let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
    }

    /// Opens a file to read it or to hold it; none when it is not there. Whose it is, is not looked at.
    fn open(&self, name: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(not_admitted(self.error("open", name)(errno))),
        }
    }

    /// Opens what stands where a slot would.
    fn open_slot(&self, name: &str) -> Result<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => Ok(Some(file)),
            Err(Errno::NOENT) => Ok(None),
            Err(Errno::LOOP) => Err(no_slot(self, name, "it is a symbolic link")),
            // A socket, a device without a driver.
            Err(Errno::NXIO | Errno::NODEV) => Err(no_slot(self, name, "it is no regular file")),
            Err(errno) => Err(not_admitted(self.error("open", name)(errno))),
        }
    }

    /// What a file of somebody's says, and whose it is. Links, pipes and the like say nothing.
    fn read(&self, name: &str) -> Option<(u32, Vec<u8>)> {
        let file = self.open(name).ok()??;
        let stat = rustix::fs::fstat(&file).ok()?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_nlink != 1 {
            return None;
        }
        // As long as it is; what grows meanwhile is none of ours.
        let size = u64::try_from(stat.st_size).ok().filter(|size| *size <= LONGEST)?;
        let mut content = vec![0; usize::try_from(size).ok()?];
        let mut file = File::from(file);
        file.read_exact(&mut content).ok()?;
        Some((stat.st_uid, content))
    }

    /// Writes over a file of this user's that is as long. A process that dies there has written all of it
    /// or nothing: it is less than a page. Who reads at this moment may see some of both.
    fn overwrite(&self, name: &str, content: &[u8]) -> bool {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        if content.len() > NOTE {
            return false;
        }
        let Ok(file) = rustix::fs::openat(&self.directory, name, flags, Mode::empty()) else {
            return false;
        };
        let ours = rustix::fs::fstat(&file).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
                && stat.st_uid == rustix::process::geteuid().as_raw()
                && stat.st_nlink == 1
                && usize::try_from(stat.st_size) == Ok(content.len())
        });
        ours && rustix::io::pwrite(&file, content, 0) == Ok(content.len())
    }

    /// Makes a file of this user's that is not there, with its content, for all to read.
    fn make(&self, name: &str, content: &[u8], mode: u32) -> Result<File> {
        let flags =
            OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(mode))
            .map_err(|errno| not_admitted(self.error("write", name)(errno)))?;
        let mut file = File::from(file);
        let written = rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))
            .map_err(std::io::Error::from)
            .and_then(|()| file.write_all(content));
        if let Err(error) = written {
            let _ = rustix::fs::unlinkat(&self.directory, name, AtFlags::empty());
            return Err(Error::io("write", &self.path.join(name), error));
        }
        Ok(file)
    }
}

/// A name that nobody else uses. Containers that share the directory may have the same pid: it begins
/// with the time, of which it also tells how old it is.
fn scratch() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    format!("{SCRATCH}{}-{}-{number}-{}", since_boot(), std::process::id(), random())
}

/// Hexadecimal digits that nobody can guess.
fn random() -> String {
    let mut bytes = [0_u8; 8];
    // Where the kernel has none, it is the time alone.
    let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
    format!("{:016x}", u64::from_ne_bytes(bytes))
}

/// Whether a file that was never finished has no owner any more: it takes less than a second.
pub(crate) fn is_abandoned(name: &str) -> bool {
    let Some(name) = name.strip_prefix(SCRATCH) else { return false };
    let began = name.split('-').next().and_then(|began| began.parse::<u128>().ok());
    began.is_none_or(|began| began + ABANDONED.as_nanos() < since_boot())
}

/// Nanoseconds since boot: whatever anybody sets the clock to.
fn since_boot() -> u128 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u128::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000
        + u128::try_from(now.tv_nsec).unwrap_or(0)
}

/// Readable by all, writable by nobody: flock(2) needs no more.
const HELD_ONLY: u32 = 0o444;
const READABLE: u32 = 0o644;

impl FileSlots {
    /// The names in a folder that are nobody's: what is of shares that are not known and that nobody
    /// holds, and what was never finished.
    fn litter(
        &self,
        place: &str,
        folder: &Folder,
        known: &BTreeSet<ShareId>,
    ) -> Result<Vec<String>> {
        let held: BTreeSet<ShareId> = self.held()?.into_iter().map(|slot| slot.share).collect();
        let is_nobodys = |share: &ShareId| !known.contains(share) && !held.contains(share);
        let is_litter = |name: &str| match place {
            _ if name.starts_with('.') => is_abandoned(name),
            SLOTS => share_of(name).is_some_and(|share| is_nobodys(&share)),
            NOTES => {
                let share = name.split_once('~').and_then(|(share, _)| decode(share));
                share.is_none_or(|share| is_nobodys(&share))
            }
            _ => !queue::is_ticket(name),
        };
        let names = folder.all_names()?.into_iter().map(|(name, _)| name);
        Ok(names.filter(|name| is_litter(name)).collect())
    }
}

/// What came of locking a slot that was opened.
enum Lock {
    Ours,
    Held,
    /// Somebody looks whether it is held, for a moment.
    Watched,
    /// It was removed while it was opened, and holds nothing.
    Removed,
}

fn lock(folder: &Folder, name: &str, slot: BorrowedFd<'_>) -> Result<Lock> {
    let stat = rustix::fs::fstat(slot).map_err(folder.error("look at", name))?;
    expect_slot(folder, name, &stat)?;
    match rustix::fs::flock(slot, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => {
            // Together with those who only look.
            let shared = rustix::fs::flock(slot, FlockOperation::NonBlockingLockShared);
            return Ok(if shared.is_ok() { Lock::Watched } else { Lock::Held });
        }
        Err(errno) => return Err(folder.error("lock", name)(errno)),
    }
    let same = rustix::fs::statat(&folder.directory, name, AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|there| (there.st_dev, there.st_ino) == (stat.st_dev, stat.st_ino));
    Ok(if same { Lock::Ours } else { Lock::Removed })
}

impl Slots for FileSlots {
    fn scope(&self) -> LeaseScope {
        self.scope
    }

    fn may_prepare(&self) -> bool {
        self.scope == LeaseScope::Private || rustix::process::geteuid().is_root()
    }

    fn prepare(&self, shares: &[ShareId]) -> Result<()> {
        if !self.may_prepare() {
            return Err(no_slots(&self.path()));
        }
        let gone = || Error::new(ErrorCode::Io, format!("{} is gone", self.path().display()));
        let above = self.above(true)?.ok_or_else(gone)?;
        let (slots, common) = admitted(self.scope);
        for name in [NOTES, QUEUE] {
            self.folder_in(&above, name, Some(common))?.ok_or_else(gone)?;
        }
        let folder = self.folder_in(&above, SLOTS, Some(slots))?.ok_or_else(gone)?;
        let there: BTreeSet<String> = folder.names()?.into_iter().map(|(name, _)| name).collect();
        let missing = |share: &&ShareId| !there.contains(&(encode(share) + SLOT));
        let missing: Vec<&ShareId> = shares.iter().filter(missing).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Whoever holds one that was removed from under them has the share.
        let held: BTreeSet<ShareId> = self.openers().into_iter().map(|(share, _)| share).collect();
        for share in missing.into_iter().filter(|share| !held.contains(share)) {
            let name = encode(share) + SLOT;
            let new = scratch();
            folder.make(&new, b"", HELD_ONLY)?;
            // By link, which replaces nothing: one that came meanwhile may be held.
            let linked = rustix::fs::linkat(
                &folder.directory,
                &new,
                &folder.directory,
                &name,
                AtFlags::empty(),
            );
            let _ = rustix::fs::unlinkat(&folder.directory, &new, AtFlags::empty());
            match linked {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(folder.error("make", &name)(errno)),
            }
        }
        Ok(())
    }

    fn are_there(&self, shares: &[ShareId]) -> Result<bool> {
        for name in [NOTES, QUEUE] {
            if self.folder(name)?.is_none() {
                return Ok(false);
            }
        }
        let Some(folder) = self.folder(SLOTS)? else { return Ok(false) };
        let there: BTreeSet<String> = folder.names()?.into_iter().map(|(name, _)| name).collect();
        Ok(shares.iter().all(|share| there.contains(&(encode(share) + SLOT))))
    }

    fn try_take(&self, share: &ShareId) -> Result<Taken> {
        let Some(folder) = self.folder(SLOTS)? else { return Ok(Taken::Missing) };
        let name = encode(share) + SLOT;
        for _ in 0..MOST_TRIES {
            let Some(file) = OwnFile::open(|| folder.open_slot(&name))? else {
                return Ok(Taken::Missing);
            };
            match file.with(|slot| lock(&folder, &name, slot)).transpose()? {
                Some(Lock::Ours) => {
                    return Ok(Taken::Slot(Slot { share: share.clone(), file }));
                }
                Some(Lock::Held) => return Ok(Taken::Held),
                Some(Lock::Watched | Lock::Removed) | None => {
                    drop(file);
                    std::thread::yield_now();
                }
            }
        }
        Ok(Taken::Held)
    }

    fn retire(&self, slot: &Slot) -> Result<()> {
        let Some(folder) = self.folder(SLOTS)? else { return Ok(()) };
        let name = encode(&slot.share) + SLOT;
        match rustix::fs::unlinkat(&folder.directory, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(folder.error("remove", &name)(errno)),
        }
        // What lies beside it is nobody's word any more; what cannot be removed is passed over when
        // it is read.
        if let Some(notes) = self.folder(NOTES)? {
            let before = format!("{}~", encode(&slot.share));
            for (name, _) in notes.names()? {
                if name.starts_with(&before) {
                    let _ = rustix::fs::unlinkat(&notes.directory, &name, AtFlags::empty());
                }
            }
        }
        Ok(())
    }

    fn held(&self) -> Result<Vec<HeldSlot>> {
        match self.folder(SLOTS) {
            Ok(Some(folder)) => holders::held(&folder),
            Ok(None) => Ok(Vec::new()),
            // Who may not lease may not see who does.
            Err(error) if error.code() == ErrorCode::PermissionDenied => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn openers(&self) -> Vec<(ShareId, Pid)> {
        if matches!(&self.place, Place::Temporary(temporary) if temporary.path().is_none()) {
            return Vec::new();
        }
        let folder = self.folder(SLOTS).ok().flatten();
        holders::openers(&self.path().join(SLOTS), folder.as_deref())
    }

    fn has_litter(&self, known: &BTreeSet<ShareId>) -> Result<bool> {
        for place in [SLOTS, NOTES, QUEUE] {
            if let Some(folder) = self.folder(place)? {
                if !self.litter(place, &folder, known)?.is_empty() {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    fn sweep(&self, known: &BTreeSet<ShareId>) -> Result<()> {
        for place in [SLOTS, NOTES, QUEUE] {
            let Some(folder) = self.folder(place)? else { continue };
            for name in self.litter(place, &folder, known)? {
                match share_of(&name).filter(|_| place == SLOTS) {
                    None => folder.remove(&name),
                    Some(share) => {
                        if let Ok(Taken::Slot(slot)) = self.try_take(&share) {
                            self.retire(&slot)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&self, share: &ShareId, content: &[u8]) -> Result<()> {
        let folder = self.common_folder(NOTES)?;
        let name = format!("{}~{}", encode(share), rustix::process::geteuid().as_raw());
        // All are of one length, as far as they fit: such a one is written over at once and whole.
        let mut content = content.to_vec();
        content.resize(content.len().next_multiple_of(NOTE), b' ');
        if folder.overwrite(&name, &content) {
            return Ok(());
        }
        let new = scratch();
        folder.make(&new, &content, READABLE)?;
        let rename =
            |to: &str| rustix::fs::renameat(&folder.directory, &new, &folder.directory, to);
        match rename(&name) {
            Ok(()) => return Ok(()),
            // Another user's file has that name, to be in the way: one that cannot be guessed has not.
            Err(Errno::PERM | Errno::ACCESS | Errno::ISDIR) => {}
            Err(errno) => {
                folder.remove(&new);
                return Err(folder.error("write", &name)(errno));
            }
        }
        let other = format!("{name}~{}", random());
        rename(&other).map_err(|errno| {
            folder.remove(&new);
            folder.error("write", &other)(errno)
        })?;
        let before = format!("{name}~");
        for (old, _) in folder.names()? {
            if old.starts_with(&before) && old != other {
                folder.remove(&old);
            }
        }
        Ok(())
    }

    fn notes(&self, share: Option<&ShareId>) -> Result<Vec<Note>> {
        let folder = match self.folder(NOTES) {
            Ok(Some(folder)) => folder,
            Ok(None) => return Ok(Vec::new()),
            Err(error) if error.code() == ErrorCode::PermissionDenied => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let before = share.map(|share| format!("{}~", encode(share)));
        let mut notes = Vec::new();
        let mut authors = BTreeMap::new();
        for (name, _) in folder.names()? {
            if before.as_ref().is_some_and(|before| !name.starts_with(before)) {
                continue;
            }
            let Some((share, rest)) = name.split_once('~') else { continue };
            let Some(share) = decode(share) else { continue };
            let named = rest.split('~').next().and_then(|user| user.parse::<u32>().ok());
            // Whose it is, the file system says. Anybody may put files here, as many as they like: of each
            // author and share so many are kept as `note` leaves while it writes one.
            if let Some((author, content)) = folder.read(&name) {
                let kept: &mut u8 = authors.entry((share.clone(), author)).or_default();
                if named == Some(author) && *kept < 2 {
                    *kept += 1;
                    notes.push(Note { share, author, content });
                }
            }
        }
        Ok(notes)
    }

    fn join(&self, content: &[u8]) -> Result<Box<dyn Ticket>> {
        queue::join(self.common_folder(QUEUE)?, content)
    }

    fn queue(&self) -> Result<Vec<String>> {
        match self.folder(QUEUE)? {
            Some(folder) => queue::list(&folder),
            None => Ok(Vec::new()),
        }
    }

    fn ticket(&self, name: &str) -> Option<Vec<u8>> {
        let folder = self.folder(QUEUE).ok()??;
        folder.read(name).map(|(_, content)| content)
    }

    fn still_waits(&self, ticket: &str) -> bool {
        match self.folder(QUEUE) {
            Ok(Some(folder)) => queue::still_waits(&folder, ticket),
            _ => false,
        }
    }
}

/// Refuses what stands where a slot would and is none. A second name elsewhere does no harm: it is the
/// same lock by any name.
fn expect_slot(folder: &Folder, name: &str, stat: &rustix::fs::Stat) -> Result<()> {
    let own = rustix::process::geteuid().as_raw();
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(no_slot(folder, name, "it is no regular file"));
    }
    if stat.st_uid != 0 && stat.st_uid != own {
        return Err(no_slot(folder, name, "it is another user's"));
    }
    Ok(())
}

fn no_slot(folder: &Folder, name: &str, why: &str) -> Error {
    Error::new(
        ErrorCode::InvalidState,
        format!(
            "{} is not used: {why}; look who put it there, and remove it",
            folder.path.join(name).display()
        ),
    )
}
