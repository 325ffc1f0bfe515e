//! Files that are none: each is refused, with the place and the reason, and nothing comes of it.

use gpushare_core::ErrorCode::{self, InvalidArgument as Invalid};

use crate::node::Place;

fn refused(fleet: &str, text: &str, config: Option<&str>, code: ErrorCode, needle: &str) {
    let error = Place::new(fleet).import(text, config).unwrap_err();
    let shown = text.get(..200).unwrap_or(text);
    assert_eq!(error.code(), code, "{error}: {shown}");
    assert!(error.to_string().contains(needle), "{error}: {shown}");
    assert!(!error.to_string().contains("spec"), "{error}");
}

/// The file, with `ENTRY` for the fields of its one entry.
fn entry(fields: &str) -> String {
    format!("version: v1\nmig-configs:\n  one:\n    - {fields}\n")
}

#[test]
fn documents() {
    for (text, needle) in [
        ("", "wants a map with version, mig-configs, not nothing"),
        ("[]", "not a list"),
        ("version: v1", "key \"mig-configs\" is missing"),
        ("mig-configs: {}", "key \"version\" is missing"),
        ("version: v2\nmig-configs: {}", "line 1, version: wants v1"),
        ("version: 1\nmig-configs: {}", "wants v1, not 1"),
        ("version: gpushare/v1\ngpus: []", "unknown key \"gpus\""),
        ("version: v1\nmig-configs: {}", "one config at least"),
        ("version: v1\nmig-configs:", "wants a map {name: entries}, not nothing"),
        ("version: v1\nmig-configs: []", "wants a map {name: entries}, not a list"),
        ("version: v1\nmig-config: {}", "did you mean mig-configs?"),
        (
            "version: v1\nversion: v1\nmig-configs: {}",
            "key \"version\" stands twice, first on line 1",
        ),
        ("version: v1\nmig-configs: {a: [], b: []}", "mig-configs.a: is empty"),
        ("version: v1\nmig-configs: {a: {}}", "wants a list of entries"),
        ("version: v1\nmig-configs: {a: }", "wants a list of entries"),
        ("version: v1\nmig-configs: {a: [1]}", "mig-configs.a[0]: wants a map"),
        (
            "version: v1\nmig-configs:\n  a: [{devices: all, mig-enabled: false}]\n  a: [{devices: all, mig-enabled: false}]",
            "key \"a\" stands twice, first on line 3",
        ),
        ("version: v1\n---\nversion: v1", "one YAML document"),
        ("version: v1\nmig-configs: {a: *b}", "not valid YAML"),
        ("version: v1\nmig-configs: &a {a: *a}", "inside its own anchor"),
        ("version: !v v1\nmig-configs: {}", "tags (!…) are not allowed"),
        ("{\"version\": \"v1\", \"mig-configs\": {]}", "not valid JSON"),
        ("version: v1\n\0mig-configs: {}", "line 2: has a NUL character"),
        ("version: \"v1\\0\"\nmig-configs: {}", "wants v1"),
    ] {
        refused("1xH100-80GB", text, Some("one"), Invalid, needle);
        refused("1xH100-80GB", text, None, Invalid, needle);
    }
}

