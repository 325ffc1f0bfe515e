//! The store on disk: durable files and locks below two directories of ours.
//!
//! Every directory on the way is opened by descriptor, without following links, and must belong to
//! root or to this user and be writable by nobody else: whoever could write there could make root
//! destroy instances.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorCode, Result};
use crate::port::{LockGuard, Store};

/// Locks are of this life of the machine; everything else outlives it.
const LOCKS: &str = "lock";

/// A journal or record is a few kilobytes; what is longer than this is none.
const LONGEST: u64 = 16 << 20;

/// The store on disk.
#[derive(Clone, Debug)]
pub struct FileStore {
    lib: PathBuf,
    run: PathBuf,
}

impl FileStore {
    /// A store with durable files below `lib` and locks below `run`. They are made when something
    /// is first written.
    pub fn new(lib: PathBuf, run: PathBuf) -> Self {
        Self { lib, run }
    }

    /// Opens the folder of a name. None when it is not there and was not to be made.
    fn folder(&self, name: &str, make: bool) -> Result<Option<Folder>> {
        let (folder, file) = name.split_once('/').unwrap_or(("", name));
        let base = if folder == LOCKS { &self.run } else { &self.lib };
        let Some(mut directory) = open_base(base, make)? else { return Ok(None) };
        let mut path = base.clone();
        if !folder.is_empty() {
            path.push(folder);
            // Locks are nobody else's business, and what was set aside is for root to look at.
            let mode = if matches!(folder, LOCKS | "discarded") { 0o700 } else { 0o755 };
            let Some(below) = open_below(&directory, OsStr::new(folder), &path, make, mode)? else {
                return Ok(None);
            };
            directory = below;
        }
        Ok(Some(Folder { directory, file: file.to_owned(), path: path.join(file) }))
    }

    fn make(&self, name: &str) -> Result<Folder> {
        self.folder(name, true)?.ok_or_else(|| {
            Error::new(
                ErrorCode::Io,
                format!("{} is gone while it is written to", self.lib.display()),
            )
        })
    }
}

/// An open directory and a name in it.
struct Folder {
    directory: OwnedFd,
    file: String,
    path: PathBuf,
}

impl Folder {
    fn error(&self, doing: &str) -> impl Fn(Errno) -> Error {
        let (doing, path) = (doing.to_owned(), self.path.clone());
        move |errno| Error::io(&doing, &path, errno.into())
    }

    fn open(&self, name: &str, flags: OFlags, mode: u32) -> Result<OwnedFd, Errno> {
        let flags = flags | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&self.directory, name, flags, Mode::from_raw_mode(mode))
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(self.error("sync the directory of"))
    }
}

/// Opens a base directory, and makes it and those above it where wanted.
fn open_base(base: &Path, make: bool) -> Result<Option<OwnedFd>> {
    match open_directory(rustix::fs::CWD, base.as_os_str(), base)? {
        Some(directory) => Ok(Some(directory)),
        None if !make => Ok(None),
        None => {
            if let Some(parent) = base.parent().filter(|parent| !parent.as_os_str().is_empty()) {
                if !parent.exists() {
                    open_base(parent, true)?;
                }
            }
            make_directory(rustix::fs::CWD, base.as_os_str(), base, 0o755)?;
            open_directory(rustix::fs::CWD, base.as_os_str(), base)
        }
    }
}

fn open_below(
    above: &OwnedFd,
    name: &OsStr,
    path: &Path,
    make: bool,
    mode: u32,
) -> Result<Option<OwnedFd>> {
    match open_directory(above, name, path)? {
        Some(directory) => Ok(Some(directory)),
        None if !make => Ok(None),
        None => {
            make_directory(above, name, path, mode)?;
            open_directory(above, name, path)
        }
    }
}

fn make_directory(
    above: impl rustix::fd::AsFd,
    name: &OsStr,
    path: &Path,
    mode: u32,
) -> Result<()> {
    match rustix::fs::mkdirat(&above, name, Mode::from_raw_mode(mode)) {
        // The umask may have taken rights that readers of records need.
        Ok(()) => rustix::fs::chmodat(&above, name, Mode::from_raw_mode(mode), AtFlags::empty())
            .map_err(|errno| Error::io("set the mode of", path, errno.into())),
        Err(Errno::EXIST) => Ok(()),
        Err(errno) => Err(Error::io("make the directory", path, errno.into())),
    }
}

