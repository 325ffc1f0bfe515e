//! Durable files and locks in memory.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorCode, Result};
use crate::port::{LockGuard, Store};

/// A store in memory. Clones are handles to the same files and locks.
///
/// Every operation is durable once it returns, as the port promises, so there is nothing that a
/// crash between two operations could lose. A crash within one is simulated by
/// [`Faults`](super::Faults).
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    inner: Arc<Mutex<Files>>,
}

#[derive(Debug, Default)]
struct Files {
    content: BTreeMap<String, Vec<u8>>,
    locked: BTreeSet<String>,
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store of its own with the same files; nobody has a lock there.
    #[must_use]
    pub fn copy(&self) -> Self {
        let files = Files { content: self.files(), locked: BTreeSet::new() };
        Self { inner: Arc::new(Mutex::new(files)) }
    }

    /// Every file and its content, to compare stores.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        self.locked().content.clone()
    }

    fn locked(&self) -> MutexGuard<'_, Files> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a name that would leave the store.
fn checked(name: &str) -> Result<&str> {
    let good = |part: &str| !part.is_empty() && part != "." && part != "..";
    if name.split('/').all(good) {
        return Ok(name);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!("{name:?} is not a relative name within the store"),
    ))
}

impl Store for MemoryStore {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.locked().content.get(checked(name)?).cloned())
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.locked().content.insert(checked(name)?.to_owned(), content.to_owned());
        Ok(())
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let mut files = self.locked();
        files.content.entry(checked(name)?.to_owned()).or_default().extend_from_slice(content);
        Ok(())
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.locked().content.remove(checked(name)?);
        Ok(())
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        let prefix = format!("{}/", checked(folder)?);
        let files = self.locked();
        let below = files.content.keys().filter_map(|name| name.strip_prefix(&prefix));
        Ok(below.filter(|name| !name.contains('/')).map(str::to_owned).collect())
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        let mut files = self.locked();
        let to = checked(to)?.to_owned();
        let Some(content) = files.content.remove(checked(from)?) else {
            let missing = std::io::Error::from(std::io::ErrorKind::NotFound);
            return Err(Error::io("rename", Path::new(from), missing));
        };
        files.content.insert(to, content);
        Ok(())
    }

    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>> {
        let name = checked(name)?;
        if !self.locked().locked.insert(name.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(MemoryLock { store: self.clone(), name: name.to_owned() })))
    }

    fn place(&self) -> &Path {
        Path::new("(in memory)")
    }
}

#[derive(Debug)]
struct MemoryLock {
    store: MemoryStore,
    name: String,
}

impl LockGuard for MemoryLock {}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        self.store.locked().locked.remove(&self.name);
    }
}
