//! NVIDIA's device plugin, GPU Operator and DRA driver, by models of what they read.

use std::collections::{BTreeMap, BTreeSet};

use gpushare_core::export::{Exported, Kind, Options, export};
use gpushare_core::hazard::HazardName;
use gpushare_core::{Error, ErrorCode, Snapshot};
use serde::Deserialize;
use serde_json::Value;

use crate::nodes::{all, altered, snapshot};
use crate::yaml;

/// NVIDIA/k8s-device-plugin, api/config/v1/{config,flags,sharing,replicas,resources}.go, as of v0.17 to
/// v0.19: what of it is used here. It ignores keys that it does not know, so a misspelt one would be lost.
#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Config {
    version: String,
    flags: Flags,
    #[serde(default)]
    sharing: Sharing,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Flags {
    mig_strategy: String,
}

#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Sharing {
    time_slicing: Option<Replicated>,
    mps: Option<Replicated>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Replicated {
    #[serde(default)]
    fail_requests_greater_than_one: bool,
    resources: Vec<Resource>,
}

#[derive(Debug, Deserialize, PartialEq)]
#[serde(deny_unknown_fields)]
struct Resource {
    name: String,
    replicas: u32,
}

/// The plugin's own checks, and that it advertises what it shares.
fn checked(config: &Config) {
    assert_eq!(config.version, "v1");
    assert!(["none", "mixed"].contains(&config.flags.mig_strategy.as_str()));
    let Sharing { time_slicing, mps } = &config.sharing;
    assert!(time_slicing.is_none() || mps.is_none(), "MPS wins, and the other is not heard");
    assert!(time_slicing.as_ref().is_none_or(|turns| turns.fail_requests_greater_than_one));
    for replicated in time_slicing.iter().chain(mps) {
        assert!(!replicated.resources.is_empty(), "no resources specified");
        let names: BTreeSet<_> = replicated.resources.iter().map(|r| &r.name).collect();
        assert_eq!(names.len(), replicated.resources.len());
        for resource in &replicated.resources {
            assert!(resource.replicas >= 2, "number of replicas must be >= 2");
            let name = resource.name.strip_prefix("nvidia.com/").unwrap();
            expect_dns(name);
            assert!(resource.name.len() <= 63, "MaxResourceNameLength");
            let mig = name.starts_with("mig-");
            assert!(mig && mps.is_none() || name == "gpu", "{name}");
            assert!(!mig || config.flags.mig_strategy == "mixed");
        }
    }
}

fn expect_dns(name: &str) {
    let good = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    assert!(name.len() <= 253 && !name.is_empty(), "{name}");
    for label in name.split('.') {
        assert!(label.starts_with(good) && label.ends_with(good), "{name}");
        assert!(label.chars().all(|c| good(c) || c == '-'), "{name}");
    }
}

fn exported(snapshot: &Snapshot, kind: Kind) -> Result<Exported, Error> {
    let exported = export(snapshot, kind, &Options::default())?;
    assert!(exported.text.ends_with('\n'));
    assert!(!exported.text.chars().any(|c| c.is_control() && c != '\n'), "{}", exported.text);
    let odd = |text: &String| text.chars().any(char::is_control);
    assert!(!exported.cannot_say.iter().any(odd), "{:?}", exported.cannot_say);
    Ok(exported)
}

fn config(snapshot: &Snapshot) -> Result<Config, Error> {
    let config = yaml::read(&exported(snapshot, Kind::DevicePlugin)?.text);
    checked(&config);
    Ok(config)
}

/// How many pods the plugin would give each resource to, by device of it.
fn advertised(config: &Config, resource: &str) -> u32 {
    let Sharing { time_slicing, mps } = &config.sharing;
    let mut all = time_slicing.iter().chain(mps).flat_map(|replicated| &replicated.resources);
    all.find(|known| known.name == resource).map_or(1, |known| known.replicas)
}

