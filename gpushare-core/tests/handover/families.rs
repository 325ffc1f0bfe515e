//! Every family of GPUs that the simulator has, and every variant of its profiles.

use gpushare_core::backend::sim::PRODUCTS;
use gpushare_core::mig::Attribute;

use crate::node::{Place, devices};

/// A model, its PCI id in mig-parted's words, and layouts of it.
const FAMILIES: &[(&str, &str, &[&str])] = &[
    (
        "A30-24GB",
        "0x20B710DE",
        &[
            "1g.6gb=4",
            "1g.6gb=2 2g.12gb=1",
            "2g.12gb+me=1 1g.6gb=2",
            "1g.6gb+me=1 1g.6gb=3",
            "4g.24gb=1",
            "1c.4g.24gb=2 2c.4g.24gb=1",
        ],
    ),
    (
        "A100-40GB",
        "0x20B010DE",
        &[
            "1g.5gb=7",
            "1g.5gb=2 2g.10gb=1 3g.20gb=1",
            "1g.10gb=4",
            "1g.5gb+me=1 2g.10gb=2",
            "1c.3g.20gb=1 2c.3g.20gb=1 3g.20gb=1",
            "7g.40gb=1",
            "1c.7g.40gb=7",
        ],
    ),
    (
        "A100-80GB",
        "0x20B210DE",
        &["1g.10gb=2 2g.20gb=1 3g.40gb=1", "1g.20gb=4", "4g.40gb=1 3g.40gb=1", "1c.2g.20gb=6"],
    ),
    (
        "H100-80GB",
        "0x233010DE",
        &[
            "1g.10gb=7",
            "1g.10gb=2 2g.20gb=1 3g.40gb=1",
            "1g.10gb+me=1 1g.10gb=6",
            "2c.4g.40gb=2 1g.10gb=3",
            "7g.80gb=1",
        ],
    ),
    ("H100-NVL-94GB", "0x232110DE", &["1g.12gb=2 2g.24gb=1 3g.47gb=1", "1g.24gb=4", "3g.47gb=2"]),
    (
        "GH200-96GB",
        "0x234210DE",
        &["1g.12gb=2 2g.24gb=1 3g.48gb=1", "4g.48gb=1 2g.24gb=1 1g.12gb=1"],
    ),
    ("GH200-144GB", "0x234810DE", &["1g.18gb=2 2g.36gb=1 3g.72gb=1", "1g.36gb=4", "7g.144gb=1"]),
    (
        "H200-141GB",
        "0x233510DE",
        &[
            "1g.18gb=2 2g.35gb=1 3g.71gb=1",
            "1g.18gb+me=1",
            "1c.3g.71gb=6",
            "3g.71gb=1 1c.3g.71gb=3",
        ],
    ),
    ("B200-180GB", "0x290110DE", &["1g.23gb=2 2g.45gb=1 3g.90gb=1", "1g.45gb=4"]),
    ("GB200", "0x294110DE", &["1g.23gb=2 2g.47gb=1 3g.93gb=1", "7g.186gb=1"]),
    (
        "B300",
        "0x318210DE",
        &["1g.34gb=2 2g.67gb=1 3g.135gb=1", "2g.67gb=3", "1g.34gb+me=1 1g.34gb=1 4g.135gb=1"],
    ),
    (
        "GB300",
        "0x31C210DE",
        &[
            "1g.35gb=2 2g.70gb=1 3g.139gb=1",
            "7g.278gb=1",
            "3c.7g.278gb=1 4c.7g.278gb=1",
            "1g.70gb=4",
        ],
    ),
    (
        "RTX-PRO-6000-Blackwell-96GB",
        "0x2BB510DE",
        &[
            "1g.24gb=2 2g.48gb=1",
            "1g.24gb+gfx=4",
            "1g.24gb+me.all=1 1g.24gb-me=3",
            "2g.48gb+gfx=1 2g.48gb=1",
            "2g.48gb+me.all=1 2g.48gb-me=1",
            "4g.96gb+gfx=1",
            "1g.24gb+me=1 1g.24gb=3",
        ],
    ),
];

