//! Who holds a slot: as the kernel says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use super::{Folder, share_of};
use crate::backend::system::in_first_pid_namespace;
use crate::error::Result;
use crate::fork::OwnFile;
use crate::id::{Pid, ShareId};
use crate::port::HeldSlot;

/// The slots in a directory that are held, from the kernel's list of locks. It does not show the
/// locks of other pid namespaces, nor in a namespace those whose process has gone: where that may be,
/// each slot is tried.
pub(super) fn held(folder: &Folder) -> Result<Vec<HeldSlot>> {
    let names = folder.names()?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let listed = the_kernels_list();
    let complete = listed.as_ref().is_ok_and(|listed| listed.is_complete) && sees_all(folder);
    let listed = listed.map(|listed| locks(&listed.text)).unwrap_or_default();
    let device = rustix::fs::fstat(&folder.directory).map_err(folder.error("look at", ""))?.st_dev;
    let device = (rustix::fs::major(device), rustix::fs::minor(device));
    let mut held = Vec::new();
    for (name, inode) in names {
        let Some(share) = share_of(&name) else { continue };
        let pid = listed.get(&(device, inode));
        if pid.is_some() || (!complete && is_held(folder, &name)) {
            held.push(HeldSlot { share, pid: pid.copied().flatten() });
        }
    }
    held.sort_by(|a, b| a.share.cmp(&b.share));
    Ok(held)
}

/// The kernel's list of locks.
struct Listed {
    text: String,
    /// Whether no line can be missing.
    is_complete: bool,
}

/// The kernel gives its list a page at a time, and no more of it than a call has room for. Between two calls
/// a line may slip through when others let go of locks: what one call gave is whole if it is less than a page.
const AT_ONCE: usize = 3_900;

/// Reads the list with as few calls as there can be. The standard library's own reading begins with a call
/// that has room for one line.
fn the_kernels_list() -> std::io::Result<Listed> {
    let mut file = File::open("/proc/locks")?;
    let mut bytes = vec![0; 4 * AT_ONCE];
    let first = loop {
        match file.read(&mut bytes) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    bytes.truncate(first);
    let is_complete = first > 0 && first < AT_ONCE;
    if !is_complete {
        file.read_to_end(&mut bytes)?;
    }
    Ok(Listed { text: String::from_utf8_lossy(&bytes).into_owned(), is_complete })
}

/// Whether the kernel's list shows every lock of this directory: in the first pid namespace, on a file
/// system whose files have the device number that the list prints.
fn sees_all(folder: &Folder) -> bool {
    // linux/magic.h: btrfs and overlayfs give each subvolume or layer a number of its own.
    const OTHER_NUMBERS: [u64; 2] = [0x9123_683E, 0x794C_7630];
    let kind = rustix::fs::fstatfs(&folder.directory).map(|kind| kind.f_type);
    let plain = |kind| u64::try_from(kind).is_ok_and(|kind| !OTHER_NUMBERS.contains(&kind));
    in_first_pid_namespace() && kind.is_ok_and(plain)
}

/// Device and inode of what flock holds, and who took it.
fn locks(text: &str) -> BTreeMap<((u32, u32), u64), Option<Pid>> {
    let hex = |text: &str| u32::from_str_radix(text, 16).ok();
    let lines = text.lines().filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        // `->` stands before those who wait.
        (fields.next()? == "FLOCK").then_some(())?;
        let (_, access, pid, file) =
            (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // One that is shared keeps others out as well.
        matches!(access, "WRITE" | "READ").then_some(())?;
        let mut file = file.split(':');
        let device = (hex(file.next()?)?, hex(file.next()?)?);
        let inode = file.next()?.parse().ok()?;
        let pid = pid.parse::<u32>().ok().filter(|pid| *pid != 0).map(Pid::new);
        Some(((device, inode), pid))
    });
    lines.collect()
}

/// Asks for a lock that stands in nobody's way for longer than that.
fn is_held(folder: &Folder, name: &str) -> bool {
    let Ok(Some(own)) = OwnFile::open(|| folder.open(name)) else { return false };
    let shared = own.with(|file| rustix::fs::flock(file, FlockOperation::NonBlockingLockShared));
    shared == Some(Err(Errno::WOULDBLOCK))
}