#[test]
fn the_plugin_would_share_every_device_as_it_is_shared() {
    let (mut good, mut bad) = (0, 0);
    for (name, snapshot) in all() {
        let config = match config(&snapshot) {
            Ok(config) => config,
            Err(error) => {
                // Either it cannot be said of this node, or it would harm.
                assert!(
                    [ErrorCode::Unsupported, ErrorCode::Hazard].contains(&error.code()),
                    "{name}: {error}"
                );
                bad += 1;
                continue;
            }
        };
        good += 1;
        for gpu in &snapshot.gpus {
            if gpu.mig_devices.is_empty() && !gpu.shares.is_empty() {
                let count = u32::try_from(gpu.shares.len()).unwrap();
                assert_eq!(advertised(&config, "nvidia.com/gpu"), count, "{name}");
                assert_eq!(config.sharing.mps.is_some(), gpu.mps.is_some() && count > 1, "{name}");
            }
            for device in &gpu.mig_devices {
                let of = |share: &&gpushare_core::snapshot::Share| {
                    share.id.device() == device.uuid.as_str()
                };
                let count = u32::try_from(gpu.shares.iter().filter(of).count()).unwrap();
                let resource = format!("nvidia.com/mig-{}", device.profile).replace('+', ".");
                let count = if device.mps.is_some() { 1 } else { count };
                assert_eq!(advertised(&config, &resource), count, "{name}");
                assert_eq!(config.flags.mig_strategy, "mixed");
            }
        }
    }
    assert!(good >= 8 && bad >= 3, "{good} {bad}");
}

#[test]
fn what_differs_between_gpus_is_refused() {
    let one = "{select: 0, mode: time_sliced, time_sliced: {replicas: 4}}";
    for (other, words) in [
        ("{select: 1, mode: exclusive}", "is not shared"),
        ("{select: 1, mode: time_sliced, time_sliced: {replicas: 3}}", "has 3 replicas"),
        ("{select: 1, mode: mps, mps: {max_clients: 4}}", "has 4 clients of MPS"),
    ] {
        let error = config(&snapshot("2xT4", &format!("{one}, {other}"))).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Unsupported);
        assert!(error.gpu().is_some() && error.message().contains(words), "{error}");
        assert!(error.message().contains("nvidia.com/gpu"), "{error}");
    }
    // Of another resource it may be otherwise, but not by MPS and turns.
    let mig = "{select: 1, mode: mig, mig: {instances: [{profile: 1g.10gb, time_sliced: {replicas: 2}}, {profile: 2g.20gb}]}}";
    let both = snapshot("2xH100-80GB", &format!("{one}, {mig}"));
    let found = config(&both).unwrap();
    for (resource, count) in [("gpu", 4), ("mig-1g.10gb", 2), ("mig-2g.20gb", 1)] {
        assert_eq!(advertised(&found, &format!("nvidia.com/{resource}")), count);
    }
    let mps = "{select: 0, mode: mps, mps: {max_clients: 4}}";
    let error = config(&snapshot("2xH100-80GB", &format!("{mps}, {mig}"))).unwrap_err();
    assert!(error.message().contains("by turns or by MPS"), "{error}");
    // One MIG profile, shared in two ways.
    let two = "{select: 0, mode: mig, mig: {instances: [{profile: 1g.10gb, time_sliced: {replicas: 2}}, {profile: 1g.10gb}]}}";
    let error = config(&snapshot("1xH100-80GB", two)).unwrap_err();
    assert!(error.message().contains("mig-1g.10gb"), "{error}");
}

fn clients(fleet: &str, clients: u32) -> Snapshot {
    snapshot(fleet, &format!("{{select: 0, mode: mps, mps: {{max_clients: {clients}}}}}"))
}

