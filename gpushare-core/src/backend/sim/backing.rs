//! Where the state of a node is kept: in memory, or in a file that processes share.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{AtFlags, FlockOperation, OFlags, Stat, flock, renameat, statat, unlinkat};
use rustix::io::Errno;

use super::fleet::Fleet;
use super::state::{NodeState, SCHEMA};
use crate::backend::directory::{Directory, open_file};
use crate::error::{Error, ErrorCode, Result};
use crate::fork::OwnFile;

/// How often who waits for the state's lock looks again. It is held for tens of microseconds.
const TURN: std::time::Duration = std::time::Duration::from_micros(20);

/// What is added to the name of a state that is being written.
const NEW: &str = ".new";

#[derive(Debug)]
pub(super) enum Backing {
    Memory(Mutex<Arc<NodeState>>),
    File(SharedFile),
}

/// A file that holds a node.
///
/// A change is made under an exclusive lock on a file beside it and comes in by a rename, so a
/// reader needs no lock: it sees the state before or after.
#[derive(Debug)]
pub(super) struct SharedFile {
    /// Opened once: a path could lead elsewhere the next time.
    directory: OwnedFd,
    name: String,
    path: PathBuf,
    read: Mutex<Option<Cached>>,
}

/// The state as it was read last. The file stays open, so that its inode is not given to a newer
/// one: the same inode is the same content.
#[derive(Debug)]
struct Cached {
    file: File,
    state: Arc<NodeState>,
}

impl Backing {
    pub(super) fn memory(state: NodeState) -> Self {
        Self::Memory(Mutex::new(Arc::new(state)))
    }

    pub(super) fn file(
        directory: &Directory,
        name: &str,
        make: bool,
        fleet: Fleet,
    ) -> Result<Self> {
        let (place, path) = (directory.path(), directory.path().join(name));
        let Some(directory) = directory.open(make)? else {
            return Err(Error::io("open", &place, Errno::NOENT.into()));
        };
        let read = Mutex::new(None);
        let shared = SharedFile { directory, name: name.to_owned(), path, read };
        // An ordinary reader needs the lock for the first one to make the file alone.
        if shared.stat()?.is_none() {
            let _lock = shared.lock()?;
            if shared.stat()?.is_none() {
                shared.write(Arc::new(NodeState::new(fleet.clone())?))?;
            }
        }
        let state = shared.load()?;
        if state.fleet != fleet {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} holds the simulated fleet {}, not {fleet}; name that fleet, use another state directory, or remove the file",
                    shared.path.display(),
                    state.fleet
                ),
            ));
        }
        Ok(Self::File(shared))
    }

    /// The state as it is now.
    pub(super) fn read(&self) -> Result<Arc<NodeState>> {
        match self {
            Self::Memory(state) => Ok(locked(state).clone()),
            Self::File(shared) => shared.load(),
        }
    }

    /// Changes the state, which nobody else changes meanwhile.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut NodeState) -> R) -> Result<R> {
        match self {
            Self::Memory(state) => Ok(change(Arc::make_mut(&mut locked(state)))),
            Self::File(shared) => {
                let _lock = shared.lock()?;
                let before = shared.load()?;
                let mut after = NodeState::clone(&before);
                let answer = change(&mut after);
                if after != *before {
                    shared.write(Arc::new(after))?;
                }
                Ok(answer)
            }
        }
    }
}

impl SharedFile {
    fn error(&self, doing: &str) -> impl Fn(std::io::Error) -> Error {
        let (doing, path) = (format!("{doing} the simulated node"), self.path.clone());
        move |error| Error::io(&doing, &path, error)
    }

    /// The file as it is now, by its name.
    fn stat(&self) -> Result<Option<Stat>> {
        match statat(&self.directory, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.error("look at")(errno.into())),
        }
    }

    fn open(&self, suffix: &str, flags: OFlags, mode: u32) -> Result<File> {
        let name = format!("{}{suffix}", self.name);
        let path = self.path.with_file_name(&name);
        let file = open_file(&self.directory, &name, &path, flags, mode)?;
        file.map(File::from).ok_or_else(|| self.error("open")(Errno::NOENT.into()))
    }

    /// Waits for the lock, and not in the kernel: whoever forks waits for what uses a file of ours. It
    /// is a file of its own because the state's file is replaced.
    fn lock(&self) -> Result<Option<OwnFile>> {
        let own = OwnFile::open(|| {
            self.open(".lock", OFlags::WRONLY | OFlags::CREATE, 0o644).map(|file| Some(file.into()))
        })?;
        let lock = FlockOperation::NonBlockingLockExclusive;
        while let Some(Err(errno)) = own.as_ref().and_then(|own| own.with(|file| flock(file, lock)))
        {
            match errno {
                Errno::WOULDBLOCK | Errno::INTR => std::thread::sleep(TURN),
                errno => return Err(self.error("lock")(errno.into())),
            }
        }
        Ok(own)
    }

    fn load(&self) -> Result<Arc<NodeState>> {
        let mut cached = locked(&self.read);
        let there = self.stat()?.ok_or_else(|| self.error("read")(Errno::NOENT.into()))?;
        if let Some(cached) = &*cached {
            let open = cached.file.metadata().map_err(self.error("read"))?;
            if (open.dev(), open.ino()) == (there.st_dev, there.st_ino) {
                return Ok(cached.state.clone());
            }
        }
        let mut file = self.open("", OFlags::RDONLY, 0)?;
        let mut content = Vec::new();
        file.read_to_end(&mut content).map_err(self.error("read"))?;
        let state: NodeState = serde_json::from_slice(&content).map_err(|error| {
            Error::new(
                ErrorCode::Io,
                format!(
                    "{} does not hold a simulated node: {error}; remove it",
                    self.path.display()
                ),
            )
        })?;
        if state.schema != SCHEMA || state.gpus.len() != state.fleet.len() {
            return Err(Error::new(
                ErrorCode::Io,
                format!(
                    "{} holds a simulated node of another version of gpushare; remove it",
                    self.path.display()
                ),
            ));
        }
        let state = Arc::new(state);
        *cached = Some(Cached { file, state: state.clone() });
        Ok(state)
    }

    /// Replaces the state, under the lock. Nothing is synced: a node that is simulated need not
    /// outlive the machine.
    fn write(&self, state: Arc<NodeState>) -> Result<()> {
        let content = serde_json::to_vec(&*state).map_err(|error| {
            Error::new(ErrorCode::Io, format!("the simulated node does not serialise: {error}"))
        })?;
        let new = format!("{}{NEW}", self.name);
        // What is there was left by one that died; whatever it is, it is not written to.
        match unlinkat(&self.directory, &new, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(self.error("write")(errno.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let mut file = self.open(NEW, flags, 0o644)?;
        file.write_all(&content).map_err(self.error("write"))?;
        renameat(&self.directory, &new, &self.directory, &self.name)
            .map_err(|errno| self.error("write")(errno.into()))?;
        *locked(&self.read) = Some(Cached { file, state });
        Ok(())
    }
}

/// A state is replaced as a whole, so one whose thread panicked is still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
