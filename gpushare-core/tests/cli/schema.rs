//! The JSON Schemas that are shipped, and a strict reading of them.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::{Value, json};

/// What each schema takes, and what it takes when no key may stand that it does not describe.
pub(crate) struct Schema {
    text: &'static str,
    open: Validator,
    strict: Validator,
}

static SCHEMAS: LazyLock<BTreeMap<&str, Schema>> = LazyLock::new(|| {
    let texts = [
        ("status", include_str!("../../schemas/status.v1.json")),
        ("plan", include_str!("../../schemas/plan.v1.json")),
        ("report", include_str!("../../schemas/report.v1.json")),
        ("error", include_str!("../../schemas/error.v1.json")),
        ("spec", include_str!("../../schemas/spec.v1.json")),
        ("split", include_str!("../../schemas/split.v1.json")),
        ("resolve", include_str!("../../schemas/resolve.v1.json")),
        ("lease", include_str!("../../schemas/lease.v1.json")),
        ("leases", include_str!("../../schemas/leases.v1.json")),
        ("attachment", include_str!("../../schemas/attachment.v1.json")),
        ("doctor", include_str!("../../schemas/doctor.v1.json")),
        ("advice", include_str!("../../schemas/advice.v1.json")),
        ("export", include_str!("../../schemas/export.v1.json")),
        ("persist", include_str!("../../schemas/persist.v1.json")),
        ("restore", include_str!("../../schemas/restore.v1.json")),
    ];
    texts.into_iter().map(|(name, text)| (name, Schema::new(text))).collect()
});

impl Schema {
    fn new(text: &'static str) -> Self {
        let root: Value = serde_json::from_str(text).unwrap();
        let open = jsonschema::validator_for(&root).unwrap();
        let strict = jsonschema::validator_for(&strict(&root, &root, true)).unwrap();
        Self { text, open, strict }
    }

    pub(crate) fn named(name: &str) -> &'static Self {
        &SCHEMAS[name]
    }

    /// The schema that a document names.
    #[track_caller]
    pub(crate) fn of(document: &Value) -> &'static Self {
        let name = document["schema"].as_str().unwrap();
        let name = name.strip_prefix("gpushare.").and_then(|name| name.strip_suffix("/v1"));
        Self::named(name.unwrap())
    }

    pub(crate) fn takes(&self, document: &Value) -> bool {
        self.open.is_valid(document)
    }

    /// Expects that the document is as described, and has nothing that is not described.
    #[track_caller]
    pub(crate) fn expect(&self, document: &Value) {
        for validator in [&self.open, &self.strict] {
            let errors: Vec<_> = validator
                .iter_errors(document)
                .map(|error| format!("{} at {}", error, error.instance_path()))
                .collect();
            assert!(errors.is_empty(), "{}\n{document:#}", errors.join("\n"));
        }
    }
}

/// The schema with every reference written out, and every object closed. What is composed with
/// others (`allOf`, `then`) stays open: the whole that it is part of is closed.
fn strict(root: &Value, schema: &Value, close: bool) -> Value {
    let Value::Object(fields) = schema else { return schema.clone() };
    if let Some(Value::String(reference)) = fields.get("$ref") {
        let target = root.pointer(reference.strip_prefix('#').unwrap()).unwrap();
        return strict(root, target, close);
    }
    let mut out = serde_json::Map::new();
    for (key, value) in fields {
        let value = match (key.as_str(), value) {
            ("$defs" | "$id", _) => continue,
            ("properties", Value::Object(inner)) => Value::Object(
                inner.iter().map(|(name, one)| (name.clone(), strict(root, one, true))).collect(),
            ),
            ("items" | "additionalProperties", one) => strict(root, one, true),
            ("oneOf", Value::Array(all)) => all.iter().map(|one| strict(root, one, true)).collect(),
            ("allOf", Value::Array(all)) => {
                all.iter().map(|one| strict(root, one, false)).collect()
            }
            ("then", one) => strict(root, one, false),
            _ => value.clone(),
        };
        out.insert(key.clone(), value);
    }
    let object = out.contains_key("properties") || out.contains_key("allOf");
    if close && object && !out.contains_key("additionalProperties") {
        out.insert("unevaluatedProperties".to_owned(), json!(false));
    }
    Value::Object(out)
}

