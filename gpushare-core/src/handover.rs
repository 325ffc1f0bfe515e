//! Hand-over to other tools: what an export needs beside a snapshot, gathered on the node.

use crate::error::Result;
use crate::export::{self, Exported, Kind, Options};
use crate::node::Node;
use crate::observe::{device_nodes, driver_nodes};

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
}
