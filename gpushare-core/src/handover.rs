//! Hand-over to other tools and from them: what an export or an import needs, gathered on the node.

use std::path::Path;

use crate::error::Result;
use crate::export::{self, Exported, Kind, Options};
use crate::import::{self, Imported};
use crate::node::Node;
use crate::observe::{device_nodes, driver_nodes};
use crate::spec::file::read_file;

impl Node {
    /// The state of this node in the words of another tool: [`export`](export::export) of a snapshot,
    /// and for [`Kind::Gres`] and [`Kind::Cdi`] of its device nodes.
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
        let devices = self.ports().devices.as_ref();
        let mut options = options.clone();
        if matches!(kind, Kind::Gres | Kind::Cdi) && options.device_nodes.is_empty() {
            options.device_nodes = device_nodes(&snapshot.gpus, devices);
        }
        if kind == Kind::Cdi && options.driver_nodes.is_empty() {
            options.driver_nodes = driver_nodes(devices);
        }
        export::export(&snapshot, kind, &options)
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
