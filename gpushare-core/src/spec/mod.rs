//! A spec: the state somebody wants.
//!
//! A selected GPU gets exactly what its entry says: instances that are not listed go, and
//! parameters that are not given take their defaults, never the present value. A GPU that no
//! entry selects is left alone.

mod check;
mod cursor;
mod document;
pub(crate) mod file;
mod json;
#[cfg(test)]
#[cfg(feature = "yaml")]
mod properties;
mod read;
#[cfg(test)]
#[cfg(feature = "yaml")]
mod tests;
mod text;
pub(crate) mod tree;
mod write;
#[cfg(feature = "yaml")]
mod yaml;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{GpuIndex, PciAddress, PciDeviceId};
use crate::mig::ProfileName;
use crate::mode::Mode;
use crate::parameters::{MpsConfig, TimeSlicing};

/// The version of the format that this crate reads and writes.
pub const VERSION: &str = "gpushare/v1";

/// The state somebody wants of a node's GPUs.
///
/// Read from JSON, or from YAML with feature `yaml`, or built:
///
/// ```
/// use gpushare_core::spec::{Instance, Selector, Spec, Want};
///
/// let built = Spec::new()
///     .gpu([Selector::All], Want::Exclusive)
///     .gpu(["2".parse()?], Want::Mig(Some(vec![Instance::new("3g.40gb".parse()?).at(4)])));
/// let read: Spec = r#"{"version": "gpushare/v1", "gpus": [
///     {"select": "all", "mode": "exclusive"},
///     {"select": 2, "mode": "mig", "mig": {"instances": [{"profile": "3g.40gb", "start": 4}]}}
/// ]}"#.parse()?;
/// assert_eq!(built, read);
/// # Ok::<(), gpushare_core::Error>(())
/// ```
///
/// `Display` prints YAML, `Serialize` gives the same for JSON; both read back to an equal spec.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Spec {
    /// What is wanted of which GPUs.
    pub gpus: Vec<Entry>,
}

impl Spec {
    /// A spec that selects nothing.
    pub const fn new() -> Self {
        Self { gpus: Vec::new() }
    }

    /// The same with an entry more: what the GPUs become that any of these selects.
    #[must_use]
    pub fn gpu(mut self, select: impl IntoIterator<Item = Selector>, want: Want) -> Self {
        self.gpus.push(Entry::new(select.into_iter().collect(), want));
        self
    }
}

/// What is wanted of some GPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Entry {
    /// Which GPUs: those that any of these selects.
    pub select: Vec<Selector>,
    /// What they become.
    pub want: Want,
    /// Where the entry stands in its file, for error messages.
    pub location: Location,
}

impl Entry {
    /// An entry that stands in no file.
    pub fn new(select: Vec<Selector>, want: Want) -> Self {
        Self { select, want, location: Location::default() }
    }
}

/// Where something stands in a spec: `gpus[0].mig.instances (line 7)`.
///
/// Two specs that differ in their locations alone are equal.
#[derive(Clone, Debug, Default)]
pub struct Location {
    /// The path of keys.
    pub key: String,
    /// The line, counted from 1, where there is a file.
    pub line: Option<usize>,
}

impl PartialEq for Location {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Location {}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        match self.line {
            Some(line) => write!(f, " (line {line})"),
            None => Ok(()),
        }
    }
}

/// Selects GPUs of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selector {
    /// Every GPU that no other entry selects.
    All,
    /// The GPU with NVML's index.
    Index(GpuIndex),
    /// The GPU with that uuid, or the only one whose uuid begins so.
    Uuid(String),
    /// The GPU at that PCI address.
    Pci {
        /// The address.
        address: PciAddress,
        /// Whether it may match nothing: true for `{pci: …}`, false for a bare address.
        optional: bool,
    },
    /// GPUs whose model matches a pattern with `*`, case ignored; NVML's name without `NVIDIA `. May match none.
    Model(String),
    /// GPUs with that PCI device id. May match none.
    DeviceId(PciDeviceId),
}

/// A mode with its parameters and, for MIG, its layout.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Want {
    /// One process tree at a time.
    Exclusive,
    /// Several processes take turns.
    TimeSliced(TimeSlicing),
    /// Several processes through an MPS daemon.
    Mps(MpsConfig),
    /// Instances; none keeps the layout that is there, an empty list empties it.
    Mig(Option<Vec<Instance>>),
}

impl Want {
    /// The mode.
    pub const fn mode(&self) -> Mode {
        match self {
            Self::Exclusive => Mode::Exclusive,
            Self::TimeSliced(_) => Mode::TimeSliced,
            Self::Mps(_) => Mode::Mps,
            Self::Mig(_) => Mode::Mig,
        }
    }
}

/// A GPU instance that is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// Its profile, by name; resolved on each GPU.
    pub profile: ProfileName,
    /// Where it must start, if that matters.
    pub start: Option<u8>,
    /// Slices of its compute instances; none means one that fills it.
    pub compute: Option<Vec<u8>>,
    /// How its MIG devices are shared further.
    pub sharing: Option<Sharing>,
    /// A name of the user's own, kept in the record.
    pub name: Option<String>,
    /// Where it stands in its file.
    pub location: Location,
}

impl Instance {
    /// An instance of that profile, anywhere, with one full compute instance.
    pub fn new(profile: ProfileName) -> Self {
        Self {
            profile,
            start: None,
            compute: None,
            sharing: None,
            name: None,
            location: Location::default(),
        }
    }

    /// The same at that start.
    #[must_use]
    pub fn at(self, start: u8) -> Self {
        Self { start: Some(start), ..self }
    }

    /// The same with its MIG devices shared further.
    #[must_use]
    pub fn shared(self, sharing: Sharing) -> Self {
        Self { sharing: Some(sharing), ..self }
    }

    /// The same under a name of the user's own.
    #[must_use]
    pub fn named(self, name: impl Into<String>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same with these compute instances, each given by its slices.
    #[must_use]
    pub fn with_compute(self, slices: Vec<u8>) -> Self {
        Self { compute: Some(slices), ..self }
    }
}

/// How a MIG device is shared further.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Sharing {
    /// Several processes take turns on it.
    TimeSliced(TimeSlicing),
    /// An MPS daemon of its own.
    Mps(MpsConfig),
}
