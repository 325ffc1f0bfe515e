//! Export: the state of a node in the words of another tool.
//!
//! What the other tool has no words for is listed in [`Exported::cannot_say`], never dropped in
//! silence. Everything here is a function of a [`Snapshot`]: nothing is asked and nothing is written.
//!
//! Each kind has a file of its own. A new one is a variant of [`Kind`] and an arm of [`export`].

mod cdi;
mod compose;
mod device_plugin;
mod docker;
mod docker_run;
mod gpu_operator;
mod gres;
mod kubernetes;
mod mig_parted;
mod resource_claim;
mod tenants;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorCode, Result};
use crate::hazard::HazardName;
use crate::snapshot::{DeviceNode, Snapshot};
use crate::terminal::{Quoted, beginning};

pub use cdi::{Cdi, CdiSpecifications, LeaseHook};
pub(crate) use cdi::{KIND as CDI_KIND, file_name, specification};

/// The schema that a serialised export names.
pub const SCHEMA: &str = "gpushare.export/v1";

/// In whose words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// A config file of NVIDIA's mig-parted, version v1.
    MigParted,
    /// Command lines of `docker run`, one for each share.
    DockerRun,
    /// A Compose file, one service for each share.
    Compose,
    /// A config file of NVIDIA's device plugin for Kubernetes, version v1.
    DevicePlugin,
    /// A ConfigMap for NVIDIA's GPU Operator, with a config of its device plugin.
    GpuOperator,
    /// Claims for NVIDIA's DRA driver for Kubernetes, one for each device.
    ResourceClaim,
    /// Slurm's gres.conf, with the lines that slurm.conf needs.
    Gres,
    /// A specification of the Container Device Interface, one device for each share.
    Cdi,
}

impl Kind {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::MigParted,
        Self::DockerRun,
        Self::Compose,
        Self::DevicePlugin,
        Self::GpuOperator,
        Self::ResourceClaim,
        Self::Gres,
        Self::Cdi,
    ];

    /// The word for it on the command line and in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MigParted => "mig-parted",
            Self::DockerRun => "docker-run",
            Self::Compose => "compose",
            Self::DevicePlugin => "device-plugin",
            Self::GpuOperator => "gpu-operator",
            Self::ResourceClaim => "resource-claim",
            Self::Gres => "gres",
            Self::Cdi => "cdi",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Kind {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == text).ok_or_else(|| {
            let all: Vec<_> = Self::ALL.iter().map(|kind| kind.as_str()).collect();
            let why =
                format!("{} is nothing to export to; there is {}", Quoted(text), all.join(", "));
            Error::new(ErrorCode::InvalidArgument, why)
        })
    }
}

/// What an export may be told beside its kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Options {
    /// mig-parted and gpu-operator: the name of the config; `current` and `gpushare` where none is
    /// given.
    pub config: Option<String>,
    /// docker-run and compose: the image; `IMAGE` where none is given.
    pub image: Option<String>,
    /// docker-run and compose: name devices through CDI, and not through Docker's `--gpus`.
    pub cdi: bool,
    /// gpu-operator and gres: the name of the node; `NODE` where none is given, and for gres lines
    /// of a file that is that node's own.
    pub node: Option<String>,
    /// device-plugin, gpu-operator, resource-claim and gres: hazards that are accepted.
    pub allow_hazards: Vec<HazardName>,
    /// gres and cdi: the device nodes of each GPU and MIG device, by uuid: the GPU's own, then for a MIG
    /// device those of its two capabilities. [`Node::export`](crate::Node::export) looks for them.
    pub device_nodes: BTreeMap<String, Vec<DeviceNode>>,
    /// cdi: the device nodes that every share needs. [`Node::export`](crate::Node::export) looks for them.
    pub driver_nodes: Vec<DeviceNode>,
    /// cdi: the program that takes a lease for each container; none where containers get no leases.
    pub lease_hook: Option<LeaseHook>,
}

impl Options {
    /// Reads options written in JSON: an object with the names of the fields.
    ///
    /// # Errors
    /// INVALID_ARGUMENT, saying what is wrong with them.
    pub fn from_json(text: &str) -> Result<Self> {
        serde_json::from_str(text).map_err(|error| {
            let why = error.to_string();
            let message = format!("options of an export: {}", beginning(&why));
            Error::new(ErrorCode::InvalidArgument, message)
        })
    }

