//! What a string resolves to, as a document.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::id::{GpuIndex, GpuUuid};
use crate::mig::ProfileName;
use crate::mode::SharingMode;
use crate::snapshot::draw::WIDTH;
use crate::snapshot::draw::page::{Page, Role, Table, gibibytes};
use crate::units::Bytes;

/// The schema that a serialised resolution names.
pub const RESOLVE_SCHEMA: &str = "gpushare.resolve/v1";

/// `cuInit`'s CUDA_ERROR_NO_DEVICE.
pub(super) const NO_DEVICE: u32 = 100;
/// `cuInit`'s CUDA_ERROR_INVALID_DEVICE.
pub(super) const INVALID_DEVICE: u32 = 101;

/// What CUDA shows a process with a value of `CUDA_VISIBLE_DEVICES`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Resolution {
    /// [`RESOLVE_SCHEMA`].
    pub schema: String,
    /// Whether the GPUs are simulated.
    pub simulated: bool,
    /// The value; none where the variable is unset.
    pub string: Option<String>,
    /// What it comes to.
    pub outcome: VisibleOutcome,
    /// What `cuInit` answers: 0, 100 (no device) or 101 (invalid device); none where the outcome is unknown.
    pub cu_init: Option<u32>,
    /// Why, where that does not lie in an entry.
    pub reason: Option<String>,
    /// Whether all of this was measured. If not, [`flags`](Self::flags) say what rests on what.
    pub certain: bool,
    /// The devices in CUDA's order. None unless the outcome is `devices`.
    pub devices: Vec<VisibleDevice>,
    /// The entries of the string, in its order.
    pub entries: Vec<VisibleEntry>,
    /// What was not measured.
    pub flags: Vec<Flag>,
}

/// What a string comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VisibleOutcome {
    /// CUDA shows devices.
    Devices,
    /// CUDA shows none: `cuInit` answers 100.
    NoDevice,
    /// CUDA refuses the string, and shows none: `cuInit` answers 101.
    InvalidDevice,
    /// It is not known what CUDA shows. No device is listed: a guess could hand out one too many.
    Unknown,
}

/// What kind of device CUDA shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum VisibleKind {
    /// A whole GPU.
    Gpu,
    /// A MIG device.
    MigDevice,
}

/// A device that CUDA shows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VisibleDevice {
    /// Its number in CUDA: `cuda:0`, `cuda:1`, …
    pub ordinal: u32,
    /// What it is.
    pub kind: VisibleKind,
    /// Its uuid, `GPU-…` or `MIG-…`.
    pub uuid: String,
    /// NVML's index of the GPU, for a MIG device of the GPU that it is on.
    pub index: Option<GpuIndex>,
    /// NVML's name of the GPU without `NVIDIA `.
    pub model: String,
    /// The profile of a MIG device.
    pub profile: Option<ProfileName>,
    /// Its memory.
    #[serde(rename = "memory_bytes")]
    pub memory: Option<Bytes>,
    /// Its streaming multiprocessors.
    pub sm_count: Option<u32>,
    /// How the GPU is shared.
    pub mode: SharingMode,
    /// The GPU that a MIG device is on.
    pub parent: Option<GpuUuid>,
}

/// What an entry of the string names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Named {
    /// A whole GPU.
    Gpu,
    /// A MIG device.
    MigDevice,
    /// A GPU with MIG on, of which no process gets the whole.
    MigParent,
    /// Nothing.
    Nothing,
}

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Standing {
    /// It gives a device.
    Counts,
    /// It ends the list: neither it nor what follows gives a device.
    Ends,
    /// It stands after the end.
    AfterTheEnd,
    /// It names a device a second time, which spoils the whole string.
    Repeats,
    /// It names a device that CUDA does not show, since a process gets one MIG device.
    NotShown,
    /// It is not known what CUDA makes of it.
    Unknown,
}

/// An entry of the string.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct VisibleEntry {
    /// Its text, between the commas.
    pub text: String,
    /// What it names.
    pub names: Named,
    /// The uuid of what it names.
    pub uuid: Option<String>,
    /// What becomes of it.
    pub standing: Standing,
    /// The device that it gives.
    pub ordinal: Option<u32>,
    /// Why, where it gives none.
    pub reason: Option<String>,
}

/// What an answer rests on that was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Basis {
    /// NVIDIA's documentation.
    Documentation,
    /// Nothing that gpushare knows of.
    Nothing,
}

