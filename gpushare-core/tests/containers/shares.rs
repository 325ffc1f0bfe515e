//! What a container of each kind of share finds: what a lease of that share gives.

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags, mknodat, setxattr};
use serde_json::json;

use crate::node::{Node, device};
use crate::place::Answer;

/// Each share of a node that is shared so, by its id and by that name.
#[track_caller]
fn expect_all(node: &Node, gpu: &str, names: &[&str], clients: usize) {
    node.apply(gpu);
    let shares = node.shares();
    assert_eq!(shares.len(), names.len(), "{shares:?}");
    let mut with_daemon = 0;
    for (share, name) in shares.iter().zip(names) {
        let promise = node.promise(share);
        assert_eq!(&promise.variables["GPUSHARE_SHARES"], share);
        if let Some(directory) = &promise.pipe_directory {
            node.pipe_directory(directory);
            with_daemon += 1;
        }
        node.expect(share, &promise);
        node.expect(name, &promise);
    }
    assert_eq!(with_daemon, clients);
}

#[test]
fn a_container_has_what_a_lease_of_its_share_of_a_gpu_gives() {
    let Some(node) = Node::new("shares of GPUs", "1xH100-80GB") else { return };
    let slices = "{select: 0, mode: time_sliced, time_sliced: {replicas: 2}}";
    expect_all(&node, slices, &["gpu0-0", "gpu0-1"], 0);
    let clients = "{select: 0, mode: mps, mps: {max_clients: 2, thread_percentage: 50}}";
    expect_all(&node, clients, &["gpu0-0", "gpu0-1"], 2);
    expect_all(&node, "{select: 0, mode: mps, mps: {max_clients: 1}}", &["gpu0"], 1);
    expect_all(&node, "{select: 0, mode: exclusive}", &["gpu0"], 0);
}

#[test]
fn a_container_has_what_a_lease_of_its_share_of_a_mig_device_gives() {
    let Some(node) = Node::new("shares of MIG devices", "1xA100-40GB") else { return };
    let instances = "{select: 0, mode: mig, mig: {instances: [
        {profile: 3g.20gb, mps: {max_clients: 2}},
        {profile: 2g.10gb, time_sliced: {replicas: 2}},
        {profile: 1g.5gb}, {profile: 1g.5gb, mps: {max_clients: 1}}]}}";
    // By where they are on the GPU.
    let names =
        ["gpu0-mig0-0", "gpu0-mig0-1", "gpu0-mig1", "gpu0-mig2", "gpu0-mig3-0", "gpu0-mig3-1"];
    expect_all(&node, instances, &names, 3);
}

#[test]
fn a_container_may_open_its_own_gpu_and_no_other() {
    let Some(node) = Node::new("the rights to a share", "2xH100-80GB") else { return };
    node.apply("{select: 1, mode: exclusive}");
    // Nobody has a share of a GPU that was not named.
    let none = node.runtime.run(&[&device("gpu0")], "true");
    assert!(none.stderr.contains("unresolvable"), "{none:?}");
    // A simulated node's GPUs have other minor numbers than indices.
    let script = "ls -d /dev/nvidia?; for node in /dev/nvidia*; do (: <>$node) 2>&1; done
        for n in 0 1; do mknod /tmp/n$n c 195 $n; (: <>/tmp/n$n) 2>&1; done; true";
    let told = node.runtime.run(&[&device("gpu1")], script).expect(0).stdout;
    assert!(told.starts_with("/dev/nvidia0\n") && !told.contains("/dev/nvidia1"), "{told}");
    let denied: Vec<&str> =
        told.lines().filter(|line| line.contains("Operation not permitted")).collect();
    assert!(denied.len() == 1 && denied[0].contains("/tmp/n1"), "{told}");
}

#[test]
fn containers_follow_the_mig_devices() {
    let Some(node) = Node::new("changes of MIG devices", "1xH100-80GB") else { return };
    node.apply("{select: 0, mode: mig, mig: {instances: {3g.40gb: 1, 1g.10gb: 1}}}");
    let before = node.shares();
    let script = "echo $CUDA_VISIBLE_DEVICES";
    for share in &before {
        let told = node.runtime.run(&[&device(share)], script).expect(0).stdout;
        assert_eq!(told.trim(), share);
    }
    node.wait_until_free();
    // Nobody asks for specifications here.
    node.place.done(&["mig", "destroy", &before[0]]);
    let created = node.place.done(&["mig", "create", "2g.20gb"]);
    assert!(created.stdout.contains("Wrote 1 CDI specification"), "{created:?}");
    let after = node.shares();
    assert!(after.contains(&before[1]) && after.len() == 2, "{after:?}");
    let gone = node.runtime.run(&[&device(&before[0])], script);
    assert!(gone.status != 0 && gone.stderr.contains("unresolvable"), "{gone:?}");
    assert_eq!(gone.stdout, "");
    for (number, share) in after.iter().enumerate() {
        node.expect(share, &node.promise(share));
        let named = device(&format!("gpu0-mig{number}"));
        let told = node.runtime.run(&[&named], script).expect(0).stdout;
        assert_eq!(told.trim(), share);
        node.wait_until_free();
    }
    // Without MIG no MIG device, and without specifications nothing.
    node.place.done(&["mig", "disable"]);
    for share in &after {
        assert!(node.runtime.run(&[&device(share)], script).stderr.contains("unresolvable"));
    }
    node.runtime.run(&[&device("gpu0")], "true").expect(0);
    node.wait_until_free();
    node.place.done(&["exclusive", "--no-cdi"]);
    assert!(node.runtime.run(&[&device("gpu0")], script).stderr.contains("unresolvable"));
}