    /// Refuses what this kind does not take.
    fn expect_only_those_of(&self, kind: Kind) -> Result<()> {
        let docker = &[Kind::DockerRun, Kind::Compose][..];
        let hazardous =
            &[Kind::DevicePlugin, Kind::GpuOperator, Kind::ResourceClaim, Kind::Gres][..];
        let given = [
            ("config", self.config.is_some(), &[Kind::MigParted, Kind::GpuOperator][..]),
            ("image", self.image.is_some(), docker),
            ("cdi", self.cdi, docker),
            ("node", self.node.is_some(), &[Kind::GpuOperator, Kind::Gres]),
            ("device_nodes", !self.device_nodes.is_empty(), &[Kind::Gres, Kind::Cdi]),
            ("driver_nodes", !self.driver_nodes.is_empty(), &[Kind::Cdi]),
            ("lease_hook", self.lease_hook.is_some(), &[Kind::Cdi]),
            ("allow_hazards", !self.allow_hazards.is_empty(), hazardous),
        ];
        let wrong = given.iter().find(|(_, given, kinds)| *given && !kinds.contains(&kind));
        let Some((name, _, kinds)) = wrong else { return Ok(()) };
        let kinds: Vec<_> = kinds.iter().map(|kind| kind.as_str()).collect();
        Err(Error::new(
            ErrorCode::InvalidArgument,
            format!("{kind} takes no {name}: that is for {}", kinds.join(", ")),
        ))
    }
}

/// What came of an export.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Exported {
    /// [`SCHEMA`].
    pub schema: String,
    /// Whether the node is simulated.
    pub simulated: bool,
    /// In whose words.
    pub kind: Kind,
    /// The text, which ends with a line feed.
    pub text: String,
    /// What is so on this node and cannot be said in these words, in sentences.
    pub cannot_say: Vec<String>,
}

/// The state of a node in the words of another tool.
///
/// # Errors
/// INVALID_ARGUMENT for an option that the kind cannot take; UNSUPPORTED where the other tool has one
/// setting for what differs here; HAZARD, with safe values, where its MPS daemon would be told what
/// harms; NOT_FOUND where it takes no empty file and there is nothing to say.
pub fn export(snapshot: &Snapshot, kind: Kind, options: &Options) -> Result<Exported> {
    options.expect_only_those_of(kind)?;
    let (text, cannot_say) = match kind {
        Kind::MigParted => mig_parted::export(snapshot, options)?,
        Kind::DockerRun => docker_run::export(snapshot, options)?,
        Kind::Compose => compose::export(snapshot, options)?,
        Kind::DevicePlugin => device_plugin::export(snapshot, options)?,
        Kind::GpuOperator => gpu_operator::export(snapshot, options)?,
        Kind::ResourceClaim => resource_claim::export(snapshot, options)?,
        Kind::Gres => gres::export(snapshot, options)?,
        Kind::Cdi => cdi::export(snapshot, options)?,
    };
    let schema = SCHEMA.to_owned();
    Ok(Exported { schema, simulated: snapshot.simulated, kind, text, cannot_say })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_and_nothing_else() {
        let text = r#"{"image": "a", "cdi": true, "allow_hazards": ["minimum-sm"]}"#;
        let options = Options::from_json(text).unwrap();
        assert_eq!((options.image.as_deref(), options.cdi), (Some("a"), true));
        assert_eq!(options.allow_hazards, [HazardName::MinimumSm]);
        assert_eq!(Options::from_json("{}").unwrap(), Options::default());
        for wrong in ["", "[", "7", r#"{"imgae": "a"}"#, r#"{"cdi": 1}"#, r#"{"cdi": true"#] {
            let error = Options::from_json(wrong).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong}");
        }
    }

    #[test]
    fn a_kind_has_one_word_in_every_surface() {
        for &kind in Kind::ALL {
            assert_eq!(kind.as_str().parse::<Kind>().unwrap(), kind);
            let document = serde_json::to_value(kind).unwrap();
            assert_eq!(document, kind.as_str());
        }
        let error = "mig_parted".parse::<Kind>().unwrap_err();
        assert!(error.to_string().contains("mig-parted"), "{error}");
    }
}
