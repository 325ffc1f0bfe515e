//! What people see, letter by letter.

use crate::place::Place;

#[track_caller]
fn expect(found: &str, expected: &str) {
    assert_eq!(found, expected.trim_start_matches('\n'), "\nfound:\n{found}");
}

/// A plan without its digest, which is another one whenever a plan comes to say more.
#[track_caller]
fn without_digest(plan: &str) -> &str {
    let (text, digest) = plan.trim_end().rsplit_once("Digest ").unwrap();
    assert!(digest.len() == 64 && digest.bytes().all(|byte| byte.is_ascii_hexdigit()), "{plan}");
    text
}

const LAYOUT: &str = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": [
    {"profile": "2g.20gb", "start": 0, "compute": ["1c", "1c"]},
    {"profile": "1g.10gb", "start": 2, "name": "notebooks"},
    {"profile": "1g.10gb", "start": 3, "compute": []},
    {"profile": "3g.40gb", "start": 4}]}}]}"#;

#[test]
fn the_status_of_a_node_as_it_comes() {
    let place = Place::new("1xH100-80GB,1xT4");
    expect(
        &place.done(&["status"]).stdout,
        "
SIMULATED
Driver 580.159.04, CUDA 13.0, 2 GPUs

GPU 0  H100 80GB HBM3  time_sliced
  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65  0000:03:00.0  79.6 GiB  132 SMs
  compute mode default, not managed by gpushare

GPU 1  Tesla T4  time_sliced
  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127  0000:06:00.0  15 GiB  40 SMs
  compute mode default, not managed by gpushare
",
    );
}

#[test]
fn the_status_of_some_gpus_says_of_how_many() {
    let place = Place::new("2xT4");
    let heading = |arguments: &[&str]| {
        let status = place.done(&[&["status"], arguments].concat()).stdout;
        status.lines().nth(1).unwrap().to_owned()
    };
    assert!(heading(&["-i", "0"]).ends_with(", 1 of 2 GPUs"));
    assert!(heading(&["-i", "0,1"]).ends_with(", 2 GPUs"));
    assert!(heading(&[]).ends_with(", 2 GPUs"));
}

#[test]
fn the_status_of_a_gpu_that_is_cut_and_used() {
    let place = Place::new("1xH100-80GB,1xT4");
    place.done(&["apply", &place.spec("layout.json", LAYOUT)]);
    place.done(&["time-slice", "--replicas", "8", "--interval", "short", "-i", "1"]);
    place.done(&["sim", "busy", "0/7/0", "--command", "jupyter \u{1b}[31mred", "--uid", "1001"]);
    place.done(&["sim", "busy", "1", "--memory", "512MiB"]);
    expect(
        &place.done(&["status"]).stdout,
        "
SIMULATED
Driver 580.159.04, CUDA 13.0, 2 GPUs

GPU 0  H100 80GB HBM3  mig
  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65  0000:03:00.0  79.6 GiB  132 SMs
  MIG is on; without a compute instance: 1g.10gb at 3:1

  |2g.20gb 1c+1c    |1g.10gb*|1g.10gb!|3g.40gb                            |
   0        1        2        3        4        5        6        7

  MIG device                                profile     GI/CI  at   GiB  SMs  name
  MIG-1c2f141c-8710-0475-fa82-312a14661f85  1c.2g.20gb  3/0     0  19.6    -
  MIG-421709cb-fb20-85bc-c3a1-06407b597dc0  1c.2g.20gb  3/1     0  19.6    -
  MIG-89a5222e-0b62-30ef-81a6-8ef97224404c  1g.10gb     7/0     2   9.8   16  notebooks
    in use by pid 5000001 (jupyter �[31mred), 1 GiB
  MIG-d01b6eaa-23f2-4ee7-18db-f98d49ce3cf1  3g.40gb     1/0     4  39.5   60
  no compute instance: nobody can use it    1g.10gb     8/-     3     -    -

  nothing more fits

GPU 1  Tesla T4  time_sliced
  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127  0000:06:00.0  15 GiB  40 SMs
  compute mode default
  8 replicas, short interval

      PID  user   memory  what     command
  5000002  1000  512 MiB  compute  python train.py
",
    );
}

#[test]
fn a_plan_says_what_stays_goes_and_comes() {
    let place = Place::new("1xH100-80GB,1xT4");
    place.done(&["apply", &place.spec("layout.json", LAYOUT)]);
    place.done(&["sim", "busy", "0/1/0"]);
    let spec = r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "2g.20gb": 1, "1g": 1}}},
        {"select": 1, "mode": "exclusive"}]}"#;
    let plan = place.run(&["plan", &place.spec("other.json", spec)]).expect(2);
    expect(
        without_digest(&plan.stdout),
        "
SIMULATED
GPU 0  H100 80GB HBM3  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65: mig
    keep     2g.20gb        at 0:2
    keep     1g.10gb        at 2:1  MIG-89a5222e-0b62-30ef-81a6-8ef97224404c
    keep     3g.40gb        at 4:4  MIG-d01b6eaa-23f2-4ee7-18db-f98d49ce3cf1  in use
  - destroy compute instance 1c.2g.20gb at 0:1 of 0:2
  - destroy compute instance 1c.2g.20gb at 1:1 of 0:2
  - destroy GPU instance 1g.10gb at 3:1
  + create compute instance 2g.20gb at 0:2 of 0:2
  ~ write the record
    costs    3 destroys, 1 create
    then fits  1g.10gb at 3, 1g.10gb+me at 3
GPU 1  Tesla T4  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127: time_sliced -> exclusive
  ~ set compute mode exclusive_process (was default)
  ~ write the record
",
    );
}

