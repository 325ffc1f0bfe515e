//! In which life of machine and driver a GPU was restored: what was changed since is somebody's decision.

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::port::Store;
use crate::snapshot::{Epoch, expect_schema};

const SCHEMA: &str = "gpushare.restored/v1";

#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    epoch: Epoch,
}

fn name(gpu: &GpuUuid) -> String {
    format!("restored/{gpu}.json")
}

/// When a GPU was restored last. What cannot be read counts as never: then it is restored once more.
///
/// # Errors
/// IO or PERMISSION_DENIED.
pub(crate) fn of(store: &dyn Store, gpu: &GpuUuid) -> Result<Option<Epoch>> {
    let content = match store.read(&name(gpu)) {
        Err(error) if error.code() == ErrorCode::InvalidState => None,
        read => read?,
    };
    let document = content.and_then(|text| serde_json::from_slice::<Document>(&text).ok());
    let document = document.filter(|document| expect_schema(&document.schema, SCHEMA).is_ok());
    Ok(document.map(|document| document.epoch))
}

/// Notes that a GPU is as stored, durably.
///
/// # Errors
/// IO or PERMISSION_DENIED.
pub(crate) fn note(store: &dyn Store, gpu: &GpuUuid, epoch: &Epoch) -> Result<()> {
    let document = Document { schema: SCHEMA.to_owned(), epoch: epoch.clone() };
    let content = serde_json::to_vec(&document).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot note that {gpu} was restored")).with_source(error)
    })?;
    store.replace(&name(gpu), &content)
}
