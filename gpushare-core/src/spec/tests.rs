//! What a spec means, and what is said of one that means nothing.

use std::num::NonZeroU32;

use super::*;
use crate::error::ErrorCode;
use crate::mode::Interval;
use crate::parameters::Access;
use crate::units::{Bytes, ThreadPercentage};

const EXAMPLE: &str = r#"
version: gpushare/v1
gpus:
  - select: all                      # every GPU that no other entry selects
    mode: mig
    mig:
      instances: {3g.40gb: 1, 1g.10gb: 4}
  - select: [2, "GPU-8f3b98ec"]
    mode: mps
    mps: {thread_percentage: 25, pinned_memory_limit: 4GiB, max_clients: 4, priority: normal, access: {group: ml}, compute_mode: exclusive_process}
  - select: 3
    mode: time_sliced
    time_sliced: {replicas: 4, interval: default}
  - select: {model: "H100*"}
    mode: mig
    mig:
      instances:
        - {profile: 3g.40gb, start: 4, compute: [1c, 2c], mps: {}, name: big}
        - profile: 1g.10gb+me
          time_sliced: {replicas: 2, interval: long}
  - {select: {device_id: 0x233010DE}, mode: mig}
  - {select: {pci: 0000:3b:00.0}, mode: mig, mig: {instances: {}}}
  - {select: 00000000:3C:00.0, mode: exclusive}
x-comment: {anything: [goes, 1, null], anything: twice}
"#;

const EXAMPLE_JSON: &str = r#"{
    "version": "gpushare/v1",
    "x-comment": [1, {"a": 1, "a": 2}],
    "gpus": [
        {"select": "all", "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 4}}},
        {"select": [2, "GPU-8f3b98ec"], "mode": "mps", "mps": {"thread_percentage": 25.0,
            "pinned_memory_limit": 4294967296, "max_clients": 4, "access": {"group": "ml"}}},
        {"select": 3, "mode": "time_sliced"},
        {"select": {"model": "H100*"}, "mode": "mig", "mig": {"instances": [
            {"profile": "3g.40gb", "start": 4, "compute": ["1c.3g.40gb", "2c"], "mps": {}, "name": "big"},
            {"profile": "1g.10gb+me", "time_sliced": {"replicas": 2, "interval": "long"}}
        ]}},
        {"select": {"device_id": "0x233010DE"}, "mode": "mig"},
        {"select": {"pci": "3b:00.0"}, "mode": "mig", "mig": {"instances": []}},
        {"select": "0000:3c:00.0", "mode": "exclusive"}
    ]
}"#;

fn profile(name: &str) -> ProfileName {
    name.parse().unwrap()
}

