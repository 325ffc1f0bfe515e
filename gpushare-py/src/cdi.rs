//! CDI: what becomes of specifications for containers, and the program that takes leases for these.

use std::path::{Path, PathBuf};

use gpushare_core::apply::CdiSpecifications;
use gpushare_core::export::{Cdi, LeaseHook};
use gpushare_core::{Node, Result};
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::arguments::{path, wrong_type};
use crate::error::refused;

const PROGRAM: &str = "cdi_program";

/// What becomes of the specifications, as Python gives it.
#[derive(Debug)]
pub(crate) enum Specified {
    AsBefore,
    Remove,
    /// In that directory, with leases by that program or without.
    Keep(PathBuf, Option<PathBuf>),
}

impl Specified {
    /// # Errors
    /// TypeError for what is neither a path nor False; InvalidRequestError for a program that no container
    /// runtime could start, or without a directory.
    pub(crate) fn new(
        cdi: Option<&Bound<'_, PyAny>>,
        program: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let specified = match cdi {
            None => Self::AsBefore,
            Some(cdi) if cdi.is_instance_of::<PyBool>() => Self::removed(cdi)?,
            Some(cdi) => {
                return Ok(Self::Keep(directory(cdi)?, program.map(self::program).transpose()?));
            }
        };
        let Some(program) = program else { return Ok(specified) };
        Err(refused(program.py(), PROGRAM, "it goes with cdi, the directory of the specifications"))
    }

    fn removed(cdi: &Bound<'_, PyAny>) -> PyResult<Self> {
        if !cdi.is_truthy()? {
            return Ok(Self::Remove);
        }
        let why = "cdi: True does not say where: give a directory, such as '/var/run/cdi'";
        Err(PyTypeError::new_err(why))
    }

    /// The same for the core.
    pub(crate) fn specifications(&self, node: &Node) -> Result<CdiSpecifications> {
        Ok(match self {
            Self::AsBefore => CdiSpecifications::AsBefore,
            Self::Remove => CdiSpecifications::Remove,
            Self::Keep(directory, program) => {
                let cdi = Cdi::new(directory);
                CdiSpecifications::Keep(match program {
                    Some(program) => cdi.lease_hook(lease_hook(node, program)?),
                    None => cdi,
                })
            }
        })
    }
}

/// The directory, as the command has it: from where the process is.
fn directory(given: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let wrong = |error: PyErr| {
        if error.is_instance_of::<PyTypeError>(given.py()) {
            wrong_type("cdi", given, "the path of a directory or False")
        } else {
            error
        }
    };
    let directory = path("cdi", given).map_err(wrong)?;
    std::path::absolute(&directory)
        .map_err(|error| refused(given.py(), "cdi", format!("{directory:?}: {error}")))
}

/// The program, by a path that means the same to whoever starts it.
pub(crate) fn program(given: &Bound<'_, PyAny>) -> PyResult<PathBuf> {
    let program = path(PROGRAM, given)?;
    if program.is_absolute() {
        return Ok(program);
    }
    let why =
        format!("{program:?} is not absolute, and a container runtime would look for it elsewhere");
    Err(refused(given.py(), PROGRAM, why))
}

/// The program as a hook that takes leases of this node's shares.
pub(crate) fn lease_hook(node: &Node, program: &Path) -> Result<LeaseHook> {
    node.lease_hook(program).map_err(|error| error.context(PROGRAM))
}