/// What about an answer was not measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FlagName {
    /// A GPU with MIG on is named as a whole, by index or uuid.
    MigParent,
    /// A MIG device is named by its uuid.
    MigUuid,
    /// A MIG device is named in the form of drivers before R470.
    MigOldForm,
    /// A MIG device is named by the beginning of its uuid, or by `GPU-` and its digits.
    MigPrefix,
    /// A MIG device is named twice.
    MigRepeated,
    /// Several MIG devices are named.
    SeveralMigDevices,
    /// Whole GPUs and MIG devices are named together.
    MixedKinds,
    /// A whole GPU, where another one of the node has MIG on.
    BesideMig,
    /// The variable is unset, and a GPU of the node has MIG on.
    UnsetWithMig,
    /// The GPUs differ, and CUDA orders them by its guess which is the fastest.
    UnequalGpus,
    /// A GPU whose compute mode is PROHIBITED.
    Closed,
    /// A GPU that does not answer.
    Lost,
    /// The beginning of several uuids.
    Ambiguous,
    /// A value longer than CUDA was seen to read, and shorter than what it was seen to pass over.
    Long,
    /// An index, where an MPS daemon serves a GPU: its clients count among the daemon's GPUs.
    MpsIndex,
}

/// Something that was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Flag {
    /// What.
    pub name: FlagName,
    /// On what the answer rests.
    pub basis: Basis,
    /// The same for people.
    pub message: String,
}

impl Resolution {
    /// Whether CUDA shows devices.
    pub fn shows_devices(&self) -> bool {
        self.outcome == VisibleOutcome::Devices
    }

    /// The devices for people.
    fn table(&self) -> String {
        let mut table = Table::new(&["CUDA", "device", "GPU", "model", "profile", ">GiB", ">SMs"]);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        for device in &self.devices {
            table.row(
                Role::Plain,
                vec![
                    device.ordinal.to_string(),
                    device.uuid.clone(),
                    or_dash(device.index.map(|index| index.to_string())),
                    device.model.clone(),
                    or_dash(device.profile.as_ref().map(ToString::to_string)),
                    or_dash(device.memory.map(gibibytes)),
                    or_dash(device.sm_count.map(|count| count.to_string())),
                ],
            );
        }
        let mut page = Page::new(WIDTH, None);
        if !table.is_empty() {
            table.print(&mut page, 2);
        }
        page.into_text()
    }
}

/// Entries that are shown to people; what is longer is no list that a person wrote.
const SHOWN: usize = 16;
/// Characters of a text that are shown to people.
const SHOWN_CHARACTERS: usize = 60;

/// A text in quotes and without control characters, shortened.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(SHOWN_CHARACTERS).collect();
    let more = if short.len() < text.len() { "…" } else { "" };
    format!("{short:?}{more}")
}

impl fmt::Display for Resolution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.simulated {
            writeln!(f, "SIMULATED")?;
        }
        match &self.string {
            Some(string) => write!(f, "CUDA_VISIBLE_DEVICES={}: ", quoted(string))?,
            None => write!(f, "CUDA_VISIBLE_DEVICES unset: ")?,
        }
        match self.outcome {
            VisibleOutcome::Devices if self.devices.len() == 1 => writeln!(f, "1 device")?,
            VisibleOutcome::Devices => writeln!(f, "{} devices", self.devices.len())?,
            VisibleOutcome::NoDevice => {
                writeln!(f, "no device (cuInit answers {NO_DEVICE}, CUDA_ERROR_NO_DEVICE)")?;
            }
            VisibleOutcome::InvalidDevice => writeln!(
                f,
                "no device (cuInit answers {INVALID_DEVICE}, CUDA_ERROR_INVALID_DEVICE)"
            )?,
            VisibleOutcome::Unknown => writeln!(f, "not known; count on no device")?,
        }
        f.write_str(&self.table())?;
        if let Some(reason) = &self.reason {
            writeln!(f, "  {reason}")?;
        }
        let told = self.entries.iter().filter(|entry| entry.reason.is_some());
        for entry in told.clone().take(SHOWN) {
            let reason = entry.reason.as_deref().unwrap_or_default();
            writeln!(f, "  {}: {reason}", quoted(&entry.text))?;
        }
        if let Some(more) = told.count().checked_sub(SHOWN).filter(|more| *more > 0) {
            writeln!(f, "  … and {more} more entries that give no device")?;
        }
        for flag in &self.flags {
            let basis = match flag.basis {
                Basis::Documentation => "from NVIDIA's documentation, not measured",
                Basis::Nothing => "not measured",
            };
            writeln!(f, "  uncertain ({basis}): {}", flag.message)?;
        }
        Ok(())
    }
}
