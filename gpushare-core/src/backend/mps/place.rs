//! The directory of a domain: where its daemon listens, what we note about it there, and its logs.
//!
//! What makes a daemon ours is that it listens in such a directory, so nobody else may be able to
//! write there. It is for us alone until somebody is let in.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FallocateFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::backend::directory::{Directory, PRIVATE, open_below, open_file};
use crate::error::{Error, ErrorCode, Result};
use crate::fork::OwnFile;
use crate::mps::MpsDomain;
use crate::terminal::printable;

/// The longest path that a daemon takes: measured on drivers 470 to 580. At 88 bytes it ends with
/// status 1 and no message.
pub(super) const LONGEST_PATH: usize = 87;

/// The socket where clients and readers are served.
pub(super) const CONTROL: &str = "control";
/// The socket where the daemon's own user and root are obeyed.
pub(super) const PRIVILEGED: &str = "control_privileged";

/// Whom the daemon was started for.
pub(super) const ACCESS: &str = "access.json";
/// There while they are let in.
pub(super) const ADMITTED: &str = "admitted";
/// When a limit was last changed through us.
pub(super) const CHANGED: &str = "changed";

/// What is left in the directory of a daemon that has ended.
const KNOWN: [&str; 8] = [
    ACCESS,
    ADMITTED,
    CHANGED,
    CONTROL,
    PRIVILEGED,
    "control_lock",
    "log",
    // From driver 550 on. Nobody believes it.
    "nvidia-cuda-mps-control.pid",
];

/// How the name of a file of ours begins while it is written.
const NEW: &str = ".gpushare-new.";

/// The logs of a daemon and of its servers.
const LOGS: [&str; 2] = ["control.log", "server.log"];
/// A log that is longer than this when a daemon starts is set aside.
const LONG_LOG: u64 = 1 << 20;
/// A log that takes more than this on disk, in blocks of 512 bytes, loses its beginning.
const LONGEST_LOG_BLOCKS: i64 = (8 << 20) / 512;
/// The end of a log that messages show lines of.
const LOG_TAIL: u64 = 64 << 10;
const LOG_LINES: usize = 6;
const LOG_LINE: usize = 200;

/// What a daemon writes when somebody looks whether it answers and says nothing: we do, and CUDA.
const LOOKED_AT: [&str; 2] = ["] User did not send valid credentials", "] Accepting connection..."];

/// What we note is a few bytes.
const LONGEST_NOTE: u64 = 4096;

/// How often a lock is asked for again.
const STEP: Duration = Duration::from_millis(10);

/// Where the daemon of a domain is, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Place {
    above: Directory,
    logs: Directory,
    name: String,
}

impl Place {
    /// The place of a domain below our directories.
    pub(super) fn of(run: &Directory, lib: &Directory, domain: &MpsDomain) -> Self {
        let name = name_of(domain);
        let logs = lib.join("mps").join(&name);
        Self { above: above(run), logs, name }
    }

    /// What clients have in `CUDA_MPS_PIPE_DIRECTORY`.
    pub(super) fn path(&self) -> PathBuf {
        self.above.path().join(&self.name)
    }

    /// The path of a socket in it.
    pub(super) fn socket(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// What the daemon has in `CUDA_MPS_LOG_DIRECTORY`.
    pub(super) fn logs(&self) -> PathBuf {
        self.logs.path()
    }

    /// Refuses a path that daemons do not take.
    ///
    /// # Errors
    /// INVALID_ARGUMENT.
    pub(super) fn expect_short(&self) -> Result<()> {
        let path = self.path();
        let length = path.as_os_str().len();
        if length <= LONGEST_PATH {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::InvalidArgument,
            format!(
                "{} has {length} bytes, and an MPS daemon takes a directory of {LONGEST_PATH} at \
                 most; give a shorter state directory (GPUSHARE_STATE_DIR)",
                path.display()
            ),
        ))
    }

    /// Opens it; none when it is not there.
    ///
    /// # Errors
    /// PERMISSION_DENIED when it can't be trusted, or is not for this user; IO.
    pub(super) fn open(&self) -> Result<Option<Leaf>> {
        let Some(above) = self.above.open(false)? else { return Ok(None) };
        self.open_in(&above, false)
    }