/// The plugin gives each of n clients 100 / n, in whole percent: that corrupts, or is less than there is.
#[test]
fn equal_parts_that_harm_are_hazards_with_numbers_that_do_not() {
    for count in 2..=48 {
        let node = clients("1xH100-80GB", count);
        let harm = match 100 / count {
            14..=22 | 28..=46 | 52..=89 => Some(HazardName::HopperPartialSm),
            0..=6 => Some(HazardName::MinimumSm),
            _ => None,
        };
        for kind in [Kind::DevicePlugin, Kind::GpuOperator] {
            let mut options = Options::default();
            let found = export(&node, kind, &options);
            let Some(harm) = harm else {
                let text = found.unwrap().text;
                assert!(text.contains(&format!("replicas: {count}\n")), "{text}");
                continue;
            };
            let error = found.unwrap_err();
            assert_eq!(error.code(), ErrorCode::Hazard);
            assert!(error.message().starts_with(harm.as_str()), "{count}: {error}");
            assert!(!error.safe().is_empty(), "{count}");
            for safe in error.safe() {
                let other = safe.strip_suffix(" replicas").unwrap().parse().unwrap();
                assert!(export(&clients("1xH100-80GB", other), kind, &options).is_ok(), "{safe}");
            }
            for other in HazardName::ALL.iter().filter(|name| **name != harm) {
                options.allow_hazards.push(*other);
            }
            assert!(export(&node, kind, &options).is_err(), "{count}: only by its own name");
            options.allow_hazards = vec![harm];
            assert!(export(&node, kind, &options).is_ok(), "{count}");
        }
    }
    let corrupt: Vec<u32> =
        (2..=14).filter(|n| export_fails(&clients("1xH100-80GB", *n))).collect();
    assert_eq!(corrupt, [3, 5, 6, 7]);
    // Elsewhere 100 / n is right; a Hopper card that nobody measured is not known to be.
    assert!((2..=10).all(|n| !export_fails(&clients("1xA100-40GB", n))));
    let unmeasured =
        altered("1xH100-80GB", "{select: 0, mode: mps, mps: {max_clients: 4}}", |gpu| {
            gpu.sm_count = Some(114);
        });
    let error = config(&unmeasured).unwrap_err();
    assert!(error.message().starts_with("hopper-unmeasured"), "{error}");
}

fn export_fails(snapshot: &Snapshot) -> bool {
    export(snapshot, Kind::DevicePlugin, &Options::default()).is_err()
}

#[test]
fn what_the_plugins_daemon_would_do_otherwise_is_said() {
    let spec = "{select: 0, mode: mps, mps: {thread_percentage: 10, pinned_memory_limit: 4GiB, max_clients: 4, priority: below_normal, access: any, compute_mode: unchanged}}";
    let said = exported(&snapshot("1xH100-80GB", spec), Kind::DevicePlugin).unwrap().cannot_say;
    for words in [
        "mps disable",
        "a thread percentage of 10: the plugin gives each of 4 25 %",
        "a memory limit of 4GiB",
        "priority below_normal",
        "every user",
        "EXCLUSIVE_PROCESS",
    ] {
        assert!(said.iter().any(|sentence| sentence.contains(words)), "{words}: {said:#?}");
    }
    let slow = "{select: 0, mode: time_sliced, time_sliced: {replicas: 2, interval: long}}";
    let said = exported(&snapshot("1xT4", slow), Kind::DevicePlugin).unwrap().cannot_say;
    assert!(said[0].contains("the length of turns (long)"), "{said:?}");
    // MPS on a MIG device is none of the plugin's.
    let mig =
        "{select: 0, mode: mig, mig: {instances: [{profile: 3g.40gb, mps: {max_clients: 2}}]}}";
    let node = snapshot("1xH100-80GB", mig);
    assert_eq!(config(&node).unwrap().sharing, Sharing::default());
    let said = exported(&node, Kind::DevicePlugin).unwrap().cannot_say;
    assert!(said[0].contains("no MPS on MIG devices"), "{said:?}");
    let many = snapshot("1xA100-40GB", "{select: 0, mode: mps, mps: {max_clients: 48}}");
    assert!(config(&many).unwrap_err().safe().len() == 1);
}

/// k8s.io/api/core/v1, ConfigMap.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct ConfigMap {
    api_version: String,
    kind: String,
    metadata: Metadata,
    data: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Metadata {
    name: String,
    namespace: Option<String>,
}

