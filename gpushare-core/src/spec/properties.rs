//! What holds of every spec and of every text: round trips, no panics, bounded time.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::document::{DEPTH, SIZE};
use super::*;
use crate::mig::Attribute;
use crate::mode::{Interval, Priority};
use crate::parameters::{Access, MpsComputeMode};
use crate::units::{Bytes, ThreadPercentage};

fn time_slicing() -> impl Strategy<Value = TimeSlicing> {
    (1u32..=1024, select(Interval::ALL)).prop_map(|(replicas, interval)| {
        TimeSlicing::new(NonZeroU32::new(replicas).unwrap()).with_interval(interval)
    })
}

fn access() -> impl Strategy<Value = Access> {
    let account = "[a-zA-Z0-9 \"'\\\\#@$._é\u{2028}\u{85}-]{1,12}";
    let account = prop_oneof![account, "true|no|~|null|0|0x1F|1e3|\\.inf|-| |yes|007"]
        .prop_filter("no control characters", |name: &String| !name.contains(char::is_control));
    prop_oneof![
        Just(Access::Caller),
        Just(Access::Any),
        account.clone().prop_map(Access::User),
        account.prop_map(Access::Group),
    ]
}

fn mps() -> impl Strategy<Value = MpsConfig> {
    let percentage = prop_oneof![
        (1u8..=100).prop_map(f64::from),
        (0.0f64..=100.0).prop_filter("above 0", |percent| *percent > 0.0),
        Just(f64::MIN_POSITIVE),
    ];
    let limit = prop_oneof![1..=u64::MAX, (1u64..=1 << 20).prop_map(|mebibytes| mebibytes << 20)];
    (
        percentage,
        option::of(limit),
        option::of(1..=u32::MAX),
        select(Priority::ALL),
        access(),
        any::<bool>(),
    )
        .prop_map(|(percentage, limit, clients, priority, access, unchanged)| MpsConfig {
            thread_percentage: ThreadPercentage::new(percentage).unwrap(),
            pinned_memory_limit: limit.map(Bytes::new),
            max_clients: clients.and_then(NonZeroU32::new),
            priority,
            access,
            compute_mode: match unchanged {
                true => MpsComputeMode::Unchanged,
                false => MpsComputeMode::ExclusiveProcess,
            },
        })
}

fn profile() -> impl Strategy<Value = ProfileName> {
    let attributes = vec![
        Attribute::Plain,
        Attribute::MediaEngines,
        Attribute::AllMediaEngines,
        Attribute::Graphics,
        Attribute::NoMediaEngines,
    ];
    (1u8..=16, option::of(0u16..=9_999), select(attributes)).prop_map(
        |(slices, gigabytes, attribute)| ProfileName {
            compute: None,
            slices,
            gigabytes,
            attribute,
        },
    )
}

fn instance() -> impl Strategy<Value = Instance> {
    let sharing =
        prop_oneof![time_slicing().prop_map(Sharing::TimeSliced), mps().prop_map(Sharing::Mps),];
    (profile(), option::of(0u8..=15), option::of(vec(1u8..=16, 0..5)), option::of(sharing))
        .prop_map(|(profile, start, compute, sharing)| {
            let mut left = profile.slices;
            let fitting = |slices: &u8| left.checked_sub(*slices).map(|rest| left = rest).is_some();
            let compute = compute.map(|list| list.into_iter().filter(fitting).collect::<Vec<u8>>());
            let none = compute.as_ref().is_some_and(Vec::is_empty);
            let sharing = sharing.filter(|_| !none);
            Instance { start, compute, sharing, ..Instance::new(profile) }
        })
}

fn instances() -> impl Strategy<Value = Vec<Instance>> {
    let name = prop_oneof!["[a-zA-Z0-9._-]{1,12}", "true|no|0|1e3|-|0x1F|null"];
    vec((instance(), option::of(name)), 0..6).prop_map(|list| {
        let numbered = list.into_iter().enumerate();
        let named = numbered.map(|(i, (instance, name))| match (name, i) {
            (Some(name), 0) => instance.named(name),
            (Some(name), i) => instance.named(format!("{name}-{i}")),
            (None, _) => instance,
        });
        named.collect()
    })
}

