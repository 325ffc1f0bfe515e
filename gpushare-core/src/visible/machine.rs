//! The GPUs of a node in CUDA's order, and what an entry names among them.

use crate::id::{GpuUuid, MigUuid};
use crate::mode::{ComputeMode, SharingMode};
use crate::snapshot::{GpuSnapshot, MigDevice, Snapshot};
use crate::visible::DeviceOrder;
use crate::visible::document::{FlagName, Named, VisibleDevice, VisibleKind};
use crate::visible::read::{Digits, Kind, Prefix, number, prefix};

/// A GPU, or a MIG device of it, by its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    gpu: usize,
    pub(super) mig: Option<usize>,
}

/// What an entry names.
#[derive(Debug)]
pub(super) enum Found {
    /// A device.
    Place { place: Place, by_index: bool, flag: Option<(FlagName, &'static str)> },
    /// Something of which nobody knows what CUDA makes of it.
    Unknown { place: Place, reason: &'static str, flag: (FlagName, &'static str) },
    /// Nothing.
    Nothing { reason: &'static str, flag: Option<(FlagName, &'static str)> },
}

/// Said of every list of MIG devices where there are any.
const BY_UUID: (FlagName, &str) =
    (FlagName::MigUuid, "MIG devices are named by their uuids, as nvidia-smi -L prints them");

/// Said where CUDA is asked for a GPU that is cut, or counts with one.
const MIG_PARENT: (FlagName, &str) = (
    FlagName::MigParent,
    "a GPU with MIG on is no device that a process gets; what CUDA shows in its place is not documented",
);

impl Found {
    fn nothing(reason: &'static str) -> Self {
        Self::Nothing { reason, flag: None }
    }
}

/// The GPUs that the driver shows, in CUDA's order.
#[derive(Debug)]
pub(super) struct Machine<'a> {
    gpus: Vec<&'a GpuSnapshot>,
    order_known: bool,
}

fn mig_on(gpu: &GpuSnapshot) -> bool {
    gpu.mig.as_ref().is_some_and(|mig| mig.enabled)
}

impl<'a> Machine<'a> {
    pub(super) fn of(snapshot: &'a Snapshot, order: DeviceOrder) -> Self {
        // What is on record alone is no device of the driver's.
        let mut gpus: Vec<_> = snapshot.gpus.iter().filter(|gpu| gpu.index.is_some()).collect();
        // NVML's order, which is the order of PCI addresses.
        gpus.sort_by_key(|gpu| gpu.index);
        let alike = |a: &GpuSnapshot, b: &GpuSnapshot| {
            a.device_id == b.device_id
                && a.model == b.model
                && a.sm_count == b.sm_count
                && a.memory == b.memory
        };
        let equal = gpus.windows(2).all(|pair| alike(pair[0], pair[1]));
        Self { gpus, order_known: equal || order == DeviceOrder::PciBusId }
    }

    pub(super) fn order_is_known(&self) -> bool {
        self.order_known
    }

    pub(super) fn any_mig(&self) -> bool {
        self.gpus.iter().any(|gpu| mig_on(gpu))
    }

    pub(super) fn any_mps(&self) -> bool {
        let mps = [SharingMode::Mps, SharingMode::Foreign];
        self.gpus.iter().any(|gpu| mps.contains(&gpu.mode))
    }

    /// The GPUs of which a process can get the whole.
    pub(super) fn whole_gpus(&self) -> impl Iterator<Item = Place> {
        let whole = self.gpus.iter().enumerate().filter(|(_, gpu)| !mig_on(gpu));
        whole.map(|(gpu, _)| Place { gpu, mig: None })
    }

    pub(super) fn first_mig_device(&self) -> Option<Place> {
        let gpu = self.gpus.iter().position(|gpu| mig_on(gpu) && !gpu.mig_devices.is_empty())?;
        Some(Place { gpu, mig: Some(0) })
    }

