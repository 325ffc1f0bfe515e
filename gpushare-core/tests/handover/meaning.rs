//! What configs mean that say it in an odd way.

use gpushare_core::mode::ComputeMode;
use gpushare_core::spec::Want;
use gpushare_core::{ErrorCode, Snapshot};

use crate::node::{Devices, Place, devices};

fn config(entries: &str) -> String {
    format!("version: v1\nmig-configs:\n  one:\n{entries}")
}

/// The fleet, the entries, and what each GPU is afterwards.
fn cases() -> Vec<(&'static str, &'static str, Vec<Devices>)> {
    vec![
        ("2xH100-80GB", "  - {devices: all, mig-enabled: false}", vec![None, None]),
        ("1xH100-80GB", "  - {devices: all, mig-enabled: false, mig-devices: {}}", vec![None]),
        ("1xH100-80GB", "  - {devices: all, mig-enabled: false, mig-devices: }", vec![None]),
        (
            "2xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {}}",
            vec![devices(""); 2],
        ),
        (
            "1xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 0}}",
            vec![devices("")],
        ),
        (
            "1xH100-80GB",
            "  - {devices: all, mig-enabled: on, mig-devices: {1g.10gb: 0, 2g.20gb: 1, 3g.40gb: 0}}",
            vec![devices("2g.20gb=1")],
        ),
        (
            "2xH100-80GB",
            "  - {devices: [], mig-enabled: true, mig-devices: {1g.10gb: 1}}",
            vec![None, None],
        ),
        (
            "2xH100-80GB",
            "  - {devices: [1, 1], mig-enabled: true, mig-devices: {1g.10gb: 1}}",
            vec![None, devices("1g.10gb=1")],
        ),
        // Nodes of several sizes share a file.
        (
            "1xH100-80GB",
            "  - {devices: [0, 7], mig-enabled: true, mig-devices: {1g.10gb: 1}}",
            vec![devices("1g.10gb=1")],
        ),
        (
            "1xL4,1xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1}}",
            vec![None, devices("1g.10gb=1")],
        ),
        ("1xL4,1xH100-80GB", "  - {devices: [0, 1], mig-enabled: false}", vec![None, None]),
        // No filter at all.
        (
            "1xH100-80GB",
            "  - {device-filter: \"\", devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![devices("3g.40gb=2")],
        ),
        (
            "1xH100-80GB",
            "  - {device-filter: [], devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![devices("3g.40gb=2")],
        ),
        (
            "1xH100-80GB",
            "  - {device-filter: ~, devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![devices("3g.40gb=2")],
        ),
        // As YAML's number.
        (
            "1xH100-80GB",
            "  - {device-filter: 0x233010DE, devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![devices("3g.40gb=2")],
        ),
        (
            "1xH100-80GB",
            "  - {device-filter: \"0X233010de\", devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![devices("3g.40gb=2")],
        ),
        (
            "1xH100-80GB",
            "  - {device-filter: \"0x20B010DE\", devices: all, mig-enabled: true, mig-devices: {3g.40gb: 2}}",
            vec![None],
        ),
        // A board of that model, and another one.
        (
            "1xH200",
            "  - {device-filter: \"0x233510DE:0x18BF10DE\", devices: all, mig-enabled: true, mig-devices: {1g.18gb: 1}}",
            vec![devices("1g.18gb=1")],
        ),
        (
            "1xH200",
            "  - {device-filter: \"0x233510DE:0x18BE10DE\", devices: all, mig-enabled: true, mig-devices: {1g.18gb: 1}}",
            vec![None],
        ),
        // The last entry that matches counts, and a profile that only an earlier one names is not looked at.
        (
            "2xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {1g.5gb: 7}}\n  - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}\n  - {devices: [1], mig-enabled: true, mig-devices: {7g.80gb: 1}}",
            vec![devices("1g.10gb=7"), devices("7g.80gb=1")],
        ),
        // A compute instance as large as its GPU instance is that GPU instance.
        (
            "1xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {3c.3g.40gb: 1, 3g.40gb: 1}}",
            vec![devices("3g.40gb=2")],
        ),
        // Largest first they fit in two GPU instances, and not as they stand here.
        (
            "1xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {1c.3g.40gb: 2, 2c.3g.40gb: 2}}",
            vec![devices("1c.3g.40gb=2 2c.3g.40gb=2")],
        ),
    ]
}

