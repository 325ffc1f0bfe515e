//! The spec that is stored for the next boot: a file in a directory that can be trusted.

#[cfg(feature = "cli")]
use std::path::Path;
use std::path::PathBuf;

use crate::backend::directory::Directory;
use crate::backend::files::FileStore;
use crate::error::Result;
#[cfg(feature = "cli")]
use crate::error::{Error, ErrorCode};
use crate::port::Store as _;

/// What it is called where nobody says.
const NAME: &str = "node.yaml";

/// The file of a stored spec. It and its directory must belong to root or this user and be writable by
/// nobody else, and neither may be a link: who could write it could have root change GPUs at boot.
#[derive(Clone, Debug)]
pub(crate) struct StoredSpec {
    store: FileStore,
    name: String,
}

impl StoredSpec {
    /// The one of a node, in its directory.
    pub(crate) fn of_node(directory: Directory) -> Self {
        Self { store: FileStore::alone(directory), name: NAME.to_owned() }
    }

    /// The file at a path. A relative path counts from here and now.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no file's name.
    #[cfg(feature = "cli")]
    pub(crate) fn at(path: &Path) -> Result<Self> {
        let refused = || {
            let why = format!("{} is no file's name", path.display());
            Error::new(ErrorCode::InvalidArgument, why)
        };
        let absolute = std::path::absolute(path).map_err(|_| refused())?;
        let name = absolute.file_name().and_then(|name| name.to_str()).ok_or_else(refused)?;
        let above = absolute.parent().ok_or_else(refused)?;
        let store = FileStore::alone(Directory::new(above)?);
        Ok(Self { store, name: name.to_owned() })
    }

    /// Where it is.
    pub(crate) fn path(&self) -> PathBuf {
        self.store.place().join(&self.name)
    }

    /// What stands in it; none where it is not there.
    ///
    /// # Errors
    /// PERMISSION_DENIED and INVALID_STATE where it cannot be trusted or is no regular file; IO.
    pub(crate) fn read(&self) -> Result<Option<Vec<u8>>> {
        self.store.read(&self.name)
    }

    /// Puts it in the place of what was there, durably, readable by all. Its directory is made.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(feature = "cli")]
    pub(crate) fn write(&self, content: &[u8]) -> Result<()> {
        self.store.replace(&self.name, content)
    }

    /// Takes it away.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(feature = "cli")]
    pub(crate) fn remove(&self) -> Result<()> {
        self.store.remove(&self.name)
    }
}
