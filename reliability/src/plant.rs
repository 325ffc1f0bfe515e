//! A store that does not keep its word: in one thing, to see whether it is seen.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use gpushare_core::Result;
use gpushare_core::port::{LockGuard, Store};

/// What a store does not do as it should.
#[derive(Debug)]
enum Flaw {
    /// What is appended is there for the process that wrote it, until [`Flawed::forget`]. Files as they were before.
    Unsynced(Mutex<BTreeMap<String, Vec<u8>>>),
    /// Locks keep nobody out: each process has its own.
    Unlocked,
}

#[derive(Debug)]
pub(crate) struct Flawed {
    store: Arc<dyn Store>,
    flaw: Flaw,
}

impl Flawed {
    pub(crate) fn unsynced(store: Arc<dyn Store>) -> Self {
        Self { store, flaw: Flaw::Unsynced(Mutex::default()) }
    }

    pub(crate) fn unlocked(store: Arc<dyn Store>) -> Self {
        Self { store, flaw: Flaw::Unlocked }
    }

    /// What power that fails leaves: files as they were before the first append.
    pub(crate) fn forget(&self) -> Result<()> {
        let Flaw::Unsynced(before) = &self.flaw else { return Ok(()) };
        let before = std::mem::take(&mut *before.lock().unwrap_or_else(PoisonError::into_inner));
        for (name, content) in before {
            if self.store.read(&name)?.is_some() {
                self.store.replace(&name, &content)?;
            }
        }
        Ok(())
    }
}

impl Store for Flawed {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(name)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.store.replace(name, content)
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
        if let Flaw::Unsynced(before) = &self.flaw {
            let now = self.store.read(name)?.unwrap_or_default();
            let mut before = before.lock().unwrap_or_else(PoisonError::into_inner);
            before.entry(name.to_owned()).or_insert(now);
        }
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
        match &self.flaw {
            Flaw::Unlocked => self.store.try_lock(&format!("{name}.{}", std::process::id())),
            Flaw::Unsynced(_) => self.store.try_lock(name),
        }
    }

    fn place(&self) -> &Path {
        self.store.place()
    }
}
