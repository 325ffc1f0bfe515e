//! CDI specifications, held against what container runtimes read (container-device-interface, SPEC.md and
//! the checks of its Go package). That a real one takes them is tested with Podman.

use std::collections::BTreeSet;

use gpushare_core::export::{Exported, Kind, LeaseHook, Options, export};
use gpushare_core::snapshot::DeviceNode;
use gpushare_core::{ErrorCode, LeaseRequest, Node, Snapshot};
use serde::Deserialize;

use crate::nodes::{HOSTILE, all, altered, device_nodes, node, snapshot};
use crate::yaml;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Specification {
    cdi_version: String,
    kind: String,
    container_edits: Edits,
    devices: Vec<Device>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Device {
    name: String,
    container_edits: Edits,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "camelCase")]
struct Edits {
    env: Vec<String>,
    device_nodes: Vec<NodeEdit>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct NodeEdit {
    path: String,
    #[serde(default)]
    host_path: Option<String>,
    #[serde(default)]
    r#type: Option<String>,
    #[serde(default)]
    major: Option<i64>,
    #[serde(default)]
    minor: Option<i64>,
    permissions: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Mount {
    host_path: String,
    container_path: String,
    options: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Hook {
    hook_name: String,
    path: String,
    args: Vec<String>,
    #[serde(default)]
    env: Vec<String>,
    timeout: u32,
}

impl Specification {
    /// The lowest version that has what stands here: `MinimumRequiredVersion` of the Go package.
    fn needs(&self) -> &'static str {
        let digit = |name: &str| name.starts_with(|c: char| c.is_ascii_digit());
        let edits = self.devices.iter().map(|device| &device.container_edits);
        let mut nodes = edits.chain([&self.container_edits]).flat_map(|edits| &edits.device_nodes);
        if self.kind.split_once('/').unwrap().1.contains('.') {
            "0.6.0"
        } else if nodes.any(|node| node.host_path.is_some())
            || self.devices.iter().any(|device| digit(&device.name))
        {
            "0.5.0"
        } else {
            "0.3.0"
        }
    }
}

fn good_name(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    ends(name.chars().next())
        && ends(name.chars().last())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// Reads one and holds it against every rule that the readers check.
#[track_caller]
fn checked(exported: &Exported) -> Specification {
    let text = &exported.text;
    assert!(text.ends_with('\n') && !text.chars().any(|c| c.is_control() && c != '\n'), "{text}");
    let specification: Specification = yaml::read(text);
    assert_eq!(specification.kind, "gpushare.dev/share");
    assert_eq!(specification.cdi_version, specification.needs(), "the lowest that suffices");
    let mut names = BTreeSet::new();
    for device in &specification.devices {
        assert!(good_name(&device.name), "{:?}", device.name);
        assert!(names.insert(&device.name), "{} twice", device.name);
        // One that edits nothing is refused.
        assert!(!device.container_edits.env.is_empty());
    }
    assert!(!names.is_empty());
    let edits = specification.devices.iter().map(|device| &device.container_edits);
    for edits in edits.chain([&specification.container_edits]) {
        for variable in &edits.env {
            assert!(variable.split_once('=').is_some_and(|(name, _)| !name.is_empty()));
        }
        for node in &edits.device_nodes {
            assert!(node.path.starts_with("/dev/"));
            let numbered = [node.r#type.is_some(), node.major.is_some(), node.minor.is_some()];
            assert!(numbered == [true; 3] || numbered == [false; 3], "{node:?}");
            assert!(node.r#type.as_deref().is_none_or(|kind| kind == "c"));
            assert_eq!(node.permissions, "rw", "nobody makes device nodes in there");
        }
        for mount in &edits.mounts {
            assert_eq!(mount.host_path, mount.container_path);
            for option in ["rbind", "nosuid", "nodev", "noexec"] {
                assert!(mount.options.iter().any(|there| there == option), "{mount:?}");
            }
            assert!(!mount.host_path.starts_with("/tmp/nvidia-mps"), "never the default one");
            // Who is root in there owns what is root's.
            let access = if mount.host_path == "/dev/shm" { "rw" } else { "ro" };
            assert_eq!(mount.options[0], access, "{mount:?}");
        }
        for hook in &edits.hooks {
            assert_eq!(hook.hook_name, "createRuntime");
            assert!(hook.path.starts_with('/') && hook.timeout > 0);
        }
    }
    specification
}

/// What a device's name gives a container, without what is every device's.
#[track_caller]
fn of<'s>(specification: &'s Specification, name: &str) -> &'s Edits {
    let device = specification.devices.iter().find(|device| device.name == name);
    &device.unwrap_or_else(|| panic!("no {name} in {specification:?}")).container_edits
}

fn options(snapshot: &Snapshot) -> Options {
    let mut options = Options::default();
    options.device_nodes = device_nodes(snapshot);
    options.driver_nodes = vec![DeviceNode::new("/dev/nvidiactl", 195, 255)];
    options
}

#[test]
fn every_share_of_every_node_is_a_device_or_left_out_aloud() {
    let mut clients = 0;
    for (name, snapshot) in all() {
        let exported = match export(&snapshot, Kind::Cdi, &options(&snapshot)) {
            Ok(exported) => exported,
            Err(error) => {
                // An empty list of devices is refused by the readers.
                assert_eq!(error.code(), ErrorCode::NotFound, "{name}: {error}");
                continue;
            }
        };
        let specification = checked(&exported);
        assert_eq!(specification.container_edits.env, ["NVIDIA_VISIBLE_DEVICES=void"]);
        for gpu in &snapshot.gpus {
            for share in &gpu.shares {
                let id = share.id.to_string();
                let Some(_) = specification.devices.iter().find(|device| device.name == id) else {
                    let said = exported.cannot_say.iter();
                    let mut said = said.filter(|text| text.contains("left out"));
                    let of = |text: &&String| {
                        text.contains(share.id.device()) || text.contains(gpu.uuid.as_str())
                    };
                    assert!(said.any(|text| of(&text)), "{name}: {id}: {:?}", exported.cannot_say);
                    continue;
                };
                let edits = of(&specification, &id);
                let device = gpu.mig_devices.iter().find(|d| d.uuid.as_str() == share.id.device());
                assert_eq!(edits.device_nodes.len(), if device.is_some() { 3 } else { 1 });
                let mut wanted = vec![
                    format!("CUDA_VISIBLE_DEVICES={}", share.id.device()),
                    format!("GPUSHARE_SHARES={id}"),
                ];
                let mps = device.map_or(gpu.mps.as_ref(), |device| device.mps.as_ref());
                let mut mounts = Vec::new();
                if let Some(mps) = mps {
                    let directory = mps.directory.as_ref().unwrap().to_str().unwrap();
                    wanted.push(format!("CUDA_MPS_PIPE_DIRECTORY={directory}"));
                    mounts.extend([directory, "/dev/shm"]);
                    clients += 1;
                }
                assert_eq!(edits.env, wanted, "{name}");
                let there: Vec<_> = edits.mounts.iter().map(|mount| &mount.host_path).collect();
                assert_eq!(there, mounts, "{name}");
                assert!(edits.hooks.is_empty());
            }
        }
        assert!(exported.cannot_say.iter().any(|text| text.contains("holds none")), "{name}");
    }
    assert!(clients > 10);
}

/// A lease and a specification of the same share say the same.
#[test]
fn a_container_gets_what_a_lease_gives() {
    let node = node(
        "4xH100-80GB",
        "{select: 0, mode: mps, mps: {max_clients: 2}}, {select: 1, mode: exclusive},
         {select: 2, mode: mig, mig: {instances: [{profile: 3g.40gb, mps: {max_clients: 2}}, {profile: 1g.10gb}]}},
         {select: 3, mode: time_sliced, time_sliced: {replicas: 2}}",
    );
    let exported = node.export(Kind::Cdi, &Options::default()).unwrap();
    let specification = checked(&exported);
    let snapshot = node.snapshot().unwrap();
    let shares: Vec<_> = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares).collect();
    assert_eq!(shares.len(), 2 + 1 + 3 + 2);
    for share in shares {
        let lease = node.lease(&LeaseRequest::share(share.id.clone())).unwrap();
        let edits = of(&specification, &share.id.to_string());
        let common = &specification.container_edits;
        let wanted: BTreeSet<_> = lease.grants()[0]
            .device_nodes
            .iter()
            .map(|node| (node.path.to_str().unwrap().to_owned(), node.major, node.minor))
            .collect();
        let number = |number: Option<i64>| number.map(|number| u32::try_from(number).unwrap());
        let nodes = common.device_nodes.iter().chain(&edits.device_nodes);
        let nodes = nodes.map(|node| (node.path.clone(), number(node.major), number(node.minor)));
        assert_eq!(nodes.collect::<BTreeSet<_>>(), wanted);
        let variables = lease.variables();
        let variables = variables.iter().filter(|(name, _)| *name != "GPUSHARE_LEASE");
        let variables: BTreeSet<_> =
            variables.map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(edits.env.iter().cloned().collect::<BTreeSet<_>>(), variables);
        lease.release().unwrap();
    }
    // The name for people leads to the same.
    let id = snapshot.gpus[3].shares[1].id.to_string();
    assert_eq!(of(&specification, &id).env, of(&specification, "gpu3-1").env);
    assert_eq!(of(&specification, "gpu2-mig0").env.len(), 2);
}

#[test]
fn the_rule_for_users_is_stated() {
    for (access, says) in [
        ("{user: 1000}", "runs as uid 1000,"),
        ("{user: alice}", "runs as user alice,"),
        ("{group: 44}", "runs as a user of group 44, one user for all containers at a time"),
        ("any", "runs as any user, one for all containers at a time"),
    ] {
        let node = snapshot(
            "1xA100-40GB",
            &format!("{{select: 0, mode: mps, mps: {{access: {access}}}}}"),
        );
        let text = export(&node, Kind::Cdi, &options(&node)).unwrap().text;
        assert!(text.contains(says) && text.contains("by the host's numbers"), "{text}");
    }
}

/// Before CUDA 13.3 daemon and clients share it.
#[test]
fn shared_memory_is_handed_in_where_the_driver_needs_it() {
    for (cuda, needs) in [("12.8", true), ("13.2", true), ("13.3", false), ("14.0", false)] {
        let mut node = snapshot("1xA100-40GB", "{select: 0, mode: mps, mps: {access: any}}");
        node.driver.cuda = Some(cuda.to_owned());
        let specification = checked(&export(&node, Kind::Cdi, &options(&node)).unwrap());
        let edits = &specification.devices[0].container_edits;
        assert_eq!(edits.mounts.iter().any(|mount| mount.host_path == "/dev/shm"), needs, "{cuda}");
    }
}

#[test]
fn nvidias_default_directory_is_never_handed_in() {
    let node = altered("1xA100-40GB", "{select: 0, mode: mps, mps: {access: any}}", |gpu| {
        gpu.mps.as_mut().unwrap().directory = Some("/tmp/nvidia-mps".into());
    });
    let error = export(&node, Kind::Cdi, &options(&node)).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    assert!(error.message().contains("/tmp/nvidia-mps"), "{error}");
}

/// A driver that was loaded since has other numbers: what is there goes by its path.
#[test]
fn nodes_that_are_there_go_by_path_and_missing_ones_by_number_or_not_at_all() {
    let mut node =
        snapshot("1xH100-80GB", "{select: 0, mode: mig, mig: {instances: {1g.10gb: 1}}}");
    node.simulated = false;
    let uuid = node.gpus[0].mig_devices[0].uuid.to_string();
    let mut all = options(&node);
    let edits = |options: &Options| {
        let exported = export(&node, Kind::Cdi, options).unwrap();
        assert!(!exported.text.contains("SIMULATED"));
        let specification = checked(&exported);
        let nodes = &of(&specification, &uuid).device_nodes;
        nodes.iter().map(|node| node.minor).collect::<Vec<_>>()
    };
    assert_eq!(edits(&all), [None, None, None]);
    all.device_nodes.get_mut(&uuid).unwrap()[2].missing = Some("nvidia-modprobe -f x".to_owned());
    assert_eq!(edits(&all), [None, None, Some(1)]);
    all.device_nodes.get_mut(&uuid).unwrap()[2].minor = None;
    let error = export(&node, Kind::Cdi, &all).unwrap_err();
    assert!(error.message().contains("nvidia-modprobe -f x"), "{error}");
    // Without the module of unified memory a container can still look.
    let mut all = options(&node);
    all.driver_nodes.push(DeviceNode::new("/dev/nvidia-uvm", 510, 0));
    all.driver_nodes[1].missing = Some("nvidia-modprobe -u".to_owned());
    all.driver_nodes[1].major = None;
    let exported = export(&node, Kind::Cdi, &all).unwrap();
    assert!(exported.cannot_say.iter().any(|text| text.contains("nvidia-modprobe -u")));
    assert_eq!(checked(&exported).container_edits.device_nodes.len(), 1);
    // Nor are they made up.
    let unknown = export(&node, Kind::Cdi, &Options::default()).unwrap_err();
    assert!(unknown.message().contains("not known"), "{unknown}");
}

#[test]
fn each_share_has_a_hook_of_its_own() {
    let node =
        snapshot("1xH100-80GB", "{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}");
    let mut options = options(&node);
    let hook = LeaseHook::new("/opt/a b/gpushare").argument("--state-dir").argument("/x y");
    options.lease_hook = Some(hook.variable("GPUSHARE_NVML_PATH", "/lib/libnvidia-ml.so.1"));
    let exported = export(&node, Kind::Cdi, &options).unwrap();
    assert!(!exported.cannot_say.iter().any(|text| text.contains("holds none")));
    let specification = checked(&exported);
    for share in &node.gpus[0].shares {
        let hooks = &of(&specification, &share.id.to_string()).hooks;
        assert_eq!(hooks.len(), 1);
        assert_eq!(hooks[0].path, "/opt/a b/gpushare");
        let own = format!("--share={}", share.id);
        let words = ["gpushare", "--state-dir", "/x y", "hold", &own, "--timeout=5", "--oci-hook"];
        assert_eq!(hooks[0].args, words);
        assert_eq!(
            hooks[0].env,
            ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GPUSHARE_NVML_PATH=/lib/libnvidia-ml.so.1"]
        );
    }
    for wrong in ["gpushare", "", "/a\nb", "/a\u{1b}[2J"] {
        options.lease_hook = Some(LeaseHook::new(wrong));
        let error = export(&node, Kind::Cdi, &options).unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument, "{wrong:?}");
    }
    // A node in memory is nobody else's.
    let memory = Node::builder().sim("1xT4").ignore_environment(true).open().unwrap();
    assert_eq!(memory.lease_hook("/gpushare").unwrap_err().code(), ErrorCode::Unsupported);
    let directory = tempfile::tempdir().unwrap();
    let builder = Node::builder().sim("1xT4").ignore_environment(true);
    let node = builder.state_dir(directory.path()).open().unwrap();
    let hook = node.lease_hook("/gpushare").unwrap();
    let json = serde_json::to_value(&hook).unwrap();
    let place = format!("GPUSHARE_STATE_DIR={}", directory.path().display());
    assert_eq!(json["environment"], serde_json::json!(["GPUSHARE_SIM=1xT4", place]));
}

/// Names come from anybody: a card's model, a directory, a user.
#[test]
fn hostile_names_stay_words() {
    for name in HOSTILE {
        let node = altered("1xA100-40GB", "{select: 0, mode: mps, mps: {access: any}}", |gpu| {
            gpu.model = name.to_owned();
            gpu.mps.as_mut().unwrap().directory = Some(format!("/run/{name}").into());
        });
        match export(&node, Kind::Cdi, &options(&node)) {
            Ok(exported) => {
                let specification = checked(&exported);
                let edits = &specification.devices[0].container_edits;
                assert_eq!(edits.mounts[0].host_path, format!("/run/{name}"));
            }
            Err(error) => {
                assert!(name.chars().any(char::is_control), "{name:?}: {error}");
                assert!(error.message().contains("not plain text"), "{error}");
            }
        }
    }
}
