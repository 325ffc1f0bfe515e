//! What the engine itself makes of CDI files, by files written by hand: what the other tests rest on.

use std::collections::BTreeMap;
use std::fs;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::podman::Runtime;
use crate::seen::Seen;

const X: &str = "gpushare.dev/share=X";

#[test]
fn a_device_brings_its_variables_nodes_and_mounts_and_nothing_else() {
    let Some(runtime) = Runtime::new("what a device brings") else { return };
    let shared = runtime.path().join("shared");
    fs::create_dir(&shared).unwrap();
    fs::write(shared.join("file"), "of the host").unwrap();
    let written = format!(
        "cdiVersion: 0.5.0
kind: gpushare.dev/share
containerEdits:
  env: [OF_ALL=1]
devices:
- name: X
  containerEdits:
    env: ['CUDA_VISIBLE_DEVICES=GPU-1', 'WORDS=two words=1', 'EMPTY=']
    deviceNodes:
    - {{path: /dev/nvidia7, type: c, major: 195, minor: 7}}
    - {{path: /dev/nvidia-caps/nvidia-cap30, type: c, major: 250, minor: 30, fileMode: 292, uid: 3, gid: 4}}
    mounts:
    - {{hostPath: {0}, containerPath: /mnt/shared, options: [ro, nosuid, nodev, bind]}}
    - {{hostPath: {0}/file, containerPath: /run/file, options: [rw, bind]}}
- name: B
  containerEdits:
    env: [CUDA_VISIBLE_DEVICES=GPU-2]
",
        shared.display()
    );
    fs::write(runtime.cdi().join("gpushare.dev-share_X.yaml"), written).unwrap();
    // No such node is on the host: the file alone says which device it is.
    let seen = runtime.brings(&[X]);
    let variables = [
        ("OF_ALL", "1"),
        ("CUDA_VISIBLE_DEVICES", "GPU-1"),
        ("WORDS", "two words=1"),
        ("EMPTY", ""),
    ];
    assert_eq!(seen.variables, owned(&variables));
    let nodes = [
        ("/dev/nvidia7", "c 195:7 666 0:0"),
        ("/dev/nvidia-caps/nvidia-cap30", "c 250:30 444 3:4"),
    ];
    assert_eq!(seen.nodes, owned(&nodes));
    assert_eq!(seen.mounts.keys().collect::<Vec<_>>(), ["/mnt/shared", "/run/file"]);
    let mounts = [&seen.mounts["/mnt/shared"], &seen.mounts["/run/file"]];
    assert!(mounts[0].is(&shared) && mounts[1].is(&shared.join("file")), "{seen:?}");
    let options = mounts[0].options.split(',').collect::<Vec<_>>();
    assert!(["nodev", "nosuid", "ro"].iter().all(|option| options.contains(option)), "{seen:?}");
    assert!(mounts[1].options.split(',').any(|option| option == "rw"), "{seen:?}");
    let write =
        "echo of the container >/run/file; touch /mnt/shared/new 2>&1; cat /mnt/shared/file";
    let told = "touch: /mnt/shared/new: Read-only file system\nof the container\n";
    assert_eq!(runtime.run(&[X], write).expect(0).stdout, told);
    assert_eq!(fs::read_dir(&shared).unwrap().count(), 1);

    let both = runtime.brings(&[X, "gpushare.dev/share=B"]);
    assert_eq!(both.variables["CUDA_VISIBLE_DEVICES"], "GPU-2", "the last one wins");
    let other = runtime.brings(&["gpushare.dev/share=B"]);
    let variables = owned(&[("OF_ALL", "1"), ("CUDA_VISIBLE_DEVICES", "GPU-2")]);
    assert_eq!(other, Seen { variables, ..Seen::default() });
}