#[test]
fn the_operators_map_has_the_plugins_file_under_its_key() {
    for (name, snapshot) in all() {
        let Ok(plugin) = exported(&snapshot, Kind::DevicePlugin) else {
            assert!(exported(&snapshot, Kind::GpuOperator).is_err(), "{name}");
            continue;
        };
        for key in ["gpushare", "4", "true", "a_b-c.d"] {
            let mut options = Options::default();
            options.config = Some(key.to_owned());
            options.node = Some("node-1.example".to_owned());
            let exported = export(&snapshot, Kind::GpuOperator, &options).unwrap();
            let map: ConfigMap = yaml::read(&exported.text);
            assert_eq!((map.api_version.as_str(), map.kind.as_str()), ("v1", "ConfigMap"));
            expect_dns(&map.metadata.name);
            assert_eq!(map.metadata.namespace.as_deref(), Some("gpu-operator"));
            assert_eq!(map.data, BTreeMap::from([(key.to_owned(), plugin.text.clone())]), "{name}");
            assert_eq!(exported.cannot_say, plugin.cannot_say);
            let label = format!(
                "#   kubectl label node node-1.example --overwrite nvidia.com/device-plugin.config={key}"
            );
            assert!(exported.text.lines().any(|line| line == label), "{}", exported.text);
        }
    }
    let snapshot = snapshot("1xT4", "");
    let long = "a".repeat(64);
    for wrong in ["", "-a", "a-", "a b", "a/b", "a\nb", "ü", &long] {
        let mut options = Options::default();
        options.config = Some(wrong.to_owned());
        let error = export(&snapshot, Kind::GpuOperator, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong:?}");
    }
    for wrong in ["", "a b", "$(id)", "A", "a..b", "-a", "a\n"] {
        let mut options = Options::default();
        options.node = Some(wrong.to_owned());
        let error = export(&snapshot, Kind::GpuOperator, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong:?}");
    }
}