#[test]
fn odd_ways_to_say_it_mean_what_mig_parted_makes_of_them() {
    for (fleet, entries, expected) in cases() {
        let text = config(entries);
        let place = Place::new(fleet);
        place.goes_round(fleet, &text, None);
        assert_eq!(place.found(), expected, "{entries}");
        // And where MIG is on with instances of another config.
        let other = Place::new(fleet);
        let before =
            "version: v1\nmig-configs: {x: [{devices: all, mig-enabled: true, mig-devices: {}}]}";
        other.apply(&other.import(before, Some("x")).unwrap().spec);
        let before = other.found();
        other.goes_round(fleet, &text, None);
        for (position, found) in other.found().into_iter().enumerate() {
            // What no entry matches is left alone.
            let alone = expected[position].is_none() && !entries.contains("mig-enabled: false");
            let expected = if alone { &before[position] } else { &expected[position] };
            assert_eq!(&found, expected, "{entries}");
        }
    }
}

#[test]
fn what_would_be_silent_is_said() {
    for (fleet, entries, note) in [
        ("2xH100-80GB", "  - {devices: [0], mig-enabled: false}", "GPU 1 (GPU-"),
        ("2xH100-80GB", "  - {devices: [0], mig-enabled: false}", "no entry of one speaks of it"),
        ("1xH100-80GB", "  - {devices: all, mig-enabled: false}", "MIG is off already"),
        (
            "1xH100-80GB",
            "  - {devices: [0, 7, 9], mig-enabled: false}",
            "names GPUs that this node does not have: 7, 9",
        ),
        (
            "1xL4",
            "  - {devices: all, mig-enabled: true, mig-devices: {}}",
            "L4 has no MIG; it is left alone",
        ),
        (
            "1xH100-80GB",
            "  - {devices: all, mig-enabled: true, mig-devices: {}}\n  - {devices: [0], mig-enabled: true, mig-devices: {}}",
            "the last entry counts",
        ),
    ] {
        let notes = Place::new(fleet).import(&config(entries), None).unwrap().notes;
        assert!(notes.iter().any(|found| found.contains(note)), "{note}: {notes:?}");
    }
}

#[test]
fn what_is_there_in_another_grouping_stays() {
    // mig-parted counts compute instances; it is content with two GPU instances of one each.
    let place = Place::new("1xH100-80GB");
    place.apply_text(
        "version: gpushare/v1\ngpus: [{select: 0, mode: mig, mig: {instances: [{profile: 3g.40gb, compute: [1c]}, {profile: 3g.40gb, compute: [1c]}]}}]",
    );
    let text = config("  - {devices: all, mig-enabled: true, mig-devices: {1c.3g.40gb: 2}}");
    assert!(place.is(&place.import(&text, None).unwrap().spec));
    // On a GPU without them they stand together.
    let other = Place::new("1xH100-80GB");
    other.apply(&other.import(&text, None).unwrap().spec);
    assert_eq!(other.snapshot().gpus[0].mig.as_ref().unwrap().gpu_instances.len(), 1);
}

#[test]
fn a_gpu_that_loses_mig_gets_the_compute_mode_of_before() {
    let off = config("  - {devices: all, mig-enabled: false}");
    for (before, after) in [
        (ComputeMode::ExclusiveProcess, "exclusive"),
        (ComputeMode::Default, "time_sliced"),
        (ComputeMode::Prohibited, "time_sliced"),
    ] {
        let place = Place::new("1xH100-80GB");
        let uuid = place.snapshot().gpus[0].uuid.clone();
        place.node.ports().nvml.open().unwrap().set_compute_mode(&uuid, before).unwrap();
        // Nothing is asked of a GPU with MIG off.
        assert!(place.import(&off, None).unwrap().spec.gpus.is_empty());
        place.apply_text(
            "version: gpushare/v1\ngpus: [{select: all, mode: mig, mig: {instances: {1g: 2}}}]",
        );
        let imported = place.import(&off, None).unwrap();
        assert!(imported.notes[0].contains("compute mode becomes"), "{:?}", imported.notes);
        place.apply(&imported.spec);
        assert_eq!(place.snapshot().gpus[0].mode.as_str(), after);
    }
}

