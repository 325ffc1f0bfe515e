//! Files of NVIDIA's mig-parted: configs and checkpoints.

use std::sync::OnceLock;

use super::specs::expect_whole;
use super::{expect_error, expect_shown};
use crate::error::ErrorCode;
use crate::import::{Kind, Options, import};
use crate::node::Node;
use crate::plan::plan;
use crate::snapshot::Snapshot;

/// What is documented of an import on a node whose GPUs are all seen.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::InvalidArgument,
    ErrorCode::Insufficient,
    ErrorCode::Unsupported,
    ErrorCode::NotFound,
];

pub(super) fn feed(data: &[u8]) {
    for config in [None, Some("a")] {
        let options = Options { config: config.map(str::to_owned) };
        match import(data, Kind::MigParted, &options, node()) {
            Ok(imported) => {
                imported.notes.iter().for_each(|note| expect_shown(note));
                expect_whole(&imported.spec);
                // It speaks of this node.
                let planned = plan(node(), &imported.spec);
                assert!(planned.is_ok(), "{planned:?}");
            }
            Err(error) => expect_error(&error, REFUSED),
        }
    }
}

/// One GPU is cut already, one has MIG off, and one has none.
fn node() -> &'static Snapshot {
    static NODE: OnceLock<Snapshot> = OnceLock::new();
    NODE.get_or_init(|| {
        let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig",
            "mig": {"instances": [{"profile": "3g.20gb", "compute": ["1c", "2c"]}, {"profile": "1g.5gb"}]}}]}"#;
        let node = Node::builder().ignore_environment(true).sim("2xA100-40GB,1xH100-80GB,1xT4");
        let node = node.open().expect("a simulated node");
        let options = crate::ApplyOptions::new().allow_reset(true);
        spec.parse().and_then(|spec| node.apply(&spec, &options)).expect("it is cut");
        node.snapshot().expect("it is seen")
    })
}
