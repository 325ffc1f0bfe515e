//! CDI specifications on disk.

use std::path::Path;

use super::directory::Directory;
use super::files::FileStore;
use crate::error::{Error, ErrorCode, Result};
use crate::port::{CdiFiles, Store as _};

/// Directories of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemCdiFiles;

impl CdiFiles for SystemCdiFiles {
    fn expect_writable(&self, directory: &Path) -> Result<()> {
        let failed = |error: Error| of(directory, error);
        let there = there(directory)?.open(true).map_err(failed)?;
        // Root in a container may own it and still not write to it.
        let writable = there.map_or(Ok(()), |there| {
            let flags = rustix::fs::AtFlags::EACCESS;
            rustix::fs::accessat(there, ".", rustix::fs::Access::WRITE_OK, flags)
        });
        writable.map_err(|errno| failed(Error::io("write to", directory, errno.into())))
    }

    fn read(&self, directory: &Path, name: &str) -> Result<Option<Vec<u8>>> {
        store(directory)?.read(name).map_err(|error| of(directory, error))
    }

    fn replace(&self, directory: &Path, name: &str, content: &[u8]) -> Result<()> {
        store(directory)?.replace(name, content).map_err(|error| of(directory, error))
    }

    fn remove(&self, directory: &Path, name: &str) -> Result<()> {
        store(directory)?.remove(name).map_err(|error| of(directory, error))
    }
}

fn there(directory: &Path) -> Result<Directory> {
    if directory.is_absolute() {
        return Directory::new(directory);
    }
    Err(Error::new(
        ErrorCode::InvalidArgument,
        format!("{directory:?} is no directory for CDI specifications: its path must be absolute"),
    ))
}

fn store(directory: &Path) -> Result<FileStore> {
    there(directory).map(FileStore::alone)
}

/// What is said of a directory of ours is not what helps here.
fn of(directory: &Path, error: Error) -> Error {
    let directory = directory.display();
    if error.code() != ErrorCode::PermissionDenied {
        return error.context(format!("CDI specifications in {directory}"));
    }
    let needs =
        format!("{directory} owned by root or by this user, no link, and writable by nobody else");
    error
        .with_message(format!("CDI specifications cannot be kept in {directory}: it must be a directory of root's or this user's that nobody else may write to; give another"))
        .with_needs(vec![needs])
}