    /// Opens it, and makes it where it is not there.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub(super) fn make(&self) -> Result<Leaf> {
        let leaf = match self.above.open(true)? {
            Some(above) => self.open_in(&above, true)?,
            None => None,
        };
        leaf.ok_or_else(|| self.gone())
    }

    /// Makes the directory of the logs and sets long ones aside.
    pub(super) fn make_logs(&self) -> Result<()> {
        let logs = self.logs.open(true)?.ok_or_else(|| self.gone())?;
        for name in LOGS {
            let path = self.logs.path().join(name);
            let long = match rustix::fs::statat(&logs, name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => u64::try_from(stat.st_size).is_ok_and(|size| size > LONG_LOG),
                Err(Errno::NOENT) => false,
                Err(errno) => return Err(Error::io("look at", &path, errno.into())),
            };
            if long {
                rustix::fs::renameat(&logs, name, &logs, format!("{name}.old"))
                    .map_err(|errno| Error::io("set aside", &path, errno.into()))?;
            }
        }
        Ok(())
    }

    /// Gives the disk back what the beginnings of long logs take, while daemons write them: each
    /// look at a daemon adds two lines to its log. Where that cannot be done the logs grow.
    pub(super) fn bound_logs(&self) {
        let Ok(Some(logs)) = self.logs.open(false) else { return };
        for name in LOGS {
            let stat = rustix::fs::statat(&logs, name, AtFlags::SYMLINK_NOFOLLOW);
            let Some(stat) = stat.ok().filter(|stat| stat.st_blocks > LONGEST_LOG_BLOCKS) else {
                continue;
            };
            let path = self.logs.path().join(name);
            let Ok(Some(file)) = open_file(&logs, name, &path, OFlags::WRONLY, 0) else { continue };
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            if let Err(errno) =
                rustix::fs::fallocate(&file, flags, 0, size.saturating_sub(LOG_TAIL))
            {
                let log = path.display();
                tracing::debug!(target: "gpushare::mps", %errno, %log, "a long log is left as it is");
            }
        }
    }

    /// The last lines of the logs, those of the servers last. Empty where there are none or they
    /// can't be read.
    pub(super) fn log(&self) -> String {
        let Ok(Some(logs)) = self.logs.open(false) else { return String::new() };
        let mut lines = Vec::new();
        for name in LOGS {
            let path = self.logs.path().join(name);
            let Ok(Some(file)) = open_file(&logs, name, &path, OFlags::RDONLY, 0) else { continue };
            lines.extend(tail(File::from(file)));
        }
        lines.join("\n")
    }

    /// Removes it, where nothing is in it any more.
    ///
    /// # Errors
    /// INVALID_STATE when something is in it that no daemon left; IO.
    pub(super) fn remove(&self) -> Result<()> {
        let Some(above) = self.above.open(false)? else { return Ok(()) };
        match rustix::fs::unlinkat(&above, &self.name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::NOTEMPTY | Errno::EXIST) => Err(Error::new(
                ErrorCode::InvalidState,
                format!(
                    "{} is not removed: something is in it that no MPS daemon leaves; look what \
                     it is, and remove it",
                    self.path().display()
                ),
            )),
            Err(errno) => Err(Error::io("remove", &self.path(), errno.into())),
        }
    }

    /// Waits until nobody else starts, opens or ends the daemon of this domain, and holds that.
    ///
    /// The lock is a file beside the directory, not the directory itself: whoever is let in there
    /// could hold that, and it is removed again and again.
    ///
    /// # Errors
    /// LOCKED when it is held that long; PERMISSION_DENIED; IO.
    pub(super) fn lock(&self, within: Duration) -> Result<OwnFile> {
        let deadline = Instant::now() + within;
        let above = self.above.open(true)?.ok_or_else(|| self.gone())?;
        let name = format!("{}.lock", self.name);
        let path = self.above.path().join(&name);
        let flags = OFlags::RDWR | OFlags::CREATE;
        let own = OwnFile::open(|| open_file(&above, &name, &path, flags, 0o600))?
            .ok_or_else(|| self.gone())?;
        loop {
            let lock = FlockOperation::NonBlockingLockExclusive;
            match own.with(|file| rustix::fs::flock(file, lock)).unwrap_or(Err(Errno::BADF)) {
                Ok(()) => return Ok(own),
                Err(Errno::WOULDBLOCK | Errno::INTR) if Instant::now() < deadline => {
                    std::thread::sleep(STEP);
                }
                Err(Errno::WOULDBLOCK | Errno::INTR) => {
                    return Err(Error::new(
                        ErrorCode::Locked,
                        format!(
                            "another process starts or ends the MPS daemon of {} and holds {}",
                            self.name,
                            path.display()
                        ),
                    ));
                }
                Err(errno) => return Err(Error::io("lock", &path, errno.into())),
            }
        }
    }

    fn open_in(&self, above: &OwnedFd, make: bool) -> Result<Option<Leaf>> {
        let path = self.path();
        let leaf = open_below(above, OsStr::new(&self.name), &path, make, PRIVATE)?;
        Ok(leaf.map(|directory| Leaf { directory, path }))
    }

    fn gone(&self) -> Error {
        let path = self.path();
        Error::new(ErrorCode::Io, format!("{} is gone while it is made", path.display()))
    }
}