#[test]
fn what_the_words_cannot_say_is_listed() {
    let place = Place::new("2xH100-80GB,1xT4");
    place.apply_text(
        "version: gpushare/v1\ngpus:\n  - {select: 0, mode: mig, mig: {instances: [{profile: 3g.40gb, start: 4, compute: [1c, 2c], name: big}, {profile: 1g.10gb, compute: []}, {profile: 2g.20gb, mps: {}}, {profile: 1g.10gb, time_sliced: {replicas: 3}}]}}\n  - {select: 1, mode: mps, mps: {thread_percentage: 100}}\n  - {select: 2, mode: exclusive}\n",
    );
    let said = place.export().cannot_say;
    for what in [
        "where the instances stand (",
        "3g.40gb at 4 has 2c and 1c",
        "has no compute instance",
        "that 3g.40gb at 4 is called big",
        "the MPS daemon on 2g.20gb at 0",
        "time slicing with 3 replicas on 1g.10gb at",
        "its MPS daemon, with limits and compute mode",
        "EXCLUSIVE_PROCESS",
    ] {
        assert!(said.iter().any(|found| found.contains(what)), "{what}: {said:#?}");
    }
    // Nothing is said of a node of which everything can be said.
    assert_eq!(Place::new("2xH100-80GB,1xT4").export().cannot_say, Vec::<String>::new());
}

#[test]
fn a_config_that_does_not_fit_says_what_does() {
    let place = Place::new("1xA100-40GB");
    let refused = |entry: &str| place.import(&config(entry), None).unwrap_err();
    let error = refused("  - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 7}}");
    assert_eq!(error.code(), ErrorCode::Insufficient);
    assert!(error.to_string().contains("mig-configs.one[0] (line 4): GPU 0 (GPU-"), "{error}");
    assert_eq!(error.fits(), ["4 x 1g.10gb"]);
    assert!(error.gpu().is_some());
    let error =
        refused("  - devices: all\n    mig-enabled: true\n    mig-devices:\n      1g.7gb: 7");
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.to_string().contains("\"1g.7gb\" (line 7)"), "{error}");
    assert!(error.fits().contains(&"1g.5gb+me".to_owned()), "{:?}", error.fits());
}

#[test]
fn nothing_is_asked_of_a_gpu_twice() {
    let imported = Place::new("4xH100-80GB")
        .import(
            &config("  - {devices: [0, 2], mig-enabled: true, mig-devices: {1g.10gb: 1}}\n  - {devices: [2, 3], mig-enabled: true, mig-devices: {7g.80gb: 1}}"),
            None,
        )
        .unwrap();
    let entries: Vec<_> = imported.spec.gpus.iter().map(|entry| entry.select.len()).collect();
    assert_eq!(entries, [1, 2]);
    assert!(imported.spec.gpus.iter().all(|entry| matches!(entry.want, Want::Mig(Some(_)))));
}

#[test]
fn an_observer_who_may_not_see_is_told() {
    let place = Place::new("1xH100-80GB");
    place.apply_text(
        "version: gpushare/v1\ngpus: [{select: all, mode: mig, mig: {instances: {1g: 2, 3g: 1}}}]",
    );
    let mut hidden = serde_json::to_value(place.snapshot()).unwrap();
    let gpu = &mut hidden["gpus"][0];
    gpu["visibility"] = serde_json::json!({"level": "partial", "missing": ["mig/config"]});
    gpu["mig"]["gpu_instances"] = serde_json::json!([]);
    let hidden: Snapshot = serde_json::from_value(hidden).unwrap();
    let text = config("  - {devices: all, mig-enabled: true, mig-devices: {1g.10gb: 2}}");
    let options = gpushare_core::import::Options::default();
    let kind = gpushare_core::import::Kind::MigParted;
    let error =
        gpushare_core::import::import(text.as_bytes(), kind, &options, &hidden).unwrap_err();
    assert_eq!(error.code(), ErrorCode::PermissionDenied);
    // The MIG devices are there to see.
    let kind = gpushare_core::export::Kind::MigParted;
    let seen = gpushare_core::export::export(&hidden, kind, &Default::default()).unwrap();
    assert_eq!(seen.text, place.export().text);
    assert!(seen.cannot_say[0].contains("could not be seen"), "{:?}", seen.cannot_say);
}
