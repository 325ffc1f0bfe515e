//! A ConfigMap for NVIDIA's GPU Operator, with a config of its device plugin.

use super::kubernetes::{expect_label, expect_node};
use super::{Options, device_plugin};
use crate::error::Result;
use crate::mode::SharingMode;
use crate::snapshot::Snapshot;
use crate::spec::tree::{Node, yaml_text};

/// The name of the config where none is given.
const CONFIG: &str = "gpushare";
/// The node where none is given.
const NODE: &str = "NODE";
/// The name of the ConfigMap.
const MAP: &str = "gpushare-device-plugin";
/// Where the operator runs as its documentation installs it.
const NAMESPACE: &str = "gpu-operator";

/// The text, and what it cannot say.
pub(super) fn export(snapshot: &Snapshot, options: &Options) -> Result<(String, Vec<String>)> {
    let config = expect_label(options.config.as_deref().unwrap_or(CONFIG))?;
    let node = options.node.as_deref().map(expect_node).transpose()?.unwrap_or(NODE);
    let (plugin, cannot_say) = device_plugin::export(snapshot, options)?;
    // The operator's own setting goes over that of the file.
    let mig = snapshot.gpus.iter().any(|gpu| gpu.mode == SharingMode::Mig);
    let strategy = mig.then(|| {
        [
            "Its own MIG strategy goes over the one of the config:".to_owned(),
            "  kubectl patch clusterpolicies.nvidia.com/cluster-policy --type merge -p '{\"spec\": {\"mig\": {\"strategy\": \"mixed\"}}}'".to_owned(),
        ]
    });
    let comments = [
        "The operator is told once which ConfigMap to use:".to_owned(),
        format!(
            "  kubectl patch clusterpolicies.nvidia.com/cluster-policy --type merge -p '{{\"spec\": {{\"devicePlugin\": {{\"config\": {{\"name\": \"{MAP}\"}}}}}}}}'"
        ),
        "and each node which config of it:".to_owned(),
        format!("  kubectl label node {node} --overwrite nvidia.com/device-plugin.config={config}"),
        "It does not look at a ConfigMap again that was changed:".to_owned(),
        format!(
            "  kubectl rollout restart -n {NAMESPACE} daemonset/nvidia-device-plugin-daemonset"
        ),
    ];
    let comments = comments.into_iter().chain(strategy.into_iter().flatten());
    let mut text: String = comments.map(|line| format!("# {line}\n")).collect();
    let metadata = Node::map([("name", Node::text(MAP)), ("namespace", Node::text(NAMESPACE))]);
    let head = [
        ("apiVersion", Node::text("v1")),
        ("kind", Node::text("ConfigMap")),
        ("metadata", metadata),
    ];
    text.push_str(&yaml_text(&Node::map(head)));
    // A file within a file, as people write it. The key may look like a number.
    text.push_str(&format!("data:\n  \"{config}\": |\n"));
    plugin.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    Ok((text, cannot_say))
}
