//! The directories in which container runtimes look for CDI specifications.

use std::fmt;
use std::path::Path;

use crate::error::Result;

/// Files in directories of others, which belong to root or to this user and are writable by nobody else:
/// who could write there would say which devices a container gets.
pub trait CdiFiles: Send + Sync + fmt::Debug {
    /// Whether files can be put there: the directory is there or can be made. It is made.
    fn expect_writable(&self, directory: &Path) -> Result<()>;
    /// The whole file; none when it is not there.
    fn read(&self, directory: &Path, name: &str) -> Result<Option<Vec<u8>>>;
    /// Replaces the file: readers see the old one or the new one, whole.
    fn replace(&self, directory: &Path, name: &str, content: &[u8]) -> Result<()>;
    /// Removes the file; not being there is no error.
    fn remove(&self, directory: &Path, name: &str) -> Result<()>;
}
