//! Where the state of a node is kept: in memory, or in a file that processes share.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{FlockOperation, flock};

use super::fleet::Fleet;
use super::state::{NodeState, SCHEMA};
use crate::error::{Error, ErrorCode, Result};

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
    path: PathBuf,
    lock_path: PathBuf,
    new_path: PathBuf,
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

    pub(super) fn file(path: &Path, fleet: Fleet) -> Result<Self> {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let shared = SharedFile {
            path: path.to_owned(),
            lock_path: beside(".lock"),
            new_path: beside(".new"),
            read: Mutex::new(None),
        };
        // An ordinary reader needs the lock for the first one to make the file alone.
        if !path.exists() {
            let _lock = shared.lock()?;
            if !path.exists() {
                shared.write(Arc::new(NodeState::new(fleet.clone())?))?;
            }
        }
        let state = shared.load()?;
        if state.fleet != fleet {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} holds the simulated fleet {}, not {fleet}; name that fleet, use another state directory, or remove the file",
                    path.display(),
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

    /// Waits for the lock. It is a file of its own because the state's file is replaced.
    fn lock(&self) -> Result<File> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).open(&self.lock_path);
        let file = file.map_err(self.error("lock"))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| self.error("lock")(error.into()))?;
        Ok(file)
    }

    fn load(&self) -> Result<Arc<NodeState>> {
        let mut cached = locked(&self.read);
        let at_path = std::fs::metadata(&self.path).map_err(self.error("read"))?;
        if let Some(cached) = &*cached {
            let open = cached.file.metadata().map_err(self.error("read"))?;
            if (open.dev(), open.ino()) == (at_path.dev(), at_path.ino()) {
                return Ok(cached.state.clone());
            }
        }
        let mut file = File::open(&self.path).map_err(self.error("read"))?;
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
        let mut file = File::create(&self.new_path).map_err(self.error("write"))?;
        file.write_all(&content).map_err(self.error("write"))?;
        std::fs::rename(&self.new_path, &self.path).map_err(self.error("write"))?;
        *locked(&self.read) = Some(Cached { file, state });
        Ok(())
    }
}

/// A state is replaced as a whole, so one whose thread panicked is still good.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
