//! Device nodes of this machine, which a lease names.

use std::fmt;
use std::path::Path;

/// What the kernel and `/dev` say of device nodes.
pub trait Devices: Send + Sync + fmt::Debug {
    /// Major and minor number of a character device; none where there is none of that path.
    fn numbers(&self, path: &Path) -> Option<(u32, u32)>;
    /// What `/proc/devices` says: the major numbers of drivers.
    fn majors(&self) -> Option<String>;
    /// What `/proc/driver/nvidia-caps/mig-minors` says: the minor numbers of capabilities.
    fn mig_minors(&self) -> Option<String>;
}