#[test]
fn the_example_means_the_same_in_yaml_in_json_and_in_rust() {
    let replicas = |number| TimeSlicing::new(NonZeroU32::new(number).unwrap());
    let mut instances = vec![Instance::new(profile("3g.40gb"))];
    instances.extend((0..4).map(|_| Instance::new(profile("1g.10gb"))));
    let built = Spec::new()
        .gpu([Selector::All], Want::Mig(Some(instances)))
        .gpu(
            [Selector::Index(GpuIndex::new(2)), Selector::Uuid("GPU-8f3b98ec".into())],
            Want::Mps(MpsConfig {
                thread_percentage: ThreadPercentage::new(25.0).unwrap(),
                pinned_memory_limit: Some(Bytes::new(4 << 30)),
                max_clients: NonZeroU32::new(4),
                access: Access::Group("ml".into()),
                ..MpsConfig::default()
            }),
        )
        .gpu([Selector::Index(GpuIndex::new(3))], Want::TimeSliced(TimeSlicing::default()))
        .gpu(
            [Selector::Model("H100*".into())],
            Want::Mig(Some(vec![
                Instance::new(profile("3g.40gb"))
                    .at(4)
                    .with_compute(vec![1, 2])
                    .shared(Sharing::Mps(MpsConfig::default()))
                    .named("big"),
                Instance::new(profile("1g.10gb+me"))
                    .shared(Sharing::TimeSliced(replicas(2).with_interval(Interval::Long))),
            ])),
        )
        .gpu([Selector::DeviceId(PciDeviceId::new(0x2330_10DE))], Want::Mig(None))
        .gpu(
            [Selector::Pci { address: PciAddress::new(0, 0x3b, 0, 0), optional: true }],
            Want::Mig(Some(vec![])),
        )
        .gpu(
            [Selector::Pci { address: PciAddress::new(0, 0x3c, 0, 0), optional: false }],
            Want::Exclusive,
        );
    let yaml: Spec = EXAMPLE.parse().unwrap();
    assert_eq!(yaml, built);
    assert_eq!(EXAMPLE_JSON.parse::<Spec>().unwrap(), built);
    assert_eq!(Spec::from_bytes(format!("\u{feff}{EXAMPLE}").as_bytes()).unwrap(), built);
    assert_eq!(serde_json::from_str::<Spec>(EXAMPLE_JSON).unwrap(), built);
    assert_eq!(Spec::from_yaml_str(EXAMPLE_JSON).unwrap(), built, "JSON is YAML");
    let place = |spec: &Spec| spec.gpus[3].location.to_string();
    assert_eq!(place(&yaml), "gpus[3] (line 14)");
    let Want::Mig(Some(list)) = &yaml.gpus[3].want else { panic!("{yaml}") };
    assert_eq!(list[1].location.to_string(), "gpus[3].mig.instances[1] (line 19)");
}

#[test]
fn what_is_printed_is_what_people_write() {
    let spec: Spec = EXAMPLE.parse().unwrap();
    let lines: Vec<_> = spec.to_string().lines().map(str::to_owned).collect();
    assert_eq!(
        lines[..6],
        [
            "version: gpushare/v1",
            "gpus:",
            "  - select: all",
            "    mode: mig",
            "    mig:",
            "      instances:",
        ]
    );
    for line in [
        "        - profile: 3g.40gb",
        "  - select: [2, GPU-8f3b98ec]",
        "      thread_percentage: 25",
        "      pinned_memory_limit: 4GiB",
        "      model: \"H100*\"",
        "      device_id: \"0x233010DE\"",
        "          compute: [1c, 2c]",
        "          name: big",
        "      instances: {}",
        "    select: \"0000:3c:00.0\"",
    ] {
        let line = line.replace("    select", "  - select");
        assert!(lines.contains(&line.to_owned()), "{line}\n{spec}");
    }
}

/// An entry after `version` and `gpus`, so that it begins on line 3.
fn refused_entry(entry: &str) -> String {
    refused(&format!("version: gpushare/v1\ngpus:\n- {}", entry.replace('\n', "\n  ")))
}

fn refused(text: &str) -> String {
    let error = text.parse::<Spec>().expect_err(text);
    assert_eq!(error.code(), ErrorCode::InvalidArgument, "{text}");
    error.to_string()
}

