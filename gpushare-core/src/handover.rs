//! Hand-over to other tools: what an export needs beside a snapshot, gathered on the node.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::error::Result;
use crate::export::{self, Exported, Kind, Options};
use crate::lease::own_nodes;
use crate::node::Node;
use crate::port::Devices;
use crate::snapshot::{MigDevice, Snapshot};

impl Node {
    /// The state of this node in the words of another tool: [`export`](export::export) of a snapshot,
    /// and for [`Kind::Gres`] of the device nodes that are there.
    ///
    /// Needs no privilege beyond those of [`snapshot`](Self::snapshot).
    ///
    /// ```
    /// # #[cfg(feature = "sim")] {
    /// use gpushare_core::Node;
    /// use gpushare_core::export::{Kind, Options};
    ///
    /// let node = Node::builder().sim("1xH100-80GB").open()?;
    /// let exported = node.export(Kind::DockerRun, &Options::default())?;
    /// assert!(exported.text.contains("docker run --rm --gpus"));
    /// # }
    /// # Ok::<(), gpushare_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot) and of [`export`](export::export).
    pub fn export(&self, kind: Kind, options: &Options) -> Result<Exported> {
        let snapshot = self.snapshot()?;
        if kind == Kind::Gres && options.device_nodes.is_empty() {
            let device_nodes = device_nodes(&snapshot, self.ports().devices.as_ref());
            return export::export(&snapshot, kind, &Options { device_nodes, ..options.clone() });
        }
        export::export(&snapshot, kind, options)
    }
}

/// The device nodes that are there, by the uuid of what they are of.
fn device_nodes(snapshot: &Snapshot, devices: &dyn Devices) -> BTreeMap<String, Vec<PathBuf>> {
    let mut found = BTreeMap::new();
    for gpu in &snapshot.gpus {
        let mut add = |uuid: &str, device: Option<&MigDevice>| {
            let nodes = own_nodes(gpu, device, devices).filter(|nodes| !nodes.is_empty());
            found.extend(nodes.map(|nodes| (uuid.to_owned(), nodes)));
        };
        add(gpu.uuid.as_str(), None);
        gpu.mig_devices.iter().for_each(|device| add(device.uuid.as_str(), Some(device)));
    }
    found
}