/// k8s.io/api/resource/v1/types.go (Kubernetes 1.34): what of it is used here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Claim {
    api_version: String,
    kind: String,
    metadata: Metadata,
    spec: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Template {
    spec: ClaimSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClaimSpec {
    devices: Devices,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    requests: [Request; 1],
    #[serde(default)]
    config: Vec<DeviceConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    name: String,
    exactly: Exactly,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Exactly {
    device_class_name: String,
    selectors: [Selector; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Selector {
    cel: Cel,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cel {
    expression: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeviceConfig {
    requests: Vec<String>,
    opaque: Opaque,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Opaque {
    driver: String,
    parameters: Parameters,
}

/// kubernetes-sigs/dra-driver-nvidia-gpu (before: NVIDIA/k8s-dra-driver-gpu), api/nvidia.com/resource/
/// v1beta1/{gpuconfig,migconfig,sharing,validate}.go. Its decoder is strict.
#[derive(Deserialize)]
#[serde(tag = "kind", deny_unknown_fields)]
enum Parameters {
    GpuConfig {
        #[serde(rename = "apiVersion")]
        api_version: String,
        sharing: GpuSharing,
    },
    MigDeviceConfig {
        #[serde(rename = "apiVersion")]
        api_version: String,
        sharing: MigDeviceSharing,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct GpuSharing {
    strategy: Strategy,
    time_slicing_config: Option<TimeSlicingConfig>,
    mps_config: Option<MpsConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MigDeviceSharing {
    strategy: Strategy,
    mps_config: Option<MpsConfig>,
}

#[derive(Clone, Copy, Deserialize, PartialEq)]
enum Strategy {
    TimeSlicing,
    #[serde(rename = "MPS")]
    Mps,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TimeSlicingConfig {
    interval: Interval,
}

#[derive(Debug, Deserialize, PartialEq)]
enum Interval {
    Default,
    Short,
    Medium,
    Long,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct MpsConfig {
    default_active_thread_percentage: Option<u32>,
    default_pinned_device_memory_limit: Option<String>,
}

impl MpsConfig {
    /// Theirs is 0 to 100, and 0 would be no limit. A limit below 1 MiB is refused when a pod comes.
    fn check(&self) {
        assert!(self.default_active_thread_percentage.is_none_or(|p| (1..=100).contains(&p)));
        assert!(self.limit().is_none_or(|limit| limit >= 1 << 20));
    }

    fn limit(&self) -> Option<u64> {
        let quantity = self.default_pinned_device_memory_limit.as_deref()?;
        Some(quantity.strip_suffix("Mi").unwrap().parse::<u64>().unwrap() << 20)
    }
}

/// A claim as the driver takes it: its name, its selector, whether pods share it, and how.
struct Claimed {
    name: String,
    class: String,
    select: String,
    shared: Option<Parameters>,
}

fn claims(text: &str) -> Vec<Claimed> {
    let documents = yaml::documents(text).into_iter();
    let claims = documents.map(|document| {
        let claim: Claim = serde_json::from_value(document).unwrap();
        assert_eq!(claim.api_version, "resource.k8s.io/v1");
        expect_dns(&claim.metadata.name);
        let template = claim.kind == "ResourceClaimTemplate";
        assert!(template || claim.kind == "ResourceClaim", "{}", claim.kind);
        let spec = if template {
            serde_json::from_value::<Template>(claim.spec).unwrap().spec
        } else {
            serde_json::from_value(claim.spec).unwrap()
        };
        let [request] = spec.devices.requests;
        let [selector] = request.exactly.selectors;
        let mut config = spec.devices.config;
        assert_eq!(config.is_empty(), template, "what is shared is one claim");
        let shared = config.pop().map(|config| {
            assert_eq!(config.requests, [request.name.as_str()]);
            assert_eq!(config.opaque.driver, "gpu.nvidia.com");
            config.opaque.parameters
        });
        assert!(config.is_empty());
        Claimed {
            name: claim.metadata.name,
            class: request.exactly.device_class_name,
            select: selector.cel.expression,
            shared,
        }
    });
    let claims: Vec<_> = claims.collect();
    let names: BTreeSet<_> = claims.iter().map(|claim| &claim.name).collect();
    assert_eq!(names.len(), claims.len());
    for claim in &claims {
        let (version, mps, strategy) = match &claim.shared {
            None => continue,
            Some(Parameters::GpuConfig { api_version, sharing }) => {
                assert_eq!(claim.class, "gpu.nvidia.com");
                let turns = sharing.strategy == Strategy::TimeSlicing;
                assert_eq!(sharing.time_slicing_config.is_some(), turns);
                (api_version, &sharing.mps_config, sharing.strategy)
            }
            Some(Parameters::MigDeviceConfig { api_version, sharing }) => {
                assert_eq!(claim.class, "mig.nvidia.com");
                (api_version, &sharing.mps_config, sharing.strategy)
            }
        };
        assert_eq!(version, "resource.nvidia.com/v1beta1");
        // The driver reads through it, and would fall over one that is not there.
        assert_eq!(mps.is_some(), strategy == Strategy::Mps);
        mps.iter().for_each(MpsConfig::check);
    }
    claims
}

#[test]
fn every_device_has_a_claim_that_shares_it_as_it_is_shared() {
    let mut seen = 0;
    for (name, snapshot) in all() {
        let mut wanted = Vec::new();
        for gpu in snapshot.gpus.iter().filter(|gpu| !gpu.shares.is_empty()) {
            let count =
                |device: &str| gpu.shares.iter().filter(|s| s.id.device() == device).count();
            let a = "device.attributes['gpu.nvidia.com']";
            if gpu.mig_devices.is_empty() {
                let select = format!("{a}.uuid == '{}'", gpu.uuid);
                wanted.push((select, count(gpu.uuid.as_str()), gpu.mps.as_ref()));
            }
            for device in &gpu.mig_devices {
                let select = format!(
                    "{a}.profile == '{}' && {a}.parentUUID == '{}'",
                    device.profile, gpu.uuid
                );
                wanted.push((select, count(device.uuid.as_str()), device.mps.as_ref()));
            }
        }
        let exported = match exported(&snapshot, Kind::ResourceClaim) {
            Ok(exported) => exported,
            Err(error) => {
                assert!(
                    error.code() == ErrorCode::NotFound && wanted.is_empty(),
                    "{name}: {error}"
                );
                continue;
            }
        };
        let claims = claims(&exported.text);
        assert_eq!(claims.len(), wanted.len(), "{name}");
        for (claim, (select, count, mps)) in claims.iter().zip(wanted) {
            assert_eq!(claim.select, select, "{name}");
            assert_eq!(claim.shared.is_some(), count > 1 || mps.is_some(), "{name}");
            let limits = match &claim.shared {
                Some(Parameters::GpuConfig { sharing, .. }) => sharing.mps_config.as_ref(),
                Some(Parameters::MigDeviceConfig { sharing, .. }) => sharing.mps_config.as_ref(),
                None => None,
            };
            assert_eq!(limits.is_some(), mps.is_some(), "{name}");
            if let Some((limits, config)) = limits.zip(mps.and_then(|mps| mps.config.as_ref())) {
                let percentage = limits.default_active_thread_percentage.unwrap_or(100);
                assert_eq!(f64::from(percentage), config.thread_percentage.get(), "{name}");
                assert_eq!(limits.limit(), config.pinned_memory_limit.map(|l| l.get()), "{name}");
            }
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

#[test]
fn turns_and_limits_are_those_of_the_gpu() {
    for (word, interval) in [
        ("default", Interval::Default),
        ("short", Interval::Short),
        ("medium", Interval::Medium),
        ("long", Interval::Long),
    ] {
        let spec = format!(
            "{{select: 0, mode: time_sliced, time_sliced: {{replicas: 2, interval: {word}}}}}"
        );
        let text = exported(&snapshot("1xT4", &spec), Kind::ResourceClaim).unwrap().text;
        let claims = claims(&text);
        let Some(Parameters::GpuConfig { sharing, .. }) = &claims[0].shared else {
            panic!("{text}")
        };
        assert_eq!(sharing.time_slicing_config.as_ref().unwrap().interval, interval);
    }
    for (asked, written) in [("100", None), ("50", Some(50)), ("12.5", Some(12)), ("0.5", Some(1))]
    {
        let spec = format!(
            "{{select: 0, mode: mps, mps: {{thread_percentage: {asked}, pinned_memory_limit: 1536MiB, access: any}}}}"
        );
        let mut options = Options::default();
        options.allow_hazards = vec![HazardName::MinimumSm];
        let exported =
            export(&snapshot("1xA100-40GB", &spec), Kind::ResourceClaim, &options).unwrap();
        let claims = claims(&exported.text);
        let Some(Parameters::GpuConfig { sharing, .. }) = &claims[0].shared else { panic!() };
        let limits = sharing.mps_config.as_ref().unwrap();
        assert_eq!(limits.default_active_thread_percentage, written, "{asked}");
        assert_eq!(limits.limit(), Some(1536 << 20));
        let said = exported.cannot_say.iter().any(|sentence| sentence.contains("whole percent"));
        assert_eq!(said, asked.contains('.'), "{asked}: {:?}", exported.cannot_say);
    }
}

#[test]
fn a_percentage_that_harms_is_a_hazard_of_a_claim_too() {
    for percent in 1..=100_u32 {
        let spec = format!("{{select: 0, mode: mps, mps: {{thread_percentage: {percent}}}}}");
        let found = exported(&snapshot("1xH200-141GB", &spec), Kind::ResourceClaim);
        let harm = matches!(percent, 1..=6 | 14..=22 | 28..=46 | 52..=89);
        match found {
            Ok(exported) => {
                assert!(!harm, "{percent}");
                claims(&exported.text);
            }
            Err(error) => {
                assert!(harm && error.code() == ErrorCode::Hazard, "{percent}: {error}");
                assert!(!error.safe().is_empty());
            }
        }
    }
    // Inside a MIG device of a Hopper card nobody knows.
    let spec = "{select: 0, mode: mig, mig: {instances: [{profile: 3g.40gb, mps: {thread_percentage: 25}}]}}";
    let error = exported(&snapshot("1xH100-80GB", spec), Kind::ResourceClaim).unwrap_err();
    assert!(error.message().starts_with("hopper-unmeasured"), "{error}");
}
