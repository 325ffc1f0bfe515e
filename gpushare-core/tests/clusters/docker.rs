//! `docker run` and Compose.

use std::collections::BTreeMap;

use gpushare_core::export::{Exported, Kind, Options, export};
use gpushare_core::lease::LeaseRequest;
use gpushare_core::snapshot::MpsStatus;
use gpushare_core::{ErrorCode, Snapshot};
use serde::Deserialize;

use crate::nodes::{HOSTILE, all, node, snapshot};
use crate::{shell, yaml};

/// What a container would get, as far as it is of matter here.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Container {
    device: String,
    ipc_host: bool,
    user: Option<String>,
    groups: Vec<String>,
    /// Where from, and where to.
    mounts: Vec<(String, String)>,
    environment: BTreeMap<String, String>,
    image: String,
}

fn options(cdi: bool) -> Options {
    let mut options = Options::default();
    options.cdi = cdi;
    options
}

fn exported(snapshot: &Snapshot, kind: Kind, options: &Options) -> Exported {
    let exported = export(snapshot, kind, options).unwrap();
    assert!(exported.text.ends_with('\n'));
    let odd = |text: &String| text.chars().any(char::is_control);
    assert!(!exported.cannot_say.iter().any(odd), "{:?}", exported.cannot_say);
    assert!(!exported.text.chars().any(|c| c.is_control() && c != '\n'), "{}", exported.text);
    exported
}

/// The fields of a line of CSV, as Go's reader has them.
fn csv(line: &str) -> Vec<String> {
    let (mut fields, mut field, mut quoted) = (Vec::new(), String::new(), false);
    let mut characters = line.chars().peekable();
    while let Some(c) = characters.next() {
        match c {
            '"' if quoted && characters.peek() == Some(&'"') => {
                characters.next();
                field.push('"');
            }
            '"' if quoted => quoted = false,
            '"' if field.is_empty() => quoted = true,
            '"' => panic!("a bare quote in {line:?}"),
            ',' if !quoted => fields.push(std::mem::take(&mut field)),
            c => field.push(c),
        }
    }
    assert!(!quoted, "{line:?}");
    fields.push(field);
    fields
}

fn pair(text: &str) -> (String, String) {
    let (name, value) = text.split_once('=').unwrap();
    (name.to_owned(), value.to_owned())
}

/// The containers of command lines. `docker run` has options, then an image, then what it runs.
fn of_lines(text: &str, cdi: bool) -> Vec<Container> {
    let commands = shell::commands(text, &["docker"]);
    assert_eq!(
        commands.len(),
        text.lines().filter(|line| !line.starts_with('#')).count(),
        "{text}"
    );
    let container = |words: Vec<String>| {
        let mut found = Container::default();
        let mut words = words.into_iter();
        assert_eq!([(); 3].map(|()| words.next().unwrap()), ["docker", "run", "--rm"]);
        while let Some(word) = words.next() {
            let mut value = || words.next().unwrap();
            match word.as_str() {
                "--gpus" => {
                    assert!(!cdi);
                    let fields = csv(&value());
                    let [field] = fields.as_slice() else { panic!("{fields:?}") };
                    field.strip_prefix("device=").unwrap().clone_into(&mut found.device);
                }
                "--device" => {
                    assert!(cdi);
                    value().strip_prefix("nvidia.com/gpu=").unwrap().clone_into(&mut found.device);
                }
                "--ipc=host" => found.ipc_host = true,
                "--user" => found.user = Some(value()),
                "--group-add" => found.groups.push(value()),
                "-e" => found.environment.extend([pair(&value())]),
                "--mount" => {
                    let fields: BTreeMap<_, _> = csv(&value())
                        .iter()
                        .map(|f| f.split_once("=").unwrap_or((f, "")))
                        .map(|(k, v)| (k.to_owned(), v.to_owned()))
                        .collect();
                    assert_eq!(
                        fields.keys().collect::<Vec<_>>(),
                        ["readonly", "source", "target", "type"]
                    );
                    assert_eq!(fields["type"], "bind");
                    found.mounts.push((fields["source"].clone(), fields["target"].clone()));
                }
                image => {
                    assert!(!image.starts_with('-'), "{image}");
                    image.clone_into(&mut found.image);
                    assert_eq!(words.next(), None, "after the image");
                }
            }
        }
        found
    };
    commands.into_iter().map(container).collect()
}

