//! Values of `CUDA_VISIBLE_DEVICES`.

use std::sync::OnceLock;

use super::chosen;
use crate::node::Node;
use crate::snapshot::Snapshot;
use crate::visible::{DeviceOrder, ResolveOptions, expect_of_one_piece, resolve_with};

pub(super) fn feed(data: &[u8]) {
    let (choice, rest) = chosen(data);
    let snapshot = &nodes()[choice % nodes().len()];
    let text = String::from_utf8_lossy(rest);
    expect_of_one_piece(snapshot, Some(&text));
    for order in [DeviceOrder::PciBusId, DeviceOrder::Other] {
        let options = ResolveOptions::new().device_order(order);
        let resolution = resolve_with(snapshot, Some(&text), options);
        assert!(order != DeviceOrder::Other || resolution.devices.is_empty());
    }
}

/// A node without MIG, one with MIG on some of its GPUs, and one without GPUs.
fn nodes() -> &'static [Snapshot] {
    static NODES: OnceLock<Vec<Snapshot>> = OnceLock::new();
    NODES.get_or_init(|| {
        let cut = r#"{"version": "gpushare/v1", "gpus": [{"select": [1, 2], "mode": "mig",
            "mig": {"instances": {"3g": 1, "1g": 2}}}]}"#;
        let mut none = Snapshot::empty(true);
        none.gpus.clear();
        let nodes = [("2xH200-141GB", None), ("3xH100-80GB,1xT4", Some(cut))];
        let nodes = nodes.into_iter().map(|(fleet, spec)| {
            let node = Node::builder().ignore_environment(true).sim(fleet).open();
            let node = node.expect("a simulated node");
            if let Some(spec) = spec {
                let options = crate::ApplyOptions::new().allow_reset(true);
                spec.parse().and_then(|spec| node.apply(&spec, &options)).expect("it is cut");
            }
            node.snapshot().expect("it is seen")
        });
        nodes.chain([none]).collect()
    })
}
