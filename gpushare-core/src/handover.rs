//! Hand-over to other tools and from them: what an export or an import needs, gathered on the node.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::export::{self, Exported, Kind, Options};
use crate::import::{self, Imported};
use crate::lease::own_nodes;
use crate::node::Node;
use crate::port::Devices;
use crate::snapshot::{MigDevice, Snapshot};
use crate::spec::file::read_file;

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

    /// The spec that a text of another tool's means on this node: [`import`](import::import) over a
    /// snapshot. Changes nothing.
    ///
    /// # Errors
    /// Those of [`snapshot`](Self::snapshot) and of [`import`](import::import).
    pub fn import(
        &self,
        bytes: &[u8],
        kind: import::Kind,
        options: &import::Options,
    ) -> Result<Imported> {
        import::import(bytes, kind, options, &self.snapshot()?)
    }

    /// The same of a text in a file. It never waits: what is no regular file, a pipe say, is refused.
    ///
    /// # Errors
    /// As [`import`](Self::import), naming the file; INVALID_ARGUMENT for a file that is not there or is no
    /// regular one; PERMISSION_DENIED; IO.
    pub fn import_file(
        &self,
        path: impl AsRef<Path>,
        kind: import::Kind,
        options: &import::Options,
    ) -> Result<Imported> {
        let path = path.as_ref();
        let bytes = read_file(path)?;
        self.import(&bytes, kind, options)
            .map_err(|error| error.context(path.display().to_string()))
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