#[test]
fn refusals_of_the_document_name_line_and_key() {
    for (text, message) in [
        ("", "spec line 1: wants a map with version, gpus, not nothing"),
        ("- a", "spec line 1: wants a map with version, gpus, not a list"),
        ("gpus: []", "spec line 1: key \"version\" is missing"),
        ("version: gpushare/v1", "spec line 1: key \"gpus\" is missing"),
        ("version: 1\ngpus: []", "spec line 1, version: wants gpushare/v1, not 1"),
        (
            "\nversion: gpushare/v2\ngpus: []",
            "spec line 2, version: wants gpushare/v1, the one version of specs, not \"gpushare/v2\"",
        ),
        (
            "version: gpushare/v1\ngpus:",
            "spec line 2, gpus: wants a list of entries with select and mode, not nothing",
        ),
        (
            "version: gpushare/v1\ngpus: []\ngpu: []",
            "spec line 3: unknown key \"gpu\"; did you mean gpus?",
        ),
        (
            "version: gpushare/v1\ngpus: []\ncolour: red",
            "spec line 3: unknown key \"colour\"; known are version, gpus",
        ),
        (
            "version: gpushare/v1\ngpus: []\n\nversion: gpushare/v1",
            "spec line 4: key \"version\" stands twice, first on line 1",
        ),
        (
            "{\"version\": \"gpushare/v1\",\n \"gpus\": [],\n \"gpus\": []}",
            "spec line 3: key \"gpus\" stands twice, first on line 2",
        ),
        (
            "{\"version\": \"gpushare/v1\",\n \"gpus\": [\n{\"select\": 0, \"mode\": \"mpx\"}]}",
            "spec line 3, gpus[0].mode: unknown mode \"mpx\"; one of exclusive, time_sliced, mps, mig",
        ),
        ("{\"version\":\n\"a\" \"b\"}", "spec line 2: not valid JSON: expected `,` or `}`"),
        ("{\"a\": \"\\ud800\"}", "spec line 1: not valid JSON: unexpected end of hex escape"),
        ("version: &a gpushare/v1", "spec line 1: anchors (&…) are not allowed"),
        ("version: !!str gpushare/v1", "spec line 1: tags (!…) are not allowed"),
        ("a: &a 1\nb: *a", "spec line 1: anchors (&…) are not allowed"),
        ("? [a]\n: 1", "spec line 1: a key must be one word or text, not a list or map"),
        ("a: 1\n---\nb: 1", "spec line 2: wants one YAML document, not several"),
    ] {
        assert_eq!(refused(text), message, "{text}");
    }
    for text in ["a: *b", "a: [1", "a: 'b", "\ta: 1", "%YAML 1.2", "a: b: c", "a:\n\t- b"] {
        assert!(refused(text).starts_with("spec line "), "{text}");
    }
}