/// Opens a directory that can be trusted; none when it is not there.
fn open_directory(
    above: impl rustix::fd::AsFd,
    name: &OsStr,
    path: &Path,
) -> Result<Option<OwnedFd>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = match rustix::fs::openat(above, name, flags, Mode::empty()) {
        Ok(directory) => directory,
        Err(Errno::NOENT) => return Ok(None),
        Err(Errno::LOOP | Errno::NOTDIR) => {
            return Err(distrusted(path, "it is a symbolic link or no directory"));
        }
        Err(errno) => return Err(Error::io("open", path, errno.into())),
    };
    let stat =
        rustix::fs::fstat(&directory).map_err(|errno| Error::io("look at", path, errno.into()))?;
    let user = rustix::process::geteuid();
    let owner = stat.st_uid;
    if owner != 0 && owner != user.as_raw() {
        return Err(distrusted(path, &format!("it belongs to user {owner}")));
    }
    // A user's own group is often theirs alone; root's directories have no such excuse.
    let writers = if user.is_root() { 0o022 } else { 0o002 };
    if stat.st_mode & writers != 0 {
        return Err(distrusted(path, "others may write to it"));
    }
    Ok(Some(directory))
}

fn distrusted(path: &Path, why: &str) -> Error {
    Error::new(
        ErrorCode::PermissionDenied,
        format!(
            "the state directory {} is not used: {why}; remove it, or give another with --state-dir",
            path.display()
        ),
    )
    .with_needs(vec![format!("{} owned by root or by this user, and writable by nobody else", path.display())])
}

impl Store for FileStore {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(folder) = self.folder(name, false)? else { return Ok(None) };
        let file = match folder.open(&folder.file, OFlags::RDONLY | OFlags::NONBLOCK, 0) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(folder.error("read")(errno)),
        };
        let refuse = |why: &str| {
            Error::new(ErrorCode::Io, format!("cannot read {}: {why}", folder.path.display()))
        };
        let failed = |error| Error::io("read", &folder.path, error);
        let meta = file.metadata().map_err(failed)?;
        if !meta.is_file() || meta.len() > LONGEST {
            return Err(refuse("it is no file of ours"));
        }
        let mut content = Vec::new();
        file.take(LONGEST).read_to_end(&mut content).map_err(failed)?;
        Ok(Some(content))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let folder = self.make(name)?;
        let new = format!(".{}.{}", folder.file, std::process::id());
        // A file of that name is what an earlier process with this pid left behind.
        let _ = rustix::fs::unlinkat(&folder.directory, &new, AtFlags::empty());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = File::from(folder.open(&new, flags, 0o644).map_err(folder.error("write"))?);
        let failed = |error| Error::io("write", &folder.path, error);
        file.write_all(content).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        rustix::fs::renameat(&folder.directory, &new, &folder.directory, &folder.file)
            .map_err(folder.error("write"))?;
        folder.sync()
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let folder = self.make(name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::APPEND;
        let mut file =
            File::from(folder.open(&folder.file, flags, 0o644).map_err(folder.error("write"))?);
        let failed = |error| Error::io("write", &folder.path, error);
        file.write_all(content).map_err(failed)?;
        file.sync_data().map_err(failed)
    }

    fn remove(&self, name: &str) -> Result<()> {
        let Some(folder) = self.folder(name, false)? else { return Ok(()) };
        match rustix::fs::unlinkat(&folder.directory, &folder.file, AtFlags::empty()) {
            Ok(()) => folder.sync(),
            Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(folder.error("remove")(errno)),
        }
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let Some(folder) = self.folder(&format!("{folder}/"), false)? else {
            return Ok(Vec::new());
        };
        let mut names = Vec::new();
        let entries =
            rustix::fs::Dir::read_from(&folder.directory).map_err(folder.error("list"))?;
        for entry in entries {
            let entry = entry.map_err(folder.error("list"))?;
            // Names that begin with a dot are being written.
            if let Ok(name) = entry.file_name().to_str() {
                if !name.starts_with('.') && entry.file_type() != FileType::Directory {
                    names.push(name.to_owned());
                }
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let Some(from) = self.folder(from, false)? else {
            return Err(Error::new(ErrorCode::NotFound, format!("there is no {from}")));
        };
        let to = self.make(to)?;
        rustix::fs::renameat(&from.directory, &from.file, &to.directory, &to.file)
            .map_err(from.error("move"))?;
        to.sync()?;
        from.sync()
    }

    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>> {
        let folder = self.make(name)?;
        let file = folder
            .open(&folder.file, OFlags::RDWR | OFlags::CREATE, 0o600)
            .map_err(folder.error("lock"))?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(folder.error("lock")(errno)),
        }
        let mut file = File::from(file);
        // For messages alone: who waits can say for whom. The lock is the descriptor's.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Some(Box::new(FileLock { file })))
    }

    fn place(&self) -> &Path {
        &self.lib
    }
}

