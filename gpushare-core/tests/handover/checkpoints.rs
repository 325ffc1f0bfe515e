//! Checkpoints: as mig-parted writes them, and as they come back.

use gpushare_core::{ErrorCode, Snapshot};
use serde_json::{Value, json};

use crate::node::Place;

/// The checkpoint that mig-parted would write of a node. NVML's numbers of compute instances are
/// those of nvml.h.
fn checkpoint(snapshot: &Snapshot) -> Value {
    let devices = snapshot.gpus.iter().filter(|gpu| gpu.mig.is_some()).map(|gpu| {
        let mig = gpu.mig.as_ref().unwrap();
        let instances = mig.gpu_instances.iter().map(|gi| {
            let index = mig.geometry.by_id(gi.profile).unwrap().index.get();
            let compute = gi.compute_instances.iter().map(|ci| {
                let number = match ci.slices {
                    1 if index == 9 => 7,
                    small @ 1..=4 => u32::from(small) - 1,
                    7 => 4,
                    other => panic!("{other} slices"),
                };
                json!({"ProfileID": number, "EngProfileID": 0})
            });
            let compute: Vec<_> = compute.collect();
            // Go writes an empty slice as null.
            let compute = if compute.is_empty() { Value::Null } else { compute.into() };
            json!({"ProfileID": index, "ComputeInstances": compute,
                "Placement": {"Start": gi.placement.start, "Size": gi.placement.size}})
        });
        let instances: Vec<_> = instances.collect();
        let instances = if instances.is_empty() { Value::Null } else { instances.into() };
        json!({"UUID": gpu.uuid, "MigMode": u8::from(mig.enabled), "GpuInstances": instances})
    });
    json!({"Version": "v1", "MigState": {"Devices": devices.collect::<Vec<_>>()}})
}

/// Layouts, with placements that a driver would not choose by itself.
const LAYOUTS: [(&str, &str); 7] = [
    (
        "A100-40GB",
        "[{profile: 3g.20gb, start: 0}, {profile: 1g.5gb, start: 6}, {profile: 1g.5gb+me, start: 4}]",
    ),
    (
        "A30-24GB",
        "[{profile: 2g.12gb, start: 2, compute: [1c, 1c]}, {profile: 1g.6gb, start: 1, compute: []}]",
    ),
    (
        "H100-80GB",
        "[{profile: 1g.20gb, start: 6}, {profile: 4g.40gb, start: 0, compute: [2c, 1c, 1c]}]",
    ),
    ("H200-141GB", "[{profile: 7g.141gb, start: 0, compute: [3c, 2c, 1c]}]"),
    (
        "RTX-PRO-6000",
        "[{profile: 1g.24gb-me, start: 9}, {profile: 2g.48gb+gfx, start: 0}, {profile: 1g.24gb+gfx, start: 6}]",
    ),
    ("GB200", "[{profile: 7g.186gb, start: 0}]"),
    ("B200", "{}"),
];

