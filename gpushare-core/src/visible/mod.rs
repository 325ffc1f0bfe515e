//! `CUDA_VISIBLE_DEVICES` as CUDA reads it, without CUDA.
//!
//! A value is a list with commas. Its first entry says what it is: a list of uuids where it begins with `GPU-`
//! or `MIG-`, else of numbers. It is read from the left up to the first entry that names nothing; what
//! follows is not looked at. A device that is named twice before that spoils the whole value.
//!
//! What whole GPUs come to was measured on one and on two H200s (driver 580.159.04, CUDA 13.0), and
//! the tests hold [`resolve_with`] against that record. MIG devices follow NVIDIA's documentation (CUDA
//! programming guide, "CUDA environment variables"; MIG user guide, "CUDA device enumeration"): a
//! process gets one, and no whole GPU beside it. What rests on it, or on nothing, has a [`Flag`].

mod document;
mod machine;
mod read;
#[cfg(test)]
mod tests;
#[cfg(any(test, fuzzing))]
mod whole;

use std::str::FromStr;

use crate::error::{Error, ErrorCode, Result};
use crate::snapshot::Snapshot;
use crate::terminal::Quoted;

use document::{INVALID_DEVICE, NO_DEVICE};
use machine::{Found, Machine, Place};
use read::Kind;

#[cfg(any(test, fuzzing))]
pub(crate) use whole::expect_of_one_piece;

pub use document::{
    Basis, Flag, FlagName, Named, RESOLVE_SCHEMA, Resolution, Standing, VisibleDevice,
    VisibleEntry, VisibleKind, VisibleOutcome,
};

/// `CUDA_DEVICE_ORDER`: what number CUDA gives to which GPU.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DeviceOrder {
    /// The fastest first, as CUDA guesses: what it does when the variable is unset. Equal GPUs are in
    /// the order of their PCI addresses.
    #[default]
    FastestFirst,
    /// By PCI address.
    PciBusId,
    /// Any other value, the empty one too: CUDA then shows no device at all.
    Other,
}

impl FromStr for DeviceOrder {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "FASTEST_FIRST" => Ok(Self::FastestFirst),
            "PCI_BUS_ID" => Ok(Self::PciBusId),
            _ => Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("{} is no order of devices: FASTEST_FIRST or PCI_BUS_ID", Quoted(text)),
            )),
        }
    }
}

/// What else a process's environment says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct ResolveOptions {
    /// `CUDA_DEVICE_ORDER`.
    pub device_order: DeviceOrder,
}

impl ResolveOptions {
    /// What CUDA does when nothing else is set.
    pub fn new() -> Self {
        Self::default()
    }

    /// With another order of devices.
    #[must_use]
    pub fn device_order(self, device_order: DeviceOrder) -> Self {
        Self { device_order }
    }
}

/// The longest value, in bytes, that CUDA was seen to read.
const READ: usize = 2_049;
/// The shortest that it was seen to pass over.
const NOT_READ: usize = 3_000;

/// What CUDA shows a process on this node with that value of `CUDA_VISIBLE_DEVICES`; none is the
/// variable unset, which is not the same as empty.
///
/// The process is taken to be no client of an MPS daemon, and to be let to every GPU of the snapshot. It
/// reads no environment. It does not fail: where it is not known what CUDA shows, the outcome is
/// `unknown`, and no device is listed.
pub fn resolve(snapshot: &Snapshot, string: Option<&str>) -> Resolution {
    resolve_with(snapshot, string, ResolveOptions::new())
}

