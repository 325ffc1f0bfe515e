//! `export` and `import`: hand-over to and from other tools.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use clap::Args;

use crate::error::{Error, ErrorCode, Result};
use crate::export::{Exported, Kind, Options};
use crate::hazard::HazardName;
use crate::node::Node;

use super::Answer;
use super::arguments::hazard;
use super::output::{Output, say};

/// What is exported, and where to.
#[derive(Debug, Args)]
pub(super) struct Export {
    /// In whose words: mig-parted, docker-run, compose, device-plugin, gpu-operator,
    /// resource-claim, gres
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
}

impl Export {
    fn options(&self) -> Options {
        let mut options = Options::default();
        options.config.clone_from(&self.config);
        options.image.clone_from(&self.image);
        options.cdi = self.cdi;
        options.node.clone_from(&self.node);
        options.allow_hazards.clone_from(&self.allow_hazard);
        options
    }
}

/// `export`. What the words cannot say goes to standard error, so that the text can be piped.
pub(super) fn export(node: &Node, output: &Output, arguments: &Export) -> Result<Answer> {
    let exported = node.export(arguments.kind, &arguments.options())?;
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

fn unsaid(exported: &Exported) {
    if exported.simulated {
        say("gpushare: SIMULATED");
    }
    for what in &exported.cannot_say {
        say(&format!("gpushare: {} cannot say: {what}", exported.kind));
    }
}

/// Puts a file in the place of another: readers see the old one or the new one, whole.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::io("write", path, error);
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, format!("{} is no file's name", path.display()))
    })?;
    let mut beside = std::ffi::OsString::from(".");
    beside.push(name);
    beside.push(format!(".{}", std::process::id()));
    let beside = path.with_file_name(beside);
    let written = std::fs::File::create_new(&beside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()
    });
    let placed = written.and_then(|()| std::fs::rename(&beside, path));
    if placed.is_err() {
        // What is half written is of use to nobody; why it failed is said below.
        let _ = std::fs::remove_file(&beside);
    }
    placed.map_err(failed)
}