/// Every process that holds a slot, be it that the slot was removed since. A slot is told by its path,
/// as this process sees it, or by its inode: another mount namespace may have another path for it.
pub(super) fn openers(slots: &Path, folder: Option<&Folder>) -> Vec<(ShareId, Pid)> {
    let slots = as_the_kernel_says(slots);
    let inodes = folder.and_then(|folder| {
        let device = rustix::fs::fstat(&folder.directory).ok()?.st_dev;
        let names = folder.names().ok()?;
        Some(names.into_iter().map(move |(_, inode)| (device, inode)).collect::<BTreeSet<_>>())
    });
    let inodes = inodes.unwrap_or_default();
    let mut openers = Vec::new();
    let Ok(processes) = std::fs::read_dir("/proc") else { return openers };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        // Another user's are root's to see.
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(link) = std::fs::read_link(descriptor.path()) else { continue };
            let name = link.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let name = name.strip_suffix(" (deleted)").unwrap_or(name);
            let Some(share) = share_of(name) else { continue };
            let ours = link.parent() == Some(&slots)
                || std::fs::metadata(descriptor.path())
                    .is_ok_and(|meta| inodes.contains(&(meta.dev(), meta.ino())));
            let info = process.path().join("fdinfo").join(descriptor.file_name());
            if ours && holds(&info) {
                openers.push((share, Pid::new(pid)));
            }
        }
    }
    openers.sort();
    openers.dedup();
    openers
}

/// Whether a descriptor has the lock, and not just the file open to see who has it. What cannot be read
/// counts as if it had, unless it is closed by now.
fn holds(info: &Path) -> bool {
    let info = match std::fs::read_to_string(info) {
        Ok(info) => info,
        Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
    };
    let mut locks = info.lines().filter_map(|line| line.strip_prefix("lock:"));
    locks.any(|lock| lock.contains("FLOCK"))
}

/// A path without links: what is not there has none.
fn as_the_kernel_says(path: &Path) -> PathBuf {
    if let Ok(path) = path.canonicalize() {
        return path;
    }
    match (path.parent(), path.file_name()) {
        (Some(above), Some(name)) => as_the_kernel_says(above).join(name),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panics")]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use rustix::fs::flock;

    use super::*;

    /// Another takes and lets go of a lock all the time that stands before it in the kernel's list. A list that
    /// is read as the standard library reads misses it once in some hundred times.
    #[test]
    fn what_is_held_is_listed_whatever_others_let_go_of() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| File::create(folder.path().join(name)).unwrap();
        let lock = FlockOperation::LockExclusive;
        let held = file("held");
        flock(&held, lock).unwrap();
        let inode = held.metadata().unwrap().ino();
        let over = AtomicBool::new(false);
        let missed = std::thread::scope(|scope| {
            // One alone: what stands right behind the first line is what a short call misses.
            scope.spawn(|| {
                let other = file("other");
                while !over.load(Ordering::Relaxed) {
                    flock(&other, lock).unwrap();
                    flock(&other, FlockOperation::Unlock).unwrap();
                }
            });
            let end = Instant::now() + Duration::from_millis(300);
            let mut missed = 0;
            while Instant::now() < end {
                let listed = the_kernels_list().unwrap();
                let there = locks(&listed.text).keys().any(|(_, listed)| *listed == inode);
                // Elsewhere the list is not for us, and whoever reads it sees to that.
                missed += usize::from(listed.is_complete && in_first_pid_namespace() && !there);
            }
            over.store(true, Ordering::Relaxed);
            missed
        });
        assert_eq!(missed, 0);
    }

    #[test]
    fn the_kernels_list_is_read() {
        let text = "1: FLOCK  ADVISORY  WRITE 1234 fe:00:77 0 EOF\n\
                    1: -> FLOCK  ADVISORY  WRITE 1235 fe:00:77 0 EOF\n\
                    2: POSIX  ADVISORY  WRITE 1236 fe:00:78 0 EOF\n\
                    3: FLOCK  ADVISORY  READ  1237 fe:00:79 0 EOF\n\
                    4: FLOCK  ADVISORY  WRITE 0 00:2e:80 0 EOF\n\
                    5: OFDLCK ADVISORY  WRITE -1 00:2e:81 0 EOF\nrubbish\n6: FLOCK\n";
        let found = locks(text);
        let held = [
            (((0xfe, 0), 77), Some(Pid::new(1234))),
            (((0xfe, 0), 79), Some(Pid::new(1237))),
            (((0, 0x2e), 80), None),
        ];
        assert_eq!(found, BTreeMap::from(held));
    }
}
