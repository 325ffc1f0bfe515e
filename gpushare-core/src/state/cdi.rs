//! Which GPUs have CDI specifications, and where: they follow every change of these GPUs.

use crate::error::{Error, ErrorCode, Result};
use crate::export::Cdi;
use crate::id::GpuUuid;
use crate::port::Store;
use crate::snapshot::expect_schema;
use crate::terminal::beginning;

use serde::{Deserialize, Serialize};

const SCHEMA: &str = "gpushare.cdi/v1";
const FOLDER: &str = "cdi";

#[derive(Serialize, Deserialize)]
struct Document {
    schema: String,
    gpu: GpuUuid,
    cdi: Cdi,
}

fn name(gpu: &GpuUuid) -> String {
    format!("{FOLDER}/{gpu}.json")
}

/// The GPUs that have specifications.
///
/// # Errors
/// IO, PERMISSION_DENIED.
pub(crate) fn gpus(store: &dyn Store) -> Result<Vec<GpuUuid>> {
    let names = store.list(FOLDER)?;
    Ok(names.iter().filter_map(|name| name.strip_suffix(".json")?.parse().ok()).collect())
}

/// Where the specification of a GPU is kept; none where it has none.
///
/// # Errors
/// INVALID_STATE for a file that is not ours, saying what to do; IO, PERMISSION_DENIED.
pub(crate) fn of(store: &dyn Store, gpu: &GpuUuid) -> Result<Option<Cdi>> {
    let name = name(gpu);
    let Some(content) = store.read(&name)? else { return Ok(None) };
    let read = serde_json::from_slice::<Document>(&content)
        .map_err(|error| Error::new(ErrorCode::InvalidState, beginning(&error.to_string())))
        .and_then(|document| expect_schema(&document.schema, SCHEMA).map(|()| document));
    let why = match read {
        Ok(document) if document.gpu == *gpu => return Ok(Some(document.cdi)),
        Ok(document) => format!("it says that it is of {}", document.gpu),
        Err(error) => error.message().to_owned(),
    };
    Err(Error::new(
        ErrorCode::InvalidState,
        format!(
            "{}/{name} does not say where the CDI specification of the GPU is kept ({why}); remove it, and ask for CDI again",
            store.place().display()
        ),
    )
    .of_gpu(gpu))
}

/// Notes where the specification of a GPU is kept, or that it has none.
///
/// # Errors
/// IO, PERMISSION_DENIED.
pub(crate) fn write(store: &dyn Store, gpu: &GpuUuid, cdi: Option<&Cdi>) -> Result<()> {
    let Some(cdi) = cdi else { return store.remove(&name(gpu)) };
    let document = Document { schema: SCHEMA.to_owned(), gpu: gpu.clone(), cdi: cdi.clone() };
    let content = serde_json::to_vec(&document).map_err(|error| {
        Error::new(ErrorCode::Io, format!("cannot note the CDI specification of {gpu}"))
            .with_source(error)
    })?;
    store.replace(&name(gpu), &content)
}