#[test]
fn apply_shows_the_plan_and_what_is_there_then() {
    let place = Place::new("1xH100-80GB,2xT4");
    let spec = r#"{"version": "gpushare/v1", "gpus": [
        {"select": 0, "mode": "mig", "mig": {"instances": [{"profile": "3g.40gb", "start": 4}]}},
        {"select": 1, "mode": "time_sliced", "time_sliced": {"replicas": 2}},
        {"select": 2, "mode": "exclusive"}]}"#;
    let spec = place.spec("spec.json", spec);
    let gpus = "
GPU 0  H100 80GB HBM3  mig
  |........|........|........|........|3g.40gb                            |
   0        1        2        3        4        5        6        7

  MIG device                                profile  GI/CI  at   GiB  SMs
  MIG-fcb6a37f-eb94-be13-dfe2-3b3aab509ebe  3g.40gb  1/0     4  39.5   60

GPU 1  Tesla T4  time_sliced
  2 replicas, default interval
GPU 2  Tesla T4  exclusive
";
    let shown = place.done(&["apply", &spec]).stdout;
    let (plan, rest) = shown.split_once("Digest ").unwrap();
    expect(
        plan,
        "
SIMULATED
GPU 0  H100 80GB HBM3  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65: time_sliced -> mig
  ~ turn MIG on
  + create GPU instance 3g.40gb at 4:4
  + create compute instance 3g.40gb at 0:3 of 4:4
  ~ write the record
    costs    0 destroys, 2 creates
    then fits  4g.40gb at 0, 3g.40gb at 0, 2g.20gb at 0/2, 1g.20gb at 0/2, 1g.10gb at 0/1/2/3, 1g.10gb+me at 0/1/2/3
GPU 1  Tesla T4  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127: time_sliced
  ~ write the record
GPU 2  Tesla T4  GPU-7d066485-f2cf-0c81-881f-89a50254a452: time_sliced -> exclusive
  ~ set compute mode exclusive_process (was default)
  ~ write the record
",
    );
    assert_eq!(rest.split_once('\n').unwrap().1, format!("\nApplied: 7 steps.\n{gpus}"));
    let again = place.done(&["apply", &spec]).stdout;
    assert_eq!(again, format!("SIMULATED\nNothing to do.\n{gpus}"));
}

#[test]
fn the_readme_shows_what_its_command_prints() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let command = "-- --sim 8xH100-80GB apply examples/mig.yaml\n";
    let shown = readme.split(command).nth(1).unwrap().split("```").next().unwrap();
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/mig.yaml");
    let printed = Place::new("8xH100-80GB").done(&["apply", example]).stdout;
    let mut printed = printed.lines();
    // The plan of seven GPUs is left out.
    for line in shown.lines().filter(|line| !line.starts_with("[…")) {
        assert!(printed.any(|found| found == line), "{line:?} is not printed there");
    }
    assert_eq!(printed.next(), None);
}

#[test]
fn the_readme_shows_what_resolve_prints() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let shown = readme.split("$ gpushare --sim 2xH200-141GB resolve 1,7,0\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    expect(&Place::new("2xH200-141GB").done(&["resolve", "1,7,0"]).stdout, shown);
}

