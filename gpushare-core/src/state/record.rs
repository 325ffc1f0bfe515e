//! Records: what we remember of a GPU that no driver does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::port::Store;
use crate::snapshot::{Record, expect_schema};
use crate::terminal::beginning;

const SCHEMA: &str = "gpushare.record/v1";
const FOLDER: &str = "records";

#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    gpu: GpuUuid,
    record: Record,
}

fn name(gpu: &GpuUuid) -> String {
    format!("{FOLDER}/{gpu}.json")
}

/// The records of all GPUs.
#[derive(Debug, Default)]
pub(crate) struct Records {
    /// By GPU.
    pub(crate) known: BTreeMap<GpuUuid, Record>,
    /// Files that stand where a GPU's record would and are none.
    pub(crate) unreadable: BTreeMap<GpuUuid, String>,
}

/// The records of all GPUs. A file that is no record holds up nobody who only looks: it is told of,
/// and its GPU counts as not managed.
///
/// # Errors
/// IO when reading fails; PERMISSION_DENIED when the directory cannot be trusted.
pub(crate) fn read_all(store: &dyn Store) -> Result<Records> {
    let mut records = Records::default();
    for file in store.list(FOLDER)? {
        let Some(stem) = file.strip_suffix(".json") else { continue };
        let gpu = stem.parse::<GpuUuid>();
        match (gpu, read(store, &file)) {
            (_, Ok(None)) => {}
            // It may be whole and be read the next time: to count its GPU as not managed would be
            // to forget what was there before.
            (_, Err(error)) if error.code() == ErrorCode::Io => return Err(error),
            (Ok(gpu), Ok(Some(document))) if document.gpu == gpu => {
                records.known.insert(gpu, document.record);
            }
            (gpu, read) => {
                let why = match read {
                    Err(error) => error.message().to_owned(),
                    Ok(_) => "it is named for another GPU than it says".to_owned(),
                };
                let place = place(store, &file);
                let error = format!("{place}: {why}");
                tracing::warn!(target: "gpushare::state", error, "record passed over");
                if let Ok(gpu) = gpu {
                    records.unreadable.insert(gpu, place);
                }
            }
        }
    }
    Ok(records)
}

fn place(store: &dyn Store, file: &str) -> String {
    format!("{}/{FOLDER}/{file}", store.place().display())
}

fn read(store: &dyn Store, file: &str) -> Result<Option<Document>> {
    let Some(content) = store.read(&format!("{FOLDER}/{file}"))? else { return Ok(None) };
    let document: Document = serde_json::from_slice(&content)
        .map_err(|error| Error::new(ErrorCode::InvalidState, beginning(&error.to_string())))?;
    expect_schema(&document.schema, SCHEMA)?;
    Ok(Some(document))
}

/// Refuses a change of a GPU whose record is another one than was seen: what it says of the GPU's past would
/// be forgotten. And to write one over a file that is none: whoever put it there may want it.
///
/// # Errors
/// STALE; INVALID_STATE naming the file.
pub(crate) fn expect_seen(
    store: &dyn Store,
    gpu: &GpuUuid,
    seen: Option<&Record>,
    writes: bool,
) -> Result<()> {
    let file = format!("{gpu}.json");
    let why = match read(store, &file) {
        Ok(Some(document)) if document.gpu != *gpu => {
            format!("it says that it is of {}", document.gpu)
        }
        Ok(found) if found.as_ref().map(|document| &document.record) == seen => return Ok(()),
        Ok(_) => {
            let place = place(store, &file);
            let why = format!("{place} is another one than when the GPU was looked at; try again");
            return Err(Error::new(ErrorCode::Stale, why).of_gpu(gpu));
        }
        Err(error) => error.message().to_owned(),
    };
    if !writes {
        return Ok(());
    }
    Err(Error::new(
        ErrorCode::InvalidState,
        format!(
            "{} is not a record of gpushare ({why}), and this change would write it; look at the GPU with `gpushare status`, remove the file, and the GPU counts as not managed",
            place(store, &file)
        ),
    )
    .of_gpu(gpu))
}

/// The record of a GPU; none where there is none that can be read.
///
/// # Errors
/// IO, PERMISSION_DENIED.
pub(crate) fn of(store: &dyn Store, gpu: &GpuUuid) -> Result<Option<Record>> {
    match read(store, &format!("{gpu}.json")) {
        Ok(found) => Ok(found.filter(|found| found.gpu == *gpu).map(|found| found.record)),
        Err(error) if matches!(error.code(), ErrorCode::Io | ErrorCode::PermissionDenied) => {
            Err(error)
        }
        Err(_) => Ok(None),
    }
}

/// Writes the record of a GPU durably, or removes it.
///
/// # Errors
/// IO or PERMISSION_DENIED.
pub(crate) fn write(store: &dyn Store, gpu: &GpuUuid, record: Option<&Record>) -> Result<()> {
    let Some(record) = record else { return store.remove(&name(gpu)) };
    let document = Document { schema: SCHEMA.to_owned(), gpu: gpu.clone(), record: record.clone() };
    let content = serde_json::to_vec(&document).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot write the record of {gpu}")).with_source(error)
    })?;
    store.replace(&name(gpu), &content)
}
