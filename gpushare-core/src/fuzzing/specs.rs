//! Specs, in YAML and in JSON.

use std::sync::OnceLock;

use super::{expect_error, expect_shown};
use crate::error::ErrorCode;
use crate::node::Node;
use crate::plan::plan;
use crate::snapshot::Snapshot;
use crate::spec::Spec;

/// What a spec may be refused with on a node that has GPUs of two kinds.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::InvalidArgument,
    ErrorCode::NotFound,
    ErrorCode::Unsupported,
    ErrorCode::Insufficient,
    ErrorCode::Busy,
    ErrorCode::Hazard,
];

pub(super) fn feed(data: &[u8]) {
    let read = Spec::from_bytes(data);
    match &read {
        Ok(spec) => expect_whole(spec),
        Err(error) => expect_error(error, &[ErrorCode::InvalidArgument]),
    }
    let Ok(text) = std::str::from_utf8(data) else {
        assert!(read.is_err());
        return;
    };
    let parsed = text.parse::<Spec>();
    assert_eq!(parsed.as_ref().ok(), read.as_ref().ok());
    let yaml = Spec::from_yaml_str(text);
    let json = Spec::from_json_str(text);
    // What is read is what one of the two forms says.
    if let Ok(spec) = &read {
        assert!(Some(spec) == yaml.as_ref().ok() || Some(spec) == json.as_ref().ok());
    }
    for one in [&yaml, &json] {
        match one {
            Ok(spec) => assert!(spec.check().is_ok()),
            Err(error) => expect_error(error, &[ErrorCode::InvalidArgument]),
        }
    }
    // JSON through serde is more of a library's than of ours: what it takes is a spec all the same.
    if let Ok(spec) = serde_json::from_slice::<Spec>(data) {
        assert!(spec.check().is_ok());
        assert!(json.is_ok(), "{json:?}");
    }
}

/// What holds of a spec that was read.
pub(super) fn expect_whole(spec: &Spec) {
    assert!(spec.check().is_ok());
    let printed = spec.to_string();
    printed.lines().for_each(expect_shown);
    assert_eq!(printed.parse::<Spec>().ok().as_ref(), Some(spec), "{printed}");
    let json = serde_json::to_string(spec).expect("a spec is JSON");
    assert_eq!(json.parse::<Spec>().ok().as_ref(), Some(spec), "{json}");
    match plan(node(), spec) {
        Ok(plan) => plan.to_string().lines().for_each(expect_shown),
        Err(error) => expect_error(&error, REFUSED),
    }
}

fn node() -> &'static Snapshot {
    static NODE: OnceLock<Snapshot> = OnceLock::new();
    NODE.get_or_init(|| {
        let node = Node::builder().ignore_environment(true).sim("2xA100-40GB,1xH100-80GB,1xT4");
        node.open().and_then(|node| node.snapshot()).expect("a simulated node")
    })
}