/// Each block on a node of its own: its commands in order, and what the exports among them print.
#[test]
fn the_readme_shows_what_export_prints() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let section = readme.split("\n## Containers and clusters\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let mut exports = 0;
    for block in section.split("```console\n").skip(1) {
        let block = block.split("```").next().unwrap();
        let mut place: Option<Place> = None;
        for part in block.split("$ gpushare --sim ").skip(1) {
            let (command, shown) = part.split_once('\n').unwrap();
            let mut words = command.split(' ');
            let fleet = words.next().unwrap();
            let arguments: Vec<&str> = words.collect();
            let printed = place.get_or_insert_with(|| Place::new(fleet)).done(&arguments).stdout;
            if arguments[0] == "export" {
                expect(&printed, shown);
                exports += 1;
            } else {
                assert_eq!(shown, "", "{command}");
            }
        }
    }
    assert_eq!(exports, 6);
}

#[test]
fn the_readme_shows_what_leases_prints() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let shown = readme.split("$ gpushare --sim 1xH100-80GB leases\n").nth(1).unwrap();
    let shown = shown.split("```").next().unwrap();
    let place = Place::new("1xH100-80GB");
    place.done(&["time-slice", "--replicas", "4"]);
    let mut child = place.start(&["run", "--", "sleep", "60"]);
    let pid = format!("pid {} (sleep 60)", child.id());
    let mut printed = String::new();
    while !printed.contains(&pid) {
        assert!(child.try_wait().unwrap().is_none(), "{printed}");
        printed = place.done(&["leases"]).stdout;
    }
    child.kill().unwrap();
    child.wait().unwrap();
    expect(&printed.replace(&pid, "pid 4711 (sleep 60)"), shown);
}

#[test]
fn the_status_and_the_plan_of_a_node_with_leases() {
    let place = Place::new("1xH100-80GB,1xT4");
    place.done(&["apply", &place.spec("layout.json", LAYOUT)]);
    place.done(&["time-slice", "--replicas", "2", "-i", "1"]);
    let start = |arguments: &[&str]| {
        let child = place.start(&[&["run"], arguments, &["--", "sleep", "60"]].concat());
        let pid = format!("pid {} (sleep 60)", child.id());
        let start = std::time::Instant::now();
        while !place.done(&["leases"]).stdout.contains(&pid) {
            assert!(start.elapsed() < crate::place::PATIENCE);
        }
        (child, pid)
    };
    let mut running = [start(&["--mig", "1g"]), start(&["-i", "1"])];
    place.done(&["cordon", "-i", "1", "--reason", "fan broken"]);
    place.done(&["sim", "busy", "0/7/0"]);
    let known = |mut text: String| {
        for (number, (_, pid)) in running.iter().enumerate() {
            text = text.replace(pid, &format!("pid 471{number} (sleep 60)"));
        }
        text
    };
    let status = known(place.done(&["status"]).stdout);
    let plan = place.run(&["exclusive", "-i", "1", "--dry-run"]).expect(2).stdout;
    let plan = known(plan);
    for (child, _) in &mut running {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    expect(
        &status,
        "
SIMULATED
Driver 580.159.04, CUDA 13.0, 2 GPUs

GPU 0  H100 80GB HBM3  mig
  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65  0000:03:00.0  79.6 GiB  132 SMs
  MIG is on; without a compute instance: 1g.10gb at 3:1

  |2g.20gb 1c+1c    |1g.10gb*|1g.10gb!|3g.40gb                            |
   0        1        2        3        4        5        6        7

  MIG device                                profile     GI/CI  at   GiB  SMs  name
  MIG-1c2f141c-8710-0475-fa82-312a14661f85  1c.2g.20gb  3/0     0  19.6    -
  MIG-421709cb-fb20-85bc-c3a1-06407b597dc0  1c.2g.20gb  3/1     0  19.6    -
  MIG-89a5222e-0b62-30ef-81a6-8ef97224404c  1g.10gb     7/0     2   9.8   16  notebooks
    leased by pid 4710 (sleep 60)
    in use by pid 5000001 (python train.py), 1 GiB
  MIG-d01b6eaa-23f2-4ee7-18db-f98d49ce3cf1  3g.40gb     1/0     4  39.5   60
  no compute instance: nobody can use it    1g.10gb     8/-     3     -    -

  nothing more fits

GPU 1  Tesla T4  time_sliced
  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127  0000:06:00.0  15 GiB  40 SMs
  compute mode default
  2 replicas, default interval
  cordoned: fan broken; no new leases
  share ::0 leased by pid 4711 (sleep 60)
",
    );
    expect(
        without_digest(&plan),
        "
SIMULATED
GPU 1  Tesla T4  GPU-9c3922dc-7432-32b7-6510-dcb158d2d127: time_sliced -> exclusive
  ~ set compute mode exclusive_process (was default)
  ~ write the record
Needs:
  --allow-evict  the lease of share GPU-9c3922dc-7432-32b7-6510-dcb158d2d127::0: pid 4711 (sleep 60)
",
    );
}

#[test]
fn the_readme_shows_specs_that_are_specs() {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/../README.md");
    let readme = std::fs::read_to_string(readme).unwrap();
    let specs: Vec<_> = readme.split("```yaml\n").skip(1).collect();
    assert!(!specs.is_empty());
    for spec in specs {
        let spec = spec.split("```").next().unwrap();
        let parsed = spec.parse::<gpushare_core::Spec>();
        assert!(parsed.is_ok(), "{parsed:?} in {spec}");
    }
}

#[test]
fn a_plan_says_what_it_needs() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "3g@4"]);
    place.done(&["sim", "busy", "0/1/0"]);
    let plan = place.run(&["mig", "disable", "--dry-run"]).expect(2);
    expect(without_digest(&plan.stdout), "
SIMULATED
GPU 0  H100 80GB HBM3  GPU-1e109052-d5d2-57c4-c5cd-be7fbc03ef65: mig -> time_sliced
  - destroy compute instance 3g.40gb at 0:3 of 4:4
  - destroy GPU instance 3g.40gb at 4:4
  ~ turn MIG off
  ~ remove the record
    costs    2 destroys, 0 creates
Needs:
  --allow-evict  3g.40gb at 4:4 (MIG-fcb6a37f-eb94-be13-dfe2-3b3aab509ebe): pid 5000001 (python train.py)
");
}