#[test]
fn entries() {
    for (fields, needle) in [
        ("{mig-enabled: true, mig-devices: {}}", "key \"devices\" is missing"),
        ("{devices: all}", "key \"mig-enabled\" is missing"),
        ("{devices: all, mig-enabled: true}", "mig-devices is missing"),
        ("{devices: all, mig-enabled: true, mig-devices: }", "mig-devices is missing"),
        ("{devices: all, mig-enabled: false, mig-devices: {1g.10gb: 1}}", "mig-enabled is false"),
        ("{devices: all, mig-enabled: false, mig-devices: {1g.10gb: 0}}", "mig-enabled is false"),
        ("{devices: every, mig-enabled: false}", "wants all, or a list of indexes"),
        ("{devices: 0, mig-enabled: false}", "wants all, or a list of indexes"),
        ("{devices: , mig-enabled: false}", "wants all, or a list of indexes"),
        ("{devices: [all], mig-enabled: false}", "devices[0]: wants a whole number"),
        ("{devices: [-1], mig-enabled: false}", "devices[0]: wants a whole number"),
        ("{devices: [0.5], mig-enabled: false}", "devices[0]: wants a whole number"),
        (
            "{devices: [99999999999999999999], mig-enabled: false}",
            "devices[0]: wants a whole number",
        ),
        ("{devices: all, mig-enabled: 1}", "wants true or false, not 1"),
        ("{devices: all, mig-enabled: maybe}", "wants true or false"),
        ("{devices: all, mig-enabled: }", "wants true or false, not nothing"),
        ("{devices: all, mig-enabled: true, mig-devices: []}", "wants a map {profile: count}"),
        ("{devices: all, mig-enabled: true, mig-devices: all}", "wants a map {profile: count}"),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: -1}}",
            "\"1g.10gb\": wants a whole number",
        ),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1.5}}",
            "\"1g.10gb\": wants a whole number",
        ),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: \"7\"}}",
            "\"1g.10gb\": wants a whole number",
        ),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: }}",
            "\"1g.10gb\": wants a whole number",
        ),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1, 1g.10gb: 2}}",
            "stands twice",
        ),
        ("{devices: all, mig-enabled: true, mig-devices: {1g: 1}}", "\"1g\" is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {1G.10GB: 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {small: 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {\"\": 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {4c.3g.40gb: 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {1g.10gb+xx: 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {MIG 1g.10gb: 1}}", "is no profile"),
        ("{devices: all, mig-enabled: true, mig-devices: {\"1g.10gb\\0\": 1}}", "is no profile"),
        (
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 1}, mig-layout: 1}",
            "unknown key \"mig-layout\"",
        ),
        ("{devices: all, mig_enabled: true}", "did you mean mig-enabled?"),
        ("{devices: all, devices: all, mig-enabled: false}", "\"devices\" stands twice"),
        ("{device-filter: H100, devices: all, mig-enabled: false}", "wants a PCI id of NVIDIA's"),
        (
            "{device-filter: \"0x2330\", devices: all, mig-enabled: false}",
            "wants a PCI id of NVIDIA's",
        ),
        (
            "{device-filter: \"0x10DE2330\", devices: all, mig-enabled: false}",
            "wants a PCI id of NVIDIA's",
        ),
        (
            "{device-filter: \"233010DE\", devices: all, mig-enabled: false}",
            "wants a PCI id of NVIDIA's",
        ),
        (
            "{device-filter: [\"0x233010DE\", 5], devices: all, mig-enabled: false}",
            "device-filter[1]: wants a PCI id",
        ),
        (
            "{device-filter: \"0x233010DE:1:2\", devices: all, mig-enabled: false}",
            "wants a PCI id of NVIDIA's",
        ),
        ("{device-filter: {a: 1}, devices: all, mig-enabled: false}", "wants a PCI id of NVIDIA's"),
    ] {
        refused("1xH100-80GB", &entry(fields), None, Invalid, needle);
        // A mistake in a config that was not asked for is one too: mig-parted reads the whole file.
        let text = entry(fields) + "  two: [{devices: all, mig-enabled: false}]\n";
        refused("1xH100-80GB", &text, Some("two"), Invalid, needle);
    }
}

#[test]
fn what_a_node_cannot_do() {
    let insufficient = ErrorCode::Insufficient;
    for (fleet, fields, code, needle) in [
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.5gb: 7}}",
            Invalid,
            "it has 7g.80gb",
        ),
        (
            "1xA100-40GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.5gb-me: 1}}",
            Invalid,
            "no profile 1g.5gb-me",
        ),
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 8}}",
            insufficient,
            "7 x 1g.10gb would fit",
        ),
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 65}}",
            insufficient,
            "at most 1g.10gb: 7",
        ),
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb: 4294967295}}",
            insufficient,
            "at most 1g.10gb: 7",
        ),
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1g.10gb+me: 2}}",
            insufficient,
            "do not fit",
        ),
        (
            "1xH100-80GB",
            "{devices: all, mig-enabled: true, mig-devices: {1c.3g.40gb: 7}}",
            insufficient,
            "do not fit",
        ),
        (
            "1xL4",
            "{devices: [0], mig-enabled: true, mig-devices: {}}",
            ErrorCode::Unsupported,
            "this GPU has no MIG",
        ),
        (
            "1xA100-40GB",
            "{devices: all, mig-enabled: true, mig-devices: {3c.7g.40gb: 3}}",
            insufficient,
            "do not fit",
        ),
        (
            "1xA100-40GB",
            "{devices: all, mig-enabled: true, mig-devices: {5c.7g.40gb: 1}}",
            Invalid,
            "not cut into",
        ),
    ] {
        refused(fleet, &entry(fields), Some("one"), code, needle);
    }
    let text = entry("{devices: all, mig-enabled: false}")
        + "    - {devices: [0], mig-enabled: true, mig-devices: {}}";
    refused("1xH100-80GB", &text, None, Invalid, "differs in mig-enabled");
}

#[test]
fn configs_that_are_not_there() {
    let text = entry("{devices: all, mig-enabled: false}")
        + "  two: [{devices: all, mig-enabled: false}]\n";
    refused("1xH100-80GB", &text, None, Invalid, "--config: \"one\", \"two\"");
    refused(
        "1xH100-80GB",
        &text,
        Some("three"),
        Invalid,
        "no config \"three\"; it has \"one\", \"two\"",
    );
    refused("1xH100-80GB", &text, Some(""), Invalid, "no config \"\"");
}

