//! The files of NVIDIA's mig-parted.
//!
//! What is said here of mig-parted was read in its source (github.com/NVIDIA/mig-parted:
//! `api/spec/v1`, `api/checkpoint/v1`, `cmd/nvidia-mig-parted`, `pkg/types`, `pkg/mig/state`).

mod checkpoint;
mod document;
mod meaning;

use super::{Imported, Options};
use crate::error::Result;
use crate::mig::solve::{WantedInstance, solve};
use crate::mig::{Geometry, ProfileName};
use crate::mode::ComputeMode;
use crate::parameters::TimeSlicing;
use crate::plan::select;
use crate::snapshot::{GpuSnapshot, Snapshot};
use crate::spec::tree::{self, Node};
use crate::spec::{Entry, Instance, Location, Selector, Spec, Want};

/// How errors call the file.
const FILE: &str = "mig-parted file";

/// The spec that a config file or a checkpoint means on this node.
pub(super) fn import(bytes: &[u8], options: &Options, snapshot: &Snapshot) -> Result<Imported> {
    let read = |bytes| -> Result<_> {
        let root = tree::parse(bytes)?;
        if checkpoint::is_one(&root) {
            checkpoint::read(root).map(Text::Checkpoint)
        } else {
            document::read(&root).map(Text::Configs)
        }
    };
    match read(bytes).map_err(|error| tree::said_of(error, FILE))? {
        Text::Checkpoint(devices) => checkpoint::meaning(&devices, options, snapshot),
        Text::Configs(configs) => meaning::of(document::chosen(&configs, options)?, snapshot),
    }
}

/// What a file is.
enum Text {
    Configs(Vec<document::Config>),
    Checkpoint(Vec<checkpoint::Device>),
}

/// GPUs and what becomes of each, as a spec: those that are alike share an entry.
#[derive(Debug, Default)]
struct Wanted(Vec<(Selector, Want, Location)>);

impl Wanted {
    fn add(&mut self, selector: Selector, want: Want, location: Location) {
        self.0.push((selector, want, location));
    }

    fn into_spec(self) -> Spec {
        let mut entries: Vec<Entry> = Vec::new();
        for (selector, want, location) in self.0 {
            match entries.iter_mut().find(|entry| entry.want == want) {
                Some(entry) => entry.select.push(selector),
                None => {
                    let mut entry = Entry::new(vec![selector], want);
                    entry.location = location;
                    entries.push(entry);
                }
            }
        }
        let mut spec = Spec::new();
        spec.gpus = entries;
        spec
    }
}

/// What becomes of a GPU with `mig-enabled: false`; nothing where MIG is off.
///
/// mig-parted then leaves everything else as it is, and no mode of a spec does: a GPU with MIG off is
/// left out, and one that loses MIG gets the compute mode that it has from the driver then, or
/// the one that it had before gpushare turned MIG on.
fn without_mig(snapshot: &Snapshot, gpu: &GpuSnapshot, notes: &mut Vec<String>) -> Option<Want> {
    let name = select::name(gpu);
    match &gpu.mig {
        Some(mig) if mig.enabled || mig.pending => {}
        Some(_) => {
            notes.push(format!(
                "GPU {name}: MIG is off already; it is left alone and not in the spec"
            ));
            return None;
        }
        None => return None,
    }
    let prior = gpu.current_record(&snapshot.epoch).and_then(|record| record.prior.compute_mode);
    let (want, mode) = match prior {
        Some(ComputeMode::ExclusiveProcess) => {
            (Want::Exclusive, "EXCLUSIVE_PROCESS, as before gpushare turned MIG on")
        }
        _ => (Want::TimeSliced(TimeSlicing::new(std::num::NonZeroU32::MIN)), "DEFAULT"),
    };
    notes.push(format!(
        "GPU {name}: MIG goes off, and its compute mode becomes {mode}; mig-parted does not say what it is to be"
    ));
    Some(want)
}

/// Refuses instances that do not fit on a GPU, even when it is empty.
fn expect_fit(geometry: &Geometry, instances: &[Instance]) -> Result<()> {
    let wanted: Vec<_> = instances
        .iter()
        .map(|instance| {
            let profile = geometry.resolve(instance.profile)?;
            Ok(WantedInstance {
                profile: geometry.position(profile.id).unwrap_or(usize::MAX),
                start: instance.start,
                compute: instance.compute.clone(),
            })
        })
        .collect::<Result<_>>()?;
    solve(geometry, &[], &wanted).map(|_| ())
}

/// An error about a GPU, with the place in the file that speaks of it.
fn about(gpu: &GpuSnapshot, place: &Location) -> impl FnOnce(crate::Error) -> crate::Error {
    let gpu_name = format!("GPU {}, {}", select::name(gpu), gpu.model);
    let place = format!("{FILE}, {place}");
    let uuid = gpu.uuid.clone();
    move |error| error.of_gpu(&uuid).context(gpu_name).context(place)
}

/// The instances of a layout whose compute instances have these sizes.
fn instance(name: ProfileName, sizes: Vec<u8>, location: &Location) -> Instance {
    let mut instance = Instance::new(name);
    if sizes != [name.slices] {
        instance.compute = Some(sizes);
    }
    instance.location = location.clone();
    instance
}

/// Whether the file has a key on top that matches.
fn has_key(root: &Node, matches: impl Fn(&str) -> bool) -> bool {
    match &root.value {
        tree::Value::Map(entries) => entries.iter().any(|(key, _)| matches(&key.text)),
        _ => false,
    }
}
