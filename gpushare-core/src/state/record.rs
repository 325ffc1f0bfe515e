//! Records: what we remember of a GPU that no driver does.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::port::Store;
use crate::snapshot::{Record, expect_schema};

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
///
/// # Errors
/// IO when they cannot be read; INVALID_STATE for a record that is none, naming the file.
pub fn read_all(store: &dyn Store) -> Result<BTreeMap<GpuUuid, Record>> {
    let mut records = BTreeMap::new();
    for file in store.list(FOLDER)? {
        if !file.ends_with(".json") {
            continue;
        }
        let path = format!("{FOLDER}/{file}");
        let Some(content) = store.read(&path)? else { continue };
        let document: Result<Document> = serde_json::from_slice(&content)
            .map_err(|error| Error::new(ErrorCode::InvalidState, error.to_string()))
            .and_then(|document: Document| {
                expect_schema(&document.schema, SCHEMA)?;
                Ok(document)
            });
        let document = document.map_err(|error| {
            Error::new(
                ErrorCode::InvalidState,
                format!(
                    "{}/{path} is not a record of gpushare ({}); remove it, and the GPU counts as not managed",
                    store.place().display(),
                    error.message()
                ),
            )
        })?;
        records.insert(document.gpu, document.record);
    }
    Ok(records)
}

/// The record of one GPU.
///
/// # Errors
/// As [`read_all`].
pub fn read(store: &dyn Store, gpu: &GpuUuid) -> Result<Option<Record>> {
    Ok(read_all(store)?.remove(gpu))
}

/// Writes the record of a GPU durably, or removes it.
///
/// # Errors
/// IO or PERMISSION_DENIED.
pub fn write(store: &dyn Store, gpu: &GpuUuid, record: Option<&Record>) -> Result<()> {
    let Some(record) = record else { return store.remove(&name(gpu)) };
    let document = Document { schema: SCHEMA.to_owned(), gpu: gpu.clone(), record: record.clone() };
    let content = serde_json::to_vec(&document).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot write the record of {gpu}")).with_source(error)
    })?;
    store.replace(&name(gpu), &content)
}
