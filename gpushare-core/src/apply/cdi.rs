//! CDI specifications follow the GPUs: gone before the first step of a change, there again after the last.

use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use crate::error::{Error, ErrorCode, Result};
use crate::export::{self, Cdi, CdiSpecifications};
use crate::id::GpuUuid;
use crate::mode::SharingMode;
use crate::observe::{Observer, Scope, device_nodes, driver_nodes};
#[cfg(feature = "cli")]
use crate::plan::Plan;
use crate::port::Ports;
use crate::snapshot::Snapshot;
use crate::state::{cdi, journal, lock};

/// Where runtimes of this machine look, which is no place for devices that are simulated.
const OF_THIS_MACHINE: [&str; 3] = ["/etc/cdi", Cdi::DIRECTORY, "/run/cdi"];

/// The specifications of some GPUs, whose locks the caller has to write them.
#[derive(Debug)]
pub(super) struct Specifications<'a> {
    ports: &'a Ports,
    gpus: Vec<Specified>,
}

/// What became of files.
#[derive(Debug, Default)]
pub(super) struct Put {
    pub(super) written: Vec<PathBuf>,
    pub(super) removed: Vec<PathBuf>,
}

/// One GPU's: where it was, and where it is to be.
#[derive(Debug)]
struct Specified {
    gpu: GpuUuid,
    before: Option<Cdi>,
    wanted: Option<Cdi>,
    /// The file that is not to be there any more.
    leaving: Option<PathBuf>,
}