#[test]
fn refusals_of_an_entry_name_line_and_key() {
    for (entry, message) in [
        ("mode: mig", "spec line 3, gpus[0]: key \"select\" is missing"),
        ("select: all", "spec line 3, gpus[0]: key \"mode\" is missing"),
        (
            "select: all\nmode: shared",
            "spec line 4, gpus[0].mode: unknown mode \"shared\"; one of exclusive, time_sliced, mps, mig",
        ),
        ("select: all\nmode:", "spec line 4, gpus[0].mode: wants a mode, not nothing"),
        (
            "select: all\nmode: mps\nmig: {}",
            "spec line 5, gpus[0].mig: goes with mode: mig alone, and the mode here is mps",
        ),
        ("select: []\nmode: mps", "spec line 3, gpus[0]: select is empty: it would select no GPU"),
        (
            "select: [all, 1]\nmode: mps",
            "spec line 3, gpus[0]: all stands alone: it is every GPU that no other entry selects",
        ),
        (
            "select: -1\nmode: mps",
            "spec line 3, gpus[0].select: wants a whole number, 0 or more, not -1",
        ),
        (
            "select: [0, H100]\nmode: mps",
            "spec line 3, gpus[0].select[1]: \"H100\" selects no GPU: write all, an index, a uuid (GPU-…) or a PCI address (0000:3b:00.0)",
        ),
        (
            "select: MIG-1\nmode: mps",
            "spec line 3, gpus[0].select: \"MIG-1\" is a MIG device; a spec selects GPUs",
        ),
        (
            "select: {model: A, pci: b}\nmode: mps",
            "spec line 3, gpus[0].select: wants one of model, device_id, pci, and one alone",
        ),
        (
            "select: {device_id: 0x2330}\nmode: mps",
            "spec line 3, gpus[0].select.device_id: wants a PCI device id such as \"0x233010DE\", not 9008",
        ),
        (
            "select: true\nmode: mps",
            "spec line 3, gpus[0].select: wants all, an index, a uuid, a PCI address, or a map with model, device_id or pci, not true",
        ),
        (
            "select: 0\nmode: time_sliced\ntime_sliced: {replicas: 0}",
            "spec line 5, gpus[0].time_sliced.replicas: wants a whole number from 1 to 1024, not 0",
        ),
        (
            "select: 0\nmode: time_sliced\ntime_sliced: {replicas: 1025}",
            "spec line 5, gpus[0].time_sliced.replicas: wants a whole number from 1 to 1024, not 1025",
        ),
        (
            "select: 0\nmode: time_sliced\ntime_sliced:\n  interval: 5",
            "spec line 6, gpus[0].time_sliced.interval: wants one of default, short, medium, long, not 5",
        ),
        (
            "select: 0\nmode: mps\nmps: {thread-percentage: 5}",
            "spec line 5, gpus[0].mps: unknown key \"thread-percentage\"; did you mean thread_percentage?",
        ),
        (
            "select: 0\nmode: mps\nmps: {thread_percentage: 0}",
            "spec line 5, gpus[0].mps.thread_percentage: thread percentage 0: must be above 0 and at most 100",
        ),
        (
            "select: 0\nmode: mps\nmps: {thread_percentage: .nan}",
            "spec line 5, gpus[0].mps.thread_percentage: thread percentage NaN: must be above 0 and at most 100",
        ),
        (
            "select: 0\nmode: mps\nmps: {pinned_memory_limit: 1.5G}",
            "spec line 5, gpus[0].mps.pinned_memory_limit: size \"1.5G\": a fraction; write a whole number and K, M, G or T, for example 4GiB",
        ),
        (
            "select: 0\nmode: mps\nmps: {pinned_memory_limit: -4}",
            "spec line 5, gpus[0].mps.pinned_memory_limit: wants a size such as 4GiB, or a number of bytes, not -4",
        ),
        (
            "select: 0\nmode: mps\nmps: {pinned_memory_limit: 0G}",
            "spec line 5, gpus[0].mps.pinned_memory_limit: a memory limit must be above 0; leave it out for none",
        ),
        (
            "select: 0\nmode: mps\nmps: {max_clients: 0}",
            "spec line 5, gpus[0].mps.max_clients: wants a whole number, 1 or more, not 0",
        ),
        (
            "select: 0\nmode: mps\nmps: {priority: high}",
            "spec line 5, gpus[0].mps.priority: unknown priority \"high\"; one of normal, below_normal",
        ),
        (
            "select: 0\nmode: mps\nmps: {access: root}",
            "spec line 5, gpus[0].mps.access: wants caller, any, {user: …} or {group: …}, not \"root\"",
        ),
        (
            "select: 0\nmode: mps\nmps: {access: {}}",
            "spec line 5, gpus[0].mps.access: wants one of user, group, and one alone",
        ),
        (
            "select: 0\nmode: mps\nmps: {access: {user: \"a/b\"}}",
            "spec line 5, gpus[0].mps.access.user: \"a/b\" is not the name or number of a user or group",
        ),
        (
            "select: 0\nmode: mps\nmps: {compute_mode: default}",
            "spec line 5, gpus[0].mps.compute_mode: wants exclusive_process or unchanged, not \"default\"",
        ),
    ] {
        assert_eq!(refused_entry(entry), message, "{entry}");
    }
}

#[test]
fn all_is_said_once() {
    let text =
        "version: gpushare/v1\ngpus:\n- {select: all, mode: mps}\n- {select: [all], mode: mig}";
    assert_eq!(
        refused(text),
        "spec line 4, gpus[1]: selects all, and an entry before it does too (the first is on line 3)"
    );
    let built =
        Spec::new().gpu([Selector::All], Want::Exclusive).gpu([Selector::All], Want::Exclusive);
    assert_eq!(
        built.check().unwrap_err().to_string(),
        "spec, gpus[1]: selects all, and an entry before it does too"
    );
}