#[test]
fn files_that_are_too_much() {
    let start = std::time::Instant::now();
    let ten = "#".repeat(10 << 20);
    refused("1xH100-80GB", &ten, None, Invalid, "at most 1048576");
    let mut bomb = "a: &a [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for (this, below) in ('b'..='i').zip('a'..) {
        let list = format!("*{below}, ").repeat(9);
        bomb.push_str(&format!("{this}: &{this} [{list}]\n"));
    }
    refused("1xH100-80GB", &bomb, None, Invalid, "aliases (*…) stand for more than");
    refused("1xH100-80GB", &"[".repeat(100_000), None, Invalid, "not valid YAML");
    refused("1xH100-80GB", &"[".repeat(70), None, Invalid, "more than 64");
    let many: String =
        (0..20_000).map(|n| format!("  c{n}: [{{devices: all, mig-enabled: false}}]\n")).collect();
    let many = format!("version: v1\nmig-configs:\n{many}");
    assert!(Place::new("1xH100-80GB").import(&many, Some("c19999")).is_ok());
    assert!(start.elapsed().as_secs() < 60, "{:?}", start.elapsed());
    let error = Place::new("1xT4").import("version: v1\nmig-configs: \u{fffd}", None).unwrap_err();
    assert_eq!(error.code(), Invalid);
    let options = Default::default();
    let snapshot = Place::new("1xT4").snapshot();
    let kind = gpushare_core::import::Kind::MigParted;
    let error = gpushare_core::import::import(b"version: v1\n\xff", kind, &options, &snapshot);
    assert!(error.unwrap_err().to_string().contains("mig-parted file line 2: not UTF-8"));
}

/// However much of it there is, and whatever it has in it.
#[test]
fn what_is_said_of_a_file_is_short_and_plain() {
    let place = Place::new("2xA100-40GB");
    let plain = |text: &str| {
        assert!(text.len() < 2_000, "{} bytes", text.len());
        assert!(!text.contains(char::is_control), "{text:?}");
    };
    let long = "x".repeat(400_000);
    let key = |name: &str| {
        format!(
            "version: v1\nmig-configs:\n  {name}: [{{devices: [9], mig-enabled: true, mig-devices: {{}}}}]\n"
        )
    };
    let several: String =
        (0..15_000).map(|n| format!("  c{n}: [{{devices: all, mig-enabled: false}}]\n")).collect();
    let several = format!("version: v1\nmig-configs:\n{several}");
    let error = place.import(&several, None).unwrap_err().to_string();
    assert!(error.contains("\"c15\" and 14984 more"), "{error:.300}");
    plain(&error);
    for text in [
        key("\"\\e[2J\\n\""),
        key(&long),
        entry("{devices: [0], mig-enabled: true, mig-devices: {}}").replace("one", "\"\\e\""),
        entry(&format!(
            "{{devices: [{}], mig-enabled: true, mig-devices: {{}}}}",
            "9, ".repeat(200_000)
        )),
        entry(&format!("{{devices: {long}, mig-enabled: true, mig-devices: {{}}}}")),
        entry(&format!("{{devices: all, mig-enabled: true, mig-devices: {{{long}: 1}}}}")),
        entry(&format!("{{devices: all, device-filter: {long}, mig-enabled: false}}")),
        format!("version: v1\nmig-state: {{devices: [{{uuid: {long}, mig-mode: 0}}]}}\n"),
        format!(
            "version: v1\nmig-state: {{devices: [{{uuid: GPU-{}, mig-mode: 0}}]}}\n",
            "1".repeat(90)
        ),
    ] {
        match place.import(&text, None) {
            Ok(imported) => {
                assert!(!imported.notes.is_empty());
                imported.notes.iter().for_each(|note| plain(note));
            }
            Err(error) => plain(&error.to_string()),
        }
    }
    // Twins are found in one go: this took a minute.
    let devices: String =
        (0..25_000).map(|n| format!("{{uuid: GPU-{n:x}, mig-mode: 0}},")).collect();
    let start = std::time::Instant::now();
    let text = format!("version: v1\nmig-state: {{devices: [{devices}]}}\n");
    assert_eq!(place.import(&text, None).unwrap_err().code(), ErrorCode::NotFound);
    assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    let twins = text.replace("GPU-61a7,", "GPU-0,");
    let error = place.import(&twins, None).unwrap_err().to_string();
    assert!(
        error.contains(
            "migstate.devices[24999] (line 2): GPU-0 stands at migstate.devices[0] (line 2)"
        ),
        "{error}"
    );
}