impl<'a> Specifications<'a> {
    /// Those of these GPUs.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, PERMISSION_DENIED or IO where they could not be written; INVALID_STATE where it
    /// cannot be read where they were.
    pub(super) fn of(
        ports: &'a Ports,
        simulated: bool,
        wanted: &CdiSpecifications,
        gpus: impl IntoIterator<Item = GpuUuid>,
    ) -> Result<Self> {
        let specified = |gpu: GpuUuid| {
            let before = match cdi::of(ports.store.as_ref(), &gpu) {
                // What is asked for takes the place of what cannot be read.
                Err(error)
                    if error.code() == ErrorCode::InvalidState
                        && *wanted != CdiSpecifications::AsBefore =>
                {
                    None
                }
                read => read?,
            };
            let wanted = match wanted {
                CdiSpecifications::AsBefore => before.clone(),
                CdiSpecifications::Keep(cdi) => Some(cdi.clone()),
                CdiSpecifications::Remove => None,
            };
            let name = export::file_name(&gpu);
            let leaving = before.as_ref().filter(|old| leaves(old, wanted.as_ref()));
            // One that may not be looked at is not removed, either.
            let is_there =
                |old: &&Cdi| ports.cdi.read(old.directory(), &name).is_ok_and(|f| f.is_some());
            let leaving = leaving.filter(is_there).map(|old| old.directory().join(&name));
            Ok(Specified { gpu, before, wanted, leaving })
        };
        let gpus = gpus.into_iter().map(specified).collect::<Result<Vec<_>>>()?;
        let hooks = gpus.iter().filter_map(|specified| specified.wanted.as_ref()?.hook());
        hooks.into_iter().try_for_each(|hook| hook.usable().map(drop))?;
        let mut directories = gpus.iter().filter_map(|gpu| gpu.wanted.as_ref()).map(Cdi::directory);
        // Where they are is noted as text.
        if let Some(directory) = directories.find(|directory| directory.to_str().is_none()) {
            let why = format!(
                "the path of a directory for CDI specifications is text, and {directory:?} is not UTF-8"
            );
            return Err(Error::new(ErrorCode::InvalidArgument, why));
        }
        let known =
            |cdi: &&Cdi| OF_THIS_MACHINE.iter().any(|of| plain(cdi.directory()) == Path::new(of));
        let mut wanted = gpus.iter().filter_map(|specified| specified.wanted.as_ref());
        if let Some(cdi) = wanted.find(known).filter(|_| simulated) {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "this node is simulated, and containers of the real one look into {}: give another directory",
                    cdi.directory().display()
                ),
            ));
        }
        Ok(Self { ports, gpus })
    }

    /// Whether the GPUs have none, and are to have none.
    pub(super) fn is_empty(&self) -> bool {
        self.gpus.iter().all(|gpu| gpu.before.is_none() && gpu.wanted.is_none())
    }

    /// Refuses directories that could not be written to, before anything is touched.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, PERMISSION_DENIED, IO.
    pub(super) fn expect_writable(&self) -> Result<()> {
        let wanted = self.gpus.iter().filter_map(|gpu| gpu.wanted.as_ref());
        let directories: BTreeSet<_> = wanted.map(Cdi::directory).collect();
        directories.into_iter().try_for_each(|path| self.ports.cdi.expect_writable(path))
    }

    /// Whether every GPU has its specification where it is to be, as the GPU is.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(super) fn are_there(&self, snapshot: &Snapshot) -> Result<bool> {
        for Specified { gpu, before, wanted, .. } in &self.gpus {
            if before != wanted {
                return Ok(false);
            }
            let Some(wanted) = wanted else { continue };
            let text = self.text(snapshot, gpu, wanted)?;
            let there = self.ports.cdi.read(wanted.directory(), &export::file_name(gpu))?;
            if there != text.map(String::into_bytes) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes away those of GPUs that are about to change: until they are back, no container starts there.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    pub(super) fn withdraw(&self, changing: &[&GpuUuid]) -> Result<()> {
        for Specified { gpu, before, wanted, .. } in &self.gpus {
            let Some(before) = before.as_ref().filter(|_| changing.contains(&gpu)) else {
                continue;
            };
            if leaves(before, wanted.as_ref()) {
                remove_or_leave(self.ports, before, gpu)?;
            } else {
                self.ports.cdi.remove(before.directory(), &export::file_name(gpu))?;
            }
        }
        Ok(())
    }

    /// Writes those that are wanted, and notes where they are. Returns what was written and removed.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, PERMISSION_DENIED, IO: [`put_back`](Self::put_back) is to follow.
    pub(super) fn put(&self, snapshot: &Snapshot) -> Result<Put> {
        let mut put = Put::default();
        for Specified { gpu, before, wanted, leaving } in &self.gpus {
            put.written.extend(self.replace(snapshot, gpu, before.as_ref(), wanted.as_ref())?);
            put.removed.extend(leaving.clone());
        }
        Ok(put)
    }

    /// The same, and where that fails everything is as it was.
    ///
    /// # Errors
    /// As [`put`](Self::put).
    pub(super) fn put_or_leave(&self, snapshot: &Snapshot) -> Result<Put> {
        self.put(snapshot).map_err(|error| match self.put_back(snapshot, &[]) {
            Ok(()) => error,
            Err(left) => error.context(left.to_string()),
        })
    }

    /// Writes those of before for GPUs that are as before, and notes where they are; those of GPUs that
    /// are stuck stay away.
    ///
    /// # Errors
    /// PERMISSION_DENIED, IO.
    pub(super) fn put_back(&self, snapshot: &Snapshot, stuck: &[&GpuUuid]) -> Result<()> {
        let mut failed = None;
        for Specified { gpu, before, wanted, .. } in &self.gpus {
            let back = if stuck.contains(&gpu) {
                cdi::write(self.ports.store.as_ref(), gpu, before.as_ref())
            } else {
                self.replace(snapshot, gpu, wanted.as_ref(), before.as_ref()).map(drop)
            };
            // One that fails does not keep the others from it.
            if let Err(error) = back {
                failed.get_or_insert(error);
            }
        }
        failed.map_or(Ok(()), |error| {
            Err(error.context(
                "a CDI specification could not be written again, and containers of its GPU do not start; `gpushare recover` writes it",
            ))
        })
    }

    /// Removes the one and writes the other. The note comes between: a file that is there is always noted, and
    /// what is noted is refreshed.
    fn replace(
        &self,
        snapshot: &Snapshot,
        gpu: &GpuUuid,
        old: Option<&Cdi>,
        new: Option<&Cdi>,
    ) -> Result<Option<PathBuf>> {
        let name = export::file_name(gpu);
        if let Some(old) = old.filter(|old| leaves(old, new)) {
            remove_or_leave(self.ports, old, gpu)?;
        }
        if old != new {
            cdi::write(self.ports.store.as_ref(), gpu, new)?;
        }
        let Some(new) = new else { return Ok(None) };
        let Some(text) = self.text(snapshot, gpu, new)? else {
            return self.ports.cdi.remove(new.directory(), &name).map(|()| None);
        };
        self.ports.cdi.replace(new.directory(), &name, text.as_bytes())?;
        Ok(Some(new.directory().join(name)))
    }

    fn text(&self, snapshot: &Snapshot, gpu: &GpuUuid, cdi: &Cdi) -> Result<Option<String>> {
        let devices = self.ports.devices.as_ref();
        let there = snapshot.gpus.iter().filter(|there| there.uuid == *gpu);
        let options = export::Options {
            device_nodes: device_nodes(there, devices),
            driver_nodes: driver_nodes(devices),
            lease_hook: cdi.hook().cloned(),
            ..export::Options::default()
        };
        export::specification(snapshot, gpu, &options)
    }
}

