//! A store whose locks keep nobody out: each process has its own.

use std::path::Path;
use std::sync::Arc;

use gpushare_core::port::{LockGuard, Ports, Store};
use gpushare_core::{Node, Result};

/// The same node, where whoever changes a GPU is not alone.
pub(super) fn without_locks(node: &Node) -> Node {
    let ports = node.ports().clone();
    let store = Arc::new(Unlocked { store: ports.store.clone() });
    Node::with_ports(Ports { store, ..ports }, node.is_simulated())
}

#[derive(Debug)]
struct Unlocked {
    store: Arc<dyn Store>,
}

impl Store for Unlocked {
    fn read(&self, name: &str) -> Result<Option<Vec<u8>>> {
        self.store.read(name)
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<()> {
        self.store.replace(name, content)
    }

    fn append(&self, name: &str, content: &[u8]) -> Result<()> {
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
        self.store.try_lock(&format!("{name}.{}", std::process::id()))
    }

    fn place(&self) -> &Path {
        self.store.place()
    }
}