fn instances(place: &Place, gpu: usize) -> Value {
    let snapshot = serde_json::to_value(place.snapshot()).unwrap();
    let list = snapshot["gpus"][gpu]["mig"]["gpu_instances"].as_array().unwrap().iter();
    let plain = list.map(|gi| {
        let mut sizes: Vec<_> = gi["compute_instances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|ci| ci["slices"].as_u64())
            .collect();
        sizes.sort_unstable();
        json!([gi["profile"], gi["placement"], sizes])
    });
    plain.collect::<Vec<_>>().into()
}

#[test]
fn a_checkpoint_brings_back_what_stood_where() {
    for (model, layout) in LAYOUTS {
        let fleet = format!("2x{model},1xT4");
        let place = Place::new(&fleet);
        place.apply_text(&format!(
            "version: gpushare/v1\ngpus: [{{select: 0, mode: mig, mig: {{instances: {layout}}}}}]"
        ));
        let written = checkpoint(&place.snapshot());
        let before = instances(&place, 0);
        // Nothing is asked where nothing has changed.
        let imported = place.import(&written.to_string(), None).unwrap();
        assert!(place.is(&imported.spec), "{}", imported.spec);
        // The same after a reboot, and with the other GPU in its place.
        place.apply_text(
            "version: gpushare/v1\ngpus: [{select: [0, 1], mode: mig, mig: {instances: {}}}]",
        );
        assert_ne!(instances(&place, 0), if layout == "{}" { Value::Null } else { before.clone() });
        let imported = place.import(&written.to_string(), None).unwrap();
        place.apply(&imported.spec);
        assert_eq!(instances(&place, 0), before, "{model}");
        assert_eq!(place.found()[1], None, "MIG was off on that one");
    }
}

#[test]
fn keys_may_have_hyphens_and_any_case() {
    let place = Place::new("1xH100-80GB");
    let uuid = place.snapshot().gpus[0].uuid.to_string();
    for text in [
        format!(
            "{{\"version\": \"v1\", \"mig-state\": {{\"devices\": [{{\"uuid\": {uuid:?}, \"mig-mode\": 1, \"gpu-instances\": [{{\"profile-id\": 2, \"placement\": {{\"start\": 4, \"size\": 4}}, \"compute-instances\": [{{\"profile-id\": 2, \"eng-profile-id\": 0}}]}}]}}]}}}}"
        ),
        format!(
            "version: v1\nmig_state:\n  devices:\n  - uuid: {uuid}\n    mig_mode: Enabled\n    gpu_instances:\n    - profile_id: 2\n      placement: {{start: 4, size: 4}}\n      compute_instances: [{{profile_id: 2}}]\n"
        ),
    ] {
        let spec = place.import(&text, None).unwrap().spec;
        let expected = format!(
            "version: gpushare/v1\ngpus:\n  - select: {uuid}\n    mode: mig\n    mig:\n      instances:\n        - profile: 3g.40gb\n          start: 4\n"
        );
        assert_eq!(spec.to_string(), expected);
    }
}

#[test]
fn checkpoints_that_are_none_are_refused() {
    let place = Place::new("2xH100-80GB,1xT4");
    place.apply_text("version: gpushare/v1\ngpus: [{select: 0, mode: mig, mig: {instances: [{profile: 3g.40gb, start: 4}]}}]");
    let good = checkpoint(&place.snapshot());
    let tesla = place.snapshot().gpus[2].uuid.to_string();
    let invalid = ErrorCode::InvalidArgument;
    let gi = "/MigState/Devices/0/GpuInstances/0";
    let at = |path: &str| format!("{gi}{path}");
    for (path, value, code, needle) in [
        ("/Version".to_owned(), json!("v2"), invalid, "wants v1"),
        ("/MigState".to_owned(), json!([]), invalid, "wants a map with devices"),
        ("/MigState/Devices".to_owned(), json!({}), invalid, "wants a list"),
        (
            "/MigState/Devices/0/UUID".to_owned(),
            json!("GPU-99999999"),
            ErrorCode::NotFound,
            "no GPU with uuid",
        ),
        ("/MigState/Devices/0/UUID".to_owned(), json!("everything"), invalid, "uuid"),
        ("/MigState/Devices/0/UUID".to_owned(), json!(tesla), ErrorCode::Unsupported, "no MIG"),
        (
            "/MigState/Devices/1/UUID".to_owned(),
            good["MigState"]["Devices"][0]["UUID"].clone(),
            invalid,
            "stands at",
        ),
        ("/MigState/Devices/0/MigMode".to_owned(), json!(0), invalid, "the MIG mode is off"),
        ("/MigState/Devices/0/MigMode".to_owned(), json!(2), invalid, "whole number from 0 to 1"),
        (at("/ProfileID"), json!(17), invalid, "NVML's number 17; it has"),
        (at("/ProfileID"), json!(4), invalid, "7g.80gb cannot stand at 4:4, only at 0:8"),
        (at("/ProfileID"), json!(-1), invalid, "whole number"),
        (at("/Placement/Start"), json!(3), invalid, "3g.40gb cannot stand at 3:4"),
        (at("/Placement/Start"), json!(99), invalid, "whole number from 0 to 15"),
        (at("/Placement/Size"), json!(3), invalid, "cannot stand at 4:3"),
        (at("/Placement"), json!(null), invalid, "wants a map with start, size"),
        (at("/ComputeInstances/0/ProfileID"), json!(8), invalid, "whole number from 0 to 7"),
        (at("/ComputeInstances/0/ProfileID"), json!(3), invalid, "compute"),
        (at("/ComputeInstances/0/EngProfileID"), json!(1), invalid, "whole number from 0 to 0"),
        (
            at("/ComputeInstances"),
            json!([{"ProfileID": 2}, {"ProfileID": 0}]),
            ErrorCode::Insufficient,
            "compute",
        ),
    ] {
        let mut bad = good.clone();
        *bad.pointer_mut(&path).unwrap() = value;
        let error = place.import(&bad.to_string(), None).unwrap_err();
        assert_eq!(error.code(), code, "{path}: {error}");
        assert!(error.to_string().contains(needle), "{path}: {error}");
    }
    let mut twice = good.clone();
    let list =
        twice.pointer_mut("/MigState/Devices/0/GpuInstances").unwrap().as_array_mut().unwrap();
    list.push(list[0].clone());
    assert_eq!(place.import(&twice.to_string(), None).unwrap_err().code(), ErrorCode::Insufficient);
    let error = place.import(&good.to_string(), Some("one")).unwrap_err().to_string();
    assert!(error.contains("leave --config one out"), "{error}");
}