fn want() -> impl Strategy<Value = Want> {
    prop_oneof![
        Just(Want::Exclusive),
        time_slicing().prop_map(Want::TimeSliced),
        mps().prop_map(Want::Mps),
        option::of(instances()).prop_map(Want::Mig),
    ]
}

fn selector() -> impl Strategy<Value = Selector> {
    let pci = (any::<u32>(), any::<u8>(), any::<u8>(), 0u8..16);
    prop_oneof![
        any::<u32>().prop_map(|index| Selector::Index(GpuIndex::new(index))),
        "GPU-[0-9a-f-]{1,36}".prop_map(Selector::Uuid),
        (pci, any::<bool>()).prop_map(|((domain, bus, device, function), optional)| {
            Selector::Pci { address: PciAddress::new(domain, bus, device, function), optional }
        }),
        "[ -~é]{1,20}".prop_map(Selector::Model),
        any::<u32>().prop_map(|id| Selector::DeviceId(PciDeviceId::new(id))),
    ]
}

fn spec() -> impl Strategy<Value = Spec> {
    let entries = vec((vec(selector(), 1..4), want()), 0..4);
    (entries, option::of(want())).prop_map(|(entries, all)| {
        let some =
            entries.into_iter().fold(Spec::new(), |spec, (select, want)| spec.gpu(select, want));
        match all {
            Some(want) => some.gpu([Selector::All], want),
            None => some,
        }
    })
}

/// Pieces that specs are made of, so that random texts get far into the reader.
fn nearly_a_spec() -> impl Strategy<Value = String> {
    let pieces: Vec<&str> = "version: |gpushare/v1|gpus:|select: |all|mode: |mig|mps|time_sliced|instances: |profile: |3g.40gb|\n|\n  |\n    |- |{|}|[|]|, |: |\"|'|#|&a |*a|!!str |? |---\n|...\n|| >\n|x-a: |0|1e9|.nan|null|access: |user: |compute: |1c|\t|\r\n|\u{feff}|%YAML 1.2\n|\u{2028}|\\|\"version\":|\"gpus\":"
        .split('|')
        .collect();
    vec(select(pieces), 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_reads_back_equal(spec in spec()) {
        prop_assert!(spec.check().is_ok());
        let yaml = spec.to_string();
        prop_assert_eq!(&Spec::from_yaml_str(&yaml).unwrap(), &spec, "{}", yaml);
        let json = serde_json::to_string_pretty(&spec).unwrap();
        prop_assert_eq!(&json.parse::<Spec>().unwrap(), &spec, "{}", json);
        prop_assert_eq!(&Spec::from_yaml_str(&json).unwrap(), &spec, "{}", json);
        let value = serde_json::to_value(&spec).unwrap();
        prop_assert_eq!(&serde_json::from_value::<Spec>(value.clone()).unwrap(), &spec);
        prop_assert_eq!(&Spec::from_json_str(&value.to_string()).unwrap(), &spec);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..200)) {
        let _ = Spec::from_bytes(&bytes);
    }

    #[test]
    fn any_text_is_read_or_refused(text in prop_oneof!["\\PC{0,80}", nearly_a_spec()]) {
        let _ = Spec::from_yaml_str(&text);
        let _ = Spec::from_json_str(&text);
        if let Ok(spec) = text.parse::<Spec>() {
            prop_assert_eq!(&spec.to_string().parse::<Spec>().unwrap(), &spec);
        }
    }

    #[test]
    fn a_spec_with_a_piece_put_in_or_out_is_read_or_refused(
        spec in spec(), at in any::<proptest::sample::Index>(), gone in 0usize..6, piece in nearly_a_spec(),
    ) {
        for text in [spec.to_string(), serde_json::to_string(&spec).unwrap()] {
            let chars: Vec<char> = text.chars().collect();
            let at = at.index(chars.len());
            let (before, after) = (&chars[..at], &chars[(at + gone).min(chars.len())..]);
            let broken: String = before.iter().copied().chain(piece.chars()).chain(after.iter().copied()).collect();
            let _ = broken.parse::<Spec>();
        }
    }
}

