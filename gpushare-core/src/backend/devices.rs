//! Device nodes, as `/dev` and the kernel have them.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use crate::port::Devices;

/// The longest list that is read: 16 GPUs have 2,200 capabilities of 30 bytes.
const LONGEST: u64 = 1 << 20;

/// The device nodes of this machine.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct SystemDevices;

impl SystemDevices {
    /// What this process sees.
    pub const fn new() -> Self {
        Self
    }
}

impl Devices for SystemDevices {
    fn numbers(&self, path: &Path) -> Option<(u32, u32)> {
        let meta = fs::symlink_metadata(path).ok()?;
        let device = meta.rdev();
        let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
        meta.file_type().is_char_device().then_some(numbers)
    }

    fn majors(&self) -> Option<String> {
        read("/proc/devices")
    }

    fn mig_minors(&self) -> Option<String> {
        read("/proc/driver/nvidia-caps/mig-minors")
    }
}

fn read(path: &str) -> Option<String> {
    let mut text = String::new();
    fs::File::open(path).ok()?.take(LONGEST).read_to_string(&mut text).ok()?;
    Some(text)
}
