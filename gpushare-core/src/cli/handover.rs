//! `export` and `import`: hand-over to and from other tools.

use std::ffi::OsString;
use std::fs::Permissions;
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
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

/// Puts a file in the place of another: readers see the old one or the new one, whole. It keeps the
/// permissions of a file of this user's. A link stays, and what it leads to is replaced, where nobody else
/// could have put it there. What is no file, such as /dev/stdout, is written to: nothing may take its place.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let failed = |error| Error::io("write", path, error);
    let there = match std::fs::metadata(path) {
        // A link that leads nowhere is not taken for no file.
        Err(error) if path.is_symlink() => return Err(failed(error)),
        there => there.ok(),
    };
    if path.is_symlink() && !is_own_link(path).map_err(failed)? {
        let why = "is a link that others could lead elsewhere; name the file itself";
        return Err(Error::new(ErrorCode::PermissionDenied, format!("{} {why}", path.display())));
    }
    if there.as_ref().is_some_and(|there| !there.is_file()) {
        return write_to(path, bytes).map_err(failed);
    }
    let path = match there {
        Some(_) => &std::fs::canonicalize(path).map_err(failed)?,
        None => path,
    };
    let name = path.file_name().ok_or_else(|| {
        Error::new(ErrorCode::InvalidArgument, format!("{} is no file's name", path.display()))
    })?;
    // Nobody guesses it and is there first.
    let mut random = [0; 8];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .map_err(|errno| failed(errno.into()))?;
    let mut beside = OsString::from(".");
    beside.push(name);
    beside.push(format!(".{:016x}", u64::from_ne_bytes(random)));
    let beside = path.with_file_name(beside);
    let user = rustix::process::geteuid().as_raw();
    // What another user allowed on a file of theirs says nothing of ours.
    let own = there.as_ref().filter(|there| there.uid() == user);
    let written = std::fs::File::create_new(&beside).and_then(|mut file| {
        if let Some(own) = own {
            file.set_permissions(Permissions::from_mode(own.mode() & 0o777))?;
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

/// Whether a link is root's or this user's, and nobody else could put another in its place.
fn is_own_link(path: &Path) -> std::io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    let link = path.symlink_metadata()?;
    let above = std::path::absolute(path)?;
    let above = above.parent().unwrap_or(&above).metadata()?;
    let own = |uid: u32| uid == 0 || uid == user;
    // In a sticky directory each has their own.
    let others = above.mode() & 0o022 != 0 && above.mode() & 0o1000 == 0;
    Ok(own(link.uid()) && own(above.uid()) && !others)
}

/// Writes to what is no file. A pipe that nobody reads is no place: it would hold the caller up.
fn write_to(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let flags = rustix::fs::OFlags::NONBLOCK;
    let mut options = std::fs::OpenOptions::new();
    let flag = i32::try_from(flags.bits()).unwrap_or_default();
    let mut file = options.write(true).custom_flags(flag).open(path)?;
    let now = rustix::fs::fcntl_getfl(&file)?;
    rustix::fs::fcntl_setfl(&file, now - flags)?;
    file.write_all(bytes)
}
