//! The store on disk: durable files and locks below two directories of ours.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::directory::{Directory, PRIVATE, open_below, open_file};
use crate::error::{Error, ErrorCode, Result};
use crate::fork::OwnFile;
use crate::port::{LockGuard, Store};

/// Locks are of this life of the machine; everything else outlives it.
const LOCKS: &str = "lock";

/// What was set aside is for root to look at.
const DISCARDED: &str = "discarded";

/// A journal or record is a few kilobytes; what is longer than this is none.
const LONGEST: u64 = 16 << 20;

/// What is durable is for everybody to read, whatever the umask: who may look into the directory
/// is the directory's matter.
const READABLE: u32 = 0o644;

/// The store on disk. Its directories are made when something is first written.
#[derive(Clone, Debug)]
pub struct FileStore {
    lib: Directory,
    run: Directory,
    place: PathBuf,
}

impl FileStore {
    /// The store of this machine: `/var/lib/gpushare` and `/run/gpushare`.
    ///
    /// # Errors
    /// None.
    pub fn system() -> Result<Self> {
        let lib = Directory::new(Path::new("/var/lib/gpushare"))?;
        Ok(Self::over(lib, Directory::new(Path::new("/run/gpushare"))?))
    }

    /// A store with durable files below `lib` of a directory and locks below `run`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for an empty path; IO when it is relative and there is no current directory.
    pub fn below(directory: &Path) -> Result<Self> {
        Ok(Self::in_directory(&Directory::new(directory)?))
    }

    pub(crate) fn in_directory(directory: &Directory) -> Self {
        Self::over(directory.join("lib"), directory.join("run"))
    }

    /// A store of durable files in one directory; there are no locks in it.
    pub(super) fn alone(directory: Directory) -> Self {
        Self::over(directory.clone(), directory)
    }

    /// A store of its own within this one: below that name in both directories.
    #[must_use]
    pub fn within(&self, name: &str) -> Self {
        Self::over(self.lib.join(name), self.run.join(name))
    }

    fn over(lib: Directory, run: Directory) -> Self {
        let place = lib.path();
        Self { lib, run, place }
    }

    /// The directory of what outlives this life of the machine.
    pub(super) fn lib(&self) -> &Directory {
        &self.lib
    }

    /// The directory of what does not outlive this life of the machine.
    pub(crate) fn run(&self) -> &Directory {
        &self.run
    }

    /// Opens the folder of a name. None when it is not there and was not to be made.
    fn folder(&self, name: &str, make: bool) -> Result<Option<Folder>> {
        let (folder, file) = name.split_once('/').unwrap_or(("", name));
        let base = if folder == LOCKS { &self.run } else { &self.lib };
        let Some(mut directory) = base.open(make)? else { return Ok(None) };
        let mut path = base.path();
        if !folder.is_empty() {
            path.push(folder);
            // Locks are nobody else's business.
            let mode = if matches!(folder, LOCKS | DISCARDED) { PRIVATE } else { 0o755 };
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
                format!("{} is gone while it is written to", self.place.display()),
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

    fn open(&self, name: &str, flags: OFlags, mode: u32) -> Result<Option<File>> {
        open_file(&self.directory, name, &self.path, flags, mode).map(|file| file.map(File::from))
    }

    /// Opens a file to write it, and makes it.
    fn write(&self, name: &str, flags: OFlags, mode: u32) -> Result<File> {
        let file = self.open(name, flags | OFlags::CREATE, mode)?;
        file.ok_or_else(|| self.error("write")(Errno::NOENT))
    }

    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.directory).map_err(self.error("sync the directory of"))
    }
}

impl Store for FileStore {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(folder) = self.folder(name, false)? else { return Ok(None) };
        let Some(file) = folder.open(&folder.file, OFlags::RDONLY, 0)? else { return Ok(None) };
        let failed = |error| Error::io("read", &folder.path, error);
        let mut content = Vec::new();
        // A byte more than may be there.
        file.take(LONGEST + 1).read_to_end(&mut content).map_err(failed)?;
        if content.len() as u64 > LONGEST {
            return Err(Error::new(
                ErrorCode::InvalidState,
                format!("{} is too long to be a file of ours; remove it", folder.path.display()),
            ));
        }
        Ok(Some(content))
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        let folder = self.make(name)?;
        let new = format!(".{}.{}", folder.file, std::process::id());
        // A file of that name is what an earlier process with this pid left behind.
        let _ = rustix::fs::unlinkat(&folder.directory, &new, AtFlags::empty());
        let mut file = folder.write(&new, OFlags::WRONLY | OFlags::EXCL, READABLE)?;
        let failed = |error| Error::io("write", &folder.path, error);
        rustix::fs::fchmod(&file, Mode::from_raw_mode(READABLE)).map_err(folder.error("write"))?;
        file.write_all(content).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        rustix::fs::renameat(&folder.directory, &new, &folder.directory, &folder.file)
            .map_err(folder.error("write"))?;
        folder.sync()
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let folder = self.make(name)?;
        let mut file = folder.write(&folder.file, OFlags::WRONLY | OFlags::APPEND, READABLE)?;
        let failed = |error| Error::io("write", &folder.path, error);
        // Who made it may not have come to sync its directory.
        let is_new = file.metadata().map_err(failed)?.len() == 0;
        if is_new {
            rustix::fs::fchmod(&file, Mode::from_raw_mode(READABLE))
                .map_err(folder.error("write"))?;
        }
        file.write_all(content).map_err(failed)?;
        file.sync_data().map_err(failed)?;
        if is_new { folder.sync() } else { Ok(()) }
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
        let file = OwnFile::open(|| {
            let mut file = folder.write(&folder.file, OFlags::RDWR, 0o600)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => return Ok(None),
                Err(errno) => return Err(folder.error("lock")(errno)),
            }
            // For messages alone: who waits can say for whom. The lock is the descriptor's.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok::<_, Error>(Some(file.into()))
        })?;
        Ok(file.map(|file| Box::new(FileLock { file }) as Box<dyn LockGuard>))
    }

    fn place(&self) -> &Path {
        &self.place
    }
}

