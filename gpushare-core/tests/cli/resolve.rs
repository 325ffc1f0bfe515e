//! `resolve`: what CUDA shows with a string, and its document.

use gpushare_core::Node;
use gpushare_core::visible::resolve;

use crate::place::Place;
use crate::schema::Schema;

#[test]
fn a_string_comes_to_devices_or_to_none() {
    let place = Place::new("2xH200-141GB");
    let status = place.json(&["status"]);
    let uuid = |gpu: usize| status["gpus"][gpu]["uuid"].as_str().unwrap().to_owned();
    let shown = |arguments: &[&str], exit: i32| -> Vec<String> {
        let arguments = [&["--json", "resolve"], arguments].concat();
        let document = place.run(&arguments).expect(exit).document();
        Schema::named("resolve").expect(&document);
        assert_eq!(document["simulated"], true);
        let devices = document["devices"].as_array().unwrap();
        devices.iter().map(|device| device["uuid"].as_str().unwrap().to_owned()).collect()
    };
    let (first, second) = (uuid(0), uuid(1));
    assert_eq!(shown(&[], 0), [first.clone(), second.clone()]);
    assert_eq!(shown(&["1,0"], 0), [second.clone(), first.clone()]);
    assert_eq!(shown(&["--", "1,0"], 0), [second.clone(), first.clone()]);
    assert_eq!(shown(&[&second[..12]], 0), *std::slice::from_ref(&second));
    assert_eq!(shown(&["--device-order", "PCI_BUS_ID", "1"], 0), [second]);
    for none in [&[""][..], &["-1"], &["--", "-1,0"], &["0,0"], &["2"], &["all"]] {
        assert_eq!(shown(none, 2), Vec::<String>::new(), "{none:?}");
    }
    for wrong in [&["-x"][..], &["0", "1"], &["--device-order", "pci", "0"]] {
        let arguments = [&["resolve"], wrong].concat();
        place.run(&arguments).expect_error("INVALID_ARGUMENT");
    }
}

#[test]
fn the_commands_own_environment_is_not_read() {
    let place = Place::new("2xH200-141GB");
    let mut command = place.command(&["resolve"]);
    command.env("CUDA_VISIBLE_DEVICES", "1").env("CUDA_DEVICE_ORDER", "PCI_BUS_ID");
    let text = String::from_utf8(command.output().unwrap().stdout).unwrap();
    assert!(text.starts_with("SIMULATED\nCUDA_VISIBLE_DEVICES unset: 2 devices\n"), "{text}");
}

#[test]
fn mig_devices_are_resolved_and_their_gpu_is_not() {
    let place = Place::new("2xH100-80GB");
    place.done(&["mig", "enable", "-i", "0"]);
    place.done(&["mig", "create", "-i", "0", "3g", "1g"]);
    let status = place.json(&["status"]);
    let gpu = &status["gpus"][0];
    for device in gpu["mig_devices"].as_array().unwrap() {
        let found = place.json(&["resolve", device["uuid"].as_str().unwrap()]);
        Schema::named("resolve").expect(&found);
        assert_eq!((&found["certain"], &found["cu_init"]), (&false.into(), &0.into()));
        let shown = &found["devices"][0];
        for key in ["uuid", "profile", "memory_bytes", "sm_count"] {
            assert_eq!(shown[key], device[key], "{key}");
        }
        assert_eq!((&shown["parent"], &shown["mode"]), (&gpu["uuid"], &gpu["mode"]));
    }
    for parent in ["0", gpu["uuid"].as_str().unwrap()] {
        let unknown = place.run(&["resolve", parent]).expect(2).stdout;
        assert!(unknown.contains("not known; count on no device"), "{unknown}");
    }
}

#[test]
fn documents_of_every_outcome_are_as_their_schema_says() {
    for product in ["H100-80GB", "T4"] {
        let node = Node::builder().sim(format!("2x{product}")).open().unwrap();
        let snapshot = node.snapshot().unwrap();
        let uuid = snapshot.gpus[1].uuid.as_str();
        for string in [None, Some(""), Some("0,0"), Some("1,x,0"), Some("MIG-a"), Some(uuid)] {
            let resolution = node.resolve_visible_devices(string).unwrap();
            assert_eq!(resolution, resolve(&snapshot, string));
            Schema::named("resolve").expect(&serde_json::to_value(resolution).unwrap());
        }
    }
}
