//! `export` and `import`: hand-over to and from other tools.

use std::ffi::OsString;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, ErrorCode, Result};
use crate::export::{Exported, Kind, Options};
use crate::hazard::HazardName;
use crate::import;
use crate::node::Node;

use super::Answer;
use super::arguments::hazard;
use super::change;
use super::container;
use super::output::{Output, say};

/// What is exported, and where to.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// In whose words: mig-parted, docker-run, compose, device-plugin, gpu-operator,
    /// resource-claim, gres, cdi
    #[arg(value_name = "KIND")]
    kind: Kind,
    /// Write it to that file, whole or not at all, in the place of what is there
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// mig-parted, gpu-operator: the name of the config [default: current, gpushare]
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// docker-run, compose: the image [default: IMAGE]
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// docker-run, compose: name devices through CDI, and not through --gpus
    #[arg(long)]
    cdi: bool,
    /// gpu-operator, gres: the name of the node [default: NODE]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// device-plugin, gpu-operator, resource-claim, gres: accept a hazard
    #[arg(long, value_name = "NAME", value_parser = hazard)]
    allow_hazard: Vec<HazardName>,
    /// cdi: containers take no leases
    #[arg(long)]
    no_lease: bool,
}

impl Export {
    fn options(&self, node: &Node, own: &[OsString]) -> Result<Options> {
        let mut options = Options::default();
        options.config.clone_from(&self.config);
        options.image.clone_from(&self.image);
        options.cdi = self.cdi;
        options.node.clone_from(&self.node);
        options.allow_hazards.clone_from(&self.allow_hazard);
        if self.kind == Kind::Cdi && !self.no_lease {
            options.lease_hook = Some(container::lease_hook(node, own)?);
        }
        if self.kind != Kind::Cdi && self.no_lease {
            let why = format!("{} takes no --no-lease: that is for cdi", self.kind);
            return Err(Error::new(ErrorCode::InvalidArgument, why));
        }
        Ok(options)
    }
}

/// What is imported, and from where.
#[derive(Debug, Args)]
pub(super) struct Import {
    /// For which tool it was written: mig-parted
    #[arg(value_name = "KIND")]
    kind: import::Kind,
    /// A config file or a checkpoint; - for standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// mig-parted: the config that is meant; needed unless the file has one alone
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
}

/// `import`. The spec goes to standard output, so that it can be piped; notes go to standard error.
pub(super) fn import(node: &Node, output: &Output, arguments: &Import) -> Result<Answer> {
    let (name, bytes) = change::read(&arguments.file)?;
    let snapshot = node.snapshot()?;
    let mut options = import::Options::default();
    options.config.clone_from(&arguments.config);
    let imported = import::import(&bytes, arguments.kind, &options, &snapshot)
        .map_err(|error| error.context(name))?;
    if snapshot.simulated {
        say("gpushare: SIMULATED");
    }
    for note in &imported.notes {
        say(&format!("gpushare: {note}"));
    }
    if output.json {
        output.document(&imported.spec)?;
    } else {
        output.text(&imported.spec.to_string())?;
    }
    Ok(Answer::Yes)
}

/// `export`. What the words cannot say goes to standard error, so that the text can be piped.
pub(super) fn export(
    node: &Node,
    output: &Output,
    own: &[OsString],
    arguments: &Export,
) -> Result<Answer> {
    let exported = node.export(arguments.kind, &arguments.options(node, own)?)?;
    if let Some(path) = &arguments.output {
        replace(path, exported.text.as_bytes())?;
    }
    if output.json {
        output.document(&exported)?;
        return Ok(Answer::Yes);
    }
    unsaid(&exported);
    if arguments.output.is_none() {
        output.text(&exported.text)?;
    }
    Ok(Answer::Yes)
}

/// `metrics`. There is no document of it but its own text.
pub(super) fn metrics(node: &Node, output: &Output, file: Option<&Path>) -> Result<Answer> {
    if output.json {
        let why =
            "metrics has a format of its own; `gpushare status --json` says the same and more";
        return Err(Error::new(ErrorCode::InvalidArgument, why));
    }
    let text = node.metrics()?;
    match file {
        Some(path) => replace(path, text.as_bytes())?,
        None => {
            output.text(&text)?;
        }
    }
    Ok(Answer::Yes)
}

fn unsaid(exported: &Exported) {
    if exported.simulated {
        say("gpushare: SIMULATED");
    }
    for what in &exported.cannot_say {
        say(&format!("gpushare: {} cannot say: {what}", exported.kind));
    }
}

/// Puts a file in the place of another, with that one's permissions: readers see the old one or the
/// new one, whole. A link stays, and what it leads to is replaced. What is no file, such as
/// /dev/stdout, is written to: nothing may take its place.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::io("write", path, error);
    let there = std::fs::metadata(path).ok();
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return std::fs::write(path, bytes).map_err(failed);
    }
    let path = match there {
        Some(_) => &std::fs::canonicalize(path).map_err(failed)?,
        None => path,
    };
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, format!("{} is no file's name", path.display()))
    })?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = std::fs::File::create_new(&beside).and_then(|mut file| {
        if let Some(there) = &there {
            file.set_permissions(there.permissions())?;
        }
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    });
    if written.as_ref().is_err_and(|error| error.kind() != ErrorKind::AlreadyExists) {
        // What is half written is of use to nobody; why it failed is said below.
        let _ = std::fs::remove_file(&beside);
    }
    written.map_err(failed)
}