/// The ways in which people write the same entry.
fn written(style: usize, filter: &str, layout: &str) -> String {
    let pairs: Vec<(String, u32)> = devices(layout).unwrap().into_iter().collect();
    let block: String =
        pairs.iter().map(|(name, count)| format!("        \"{name}\": {count}\n")).collect();
    let flow: Vec<_> = pairs.iter().map(|(name, count)| format!("{name}: {count}")).collect();
    let flow = flow.join(", ");
    let json: Vec<_> = pairs.iter().map(|(name, count)| format!("{name:?}: {count}")).collect();
    let json = json.join(", ");
    match style % 5 {
        0 => format!(
            "version: v1\nmig-configs:\n  wanted:\n    - devices: all\n      mig-enabled: true\n      mig-devices:\n{block}"
        ),
        1 => format!(
            "version: v1\nmig-configs:\n  wanted:\n  - device-filter: \"{filter}\"\n    devices: [0, 1]\n    mig-enabled: true\n    mig-devices: {{{flow}}}\n"
        ),
        2 => format!(
            "{{\"version\": \"v1\", \"mig-configs\": {{\"wanted\": [{{\"device-filter\": [\"0x1EB810DE\", \"{}\"], \"devices\": \"all\", \"mig-enabled\": true, \"mig-devices\": {{{json}}}}}]}}}}",
            filter.to_lowercase()
        ),
        3 => format!(
            "# Both alike.\nversion: \"v1\"\nmig-configs:\n  first: &first\n    - {{devices: [0], mig-enabled: true, mig-devices: &these {{{flow}}}}}\n    - devices: [1]\n      mig-enabled: true\n      mig-devices: *these\n  wanted: *first\n"
        ),
        _ => format!(
            "mig-configs:\n  wanted:\n    - &one\n      devices: [1]\n      mig-enabled: yes\n      mig-devices:\n{block}    - <<: *one\n      devices: [0]\nversion: v1\n"
        ),
    }
}

#[test]
fn every_family_goes_in_and_comes_out_with_the_same_meaning() {
    let mut configurations = 0;
    for (model, filter, layouts) in FAMILIES {
        for layout in *layouts {
            let fleet = format!("2x{model},1xT4");
            for style in [configurations, configurations + 2] {
                let text = written(style, filter, layout);
                let place = Place::new(&fleet);
                place.goes_round(&fleet, &text, Some("wanted"));
                let expected = vec![devices(layout), devices(layout), None];
                assert_eq!(place.found(), expected, "{model}: {text}");
            }
            configurations += 1;
        }
    }
    assert!(configurations >= 50, "{configurations} configurations");
}

#[test]
fn the_table_has_every_family_and_every_variant() {
    let families: Vec<_> = FAMILIES.iter().map(|(model, ..)| *model).collect();
    let with_mig = PRODUCTS.iter().filter(|product| product.has_mig());
    assert_eq!(with_mig.map(|product| product.name).collect::<Vec<_>>(), families);
    for (model, filter, layouts) in FAMILIES {
        let product = PRODUCTS.iter().find(|product| product.name == *model).unwrap();
        assert_eq!(product.device_id.to_string(), *filter);
        let variants = product.profiles.iter().filter(|profile| {
            product.name.starts_with("RTX") && profile.name.attribute != Attribute::Plain
        });
        for variant in variants {
            let name = format!("{}=", variant.name);
            assert!(layouts.iter().any(|layout| layout.contains(&name)), "{name} {model}");
        }
    }
}

#[test]
fn one_file_serves_a_node_of_many_families() {
    let fleet = "2xA100-40GB,1xH100-80GB,1xA30-24GB,1xL4";
    let mut text = "version: v1\nmig-configs:\n  balanced:\n".to_owned();
    for (_, filter, layouts) in FAMILIES {
        let counts: String = devices(layouts[1])
            .unwrap()
            .iter()
            .map(|(name, count)| format!("        {name}: {count}\n"))
            .collect();
        text.push_str(&format!(
            "    - device-filter: [\"{filter}\"]\n      devices: all\n      mig-enabled: true\n      mig-devices:\n{counts}"
        ));
    }
    let place = Place::new(fleet);
    place.goes_round(fleet, &text, None);
    let a100 = devices("1g.5gb=2 2g.10gb=1 3g.20gb=1");
    let others = [devices("1g.10gb=2 2g.20gb=1 3g.40gb=1"), devices("1g.6gb=2 2g.12gb=1"), None];
    let expected: Vec<_> = [a100.clone(), a100].into_iter().chain(others).collect();
    assert_eq!(place.found(), expected);
}