fn message(text: &str) -> String {
    Spec::from_yaml_str(text).unwrap_err().to_string()
}

#[test]
fn ten_lines_do_not_become_gigabytes() {
    let mut laughs = "x-a: &a [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n".to_owned();
    for (one, next) in "abcdefgh".chars().zip("bcdefghi".chars()) {
        let nine = vec![format!("*{one}"); 9].join(", ");
        laughs.push_str(&format!("x-{next}: &{next} [{nine}]\n"));
    }
    assert_eq!(message(&laughs), "spec line 1: anchors (&…) are not allowed");
}

#[test]
fn depth_is_counted_alike_in_every_form() {
    // The map around it is the first level.
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let json =
        |depth| format!(r#"{{"version": "gpushare/v1", "gpus": [], "x-a": {}}}"#, nested(depth));
    let yaml = |depth| format!("version: gpushare/v1\ngpus: []\nx-a: {}", nested(depth));
    let block =
        |depth| format!("version: gpushare/v1\ngpus: []\nx-a:\n{}1", "- ".repeat(depth - 1));
    let why = "more than 64 lists and maps in one another";
    for text in [json(DEPTH), yaml(DEPTH), block(DEPTH)] {
        assert_eq!(text.parse::<Spec>().unwrap(), Spec::new(), "{text}");
    }
    assert_eq!(serde_json::from_str::<Spec>(&json(DEPTH)).unwrap(), Spec::new());
    let deeper = DEPTH + 1;
    let refused = |text: &str| text.parse::<Spec>().unwrap_err().to_string();
    assert_eq!(refused(&json(deeper)), format!("spec line 1: {why}"));
    assert_eq!(refused(&yaml(deeper)), format!("spec line 3: {why}"));
    assert_eq!(refused(&block(deeper)), format!("spec line 4: {why}"));
    let serde = serde_json::from_str::<Spec>(&json(deeper)).unwrap_err().to_string();
    assert!(serde.contains(why), "{serde}");
    // Far deeper than the stack is large.
    for text in [json(200_000), yaml(200_000), block(200_000), "{".repeat(SIZE), "[".repeat(SIZE)] {
        assert!(text.parse::<Spec>().is_err());
    }
}

#[test]
fn a_mebibyte_is_read_and_a_byte_more_is_not() {
    let start = "version: gpushare/v1\ngpus: []\n#";
    let full = format!("{start}{}", "x".repeat(SIZE - start.len()));
    assert_eq!(full.parse::<Spec>().unwrap(), Spec::new());
    let message = "spec: 1048577 bytes; at most 1048576 (1 MiB)";
    let over = format!("{full}x");
    assert_eq!(over.parse::<Spec>().unwrap_err().to_string(), message);
    assert_eq!(Spec::from_bytes(&[0xFF; SIZE + 1]).unwrap_err().to_string(), message);
    assert_eq!(Spec::from_json_str(&over).unwrap_err().to_string(), message);
    assert_eq!(Spec::from_bytes(b"a\n\xFF").unwrap_err().to_string(), "spec line 2: not UTF-8");
}

#[test]
fn a_full_mebibyte_of_anything_takes_seconds_at_most() {
    for piece in [
        "- ",
        "a: ",
        "? ",
        "[a, ",
        "{a: ",
        "a,",
        "\"",
        "'",
        "#",
        "\n",
        "a\n",
        "- a\n",
        "a: b\n",
        "&a ",
        "!a ",
        "*a ",
        ": ",
        "%a\n",
        "---\n",
        "|\n",
        "> a\n",
        "\t",
        "{\"a\":",
        "\\",
        "x-a: b\n",
        " ",
        "1",
        "é",
        "- - a\n",
        "a: {b: c}\n",
    ] {
        for start in
            ["", "x-a: [", "x-a: {", "version: gpushare/v1\ngpus:\n", "x-a: \"", "x-a: |\n  "]
        {
            let text = format!("{start}{}", piece.repeat((SIZE - start.len()) / piece.len()));
            let began = Instant::now();
            let _ = text.parse::<Spec>();
            assert!(
                began.elapsed() < Duration::from_secs(10),
                "{start:?} {piece:?}: {:?}",
                began.elapsed()
            );
        }
    }
}