#[test]
fn refusals_of_instances_name_line_and_key() {
    for (instances, message) in [
        (
            "",
            "spec line 5, gpus[0].mig.instances: is empty; write {} to remove every instance, or leave the key out to keep them",
        ),
        (
            "{\n  3g40gb: 1}",
            "spec line 6, gpus[0].mig.instances: unknown profile name \"3g40gb\": names look like 3g.40gb, 1g or 1g.10gb+me",
        ),
        (
            "{1c.3g.40gb: 1}",
            "spec line 5, gpus[0].mig.instances: 1c.3g.40gb is a compute instance; write profile: 3g.40gb and compute: [1c]",
        ),
        (
            "{1g: 1, MIG 1g: 2}",
            "spec line 5, gpus[0].mig.instances: key \"MIG 1g\" stands twice, first on line 5",
        ),
        (
            "{1g.10gb: 65}",
            "spec line 5, gpus[0].mig.instances.\"1g.10gb\": wants a whole number from 0 to 64, not 65",
        ),
        ("{1g: 64, 2g: 1}", "spec line 5, gpus[0].mig.instances: more than 64 instances"),
        (
            "[1g]",
            "spec line 5, gpus[0].mig.instances[0]: wants a map with profile, start, compute, mps, time_sliced, name, not \"1g\"",
        ),
        ("[{start: 0}]", "spec line 5, gpus[0].mig.instances[0]: key \"profile\" is missing"),
        (
            "[{profile: 1g, start: 16}]",
            "spec line 5, gpus[0].mig.instances[0].start: wants a whole number from 0 to 15, not 16",
        ),
        (
            "[{profile: 3g, compute: [2c, 2c]}]",
            "spec line 5, gpus[0].mig.instances[0]: compute instances of 4 slices together in 3g, which has 3",
        ),
        (
            "[{profile: 3g.40gb, compute: [1c.3g.20gb]}]",
            "spec line 5, gpus[0].mig.instances[0].compute[0]: \"1c.3g.20gb\" is not of the profile 3g.40gb",
        ),
        (
            "[{profile: 3g.40gb, compute: [0c]}]",
            "spec line 5, gpus[0].mig.instances[0].compute[0]: \"0c\" is no compute instance of 3g.40gb: write 1c, 2c or 1c.3g.40gb",
        ),
        (
            "[{profile: 1g, compute: [1c, 1c]}]",
            "spec line 5, gpus[0].mig.instances[0].compute: 2 compute instances in 1 slices",
        ),
        (
            "[{profile: 1g, compute: 1c}]",
            "spec line 5, gpus[0].mig.instances[0].compute: wants a list of compute instances such as [1c, 2c], not \"1c\"",
        ),
        (
            "[{profile: 1g, mps: {}, time_sliced: {}}]",
            "spec line 5, gpus[0].mig.instances[0].time_sliced: an instance is shared by mps or by time_sliced, not by both",
        ),
        (
            "[{profile: 1g, compute: [], mps: {}}]",
            "spec line 5, gpus[0].mig.instances[0]: there is no compute instance to share",
        ),
        (
            "[{profile: 1g, name: a},\n  {profile: 1g, name: a}]",
            "spec line 6, gpus[0].mig.instances[1]: the name \"a\" belongs to an instance before it",
        ),
        (
            "[{profile: 1g, name: \"a b\"}]",
            "spec line 5, gpus[0].mig.instances[0].name: \"a b\" is not a name: 1 to 63 letters, digits, dots, hyphens and underscores",
        ),
    ] {
        let entry = format!("select: 0\nmode: mig\nmig: {{instances: {instances}}}");
        assert_eq!(refused_entry(&entry), message, "{instances}");
    }
}