/// What the Compose specification (compose-spec, schema/compose-spec.json) has of what is used here.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    services: BTreeMap<String, Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    image: String,
    #[serde(default)]
    deploy: Option<Deploy>,
    #[serde(default)]
    devices: Vec<String>,
    #[serde(default)]
    ipc: Option<String>,
    #[serde(default)]
    user: Option<String>,
    #[serde(default)]
    group_add: Vec<String>,
    #[serde(default)]
    environment: BTreeMap<String, String>,
    #[serde(default)]
    volumes: Vec<Volume>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Deploy {
    resources: Resources,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Resources {
    reservations: Reservations,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Reservations {
    devices: [Device; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Device {
    driver: String,
    device_ids: [String; 1],
    /// Required, and one of those that Docker knows.
    capabilities: [String; 1],
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Volume {
    r#type: String,
    source: String,
    target: String,
    read_only: bool,
    bind: Bind,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bind {
    create_host_path: bool,
}

/// What Compose makes of a value: `$$` is a dollar, `${NAME:?message}` what the environment has.
fn interpolated(text: &str) -> String {
    let Some((before, rest)) = text.split_once('$') else { return text.to_owned() };
    if let Some(rest) = rest.strip_prefix('$') {
        return format!("{before}${}", interpolated(rest));
    }
    let (name, rest) = rest.strip_prefix('{').unwrap().split_once('}').unwrap();
    let (name, message) = name.split_once(":?").unwrap();
    assert!(!message.is_empty() && !message.contains('$'));
    let value = match name {
        "CLIENT_UID" => "1234",
        "CLIENT_GID" => "77",
        other => panic!("{other} is asked of the environment"),
    };
    format!("{before}{value}{}", interpolated(rest))
}

fn of_file(text: &str, cdi: bool) -> Vec<Container> {
    let file: File = yaml::read(text);
    let container = |(name, service): (String, Service)| {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b)), "{name}");
        let device = match (&service.deploy, service.devices.as_slice()) {
            (Some(deploy), []) => {
                let [device] = &deploy.resources.reservations.devices;
                assert!(!cdi && device.driver == "nvidia" && device.capabilities == ["gpu"]);
                device.device_ids[0].clone()
            }
            (None, [device]) if cdi => device.strip_prefix("nvidia.com/gpu=").unwrap().to_owned(),
            _ => panic!("{name} has no device, or two"),
        };
        assert!(service.ipc.as_ref().is_none_or(|ipc| ipc == "host"));
        let mounts = service.volumes.iter().map(|volume| {
            assert!(volume.r#type == "bind" && !volume.bind.create_host_path);
            assert!(volume.read_only);
            (interpolated(&volume.source), interpolated(&volume.target))
        });
        let environment = service.environment.iter();
        Container {
            device: interpolated(&device),
            ipc_host: service.ipc.is_some(),
            user: service.user.as_deref().map(interpolated),
            groups: service.group_add.iter().map(|group| interpolated(group)).collect(),
            mounts: mounts.collect(),
            environment: environment.map(|(n, v)| (n.clone(), interpolated(v))).collect(),
            image: interpolated(&service.image),
        }
    };
    file.services.into_iter().map(container).collect()
}

/// The daemon of each device that has one.
fn daemons(snapshot: &Snapshot) -> BTreeMap<String, &MpsStatus> {
    let mut daemons = BTreeMap::new();
    for gpu in &snapshot.gpus {
        daemons.extend(gpu.mps.as_ref().map(|mps| (gpu.uuid.to_string(), mps)));
        for device in &gpu.mig_devices {
            daemons.extend(device.mps.as_ref().map(|mps| (device.uuid.to_string(), mps)));
        }
    }
    daemons
}

#[test]
fn every_share_of_every_node_has_its_container() {
    let mut seen = 0;
    for (name, snapshot) in all() {
        let daemons = daemons(&snapshot);
        // Whom nobody can tell where to go is left out, aloud.
        let usable = |device: &str| {
            daemons.get(device).is_none_or(|mps| {
                let directory = mps.directory.as_ref().and_then(|path| path.to_str());
                mps.alive && directory.is_some_and(|text| !text.chars().any(char::is_control))
            })
        };
        let shares = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares);
        let mut wanted: Vec<_> =
            shares.map(|share| share.id.device()).filter(|device| usable(device)).collect();
        wanted.sort_unstable();
        for cdi in [false, true] {
            let lines = exported(&snapshot, Kind::DockerRun, &options(cdi));
            let file = exported(&snapshot, Kind::Compose, &options(cdi));
            let mut containers = of_lines(&lines.text, cdi);
            let mut services = of_file(&file.text, cdi);
            containers.sort();
            services.sort();
            assert_eq!(containers, services, "{name}");
            assert_eq!(lines.cannot_say, file.cannot_say, "{name}");
            let devices: Vec<_> = containers.iter().map(|c| c.device.as_str()).collect();
            assert_eq!(devices, wanted, "{name}");
            for container in &containers {
                let daemon = daemons.get(&container.device);
                assert_eq!(container.user.is_some(), daemon.is_some(), "{name}");
                assert_eq!(container.ipc_host, daemon.is_some(), "{name}: this driver's needs it");
                assert_eq!(container.image, "IMAGE");
                let Some(daemon) = daemon else {
                    assert!(container.mounts.is_empty() && container.environment.is_empty());
                    continue;
                };
                let directory = daemon.directory.as_ref().unwrap().to_str().unwrap();
                assert_ne!(directory, "/tmp/nvidia-mps");
                let both = (directory.to_owned(), directory.to_owned());
                assert_eq!(container.mounts, [both], "{name}");
                assert_eq!(container.environment["CUDA_MPS_PIPE_DIRECTORY"], directory);
                assert_eq!(container.environment["CUDA_VISIBLE_DEVICES"], container.device);
                seen += 1;
            }
        }
        // Whatever has no container is spoken of.
        let said = exported(&snapshot, Kind::DockerRun, &options(false)).cannot_say.join("\n");
        for gpu in &snapshot.gpus {
            let has = gpu.shares.iter().any(|share| usable(share.id.device()));
            assert!(has || said.contains(gpu.uuid.as_str()), "{name}: {} {said}", gpu.uuid);
        }
    }
    assert!(seen > 100, "{seen} clients");
}

#[test]
fn a_client_is_one_whom_its_daemon_lets_in() {
    for (access, user, groups) in [
        ("{user: '1001'}", "1001:65534", &[][..]),
        ("{user: '0'}", "0:0", &[]),
        ("{user: alice}", "1234:65534", &[]),
        ("{group: '77'}", "1234:65534", &["77"]),
        ("{group: ml}", "1234:65534", &["77"]),
        ("any", "1234:65534", &[]),
    ] {
        let spec = format!("{{select: 0, mode: mps, mps: {{max_clients: 1, access: {access}}}}}");
        let snapshot = snapshot("1xH100-80GB", &spec);
        let lines = exported(&snapshot, Kind::DockerRun, &options(false)).text;
        let file = exported(&snapshot, Kind::Compose, &options(false)).text;
        for containers in [of_lines(&lines, false), of_file(&file, false)] {
            assert_eq!(containers[0].user.as_deref(), Some(user), "{access}");
            assert_eq!(containers[0].groups, groups, "{access}");
        }
    }
    // The caller, who is known by number or not at all.
    let mut snapshot = snapshot("1xH100-80GB", "{select: 0, mode: mps, mps: {max_clients: 1}}");
    let config = snapshot.gpus[0].mps.as_mut().unwrap().config.as_mut().unwrap();
    config.access = gpushare_core::parameters::Access::Caller;
    snapshot.caller_uid = Some(1000);
    let text = exported(&snapshot, Kind::DockerRun, &options(false)).text;
    assert_eq!(of_lines(&text, false)[0].user.as_deref(), Some("1000:65534"));
    snapshot.caller_uid = None;
    let unknown = exported(&snapshot, Kind::DockerRun, &options(false));
    assert!(of_lines(&unknown.text, false).is_empty());
    assert!(unknown.cannot_say[0].contains("whom its MPS daemon lets in"), "{unknown:?}");
}

#[test]
fn only_drivers_that_need_it_share_the_hosts_ipc() {
    let mut snapshot = snapshot("1xH100-80GB", "{select: 0, mode: mps, mps: {max_clients: 1}}");
    for (cuda, shared) in [(None, true), (Some("13.2"), true), (Some("13.3"), false)] {
        snapshot.driver.cuda = cuda.map(str::to_owned);
        for (kind, word) in [(Kind::DockerRun, "--ipc=host"), (Kind::Compose, "  ipc: host")] {
            let text = exported(&snapshot, kind, &options(false)).text;
            assert_eq!(text.contains(word), shared, "{cuda:?}");
            assert_eq!(text.contains("share /dev/shm"), shared, "why is said: {cuda:?}");
        }
    }
}

/// A tenant without a lease has the same variables as one with a lease, but for the lease's own.
#[test]
fn a_container_has_the_variables_of_a_lease() {
    let node = node(
        "2xH100-80GB",
        "{select: 0, mode: mps, mps: {thread_percentage: 25, pinned_memory_limit: 4GiB, max_clients: 2}},
         {select: 1, mode: mig, mig: {instances: [{profile: 3g.40gb, mps: {max_clients: 1}}]}}",
    );
    let text = node.export(Kind::DockerRun, &options(false)).unwrap().text;
    let containers = of_lines(&text, false);
    assert_eq!(containers.len(), 3);
    let snapshot = node.snapshot().unwrap();
    for share in snapshot.gpus.iter().flat_map(|gpu| &gpu.shares) {
        let lease = node.lease(&LeaseRequest::share(share.id.clone())).unwrap();
        let mut variables = lease.variables().clone();
        variables.retain(|name, _| !name.starts_with("GPUSHARE_"));
        let own = |container: &&Container| container.device == share.id.device();
        assert!(containers.iter().filter(own).all(|c| c.environment == variables), "{text}");
        assert!(containers.iter().any(|container| own(&container)));
    }
}

#[test]
fn an_image_is_a_name_and_nothing_else() {
    let snapshot = snapshot("1xT4", "");
    let mut options = Options::default();
    for image in ["ubuntu", "registry.example:5000/a_b/c-d:1.0-rc.1", "a@sha256:0123abcd"] {
        options.image = Some(image.to_owned());
        let lines = exported(&snapshot, Kind::DockerRun, &options).text;
        assert_eq!(of_lines(&lines, false)[0].image, image);
        assert_eq!(
            of_file(&exported(&snapshot, Kind::Compose, &options).text, false)[0].image,
            image
        );
    }
    for image in
        ["", "-v/:/host", "--privileged", "a b", "a;b", "$(id)", "ü"].iter().chain(&HOSTILE)
    {
        options.image = Some((*image).to_owned());
        for kind in [Kind::DockerRun, Kind::Compose] {
            let error = export(&snapshot, kind, &options).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument, "{image}");
        }
    }
}

#[test]
fn how_a_container_gets_a_lease_is_said() {
    let snapshot = snapshot("1xH100-80GB", "{select: 0, mode: time_sliced}");
    let share = &snapshot.gpus[0].shares[0].id;
    let command = format!(
        "#   gpushare lease --share {share} --pid \"$(docker inspect --format '{{{{.State.Pid}}}}' CONTAINER)\""
    );
    for kind in [Kind::DockerRun, Kind::Compose] {
        let text = exported(&snapshot, kind, &options(false)).text;
        assert!(text.lines().any(|line| line == command), "{text}");
    }
}
