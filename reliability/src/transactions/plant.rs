//! A store that does not keep its word.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gpushare_core::Result;
use gpushare_core::port::{LockGuard, Store};

/// What is appended is there for the process that wrote it, until [`forget`](Self::forget).
#[derive(Debug)]
pub(super) struct Unsynced {
    store: Arc<dyn Store>,
    synced: Mutex<BTreeMap<String, Vec<u8>>>,
}

impl Unsynced {
    pub(super) fn new(store: Arc<dyn Store>) -> Self {
        Self { store, synced: Mutex::default() }
    }

    /// What power that fails leaves: files as they were before the first append.
    pub(super) fn forget(&self) -> Result<()> {
        let synced =
            std::mem::take(&mut *self.synced.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, content) in synced {
            if self.store.read(&name)?.is_some() {
                self.store.replace(&name, &content)?;
            }
        }
        Ok(())
    }
}

impl Store for Unsynced {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(name)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.store.replace(name, content)
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        let before = self.store.read(name)?.unwrap_or_default();
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        synced.entry(name.to_owned()).or_insert(before);
        self.store.append(name, content)
    }

    fn remove(&self, name: &str) -> Result<()> {
        self.store.remove(name)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>> {
        self.store.list(folder)
    }

    fn rename(&self, from: &str, to: &str) -> Result<()> {
        self.store.rename(from, to)
    }

    fn try_lock(&self, name: &str) -> Result<Option<Box<dyn LockGuard>>> {
        self.store.try_lock(name)
    }

    fn place(&self) -> &Path {
        self.store.place()
    }
}