/// The lock is let go when the descriptor is closed, by us or by the end of the process.
#[derive(Debug)]
struct FileLock {
    file: File,
}

impl LockGuard for FileLock {
    fn descriptor(&self) -> Option<OwnedFd> {
        self.file.try_clone().ok().map(OwnedFd::from)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    fn store(directory: &Path) -> FileStore {
        FileStore::new(directory.join("lib"), directory.join("run"))
    }

    #[test]
    fn files_come_back_as_they_were_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        assert_eq!(store.read("records/a.json").unwrap(), None);
        assert!(store.list("records").unwrap().is_empty());
        store.replace("records/a.json", b"one").unwrap();
        store.replace("records/a.json", b"two").unwrap();
        store.append("records/a.json", b"+").unwrap();
        assert_eq!(store.read("records/a.json").unwrap().unwrap(), b"two+");
        assert_eq!(store.list("records").unwrap(), ["a.json"]);
        store.rename("records/a.json", "discarded/a.json").unwrap();
        assert!(store.list("records").unwrap().is_empty());
        store.remove("discarded/a.json").unwrap();
        store.remove("discarded/a.json").unwrap();
    }

    #[test]
    fn a_lock_is_held_once_and_says_by_whom() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let held = store.try_lock("lock/x.lock").unwrap();
        assert!(held.is_some());
        assert!(store.try_lock("lock/x.lock").unwrap().is_none());
        let pid = store.read("lock/x.lock").unwrap().unwrap();
        assert_eq!(String::from_utf8(pid).unwrap().trim(), std::process::id().to_string());
        drop(held);
        assert!(store.try_lock("lock/x.lock").unwrap().is_some());
    }

    #[test]
    fn a_state_directory_that_others_could_change_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let elsewhere = directory.path().join("elsewhere");
        std::fs::create_dir(&elsewhere).unwrap();
        symlink(&elsewhere, directory.path().join("lib")).unwrap();
        let error = store(directory.path()).replace("records/a", b"").unwrap_err();
        assert_eq!(error.code(), ErrorCode::PermissionDenied);
        assert!(error.to_string().contains("symbolic link"), "{error}");

        std::fs::remove_file(directory.path().join("lib")).unwrap();
        std::fs::create_dir(directory.path().join("lib")).unwrap();
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(directory.path().join("lib"), open).unwrap();
        let error = store(directory.path()).read("records/a").unwrap_err();
        assert!(error.to_string().contains("others may write"), "{error}");

        let close = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path().join("lib"), close).unwrap();
        symlink("/etc/passwd", directory.path().join("lib").join("records")).unwrap();
        assert!(store(directory.path()).list("records").is_err());
        if rustix::process::geteuid().is_root() {
            std::fs::remove_file(directory.path().join("lib").join("records")).unwrap();
            std::os::unix::fs::chown(directory.path().join("lib"), Some(65534), None).unwrap();
            let error = store(directory.path()).list("records").unwrap_err();
            assert!(error.to_string().contains("belongs to user 65534"), "{error}");
        }
    }
}
