//! The journal of a change: written before each step, removed when the change is settled.
//!
//! A journal is a file of lines. The first says what is to be done and from which state; each
//! following one says that a step begins, or what it created. Every line carries a checksum over
//! itself and the line before. A last line that was cut off, or of which the disk has zeros in part, is
//! as if it had not been written: its step had not begun. Anything else that does not add up is no journal
//! of ours.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::error::{Error, ErrorCode, Outcome, Result};
use crate::export::CdiSpecifications;
use crate::id::{GpuUuid, MigUuid, Pid};
use crate::mig::Placement;
use crate::plan::Step;
use crate::plan::state::GpuState;
use crate::port::{Processes, Store};
use crate::snapshot::{Epoch, expect_schema};
use crate::state::record;
use crate::terminal::beginning;

const SCHEMA: &str = "gpushare.journal/v1";
const FOLDER: &str = "journal";
const DISCARDED: &str = "discarded";

/// What is to be done, and from which state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Header {
    /// The journal's schema.
    pub(crate) schema: String,
    /// Who applies.
    pub(crate) pid: Pid,
    /// When it started: with the pid, who it is.
    pub(crate) start_time: Option<u64>,
    /// The life of machine and driver.
    pub(crate) epoch: Epoch,
    /// The digest of the plan.
    pub(crate) digest: String,
    /// The GPUs, in the order in which they are changed.
    pub(crate) gpus: Vec<GpuChange>,
    /// Whether other GPUs of the change were here, and are in their state of before: then these have one way only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) others_are_back: bool,
    /// What becomes of their CDI specifications.
    #[serde(default, skip_serializing_if = "CdiSpecifications::is_as_before")]
    pub(crate) cdi: CdiSpecifications,
}

/// What is to be done to one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct GpuChange {
    /// The GPU.
    pub(crate) uuid: GpuUuid,
    /// Its state before.
    pub(crate) before: GpuState,
    /// Its MIG devices before.
    pub(crate) devices: Vec<Device>,
    /// The steps.
    pub(crate) steps: Vec<Step>,
}

/// A MIG device by where it stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Device {
    /// Where its GPU instance stands.
    pub(crate) placement: Placement,
    /// Where its compute instance starts.
    pub(crate) start: u8,
    /// Its uuid.
    pub(crate) uuid: MigUuid,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A step begins: position of the GPU in the header, position of the step.
    Begin(usize, usize),
    /// A step created that MIG device.
    Created(usize, usize, MigUuid),
}

/// A journal that was found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its name.
    pub(crate) name: String,
    /// What was to be done.
    pub(crate) header: Header,
    /// What happened.
    pub(crate) entries: Vec<Entry>,
}

impl Header {
    /// A header of this version.
    pub(crate) fn new(
        (pid, start_time): (Pid, Option<u64>),
        epoch: Epoch,
        digest: String,
        gpus: Vec<GpuChange>,
        cdi: CdiSpecifications,
    ) -> Self {
        let schema = SCHEMA.to_owned();
        Self { schema, pid, start_time, epoch, digest, gpus, others_are_back: false, cdi }
    }
}

impl Found {
    /// How many steps of a GPU have begun.
    pub(crate) fn begun(&self, gpu: usize) -> usize {
        let steps = self.entries.iter().filter_map(|entry| match entry {
            Entry::Begin(g, step) if *g == gpu => Some(step + 1),
            _ => None,
        });
        steps.max().unwrap_or(0)
    }

    /// The MIG devices that it created on a GPU, by step: the last of each step, since a step can be undone and done
    /// again. Of one that was begun again nothing is known until it is noted.
    pub(crate) fn created(&self, gpu: usize) -> BTreeMap<usize, MigUuid> {
        let mut created = BTreeMap::new();
        for entry in &self.entries {
            match entry {
                Entry::Begin(g, step) if *g == gpu => drop(created.remove(step)),
                Entry::Created(g, step, uuid) if *g == gpu => {
                    created.insert(*step, uuid.clone());
                }
                _ => {}
            }
        }
        created
    }

    /// The part of it that is about these GPUs, by position, when the others are as before.
    #[must_use]
    pub(crate) fn only(&self, gpus: &[usize]) -> Self {
        let place = |gpu: usize| gpus.iter().position(|&kept| kept == gpu);
        let entries = self.entries.iter().filter_map(|entry| {
            Some(match entry {
                Entry::Begin(gpu, step) => Entry::Begin(place(*gpu)?, *step),
                Entry::Created(gpu, step, uuid) => {
                    Entry::Created(place(*gpu)?, *step, uuid.clone())
                }
            })
        });
        let changes = gpus.iter().filter_map(|&gpu| self.header.gpus.get(gpu).cloned());
        let others_are_back = self.header.others_are_back || gpus.len() < self.header.gpus.len();
        Self {
            name: self.name.clone(),
            header: Header { gpus: changes.collect(), others_are_back, ..self.header.clone() },
            entries: entries.collect(),
        }
    }
}