/// The same where more of the process's environment is known.
pub fn resolve_with(
    snapshot: &Snapshot,
    string: Option<&str>,
    options: ResolveOptions,
) -> Resolution {
    let machine = Machine::of(snapshot, options.device_order);
    let mut list = List::default();
    match string {
        _ if options.device_order == DeviceOrder::Other => {
            list.refused = true;
            list.reason =
                Some("CUDA takes no value of CUDA_DEVICE_ORDER but FASTEST_FIRST and PCI_BUS_ID");
        }
        None => list.unset(&machine),
        Some("") => {}
        Some(string) if string.len() >= NOT_READ => {
            list.reason = Some(
                "CUDA does not read a value as long as that, and shows what it does without one",
            );
            list.unset(&machine);
        }
        Some(string) if string.len() > READ => {
            list.unknown = true;
            list.flag(FlagName::Long, Basis::Nothing, "CUDA was seen to read 2,049 bytes and not 3,000; what lies between was not measured");
        }
        Some(string) => list.read(&machine, string),
    }
    list.into_resolution(&machine, snapshot.simulated, string)
}

/// What was read so far.
#[derive(Debug, Default)]
struct List {
    places: Vec<Place>,
    entries: Vec<VisibleEntry>,
    flags: Vec<Flag>,
    /// CUDA answers 101.
    refused: bool,
    unknown: bool,
    reason: Option<&'static str>,
}

impl List {
    fn flag(&mut self, name: FlagName, basis: Basis, message: impl Into<String>) {
        if !self.flags.iter().any(|flag| flag.name == name) {
            self.flags.push(Flag { name, basis, message: message.into() });
        }
    }

    fn unset(&mut self, machine: &Machine<'_>) {
        if machine.any_mig() {
            self.flag(
                FlagName::UnsetWithMig,
                Basis::Documentation,
                "where MIG devices are, CUDA shows the first of them and no whole GPU",
            );
        }
        match machine.first_mig_device() {
            Some(first) => self.places.push(first),
            None => self.places.extend(machine.whole_gpus()),
        }
        if self.places.len() > 1 {
            self.expect_known_order(machine);
        }
    }

    /// What is said of the order of unequal GPUs.
    fn expect_known_order(&mut self, machine: &Machine<'_>) {
        if !machine.order_is_known() {
            self.flag(
                FlagName::UnequalGpus,
                Basis::Nothing,
                "the GPUs differ, and CUDA numbers them by its guess which is the fastest; here they are by PCI address, which CUDA_DEVICE_ORDER=PCI_BUS_ID makes true",
            );
        }
    }

    fn read(&mut self, machine: &Machine<'_>, string: &str) {
        let kind = Kind::of(string);
        let mut ended = false;
        for text in string.split(',') {
            let mut entry = VisibleEntry {
                text: text.to_owned(),
                names: Named::Nothing,
                uuid: None,
                standing: Standing::AfterTheEnd,
                ordinal: None,
                reason: None,
            };
            if ended {
                entry.reason = Some("stands after the end of the list".to_owned());
            } else {
                ended = self.take(machine, kind, &mut entry);
            }
            self.entries.push(entry);
        }
    }

    /// Takes the next entry. Returns whether the list ends there.
    fn take(&mut self, machine: &Machine<'_>, kind: Kind, entry: &mut VisibleEntry) -> bool {
        let found = machine.find(kind, &entry.text);
        self.flags_of(machine, &found);
        let place = match found {
            Found::Nothing { reason, .. } => {
                entry.standing = Standing::Ends;
                entry.reason = Some(format!("{reason}; the list ends here"));
                return true;
            }
            Found::Unknown { place, reason, .. } => {
                (entry.names, entry.uuid) = machine.name(place);
                entry.standing = Standing::Unknown;
                entry.reason = Some(reason.to_owned());
                self.unknown = true;
                return false;
            }
            Found::Place { place, .. } => place,
        };
        (entry.names, entry.uuid) = machine.name(place);
        if self.places.contains(&place) {
            entry.standing = Standing::Repeats;
            entry.reason =
                Some("names the device a second time; CUDA then shows none at all".to_owned());
            self.refused = true;
        } else {
            entry.standing = Standing::Counts;
            self.places.push(place);
        }
        false
    }

