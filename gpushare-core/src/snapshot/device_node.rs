//! Device nodes, as data.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A device node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DeviceNode {
    /// Where it is, or would be.
    pub path: PathBuf,
    /// Its major number, where the kernel says.
    pub major: Option<u32>,
    /// Its minor number, where it is known.
    pub minor: Option<u32>,
    /// Where it is not there: what makes it.
    pub missing: Option<String>,
}

impl DeviceNode {
    /// A device node that is there, by its numbers.
    pub fn new(path: impl Into<PathBuf>, major: u32, minor: u32) -> Self {
        Self { path: path.into(), major: Some(major), minor: Some(minor), missing: None }
    }
}