/// The domains that have a directory.
///
/// # Errors
/// PERMISSION_DENIED when what is above them can't be trusted or read; IO.
pub(super) fn domains(run: &Directory) -> Result<Vec<MpsDomain>> {
    let above = above(run);
    let Some(directory) = above.open(false)? else { return Ok(Vec::new()) };
    let failed = |errno: Errno| Error::io("list", &above.path(), errno.into());
    let mut found = Vec::new();
    for entry in rustix::fs::Dir::read_from(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        // The locks beside them are files.
        let may_be = matches!(entry.file_type(), FileType::Directory | FileType::Unknown);
        let name = entry.file_name().to_str().ok().filter(|_| may_be);
        found.extend(name.and_then(domain_of));
    }
    found.sort();
    Ok(found)
}

/// The name of the directory of a domain.
fn name_of(domain: &MpsDomain) -> String {
    // Old uuids of MIG devices have slashes: MIG-GPU-…/1/0.
    domain.as_str().replace('/', "_")
}

/// The domain that has a directory of that name.
fn domain_of(name: &str) -> Option<MpsDomain> {
    let domain: MpsDomain = name.replace('_', "/").parse().ok()?;
    (name_of(&domain) == name).then_some(domain)
}

/// Where the directories of all domains are.
pub(super) fn above(run: &Directory) -> Directory {
    run.join("mps")
}

/// The last lines of a file, each made safe to show.
fn tail(mut file: File) -> Vec<String> {
    let length = file.metadata().map_or(0, |meta| meta.len());
    let start = length.saturating_sub(LOG_TAIL);
    let mut bytes = Vec::new();
    let read =
        file.seek(SeekFrom::Start(start)).and_then(|_| file.take(LOG_TAIL).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    let text = String::from_utf8_lossy(&bytes);
    // The first line may have begun before.
    let lines = text.lines().skip(usize::from(start > 0)).map(str::trim_end);
    let noise = |line: &str| line.is_empty() || LOOKED_AT.iter().any(|end| line.ends_with(end));
    let lines: Vec<_> = lines.filter(|line| !noise(line)).collect();
    let last = lines.len().saturating_sub(LOG_LINES);
    let shown = lines.iter().skip(last).map(|line| {
        let line: String = line.chars().take(LOG_LINE).collect();
        printable(&line).into_owned()
    });
    shown.collect()
}

/// The open directory of a domain.
#[derive(Debug)]
pub(super) struct Leaf {
    directory: OwnedFd,
    path: PathBuf,
}

impl Leaf {
    /// What we noted under that name.
    ///
    /// # Errors
    /// INVALID_STATE for what is no file of ours; IO.
    pub(super) fn read(&self, name: &str) -> Result<Option<String>> {
        let path = self.path.join(name);
        let Some(file) = open_file(&self.directory, name, &path, OFlags::RDONLY, 0)? else {
            return Ok(None);
        };
        let mut text = String::new();
        File::from(file)
            .take(LONGEST_NOTE)
            .read_to_string(&mut text)
            .map_err(|error| Error::io("read", &path, error))?;
        Ok(Some(text))
    }

    /// Notes something under that name, all of it or nothing. It need not outlive the machine.
    ///
    /// # Errors
    /// IO.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let new = format!("{NEW}{name}.{}", std::process::id());
        let path = self.path.join(&new);
        let failed = |errno: Errno| Error::io("write", &path, errno.into());
        let _ = rustix::fs::unlinkat(&self.directory, &new, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let file = open_file(&self.directory, &new, &path, flags, 0o644)?
            .ok_or_else(|| failed(Errno::NOENT))?;
        // Whoever is let in may read it, whatever the umask.
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o644)).map_err(failed)?;
        File::from(file)
            .write_all(text.as_bytes())
            .map_err(|error| Error::io("write", &path, error))?;
        rustix::fs::renameat(&self.directory, &new, &self.directory, name).map_err(failed)
    }

    /// Forgets what was noted under that name.
    ///
    /// # Errors
    /// IO.
    pub(super) fn forget(&self, name: &str) -> Result<()> {
        match rustix::fs::unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(Error::io("remove", &self.path.join(name), errno.into())),
        }
    }

    /// Removes what daemons and we leave there, and nothing else.
    ///
    /// # Errors
    /// IO.
    pub(super) fn clear(&self) -> Result<()> {
        let failed = |errno: Errno| Error::io("list", &self.path, errno.into());
        let mut left = Vec::new();
        for entry in rustix::fs::Dir::read_from(&self.directory).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let Ok(name) = entry.file_name().to_str() else { continue };
            let special = matches!(entry.file_type(), FileType::Socket | FileType::Fifo);
            let known = KNOWN.contains(&name) || name.starts_with(NEW);
            if special || (known && entry.file_type() != FileType::Directory) {
                left.push(name.to_owned());
            }
        }
        left.iter().try_for_each(|name| self.forget(name))
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl AsFd for Leaf {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.directory.as_fd()
    }
}
