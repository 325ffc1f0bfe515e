//! `mps`: daemons that are shown and asked, and those of MIG devices.

use serde_json::Value;

use crate::mps_commands::{GPU, busy, client, document, gpu, h200, words};
use crate::place::Place;

/// The line of a page that has a process in it, as words.
#[track_caller]
fn row(text: &str, pid: &str) -> String {
    let mut rows = text.lines().filter(|line| line.trim_start().starts_with(pid));
    let row = rows.next().unwrap_or_else(|| panic!("no {pid} in {text}"));
    assert!(rows.next().is_none(), "{text}");
    row.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn status_shows_daemon_server_clients_and_who_runs_beside_them() {
    let place = h200();
    let none = place.done(&["mps", "status"]).stdout;
    assert!(none.contains("GPU 0  H200  time_sliced") && !none.contains("daemon"), "{none}");
    let options = [
        "--thread-percentage",
        "25",
        "--compute-mode",
        "unchanged",
        "--allow-hazard",
        "bypass-possible",
    ];
    place.done(&[&["mps", "enable"], &options[..]].concat());
    let pid = client(&place, "0");
    let beside = busy(&place, "0", &["--command", "python train.py", "--memory", "3GiB"]);
    let text = place.done(&["mps", "status"]).stdout;
    let status = document(&place.done(&["--json", "mps", "status"]));
    let mps = &status["gpus"][0]["mps"];
    words(
        &text,
        &[
            &format!("\n  daemon (pid {}) serves\n", mps["pid"]),
            "\n  for user 0: 25 % of the threads (32 SMs) for each client\n",
            "\n  compute mode default: a process that misses the daemon gets the whole GPU\n",
            &format!("\n  CUDA_MPS_PIPE_DIRECTORY={}  # SIM", mps["directory"].as_str().unwrap()),
            "\n  beside the daemon: no limit holds for these; `gpushare mps verify PID` says why\n",
        ],
    );
    let server = &mps["servers"][0];
    assert_eq!(server["clients"][0].to_string(), pid);
    words(&row(&text, &server["pid"].to_string()), &["server active", "25 %"]);
    assert_eq!(row(&text, &pid), format!("{pid} 1001 1 GiB client python serve.py"));
    assert_eq!(row(&text, &beside), format!("{beside} 1000 3 GiB beside python train.py"));
    assert_eq!(
        place
            .run(&["mps", "verify", &beside])
            .expect(2)
            .stdout
            .matches("beside the daemon")
            .count(),
        1
    );

    // A frozen daemon says nothing; the driver still does.
    place.done(&["sim", "freeze-mps"]);
    let text = place.done(&["mps", "status"]).stdout;
    words(
        &text,
        &["is frozen: it takes connections and says nothing", "clients by the driver alone"],
    );
    words(&row(&text, &pid), &["client python serve.py"]);
    words(&row(&text, &beside), &["beside"]);
    let status = gpu(&place);
    assert_eq!((&status["mode"], &status["mps"]["health"]), (&"degraded".into(), &"frozen".into()));
    let unknown = place.run(&["mps", "verify", &pid]).expect(2);
    words(&unknown.stdout, &["unknown whether it is attached", "is frozen"]);
    place.done(&["sim", "freeze-mps", "--thaw"]);
    assert_eq!(gpu(&place)["mode"], "mps");
    place.done(&["mps", "verify", &pid]);

    place.done(&["sim", "kill-mps"]);
    words(
        &place.done(&["mps", "status"]).stdout,
        &["\n  daemon is gone\n", "our MPS daemon is dead"],
    );
    let gone = place.run(&["mps", "verify", &beside]).expect(2);
    words(&gone.stdout, &["not attached", "where the MPS daemon of ours is gone"]);
    place.run(&["sim", "freeze-mps"]).expect_error("NOT_FOUND");
    place.done(&[&["mps", "enable", "--allow-evict"], &options[..]].concat());
    assert_eq!(gpu(&place)["mode"], "mps");
}

#[test]
fn verify_answers_by_its_exit_status_and_by_a_document() {
    let place = Place::new("2xH200-141GB");
    place.done(&[
        "mps",
        "enable",
        "-i",
        "0",
        "--thread-percentage",
        "25",
        "--pinned-memory-limit",
        "2G",
    ]);
    let (inside, elsewhere) = (client(&place, "0"), busy(&place, "1", &[]));
    let attached = place.done(&["mps", "verify", &inside]);
    words(
        &attached.stdout,
        &[
            "SIMULATED\n",
            &format!("pid {inside} (python serve.py): attached to the MPS daemon of {GPU}"),
            "\n  uses 1GiB\n",
            "\n  enforced: at most 32 SMs, 25 % of the threads, 2GiB of memory\n",
        ],
    );
    let status = gpu(&place);
    let attached = document(&place.done(&["--json", "mps", "verify", &inside]));
    assert_eq!((&attached["verdict"], &attached["domain"]), (&"attached".into(), &GPU.into()));
    assert_eq!(attached["server_pid"], status["mps"]["servers"][0]["pid"]);
    assert_eq!(attached["at_most"]["memory_bytes"], 2_u64 << 30);
    let missed = document(&place.run(&["--json", "mps", "verify", &elsewhere]).expect(2));
    assert_eq!((&missed["verdict"], &missed["server_pid"]), (&"not_attached".into(), &Value::Null));
    let server = attached["server_pid"].to_string();
    words(&place.run(&["mps", "verify", &server]).expect(2).stdout, &["not attached", "itself"]);
    let none = place.run(&["--json", "mps", "verify", "4194305"]).expect_error("NOT_FOUND");
    words(&none.stderr, &["there is no process 4194305"]);
    assert_eq!(document(&none)["code"], "NOT_FOUND");
    place.done(&["sim", "freeze-mps", "0"]);
    let unknown = document(&place.run(&["--json", "mps", "verify", &inside]).expect(2));
    assert_eq!((&unknown["verdict"], &unknown["simulated"]), (&"unknown".into(), &true.into()));
}

/// The uuids of the GPUs.
fn gpus(place: &Place) -> Vec<String> {
    let status = place.json(&["status"]);
    let gpus = status["gpus"].as_array().unwrap().iter();
    gpus.map(|gpu| gpu["uuid"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn split_gives_equal_parts_or_says_how_many_fit() {
    let place = Place::new("2xH200-141GB,1xT4");
    let three = place.done(&["mps", "split", "3", "-i", "0,1"]);
    words(
        &three.stdout,
        &["SIMULATED\n3 parts of GPU ", "27 % each", "34 of 132 each", "47923MiB each", "not 33 %"],
    );
    let uuids = gpus(&place);
    words(
        &three.stdout,
        &[&format!("\n  the same for each: GPU 0 ({}), GPU 1 ({})\n", uuids[0], uuids[1])],
    );
    let one = place.done(&["mps", "split", "3", "-i", "1"]);
    assert!(!one.stdout.contains("the same for") && one.stderr.is_empty(), "{one:?}");
    // With MIG on it is of what `mps enable` would share.
    place.done(&["mig", "enable", "-i", "1"]);
    let note = place.done(&["mps", "split", "2", "-i", "0,1"]).stderr;
    words(&note, &["note: GPU 1 (", "MIG is on", "the whole GPU"]);
    assert_eq!(note.lines().count(), 1, "{note}");
    place.done(&["mig", "disable", "-i", "1"]);
    let split = document(&place.done(&["--json", "mps", "split", "3", "-i", "0"]));
    assert_eq!(
        (&split["thread_percentage"], &split["sm_count"], &split["simulated"]),
        (&27.0.into(), &34.into(), &true.into())
    );
    // What it says is taken without a hazard.
    let limit = format!("{}M", split["memory_bytes"].as_u64().unwrap() >> 20);
    let percentage = split["thread_percentage"].to_string();
    place.done(&[
        "mps",
        "enable",
        "-i",
        "0",
        "--thread-percentage",
        &percentage,
        "--pinned-memory-limit",
        &limit,
        "--max-clients",
        "3",
    ]);

    let differ = place.run(&["mps", "split", "2"]).expect_error("INVALID_ARGUMENT");
    words(&differ.stderr, &["differ", "--gpu"]);
    let error = document(
        &place.run(&["--json", "mps", "split", "9", "-i", "2"]).expect_error("INSUFFICIENT"),
    );
    assert_eq!(error["fits"], serde_json::json!(["5"]));
    words(
        &place.run(&["mps", "split", "49", "-i", "0"]).expect_error("INVALID_ARGUMENT").stderr,
        &["1 to 48", "at most 16 parts fit on this GPU"],
    );
}

#[test]
fn mig_devices_get_their_daemons_by_a_spec_and_lose_them_with_mig() {
    let place = Place::new("1xH200-141GB");
    let spec = place.spec(
        "mps.json",
        r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": [
        {"profile": "3g.71gb", "mps": {"max_clients": 4}}, {"profile": "1g.18gb"}]}}]}"#,
    );
    words(
        &place.run(&["apply", &spec]).expect_error("HAZARD").stderr,
        &["bypass-possible", "MIG device"],
    );
    place.done(&["apply", &spec, "--allow-hazard", "bypass-possible"]);
    let there = gpu(&place);
    let devices = there["mig_devices"].as_array().unwrap();
    let device = devices.iter().find(|device| device["profile"] == "3g.71gb").unwrap();
    let uuid = device["uuid"].as_str().unwrap();
    let (inside, beside) = (client(&place, uuid), busy(&place, uuid, &["--command", "bypass"]));

    for command in [&["status"][..], &["mig", "list"]] {
        let text = place.done(command).stdout;
        let mut lines = text.lines().skip_while(|line| !line.contains(uuid));
        lines.next();
        assert_eq!(lines.next().map(str::trim), Some("MPS: leases for 4 clients"), "{text}");
        assert_eq!(text.matches("MPS: ").count(), 1, "{text}");
    }
    let text = place.done(&["mps", "status"]).stdout;
    words(
        &text,
        &[
            &format!("\n  {uuid}  3g.71gb\n  daemon (pid "),
            "serves",
            &format!("CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/simulated/mps/{uuid}  # SIMULATED: "),
        ],
    );
    words(&row(&text, &inside), &["client"]);
    words(&row(&text, &beside), &["beside bypass"]);
    let attached = document(&place.done(&["--json", "mps", "verify", &inside]));
    assert_eq!(
        (&attached["domain"], &attached["at_most"]["sm_count"]),
        (&uuid.into(), &device["sm_count"])
    );
    place.run(&["mps", "verify", &beside]).expect(2);

    // Neither daemon nor driver tell clients of a MIG device apart then, and nobody claims to.
    place.done(&["sim", "freeze-mps", uuid]);
    let text = place.done(&["mps", "status"]).stdout;
    words(&row(&text, &inside), &["unknown"]);
    words(&row(&text, &beside), &["unknown"]);
    assert!(
        text.contains("the daemon does not say whether these are its clients")
            && !text.contains("beside the"),
        "{text}"
    );
    words(
        &place.done(&["mig", "list"]).stdout,
        &[
            "MPS: the daemon is frozen: it takes connections and says nothing; leases for 4 clients\n",
        ],
    );
    place.done(&["sim", "freeze-mps", uuid, "--thaw"]);

    // `mps` commands are for whole GPUs: with MIG on there is nothing to end.
    let left = place.done(&["mps", "disable"]);
    words(
        &left.stderr,
        &["note: GPU 0 (", &format!("MPS daemons of MIG devices stay ({uuid})"), "a spec"],
    );
    assert_eq!(left.stderr.lines().count(), 1, "{left:?}");
    for named in [uuid, &uuid.to_lowercase()[..12]] {
        let error = place.run(&["mps", "disable", "-i", named]).expect_error("INVALID_ARGUMENT");
        words(
            &error.stderr,
            &["names a MIG device, of GPU 0 (", "`gpushare mig destroy`", "a spec"],
        );
    }
    let error = place.run(&["status", "-i", "MIG-0"]).expect_error("INVALID_ARGUMENT");
    words(&error.stderr, &["names a MIG device, none that this node has"]);
    assert_eq!(gpu(&place)["mig_devices"].as_array().unwrap().len(), 2);
    place.run(&["mig", "disable"]).expect_error("BUSY");
    place.done(&["mps", "verify", &inside]);
    let done = place.done(&["mig", "disable", "--allow-evict", "--grace", "1"]).stdout;
    words(&done, &[&format!("pid {inside} "), &format!("pid {beside} ")]);
    let now = gpu(&place);
    assert_eq!(
        (&now["mode"], &now["mps"], &now["processes"]),
        (&"time_sliced".into(), &Value::Null, &serde_json::json!([]))
    );
    place.run(&["sim", "freeze-mps", uuid]).expect_error("NOT_FOUND");
}