#[test]
fn twelve_slots_and_long_names_fit_in_a_line() {
    let place = Place::new("1xRTX-PRO-6000-Blackwell-96GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g+gfx", "1g-me", "2g"]);
    let text = place.done(&["status"]).stdout;
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    expect(
        &text,
        "
SIMULATED
Driver 580.159.04, CUDA 13.0, 1 GPU

GPU 0  RTX PRO 6000 Blackwell Server Edition  mig
  GPU-3e095f1a-9950-f6e5-4d69-2bb13d3171b8  0000:03:00.0  95.6 GiB  188 SMs
  MIG is on

  |2g.48gb                            |1g.24gb+gfx      |1g.24gb-me       |
   0     1     2     3     4     5     6     7     8     9     10    11

  MIG device                                profile      GI/CI  at   GiB  SMs
  MIG-6de3ea30-3c7c-118d-3343-78e88c4bd4e7  2g.48gb      1/0     0  47.4   94
  MIG-13cb002b-fdcb-ba56-3ba0-05f7b09134b2  1g.24gb+gfx  3/0     6  23.6   46
  MIG-3173372a-4187-091d-2b7c-030c62b08c00  1g.24gb-me   4/0     9  23.6   46

  nothing more fits
",
    );
}

#[test]
fn the_daemons_of_a_node_and_whom_they_serve() {
    let place = Place::new("1xH200-141GB,1xT4");
    place.done(&["mps", "enable", "-i", "1", "--max-clients", "3", "--priority", "below_normal"]);
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": [
        {"profile": "3g.71gb", "start": 4, "mps": {"max_clients": 4}}, {"profile": "1g.18gb", "start": 0}]}}]}"#;
    place.done(&["apply", &place.spec("m.json", spec), "--allow-hazard", "bypass-possible"]);
    place.done(&["sim", "busy", "0/1/0", "--kind", "mps-client", "--command", "serve"]);
    place.done(&["sim", "busy", "0/1/0", "--command", "bypass", "--uid", "1001"]);
    expect(
        &place.done(&["mps", "status"]).stdout,
        "
SIMULATED

GPU 0  H200  mig
  MIG is on

  MIG-a3cc3680-bad2-4783-9ab7-7fb9fb722300  3g.71gb
  daemon (pid 5000002) serves
  for user 0: leases for 4 clients
  no compute mode: a process that misses the daemon gets the whole MIG device
  CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/simulated/mps/MIG-a3cc3680-bad2-4783-9ab7-7fb9fb722300  # SIMULATED: it does not exist

      PID  user  memory  what    command
  5000003     -       -  server  active, gives clients to come 100 %
  5000004  1000   1 GiB  client  serve
  5000005  1001   1 GiB  beside  bypass
  beside the daemon: no limit holds for these; `gpushare mps verify PID` says why

GPU 1  Tesla T4  mps
  our MPS daemon serves it
  daemon (pid 5000001) serves
  for user 0: leases for 3 clients, priority below normal
  compute mode exclusive_process: a process that misses the daemon gets nothing while its server runs
  CUDA_MPS_PIPE_DIRECTORY=/run/gpushare/simulated/mps/GPU-9c3922dc-7432-32b7-6510-dcb158d2d127  # SIMULATED: it does not exist
",
    );
}