/// A journal that is being written.
#[derive(Debug)]
pub(crate) struct Journal<'a> {
    store: &'a dyn Store,
    path: String,
    sum: String,
}

impl<'a> Journal<'a> {
    /// Begins a journal: when this returns, it is on disk.
    ///
    /// # Errors
    /// INVALID_STATE when the change would write a record over a file that is none; STALE where there is a
    /// record that was not seen; IO or PERMISSION_DENIED.
    pub(crate) fn begin(store: &'a dyn Store, name: &str, header: &Header) -> Result<Self> {
        for gpu in &header.gpus {
            let writes = gpu.steps.iter().any(|step| matches!(step, Step::WriteRecord { .. }));
            record::expect_seen(store, &gpu.uuid, gpu.before.record.as_ref(), writes)?;
        }
        let (line, sum) = seal("", header)?;
        let path = format!("{FOLDER}/{name}");
        if let Err(error) = store.replace(&path, line.as_bytes()) {
            // It may be there all the same. If it cannot be removed either, recovery finds that
            // nothing had begun.
            if let Err(left) = store.remove(&path) {
                tracing::warn!(target: "gpushare::state", error = %left, "a journal without a change is left");
            }
            return Err(error);
        }
        Ok(Self { store, path, sum })
    }

    /// Goes on with a journal that was found.
    ///
    /// A last line that was cut off is cut away first, so that the next one stands on its own.
    ///
    /// # Errors
    /// IO or PERMISSION_DENIED.
    pub(crate) fn resume(store: &'a dyn Store, found: &Found) -> Result<Self> {
        let (mut content, mut sum) = seal("", &found.header)?;
        for entry in &found.entries {
            let (line, next) = seal(&sum, entry)?;
            content.push_str(&line);
            sum = next;
        }
        let path = format!("{FOLDER}/{}", found.name);
        store.replace(&path, content.as_bytes())?;
        Ok(Self { store, path, sum })
    }

    /// Writes what happens next: when this returns, it is on disk.
    ///
    /// # Errors
    /// IO or PERMISSION_DENIED.
    pub(crate) fn write(&mut self, entry: &Entry) -> Result<()> {
        let (line, sum) = seal(&self.sum, entry)?;
        self.store.append(&self.path, line.as_bytes())?;
        self.sum = sum;
        Ok(())
    }

    /// The change is settled: removes the journal.
    ///
    /// # Errors
    /// IO or PERMISSION_DENIED, indeterminate: as long as the journal is there, recovery decides.
    pub(crate) fn settle(self) -> Result<()> {
        self.store.remove(&self.path).map_err(|error| {
            error
                .with_outcome(Outcome::Indeterminate)
                .context("the journal of a change that is settled could not be removed; run `gpushare recover`")
        })
    }
}

/// The journals that are there.
///
/// # Errors
/// RECOVERY_REQUIRED for a file that is not a whole journal of ours, with the way out.
pub(crate) fn find(store: &dyn Store) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for name in store.list(FOLDER)? {
        if let Some(journal) = read(store, &name)? {
            found.push(journal);
        }
    }
    Ok(found)
}

/// One journal; none when it is gone.
///
/// # Errors
/// As [`find`].
pub(crate) fn read(store: &dyn Store, name: &str) -> Result<Option<Found>> {
    let content = match store.read(&format!("{FOLDER}/{name}")) {
        Ok(Some(content)) => Ok(content),
        Ok(None) => return Ok(None),
        // A link, a pipe, a file without an end: it would bar every change until somebody looks.
        Err(error) if matches!(error.code(), ErrorCode::Io | ErrorCode::InvalidState) => {
            Err(error.to_string())
        }
        Err(error) => return Err(error),
    };
    let parsed = content.and_then(|content| parse(&content));
    let (header, entries) = parsed.map_err(|why| {
        let why = beginning(&why);
        Error::new(
            ErrorCode::RecoveryRequired,
            format!(
                "{}/{FOLDER}/{name} is not a whole journal of gpushare: {why}. Look at the GPUs with `gpushare status`; when they are as you want them, `gpushare recover --discard {name}` sets it aside",
                store.place().display()
            ),
        )
    })?;
    Ok(Some(Found { name: name.to_owned(), header, entries }))
}