/// That user may enter a directory, and its owner alone beside: as gpushare leaves those of its daemons.
fn let_in(directory: &Path, uid: u32) {
    fs::set_permissions(directory, fs::Permissions::from_mode(0o700)).unwrap();
    let entry = |tag: u16, rights: u16, id: u32| {
        [&tag.to_le_bytes()[..], &rights.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let (owner, user, group, mask, others) = (1, 2, 4, 0x10, 0x20);
    let list = [
        2_u32.to_le_bytes().to_vec(),
        entry(owner, 7, u32::MAX),
        entry(user, 5, uid),
        entry(group, 0, u32::MAX),
        entry(mask, 5, u32::MAX),
        entry(others, 0, u32::MAX),
    ];
    setxattr(directory, c"system.posix_acl_access", &list.concat(), XattrFlags::empty()).unwrap();
}

#[test]
fn a_container_reaches_the_daemon_as_the_user_whom_it_lets_in() {
    let Some(node) = Node::new("users of MPS", "1xH100-80GB") else { return };
    let user = ["mps", "enable", "--user=1000", "--max-clients=2", "--thread-percentage=50"];
    node.change(&user);
    let told = node.files().into_values().collect::<String>();
    assert!(told.contains("# gpu0-0 to gpu0-1: the container runs as uid 1000, by the host's"));
    let share = &node.shares()[1];
    let directory = node.pipe_directory(&node.promise(share).pipe_directory.unwrap());
    let_in(&directory, 1000);
    // The daemon's end, open before there is a client.
    let pipe = directory.join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
    fs::set_permissions(&pipe, fs::Permissions::from_mode(0o666)).unwrap();
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let mut daemon: fs::File = rustix::fs::open(&pipe, flags, Mode::empty()).unwrap().into();
    let script = "id -u; cd $CUDA_MPS_PIPE_DIRECTORY && cat control && echo client >pipe &&
        echo of the client >/dev/shm/client; (: <>/dev/nvidia0) 2>&1";
    let run = |user: &str| {
        let device = device("gpu0-1");
        let answer = node.runtime.command(&["--user", user], &[&device], script).output().unwrap();
        node.wait_until_free();
        Answer::of(answer)
    };
    let client = run("1000");
    let name = &share[..share.find("::").unwrap()];
    assert!(client.stdout.starts_with("1000\n/run/gpushare/simulated/mps/"), "{client:?}");
    assert!(client.stdout.contains(name) && !client.stdout.contains("denied"), "{client:?}");
    assert!(!client.stdout.contains("not permitted"), "{client:?}");
    let mut said = [0; 64];
    let length = daemon.read(&mut said).unwrap();
    assert_eq!(&said[..length], b"client\n");
    let left = fs::read_to_string(node.there(Path::new("/dev/shm/client"))).unwrap();
    assert_eq!(left, "of the client\n");
    let other = run("1001");
    assert!(other.stderr.contains("Permission denied"), "{other:?}");
    assert!(daemon.read(&mut said).is_err(), "another user has reached the daemon");
}

#[test]
fn the_drivers_libraries_come_with_nvidias_own_kind() {
    let Some(node) = Node::new("shares beside NVIDIA's kind", "2xH100-80GB") else { return };
    node.apply("{select: 1, mode: time_sliced, time_sliced: {replicas: 2}}");
    let libraries = node.runtime.path().join("libraries");
    fs::create_dir(&libraries).unwrap();
    fs::write(libraries.join("libcuda.so.1"), "a library").unwrap();
    let mount = json!({"hostPath": libraries.join("libcuda.so.1"),
        "containerPath": "/usr/lib/libcuda.so.1", "options": ["ro", "nosuid", "nodev", "bind"]});
    let link = json!({"hookName": "createContainer", "path": "/bin/true", "args": ["true"]});
    let numbers = |path: &str, major: u32, minor: u32| json!({"path": path, "type": "c", "major": major, "minor": minor});
    // As nvidia-ctk writes it: with nodes that a share has too.
    let document = json!({
        "cdiVersion": "0.5.0",
        "kind": "nvidia.com/gpu",
        "containerEdits": {
            "env": ["NVIDIA_VISIBLE_DEVICES=void"],
            "deviceNodes": [numbers("/dev/nvidiactl", 195, 255), numbers("/dev/nvidia-modeset", 195, 254)],
            "mounts": [mount],
            "hooks": [link],
        },
        "devices": [{"name": "GPU", "containerEdits": {"deviceNodes": [numbers("/dev/nvidia0", 195, 0)]}}],
    });
    fs::write(node.runtime.static_cdi().join("nvidia.json"), document.to_string()).unwrap();
    let share = node.shares().into_iter().find(|share| share.ends_with("::1")).unwrap();
    let mine = device("gpu1-1");
    let alone = node.runtime.brings(&[&mine]);
    node.wait_until_free();
    for devices in [[&*mine, "nvidia.com/gpu=GPU"], ["nvidia.com/gpu=GPU", &mine]] {
        let both = node.runtime.brings(&devices);
        assert_eq!(both.variables, alone.variables);
        assert_eq!(both.variables["GPUSHARE_SHARES"], share);
        let (more, missing) = both.beyond(&alone);
        assert!(missing.is_empty(), "{missing:?}");
        assert_eq!(more.nodes.keys().collect::<Vec<_>>(), ["/dev/nvidia-modeset"]);
        assert_eq!(more.mounts.keys().collect::<Vec<_>>(), ["/usr/lib/libcuda.so.1"]);
        node.wait_until_free();
        // Its hook and ours, and the lease is taken.
        let name = "both";
        node.runtime.start_named(name, &devices, "sleep 300").expect(0);
        assert_eq!(node.leased(), [(share.clone(), node.first_process(name))].into());
        node.runtime.end(name);
        node.wait_until_free();
    }
}