    fn flags_of(&mut self, machine: &Machine<'_>, found: &Found) {
        match found {
            Found::Place { flag: Some((name, message)), .. }
            | Found::Nothing { flag: Some((name, message)), .. } => {
                self.flag(*name, Basis::Documentation, *message);
            }
            Found::Unknown { flag: (name, message), .. } => {
                self.flag(*name, Basis::Nothing, *message);
            }
            Found::Place { .. } | Found::Nothing { .. } => {}
        }
        let Found::Place { place, by_index, .. } = found else { return };
        if place.mig.is_none() && machine.any_mig() {
            self.flag(
                FlagName::BesideMig,
                Basis::Documentation,
                "another GPU has MIG on; what CUDA shows of whole GPUs beside it was not measured",
            );
        }
        if *by_index {
            self.expect_known_order(machine);
        }
        if *by_index && machine.any_mps() {
            self.flag(
                FlagName::MpsIndex,
                Basis::Documentation,
                "a client of an MPS daemon counts among that daemon's GPUs: name GPUs by uuid there",
            );
        }
    }

    /// What holds of the devices together.
    fn settle(&mut self, machine: &Machine<'_>) {
        if self.refused {
            if self.places.iter().any(|place| place.mig.is_some()) {
                self.flag(
                    FlagName::MigRepeated,
                    Basis::Nothing,
                    "a MIG device named twice is taken to be refused as a GPU is",
                );
            }
            return;
        }
        let mig = self.places.iter().filter(|place| place.mig.is_some()).count();
        if mig > 0 && mig < self.places.len() {
            self.unknown = true;
            self.flag(
                FlagName::MixedKinds,
                Basis::Documentation,
                "where CUDA shows a MIG device it shows no whole GPU",
            );
        } else if mig > 1 {
            self.flag(
                FlagName::SeveralMigDevices,
                Basis::Documentation,
                "a process gets one MIG device, the first; that CUDA 13 shows more was reported",
            );
            self.places.truncate(1);
            let counting =
                self.entries.iter_mut().filter(|entry| entry.standing == Standing::Counts);
            for entry in counting.skip(1) {
                entry.standing = Standing::NotShown;
                entry.reason =
                    Some("is not shown: a process gets one MIG device, the first".to_owned());
            }
        }
        for place in self.places.clone() {
            for (name, message) in machine.doubts(place) {
                self.flag(name, Basis::Nothing, message);
            }
        }
    }

    fn into_resolution(
        mut self,
        machine: &Machine<'_>,
        simulated: bool,
        string: Option<&str>,
    ) -> Resolution {
        self.settle(machine);
        // A string that is refused whatever the rest means is refused.
        let (outcome, cu_init) = if self.refused {
            (VisibleOutcome::InvalidDevice, Some(INVALID_DEVICE))
        } else if self.unknown {
            (VisibleOutcome::Unknown, None)
        } else if self.places.is_empty() {
            (VisibleOutcome::NoDevice, Some(NO_DEVICE))
        } else {
            (VisibleOutcome::Devices, Some(0))
        };
        let devices = if outcome == VisibleOutcome::Devices {
            let numbered = (0..).zip(&self.places);
            numbered.filter_map(|(ordinal, place)| machine.device(*place, ordinal)).collect()
        } else {
            Vec::new()
        };
        let counting = self.entries.iter_mut().filter(|entry| entry.standing == Standing::Counts);
        for (ordinal, entry) in (0..).zip(counting) {
            match outcome {
                VisibleOutcome::Devices => entry.ordinal = Some(ordinal),
                VisibleOutcome::Unknown => {
                    entry.standing = Standing::Unknown;
                    entry.reason =
                        Some("is of a list of which it is not known what it shows".to_owned());
                }
                VisibleOutcome::InvalidDevice | VisibleOutcome::NoDevice => {}
            }
        }
        Resolution {
            schema: RESOLVE_SCHEMA.to_owned(),
            simulated,
            string: string.map(str::to_owned),
            outcome,
            cu_init,
            reason: self.reason.map(str::to_owned),
            certain: self.flags.is_empty(),
            devices,
            entries: self.entries,
            flags: self.flags,
        }
    }
}