#[test]
fn every_schema_is_of_the_draft_that_it_names() {
    for (name, schema) in SCHEMAS.iter() {
        let root: Value = serde_json::from_str(schema.text).unwrap();
        assert_eq!(root["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert!(jsonschema::meta::is_valid(&root), "{name}");
        assert!(!schema.takes(&json!({})) && !schema.takes(&json!([])), "{name}");
    }
}

#[test]
fn the_spec_schema_and_the_reader_agree() {
    let entry = |entry: Value| json!({"version": "gpushare/v1", "gpus": [entry]});
    let mig = |instances: Value| {
        entry(json!({"select": 0, "mode": "mig", "mig": {"instances": instances}}))
    };
    let mps = |mps: Value| entry(json!({"select": 0, "mode": "mps", "mps": mps}));
    let slice =
        |slice: Value| entry(json!({"select": 0, "mode": "time_sliced", "time_sliced": slice}));
    let select = |select: Value| entry(json!({"select": select, "mode": "exclusive"}));
    let good = [
        json!({"version": "gpushare/v1", "gpus": []}),
        json!({"version": "gpushare/v1", "gpus": [], "x-note": {"anything": 1}}),
        select(json!("all")),
        select(json!(7)),
        select(json!("7")),
        select(json!([0, "GPU-1234", "0000:3b:00.0", {"model": "H100*"}])),
        select(json!({"device_id": "0x233010DE"})),
        select(json!({"device_id": 0x2330_10DE_u32})),
        select(json!({"pci": "0000:3b:00.0"})),
        entry(json!({"select": 0, "mode": "mig"})),
        entry(json!({"select": 0, "mode": "mig", "mig": {}, "x-why": "later"})),
        mig(json!({})),
        mig(json!([])),
        mig(json!({"3g.40gb": 1, "1g": 4, "1g.10gb+me": 0, "x-note": "y"})),
        mig(json!([{"profile": "3g.40gb", "start": 4, "compute": ["1c", "2c"], "name": "big"}])),
        mig(json!([{"profile": "3g.40gb", "compute": ["1c.3g.40gb", "2c.3g.40gb"]}])),
        mig(json!([{"profile": "3g.40gb", "compute": ["3g.40gb"]}])),
        mig(json!([{"profile": "1g.10gb", "compute": [], "x-owner": "me"}])),
        mig(json!([{"profile": "1g.10gb", "time_sliced": {"replicas": 2}}])),
        mig(json!([{"profile": "1g.10gb", "mps": {"thread_percentage": 12.5}}])),
        slice(json!({})),
        slice(json!({"replicas": 1024, "interval": "long"})),
        mps(json!({})),
        mps(json!({"thread_percentage": 25, "pinned_memory_limit": "4GiB", "max_clients": 4,
            "priority": "below_normal", "access": {"group": "ml"}, "compute_mode": "unchanged"})),
        mps(json!({"pinned_memory_limit": 1 << 30, "access": {"user": 1000}})),
        mps(json!({"pinned_memory_limit": "512M", "access": "any"})),
    ];
    for spec in &good {
        let read = spec.to_string().parse::<gpushare_core::Spec>();
        assert!(read.is_ok(), "{spec}: {read:?}");
        Schema::named("spec").expect(spec);
        Schema::named("spec").expect(&serde_json::to_value(read.unwrap()).unwrap());
    }
    let bad = [
        json!({}),
        json!({"version": "gpushare/v2", "gpus": []}),
        json!({"version": "gpushare/v1"}),
        json!({"version": "gpushare/v1", "gpus": [], "gpu": 1}),
        json!({"version": "gpushare/v1", "gpus": {}}),
        entry(json!({"mode": "exclusive"})),
        entry(json!({"select": 0})),
        entry(json!({"select": 0, "mode": "shared"})),
        entry(json!({"select": 0, "mode": "exclusive", "mig": {}})),
        entry(json!({"select": 0, "mode": "mig", "mps": {}})),
        entry(json!({"select": 0, "mode": "mig", "mig": {"instance": {}}})),
        select(json!([])),
        select(json!(-1)),
        select(json!(1.5)),
        select(json!({})),
        select(json!({"model": ""})),
        select(json!({"model": "a", "pci": "0000:3b:00.0"})),
        select(json!({"name": "a"})),
        select(json!({"device_id": "233010DE"})),
        mig(json!(null)),
        mig(json!({"3h.40gb": 1})),
        mig(json!({"3g.40gb": -1})),
        mig(json!({"3g.40gb": 65})),
        mig(json!({"1c.3g.40gb": 1})),
        mig(json!([{"start": 1}])),
        mig(json!([{"profile": "1g", "start": 16}])),
        mig(json!([{"profile": "1g", "size": 1}])),
        mig(json!([{"profile": "1g", "compute": "1c"}])),
        mig(json!([{"profile": "1g", "name": "with space"}])),
        mig(json!([{"profile": "1g", "mps": {}, "time_sliced": {}}])),
        slice(json!({"replicas": 0})),
        slice(json!({"replicas": 1025})),
        slice(json!({"replicas": 1.5})),
        slice(json!({"interval": "forever"})),
        mps(json!({"thread_percentage": 0})),
        mps(json!({"thread_percentage": 101})),
        mps(json!({"thread_percentage": "25"})),
        mps(json!({"pinned_memory_limit": "4X"})),
        mps(json!({"pinned_memory_limit": 0})),
        mps(json!({"pinned_memory_limit": -1})),
        mps(json!({"max_clients": 0})),
        mps(json!({"priority": "high"})),
        mps(json!({"access": "everyone"})),
        mps(json!({"access": {}})),
        mps(json!({"access": {"user": "a", "group": "b"}})),
        mps(json!({"compute_mode": "default"})),
        mps(json!({"clients": 1})),
    ];
    for spec in &bad {
        assert!(spec.to_string().parse::<gpushare_core::Spec>().is_err(), "{spec}");
        assert!(!Schema::named("spec").takes(spec), "{spec}");
    }
}