/// Removes one that is not to be there any more. Whoever else can write to its directory has the last word on
/// it, and that keeps nobody from leaving.
fn remove_or_leave(ports: &Ports, old: &Cdi, gpu: &GpuUuid) -> Result<()> {
    let name = export::file_name(gpu);
    match ports.cdi.remove(old.directory(), &name) {
        Err(error) if error.code() == ErrorCode::PermissionDenied => {
            let path = old.directory().join(&name);
            tracing::warn!(target: "gpushare::state", %error, "a CDI specification is left: remove {}", path.display());
            Ok(())
        }
        removed => removed,
    }
}

/// Whether the directory of the one is not that of the other.
fn leaves(old: &Cdi, new: Option<&Cdi>) -> bool {
    new.is_none_or(|new| new.directory() != old.directory())
}

/// A path without `.` and `..`, as it is written: no link is looked at.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Whether there may be specifications to look after.
///
/// # Errors
/// IO, PERMISSION_DENIED.
pub(super) fn concerns(ports: &Ports, wanted: &CdiSpecifications) -> Result<bool> {
    let none =
        *wanted == CdiSpecifications::AsBefore && cdi::gpus(ports.store.as_ref())?.is_empty();
    Ok(!none)
}

/// Whether the GPUs of a plan have theirs as they are wanted, as these GPUs are now.
///
/// # Errors
/// As [`Specifications::of`], and those of observing.
#[cfg(feature = "cli")]
pub(crate) fn has_specifications(
    ports: &Ports,
    simulated: bool,
    wanted: &CdiSpecifications,
    plan: &Plan,
) -> Result<bool> {
    if !concerns(ports, wanted)? {
        return Ok(true);
    }
    let gpus: Vec<_> = plan.gpus.iter().map(|gpu| gpu.uuid.clone()).collect();
    let snapshot =
        Observer::open(ports, simulated)?.snapshot(&Scope::gpus(gpus.iter().cloned()))?;
    Specifications::of(ports, simulated, wanted, gpus)?.are_there(&snapshot)
}

/// Takes away those of GPUs that do not answer any more: another GPU may have their index by now, and two
/// devices of one name are none. Who is changing such a GPU does that itself.
///
/// # Errors
/// INVALID_STATE, PERMISSION_DENIED, IO.
pub(super) fn drop_lost(ports: &Ports, all: &Snapshot) -> Result<()> {
    let (store, clock) = (ports.store.as_ref(), ports.clock.as_ref());
    for gpu in cdi::gpus(store)? {
        if all.gpu(&gpu).is_some_and(|gpu| gpu.mode != SharingMode::Lost) {
            continue;
        }
        let go_on = &mut |_: &GpuUuid| ControlFlow::Continue(());
        match lock::acquire(store, clock, std::slice::from_ref(&gpu), Some(Duration::ZERO), go_on) {
            Ok(locks) => {
                if let Some(cdi) = cdi::of(store, &gpu)? {
                    remove_or_leave(ports, &cdi, &gpu)?;
                }
                drop(locks);
            }
            Err(error) if error.code() == ErrorCode::Locked => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Writes anew those of GPUs whose locks the caller has, where they are not as the GPUs are. Returns where.
///
/// # Errors
/// Those of observing, PERMISSION_DENIED, IO.
pub(super) fn refresh(
    ports: &Ports,
    simulated: bool,
    gpus: impl IntoIterator<Item = GpuUuid>,
) -> Result<Vec<PathBuf>> {
    finish(ports, simulated, &CdiSpecifications::AsBefore, gpus)
}

/// The same, with what an apply that died wanted of them.
///
/// # Errors
/// As [`refresh`].
pub(super) fn finish(
    ports: &Ports,
    simulated: bool,
    wanted: &CdiSpecifications,
    gpus: impl IntoIterator<Item = GpuUuid>,
) -> Result<Vec<PathBuf>> {
    // One that is between two states has none.
    let unsettled = journal::unsettled(ports.store.as_ref())?;
    let gpus = gpus.into_iter().filter(|gpu| !unsettled.contains_key(gpu));
    let specifications = Specifications::of(ports, simulated, wanted, gpus)?;
    if specifications.is_empty() {
        return Ok(Vec::new());
    }
    let scope = Scope::gpus(specifications.gpus.iter().map(|specified| specified.gpu.clone()));
    let snapshot = Observer::open(ports, simulated)?.snapshot(&scope)?;
    if specifications.are_there(&snapshot)? {
        return Ok(Vec::new());
    }
    Ok(specifications.put(&snapshot)?.written)
}