/// The GPUs with a change that is not settled, each with the name of its journal. Files that are no
/// journal are passed over: who only looks is not held up by them.
///
/// # Errors
/// IO.
pub(crate) fn unsettled(store: &dyn Store) -> Result<BTreeMap<GpuUuid, String>> {
    let mut gpus = BTreeMap::new();
    for name in store.list(FOLDER)? {
        match read(store, &name) {
            Ok(Some(found)) => {
                gpus.extend(found.header.gpus.into_iter().map(|gpu| (gpu.uuid, name.clone())));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(target: "gpushare::state", %error, "journal passed over"),
        }
    }
    Ok(gpus)
}

/// Whether the process that wrote a journal is there, or has settled it meanwhile.
pub(crate) fn has_living_applier(store: &dyn Store, processes: &dyn Processes, name: &str) -> bool {
    let header = match read(store, name) {
        Ok(Some(found)) => found.header,
        // Settled a moment ago.
        Ok(None) => return true,
        Err(_) => return false,
    };
    let there = processes.facts(header.pid);
    there.is_some_and(|facts| header.start_time.is_none_or(|start| start == facts.start_time))
}

/// Sets a journal aside that nobody can read.
///
/// # Errors
/// NOT_FOUND when there is none of that name; IO.
pub(crate) fn discard(store: &dyn Store, name: &str) -> Result<String> {
    let plain = !name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.');
    let path = format!("{FOLDER}/{name}");
    if !plain || !store.list(FOLDER)?.iter().any(|there| there == name) {
        return Err(Error::new(ErrorCode::NotFound, format!("there is no journal {name:?}")));
    }
    let aside = format!("{DISCARDED}/{name}");
    store.rename(&path, &aside)?;
    Ok(format!("{}/{aside}", store.place().display()))
}

#[cfg(all(any(test, fuzzing), feature = "cli"))]
/// A journal of these lines, each with its checksum, for who feeds them.
pub(crate) fn sealed<'l>(lines: impl IntoIterator<Item = &'l str>) -> String {
    let mut sum = String::new();
    let mut text = String::new();
    for line in lines {
        sum = sum_of(&sum, line);
        text.push_str(&format!("{sum} {line}\n"));
    }
    text
}

fn sum_of(before: &str, json: &str) -> String {
    let digest = Sha256::new().chain_update(before).chain_update(json).finalize();
    digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// A line with its checksum, and the checksum.
fn seal(before: &str, value: &impl Serialize) -> Result<(String, String)> {
    let json = serde_json::to_string(value).map_err(|error| {
        Error::new(ErrorCode::Io, "cannot write the journal").with_source(error)
    })?;
    let sum = sum_of(before, &json);
    Ok((format!("{sum} {json}\n"), sum))
}

/// More GPUs than any machine has by far: each is looked for, and locked.
const MOST_GPUS: usize = 1024;

fn parse(content: &[u8]) -> std::result::Result<(Header, Vec<Entry>), String> {
    let text = std::str::from_utf8(content).map_err(|_| "it is not text".to_owned())?;
    let mut sum = String::new();
    let mut lines = text.split_inclusive('\n').enumerate().peekable();
    let mut next = |sum: &mut String| -> std::result::Result<Option<&str>, String> {
        let Some((number, line)) = lines.next() else { return Ok(None) };
        let Some(line) = line.strip_suffix('\n') else {
            // Cut off while it was written: it never counted. The header is never cut off, since a
            // journal appears whole.
            return if number == 0 {
                Err("its first line is cut off".to_owned())
            } else {
                Ok(None)
            };
        };
        // The same: a power loss may leave the later part of a write without the earlier one. What follows a
        // line was written when the line was on disk.
        if number > 0 && line.contains('\0') && lines.peek().is_none() {
            return Ok(None);
        }
        let (found, json) =
            line.split_once(' ').ok_or(format!("line {} has no checksum", number + 1))?;
        let expected = sum_of(sum, json);
        if found != expected {
            return Err(format!("the checksum of line {} does not add up", number + 1));
        }
        *sum = expected;
        Ok(Some(json))
    };
    let header = next(&mut sum)?.ok_or("it is empty")?;
    let header: Header =
        serde_json::from_str(header).map_err(|error| format!("its first line: {error}"))?;
    expect_schema(&header.schema, SCHEMA).map_err(|error| error.to_string())?;
    let gpus: BTreeSet<_> = header.gpus.iter().map(|gpu| &gpu.uuid).collect();
    if gpus.len() != header.gpus.len() {
        return Err("it names a GPU twice".to_owned());
    }
    if gpus.len() > MOST_GPUS {
        return Err(format!("it names more than {MOST_GPUS} GPUs"));
    }
    let mut entries = Vec::new();
    while let Some(json) = next(&mut sum)? {
        let entry: Entry = serde_json::from_str(json).map_err(|error| error.to_string())?;
        let (Entry::Begin(gpu, step) | Entry::Created(gpu, step, _)) = &entry;
        if header.gpus.get(*gpu).is_none_or(|gpu| *step >= gpu.steps.len()) {
            return Err("it names a step that it does not have".to_owned());
        }
        entries.push(entry);
    }
    Ok((header, entries))
}