/// The lock is let go when the descriptor is closed, by us or by the end of the process.
#[derive(Debug)]
struct FileLock {
    file: OwnFile,
}

impl LockGuard for FileLock {
    fn descriptor(&self) -> Option<OwnedFd> {
        self.file.with(|file| file.try_clone_to_owned().ok())?
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn store(directory: &Path) -> FileStore {
        FileStore::below(directory).unwrap()
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
    fn what_is_no_file_of_ours_is_neither_read_nor_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        store.replace("records/a", b"").unwrap();
        drop(store.try_lock("lock/a").unwrap());
        let other = directory.path().join("other");
        let within = |name: &str| match name.strip_prefix("lock/") {
            Some(file) => directory.path().join("run/lock").join(file),
            None => directory.path().join("lib").join(name),
        };
        let special = |kind: FileType| {
            let other = other.clone();
            move |path: &Path| {
                let device = rustix::fs::makedev(1, 3);
                let mode = Mode::from_raw_mode(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, device).unwrap();
                std::fs::write(&other, "theirs").unwrap();
            }
        };
        type Make<'a> = Box<dyn Fn(&Path) + 'a>;
        let mut kinds: Vec<(&str, Make<'_>)> = vec![
            ("pipe", Box::new(special(FileType::Fifo))),
            ("socket", Box::new(special(FileType::Socket))),
            ("link", Box::new(|path| symlink(&other, path).unwrap())),
            ("hard link", Box::new(|path| std::fs::hard_link(&other, path).unwrap())),
            ("directory", Box::new(|path| std::fs::create_dir(path).unwrap())),
        ];
        if rustix::process::geteuid().is_root() {
            kinds.push(("device", Box::new(special(FileType::CharacterDevice))));
            kinds.push((
                "another user's",
                Box::new(|path| {
                    std::fs::write(path, "").unwrap();
                    std::os::unix::fs::chown(path, Some(65534), None).unwrap();
                }),
            ));
        }
        std::fs::write(&other, "theirs").unwrap();
        for (kind, make) in kinds {
            for name in ["records/b", "lock/b"] {
                make(&within(name));
                let refused = |error: Error| {
                    assert_eq!(error.code(), ErrorCode::InvalidState, "{kind}: {error}");
                    assert!(error.message().contains("remove it"), "{kind}: {error}");
                };
                refused(store.append(name, b"ours").unwrap_err());
                refused(store.try_lock(name).unwrap_err());
                // Another name of a file is no harm to who reads it.
                if kind != "hard link" {
                    refused(store.read(name).unwrap_err());
                }
                // It is replaced by its name; what it leads to is not written.
                match store.replace(name, b"ours") {
                    Ok(()) => assert_eq!(store.read(name).unwrap().unwrap(), b"ours"),
                    Err(_) => assert_eq!(kind, "directory"),
                }
                assert_eq!(std::fs::read_to_string(&other).unwrap(), "theirs", "{kind}");
                let _ = std::fs::remove_dir(within(name));
                let _ = std::fs::remove_file(within(name));
            }
        }
    }

    #[test]
    fn a_store_within_another_shares_nothing_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let outer = store(directory.path());
        let inner = outer.within("sim-a");
        inner.replace("records/x", b"inner").unwrap();
        let _held = inner.try_lock("lock/x").unwrap().unwrap();
        assert_eq!(outer.read("records/x").unwrap(), None);
        assert!(outer.try_lock("lock/x").unwrap().is_some());
        assert_eq!(inner.place(), directory.path().join("lib/sim-a"));
        assert!(directory.path().join("run/sim-a/lock/x").exists());
    }
}
