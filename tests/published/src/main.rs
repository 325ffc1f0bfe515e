//! Uses what the published crate has without features.

use gpushare_core::{ErrorCode, Node, Spec};

fn main() {
    let json = r#"{"version": "gpushare/v1", "gpus": []}"#.parse::<Spec>();
    assert_eq!(json.expect("JSON needs no feature"), Spec::new());

    for (text, feature) in [
        ("version: gpushare/v1\ngpus: []", "feature `yaml`"),
        ("version = \"gpushare/v1\"\ngpus = []", "feature `yaml`"),
    ] {
        let error = text.parse::<Spec>().expect_err("it needs a feature");
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.to_string().contains(feature), "{error}");
    }

    // Nothing is loaded before it is asked for, and what is not there is said.
    let node = Node::builder().nvml_path("/nonexistent/libnvidia-ml.so.1").open();
    let looked = node.and_then(|node| node.snapshot());
    let error = looked.expect_err("there is no driver");
    assert_eq!(error.code(), ErrorCode::NotFound, "{error}");
}