    fn gpu(&self, place: Place) -> Option<&'a GpuSnapshot> {
        self.gpus.get(place.gpu).copied()
    }

    fn mig_device(&self, place: Place) -> Option<&'a MigDevice> {
        self.gpu(place)?.mig_devices.get(place.mig?)
    }

    /// What it is, and its uuid.
    pub(super) fn name(&self, place: Place) -> (Named, Option<String>) {
        match (self.gpu(place), self.mig_device(place)) {
            (_, Some(device)) => (Named::MigDevice, Some(device.uuid.to_string())),
            (Some(gpu), _) if mig_on(gpu) => (Named::MigParent, Some(gpu.uuid.to_string())),
            (Some(gpu), _) => (Named::Gpu, Some(gpu.uuid.to_string())),
            (None, None) => (Named::Nothing, None),
        }
    }

    /// The device with its facts.
    pub(super) fn device(&self, place: Place, ordinal: u32) -> Option<VisibleDevice> {
        let gpu = self.gpu(place)?;
        let mig = self.mig_device(place);
        Some(VisibleDevice {
            ordinal,
            kind: if mig.is_some() { VisibleKind::MigDevice } else { VisibleKind::Gpu },
            uuid: mig.map_or_else(|| gpu.uuid.to_string(), |mig| mig.uuid.to_string()),
            index: gpu.index,
            model: gpu.model.clone(),
            profile: mig.map(|mig| mig.profile),
            memory: mig.map_or(gpu.memory, |mig| mig.memory),
            sm_count: mig.map_or(gpu.sm_count, |mig| mig.sm_count),
            mode: gpu.mode,
            parent: mig.map(|_| gpu.uuid.clone()),
        })
    }

    /// What may keep CUDA from showing a device that was named.
    pub(super) fn doubts(&self, place: Place) -> impl Iterator<Item = (FlagName, &'static str)> {
        let gpu = self.gpu(place);
        let closed = gpu.is_some_and(|gpu| gpu.compute_mode == Some(ComputeMode::Prohibited));
        let lost = gpu.is_some_and(|gpu| gpu.mode == SharingMode::Lost);
        let closed = closed.then_some((
            FlagName::Closed,
            "a GPU whose compute mode is PROHIBITED takes no context; whether CUDA shows it was not measured",
        ));
        let lost = lost.then_some((
            FlagName::Lost,
            "a GPU that does not answer may keep CUDA from all others",
        ));
        closed.into_iter().chain(lost)
    }

    /// What an entry of such a list names.
    pub(super) fn find(&self, kind: Kind, text: &str) -> Found {
        match kind {
            Kind::Indices => self.at_index(text),
            Kind::Uuids => self.with_uuid(text),
        }
    }

    fn at_index(&self, text: &str) -> Found {
        let Some(number) = number(text) else {
            return Found::nothing("is no number, as the first entry is");
        };
        let Some(gpu) = usize::try_from(number).ok().filter(|gpu| *gpu < self.gpus.len()) else {
            return Found::nothing("there is no GPU of that number");
        };
        let place = Place { gpu, mig: None };
        if self.counts_differ_up_to(gpu) {
            return Found::Unknown {
                place,
                reason: "what CUDA counts where a GPU has MIG on is not known; give a uuid",
                flag: MIG_PARENT,
            };
        }
        Found::Place { place, by_index: true, flag: None }
    }

    /// Whether a GPU with MIG on stands at this index or before it: reports say that CUDA counts those
    /// last, the documentation that it counts as nvidia-smi does.
    fn counts_differ_up_to(&self, gpu: usize) -> bool {
        self.gpus.iter().take(gpu + 1).any(|gpu| mig_on(gpu))
    }

    fn with_uuid(&self, text: &str) -> Found {
        let Some((prefix, rest)) = prefix(text) else {
            return Found::nothing("is no uuid, as the first entry is");
        };
        if let Some((gpu, gi, ci)) = old_form(text) {
            return self.with_old_name(gpu, gi, ci);
        }
        let Some(digits) = Digits::read(rest) else {
            return Found::nothing("is no uuid and no beginning of one");
        };
        if digits.are_none() {
            return Found::nothing("is a uuid without a digit");
        }
        let gpus = (0..).zip(&self.gpus).filter(|(_, gpu)| digits.begin(digits_of(gpu)));
        let gpus = gpus.map(|(gpu, _)| Place { gpu, mig: None });
        let devices = self.mig_devices().filter(|(.., device)| {
            let uuid = device.uuid.as_str();
            digits.begin(uuid.strip_prefix(MigUuid::PREFIX).unwrap_or(uuid))
        });
        let mut matching = gpus.chain(devices.map(|(place, ..)| place));
        let place = match (matching.next(), matching.next()) {
            (Some(place), None) => place,
            (Some(_), Some(_)) => {
                let message =
                    "a beginning that several uuids have names none of them: so the documentation";
                let flag = Some((FlagName::Ambiguous, message));
                return Found::Nothing { reason: "several devices begin so", flag };
            }
            (None, _) => {
                let flag = (prefix == Prefix::Mig && self.any_mig()).then_some(BY_UUID);
                return Found::Nothing { reason: "there is no device of that uuid", flag };
            }
        };
        if place.mig.is_some() {
            if prefix == Prefix::Mig && digits.are_all() {
                return Found::Place { place, by_index: false, flag: Some(BY_UUID) };
            }
            let message = "a MIG device by the beginning of its uuid, or by GPU-, was not measured";
            return Found::Unknown {
                place,
                reason: "gives a MIG device otherwise than by MIG- and its whole uuid",
                flag: (FlagName::MigPrefix, message),
            };
        }
        if self.gpu(place).is_some_and(mig_on) {
            return Found::Unknown {
                place,
                reason: "has MIG on: no process gets the whole of it; name a MIG device",
                flag: MIG_PARENT,
            };
        }
        Found::Place { place, by_index: false, flag: None }
    }

    fn mig_devices(&self) -> impl Iterator<Item = (Place, &'a GpuSnapshot, &'a MigDevice)> {
        (0..).zip(&self.gpus).filter(|(_, gpu)| mig_on(gpu)).flat_map(|(place, gpu)| {
            (0..)
                .zip(&gpu.mig_devices)
                .map(move |(mig, device)| (Place { gpu: place, mig: Some(mig) }, *gpu, device))
        })
    }

    fn with_old_name(&self, gpu: &str, gi: u32, ci: u32) -> Found {
        let named = self.mig_devices().find(|(_, parent, device)| {
            parent.uuid.as_str() == gpu && device.gi.get() == gi && device.ci.get() == ci
        });
        let flag = self.any_mig().then_some((
            FlagName::MigOldForm,
            "MIG-GPU-UUID/GI/CI is the form of drivers before R470; whether later ones take it depends on the driver",
        ));
        match named {
            Some((place, ..)) => Found::Place { place, by_index: false, flag },
            None => Found::Nothing { reason: "there is no such MIG device", flag },
        }
    }
}

fn digits_of(gpu: &GpuSnapshot) -> &str {
    gpu.uuid.as_str().strip_prefix(GpuUuid::PREFIX).unwrap_or_default()
}

/// GPU, GPU instance and compute instance of `MIG-GPU-UUID/GI/CI`.
fn old_form(text: &str) -> Option<(&str, u32, u32)> {
    let mut parts = text.strip_prefix(MigUuid::PREFIX)?.split('/');
    let (gpu, gi, ci) = (parts.next()?, parts.next()?, parts.next()?);
    let plain = |text: &str| {
        text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
    };
    let found = (gpu, plain(gi)?, plain(ci)?);
    (gpu.starts_with(GpuUuid::PREFIX) && parts.next().is_none()).then_some(found)
}
