//! `advise`: which way suits a workload here, and the spec that does it.

use std::fs::OpenOptions;
use std::io::{ErrorKind, Write as _};
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use crate::advise::{self, Advice, Workload};
use crate::error::{Error, ErrorCode, Result};
use crate::node::Node;
use crate::units::Bytes;

use super::Answer;
use super::arguments::Select;
use super::output::{Output, say};

/// What a workload needs.
#[derive(Debug, Args)]
pub(super) struct Advise {
    /// How many processes at the same time
    #[arg(long, value_name = "N", default_value = "1")]
    count: NonZeroU32,
    /// The device memory of each, its CUDA context included: 8GiB
    #[arg(long, value_name = "SIZE", value_parser = memory)]
    memory: Option<Bytes>,
    /// Whether one kernel fills a GPU
    #[arg(long, value_enum)]
    kernels: Option<Kernels>,
    /// What must hold between them: nothing, enforced limits, or that no fault and no traffic of one reaches another
    #[arg(long, value_enum, default_value_t = Isolation::None)]
    isolation: Isolation,
    /// Whether people work with them, or they compute without a pause
    #[arg(long, value_enum)]
    style: Option<Style>,
    /// They compute in neither bf16 nor fp16
    #[arg(long)]
    no_half_precision: bool,
    /// Write the recommended spec to a file that is not there yet
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    #[command(flatten)]
    select: Select,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kernels {
    Small,
    Large,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Isolation {
    None,
    Limits,
    Strict,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Style {
    Interactive,
    Batch,
}

fn memory(text: &str) -> Result<Bytes> {
    let memory = Bytes::parse_with_unit(text)?;
    if memory.get() == 0 {
        return Err(Error::new(
            ErrorCode::InvalidArgument,
            "no memory at all; leave the option out where it is not known",
        ));
    }
    Ok(memory)
}

impl Advise {
    fn workload(&self) -> Workload {
        let mut workload = Workload::new(self.count);
        workload.memory = self.memory;
        workload.kernels = match self.kernels {
            Some(Kernels::Small) => advise::Kernels::Small,
            Some(Kernels::Large) => advise::Kernels::Large,
            None => advise::Kernels::Unknown,
        };
        workload.isolation = match self.isolation {
            Isolation::None => advise::Isolation::None,
            Isolation::Limits => advise::Isolation::Limits,
            Isolation::Strict => advise::Isolation::Strict,
        };
        workload.style = match self.style {
            Some(Style::Interactive) => advise::Style::Interactive,
            Some(Style::Batch) => advise::Style::Batch,
            None => advise::Style::Unknown,
        };
        workload.half_precision = !self.no_half_precision;
        workload
    }
}

/// `advise`. The answer is no where nothing fits.
pub(super) fn advise(node: &Node, output: &Output, arguments: &Advise) -> Result<Answer> {
    let snapshot = node.snapshot()?;
    let only = match arguments.select.is_given() {
        true => Some(arguments.select.to_change(&snapshot)?),
        false => None,
    };
    let advice = advise::advise_on(&snapshot, &arguments.workload(), only.as_deref());
    if let Some(path) = &arguments.write {
        write(path, &advice)?;
    }
    output.show(&advice)?;
    Ok(if advice.recommended.is_some() { Answer::Yes } else { Answer::No })
}

/// Writes the recommended spec, and never over anything else.
fn write(path: &Path, advice: &Advice) -> Result<()> {
    let Some((spec, way)) = advice.best().and_then(|best| Some((best.spec.as_ref()?, best.way)))
    else {
        say("gpushare: nothing fits, so nothing was written");
        return Ok(());
    };
    let text = format!("# By `gpushare advise`: {} for {}.\n{spec}", way.as_str(), advice.workload);
    match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(mut file) => {
            file.write_all(text.as_bytes()).map_err(|error| Error::io("write", path, error))
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {
            let same = std::fs::read(path).is_ok_and(|found| found == text.as_bytes());
            if same {
                return Ok(());
            }
            Err(Error::new(
                ErrorCode::InvalidArgument,
                format!(
                    "{} is there and says something else; give a file that is not there, or remove it",
                    path.display()
                ),
            ))
        }
        Err(error) => Err(Error::io("write", path, error)),
    }
}