fn owned(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn a_node_may_be_opened_as_its_permissions_say() {
    let Some(runtime) = Runtime::new("the rights to devices") else { return };
    let node = |minor: u32| json!({"path": format!("/dev/n{minor}"), "type": "c", "major": 195, "minor": minor});
    let mut reads = node(241);
    reads["permissions"] = json!("r");
    runtime.device("0.3.0", "X", &json!({"deviceNodes": [node(240), reads]}));
    let open =
        "for n in 240 241; do for how in '<' '>'; do sh -c \": $how/dev/n$n\" 2>&1; done; done;
        mknod /tmp/n242 c 195 242; sh -c ': </tmp/n242' 2>&1; rm /tmp/n242";
    let lines = runtime.run(&[X], open).expect(0).stdout;
    let told: Vec<&str> = lines.lines().map(|line| line.rsplit(": ").next().unwrap()).collect();
    // Whoever may open it finds that it has no driver here.
    let (may, denied) = ("No such device or address", "Operation not permitted");
    assert_eq!(told, [may, may, may, denied, denied], "{lines}");
}

#[test]
fn a_node_by_its_path_alone_is_the_machines_own_at_each_start() {
    let Some(runtime) = Runtime::new("nodes by path") else { return };
    let node = runtime.root().join("run/nvidia0");
    runtime.device(
        "0.3.0",
        "X",
        &json!({"deviceNodes": [{"path": "/run/nvidia0", "permissions": "rw"}]}),
    );
    let script = "stat -c '%F %t %T %a' /run/nvidia0; (: <>/run/nvidia0) 2>&1; true";
    for minor in [240, 241] {
        let device = rustix::fs::makedev(195, minor);
        mknodat(CWD, &node, FileType::CharacterDevice, Mode::from_raw_mode(0o666), device).unwrap();
        let told = runtime.run(&[X], script).expect(0).stdout;
        assert!(told.starts_with(&format!("character special file c3 {minor:x} 666\n")), "{told}");
        assert!(told.ends_with("No such device or address\n"), "{told}");
        fs::remove_file(&node).unwrap();
    }
    let gone = runtime.run(&[X], "echo started");
    assert!(gone.status != 0 && gone.stdout.is_empty(), "{gone:?}");
    assert!(gone.stderr.contains("/run/nvidia0"), "{gone:?}");
}

#[test]
fn a_device_that_nobody_knows_starts_no_container() {
    let Some(runtime) = Runtime::new("unknown devices") else { return };
    let flag = runtime.path().join("flag");
    fs::write(&flag, "").unwrap();
    let mount = json!({"hostPath": flag, "containerPath": "/run/flag", "options": ["rw", "bind"]});
    runtime.device("0.5.0", "X", &json!({"env": ["A=1"], "mounts": [mount]}));
    for devices in
        [&["gpushare.dev/share=B"][..], &["gpushare.dev/other=X"], &[X, "gpushare.dev/share=B"]]
    {
        let answer = runtime.run(devices, "echo started; echo started >/run/flag");
        assert_ne!(answer.status, 0, "{answer:?}");
        assert!(answer.stderr.contains("unresolvable CDI devices"), "{answer:?}");
        assert_eq!(answer.stdout, "");
        assert_eq!(fs::read_to_string(&flag).unwrap(), "");
        assert_eq!(runtime.containers(), [""; 0]);
    }
    // So does one that is there no more, and it is read again each time.
    let file = runtime.cdi().join("gpushare.dev-share_X.json");
    runtime.run(&[X], "true").expect(0);
    fs::remove_file(file).unwrap();
    assert!(runtime.run(&[X], "true").stderr.contains("unresolvable"));
}

#[test]
fn the_same_device_in_two_files_is_none_and_the_transient_directory_wins() {
    let Some(runtime) = Runtime::new("two files of one device") else { return };
    let edits = |value: &str| json!({"env": [format!("FROM={value}")]});
    let file = |name: &str| runtime.cdi().join(format!("gpushare.dev-share_{name}.json"));
    runtime.device("0.5.0", "X", &edits("static"));
    fs::rename(file("X"), runtime.static_cdi().join("x.json")).unwrap();
    assert_eq!(runtime.brings(&[X]).variables["FROM"], "static");
    runtime.device("0.5.0", "X", &edits("transient"));
    assert_eq!(runtime.brings(&[X]).variables["FROM"], "transient");
    // A file whose name ends otherwise is not read: it may be written there and renamed.
    fs::copy(file("X"), runtime.cdi().join(".X.json.tmp")).unwrap();
    assert_eq!(runtime.brings(&[X]).variables["FROM"], "transient");
    fs::copy(file("X"), runtime.cdi().join("second.json")).unwrap();
    assert!(runtime.run(&[X], "true").stderr.contains("unresolvable"));
}

#[test]
fn a_name_that_yaml_reads_as_yes_or_no_is_found_where_it_is_quoted() {
    let Some(runtime) = Runtime::new("names of devices") else { return };
    for name in ["Y", "no", "off"] {
        let device = format!("gpushare.dev/share={name}");
        for (written, found) in [(name.to_owned(), false), (format!("'{name}'"), true)] {
            let text = format!(
                "cdiVersion: 0.5.0\nkind: gpushare.dev/share\ndevices:\n\
                 - name: {written}\n  containerEdits: {{env: [A=1]}}\n"
            );
            fs::write(runtime.cdi().join("share.yaml"), text).unwrap();
            let answer = runtime.run(&[&device], "test $A = 1");
            assert_eq!(answer.status == 0, found, "{written}: {answer:?}");
        }
    }
}

#[test]
fn podman_4_takes_versions_up_to_0_5_0() {
    let Some(runtime) = Runtime::new("versions of CDI") else { return };
    for (version, taken) in
        [("0.3.0", true), ("0.4.0", true), ("0.5.0", true), ("0.6.0", false), ("1.0.0", false)]
    {
        runtime.device(version, "X", &json!({"env": ["A=1"]}));
        let answer = runtime.run(&[X], "true");
        assert_eq!(answer.status == 0, taken, "{version}: {answer:?}");
    }
}

#[test]
fn one_file_that_cannot_be_read_leaves_the_others() {
    let Some(runtime) = Runtime::new("broken files") else { return };
    runtime.device("0.5.0", "X", &json!({"env": ["A=1"]}));
    fs::write(runtime.cdi().join("broken.yaml"), "cdiVersion: [").unwrap();
    runtime.run(&[X], "test $A = 1").expect(0);
}

#[test]
fn a_mount_on_dev_shm_takes_the_place_of_the_engines_own() {
    let Some(runtime) = Runtime::new("the host's /dev/shm") else { return };
    let mount = json!({"hostPath": "/dev/shm", "containerPath": "/dev/shm",
        "options": ["rw", "nosuid", "nodev", "bind"]});
    runtime.device("0.5.0", "X", &json!({"mounts": [mount]}));
    let write = "echo of the host >/dev/shm/there";
    assert!(runtime.inside("sh", &["-c", write]).status().unwrap().success());
    let script =
        "cat /dev/shm/there; grep -c ' /dev/shm ' /proc/self/mountinfo; echo >/dev/shm/new";
    assert_eq!(runtime.run(&[X], script).expect(0).stdout, "of the host\n1\n");
    assert!(runtime.inside("test", &["-e", "/dev/shm/new"]).status().unwrap().success());
    assert_ne!(runtime.run(&[], "cat /dev/shm/there").status, 0);
}
