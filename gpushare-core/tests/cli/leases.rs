//! Leases by command, as real processes: who has a share, what it is told, and when it is given back.

use std::fs::File;
use std::os::unix::fs::chown;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::place::{Answer, GPUSHARE, NOBODY, PATIENCE, Place, can_be_nobody};
use crate::schema::Schema;

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(pid.try_into().unwrap()).unwrap(), signal).unwrap();
}

/// A child that is killed when the test is over.
struct Running(Option<Child>);

impl Running {
    fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    fn signal(&self, signal: Signal) {
        send(self.id(), signal);
    }

    fn answer(mut self) -> Answer {
        Answer::of(self.0.take().unwrap().wait_with_output().unwrap())
    }

    fn end(mut self) {
        let mut child = self.0.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn start(place: &Place, arguments: &[&str]) -> Running {
    Running(Some(place.start(arguments)))
}

fn sleeper() -> Running {
    Running(Some(Command::new("sleep").arg("300").stdout(Stdio::null()).spawn().unwrap()))
}

#[track_caller]
fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Place {
    /// The shares of one GPU, from a document that is as its schema says.
    #[track_caller]
    fn shares(&self, gpu: usize) -> Vec<Value> {
        let list = self.json(&["leases"]);
        Schema::named("leases").expect(&list);
        let status = self.json(&["status"]);
        Schema::named("status").expect(&status);
        list["gpus"][gpu]["shares"].as_array().unwrap().clone()
    }

    /// The pids of those who hold shares of one GPU.
    #[track_caller]
    fn holders(&self, gpu: usize) -> Vec<u64> {
        let shares = self.shares(gpu);
        shares.iter().filter_map(|share| share["holder"]["pid"].as_u64()).collect()
    }

    #[track_caller]
    fn wait_for_holders(&self, gpu: usize, count: usize) {
        until(&format!("{count} leases"), || self.holders(gpu).len() == count);
    }

    fn uuid(&self, gpu: usize) -> String {
        self.json(&["status"])["gpus"][gpu]["uuid"].as_str().unwrap().to_owned()
    }
}

/// What a command that prints its environment was told.
fn variables(text: &str) -> impl Fn(&str) -> Option<String> {
    let lines: Vec<(String, String)> = text
        .lines()
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    move |name| lines.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[test]
fn run_becomes_the_command_with_the_variables_of_its_share() {
    let place = Place::new("2xH100-80GB");
    let mut command = place.command(&["run", "-i", "1", "--", "sh", "-c", "echo pid=$$; env"]);
    for outer in [
        "CUDA_MPS_PIPE_DIRECTORY",
        "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
        "CUDA_DEVICE_ORDER",
    ] {
        command.env(outer, "PCI_BUS_ID");
    }
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("OWN", "kept");
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let answer = Answer::of(child.wait_with_output().unwrap()).expect(0);
    assert!(answer.stderr.contains("SIMULATED"), "{answer:?}");
    let told = variables(&answer.stdout);
    let uuid = place.uuid(1);
    assert_eq!(told("pid"), Some(pid.to_string()), "it is the same process");
    assert_eq!(told("CUDA_VISIBLE_DEVICES"), Some(uuid.clone()));
    assert_eq!(told("GPUSHARE_SHARES"), Some(uuid));
    assert_eq!(told("OWN").as_deref(), Some("kept"));
    assert!(told("GPUSHARE_LEASE").is_some());
    assert!(!answer.stdout.contains("CUDA_MPS") && !answer.stdout.contains("CUDA_DEVICE_ORDER"));
}

#[test]
fn a_share_is_held_by_the_children_of_a_command_that_ended() {
    let place = Place::new("1xH100-80GB");
    let script = "sleep 300 >/dev/null 2>&1 & echo $!";
    let answer = place.done(&["run", "--", "sh", "-c", script]);
    let child: u32 = answer.stdout.trim().parse().unwrap();
    let shares = place.shares(0);
    assert_eq!(shares[0]["holder"]["pid"], child);
    assert_eq!(shares[0]["holder"]["kind"], "lease");
    assert_eq!(shares[0]["lease"]["inherited"], true);
    let text = place.done(&["leases"]).stdout;
    assert!(text.contains("inherited: who took it is gone or has let go"), "{text}");
    let busy = place.run(&["run", "--", "true"]).expect(125);
    assert!(busy.stderr.contains(&format!("pid {child} (sleep 300)")), "{busy:?}");
    send(child, Signal::KILL);
    place.wait_for_holders(0, 0);
    place.done(&["run", "--", "true"]);
}

#[test]
fn the_exit_status_is_the_commands_or_that_of_a_shell() {
    let place = Place::new("1xH100-80GB");
    let not_executable = place.spec("file", "no program");
    for verify in [&[][..], &["--verify"]] {
        let run = |words: &[&str]| place.run(&[&["run"], verify, &["--"], words].concat());
        run(&["true"]).expect(0);
        run(&["sh", "-c", "exit 42"]).expect(42);
        // An own failure of the command is not taken for ours.
        run(&["sh", "-c", "exit 125"]).expect(125);
        let there = run(&["no-such-program"]).expect(127);
        assert!(there.stderr.contains("gpushare: NOT_FOUND: cannot run no-such"), "{there:?}");
        let file = run(&[&not_executable]).expect(126);
        assert!(file.stderr.contains("gpushare: PERMISSION_DENIED: cannot run"), "{file:?}");
    }
    // The process is the command: it is the command that the signal ended.
    let killed = start(&place, &["run", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    killed.signal(Signal::TERM);
    let mut killed = killed;
    let status = killed.0.take().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(15));
    // Verified, there is a parent to say so.
    let verified = place.run(&["run", "--verify", "--", "sh", "-c", "kill -KILL $$"]);
    verified.expect(128 + 9);
    for wrong in [
        &["run"][..],
        &["run", "true"],
        &["run", "--no-such-option", "--", "true"],
        &["run", "--count", "0", "--", "true"],
        &["run", "-i", "0", "--mig", "1g", "--", "true"],
        &["run", "-i", "7", "--", "true"],
        &["run", "--mig", "1g", "--", "true"],
        &["run", "--mig", "1g", "--create", "--", "true"],
        &["run", "--thread-percentage", "25", "--", "true"],
        &["run", "--count", "2", "--", "true"],
    ] {
        let answer = place.run(wrong).expect(125);
        assert!(answer.stderr.starts_with("gpushare: ") && answer.stdout.is_empty(), "{answer:?}");
        let json: Vec<&str> = [&["--json"], wrong].concat();
        let answer = place.run(&json).expect(125);
        Schema::named("error").expect(&answer.document());
    }
    place.run(&["--json", "run", "--", "no-such"]).expect(127).document();
    place.done(&["run", "--help"]);
}

#[test]
fn four_replicas_admit_four_commands_and_no_fifth() {
    let place = Place::new("1xH100-80GB");
    place.done(&["time-slice", "--replicas", "4"]);
    let mut running: Vec<Running> =
        (0..4).map(|_| start(&place, &["run", "--", "sleep", "300"])).collect();
    place.wait_for_holders(0, 4);
    let shares = place.shares(0);
    for running in &running {
        let holder = shares.iter().find(|share| share["holder"]["pid"] == running.id()).unwrap();
        assert_eq!(holder["lease"]["for_pid"], Value::Null);
    }
    let fifth = place.run(&["--json", "run", "--", "true"]).expect(125);
    assert!(fifth.stderr.starts_with("gpushare: BUSY: "), "{fifth:?}");
    let document = fifth.document();
    Schema::named("error").expect(&document);
    let named: Vec<_> =
        document["holders"].as_array().unwrap().iter().map(|holder| &holder["pid"]).collect();
    for running in &running {
        assert!(named.contains(&&json!(running.id())), "{document}");
    }

    // Whoever waits in vain is told after that time, and for whom.
    let waited = Instant::now();
    let late = place.run(&["run", "--timeout", "0.4", "--", "true"]).expect(125);
    assert!(waited.elapsed() >= Duration::from_millis(400));
    assert!(late.stderr.starts_with("gpushare: TIMEOUT: "), "{late:?}");
    assert!(late.stderr.contains("(sleep 300)"), "{late:?}");

    // Who waits long enough is admitted when one ends.
    let next = start(&place, &["run", "--timeout", "none", "--", "echo", "admitted"]);
    until("a waiting caller", || place.json(&["leases"])["waiting"] == 1);
    assert!(place.done(&["leases"]).stdout.contains("1 caller waiting"));
    running.pop().unwrap().end();
    let next = next.answer().expect(0);
    assert_eq!(next.stdout, "admitted\n");
}

#[test]
fn a_signal_ends_the_waiting_and_nothing_is_held() {
    let place = Place::new("1xH100-80GB");
    let holder = start(&place, &["run", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    let other = sleeper();
    let pid = other.id().to_string();
    // A runner of tests in the background ignores SIGINT, and then so does `run`.
    for (arguments, asked, status) in [
        (&["run", "--timeout", "none", "--", "true"][..], Signal::TERM, 125),
        (&["hold", "--timeout", "none"], Signal::INT, 1),
    ] {
        let waiting = start(&place, arguments);
        until("a waiting caller", || place.json(&["leases"])["waiting"] == 1);
        // It says for whom it waits, once that takes long.
        std::thread::sleep(Duration::from_millis(1200));
        waiting.signal(asked);
        let answer = waiting.answer().expect(status);
        let mut lines = answer.stderr.lines();
        let told = lines.next().unwrap();
        assert!(told.contains("waiting for") && told.contains("(sleep 300)"), "{answer:?}");
        assert!(lines.next().unwrap().starts_with("gpushare: INTERRUPTED: "), "{answer:?}");
        assert_eq!(place.json(&["leases"])["waiting"], 0);
    }
    // A holder whose caller was killed goes on waiting for nobody.
    let waiting = start(&place, &["lease", "--pid", &pid, "--timeout", "none"]);
    until("a waiting caller", || place.json(&["leases"])["waiting"] == 1);
    waiting.end();
    until("nobody waits", || place.json(&["leases"])["waiting"] == 0);
    holder.end();
    place.wait_for_holders(0, 0);
}

#[test]
fn what_was_ignored_stays_ignored_and_open_stays_ours() {
    let place = Place::new("1xH100-80GB");
    let script = format!(
        "trap '' INT TERM; '{GPUSHARE}' --sim 1xH100-80GB --state-dir '{}' run -- grep SigIgn /proc/self/status",
        place.state().display()
    );
    let output = Command::new("sh").arg("-c").arg(&script).output().unwrap();
    let answer = Answer::of(output).expect(0);
    let mask = u64::from_str_radix(answer.stdout.split_whitespace().nth(1).unwrap(), 16).unwrap();
    assert_eq!((mask >> 1 & 1, mask >> 14 & 1), (1, 1), "SIGINT and SIGTERM: {mask:x}");
    // SIGPIPE, which our own runtime ignores, is not handed on.
    assert_eq!(mask >> 12 & 1, 0, "{mask:x}");
}

#[test]
fn verify_passes_signals_on_and_stays_until_the_command_ends() {
    let place = Place::new("1xH100-80GB");
    let ready = place.path().join("ready");
    let script = format!(
        "trap 'echo hup; exit 7' HUP; trap 'echo usr1' USR1; : > '{}'; while :; do sleep 0.05; done",
        ready.display()
    );
    let run = start(&place, &["run", "--verify", "--", "sh", "-c", &script]);
    until("the command", || ready.exists());
    assert_eq!(place.holders(0).len(), 1);
    run.signal(Signal::USR1);
    std::thread::sleep(Duration::from_millis(300));
    run.signal(Signal::HUP);
    let answer = run.answer().expect(7);
    assert_eq!(answer.stdout, "usr1\nhup\n");
    place.wait_for_holders(0, 0);
}

#[test]
fn verify_ends_a_command_that_is_outside_its_share() {
    let place = Place::new("2xH100-80GB");
    let pids = place.path().join("pids");
    // The second process is the child of a child that is gone.
    let script = format!("(sleep 300 & echo $! > '{}') ; sleep 300", pids.display());
    let tenant = || -> u32 {
        let mut pid = None;
        until("the command", || {
            pid = std::fs::read_to_string(&pids).ok().and_then(|text| text.trim().parse().ok());
            pid.is_some()
        });
        pid.unwrap()
    };
    // On its own device it is left alone, on two it is not.
    let run = start(&place, &["run", "-i", "0", "--verify", "--", "sh", "-c", &script]);
    let pid = tenant();
    place.done(&["sim", "busy", "0", "--pid", &pid.to_string()]);
    std::thread::sleep(Duration::from_millis(1500));
    assert_eq!(place.holders(0).len(), 1);
    place.done(&["sim", "busy", "1", "--pid", &pid.to_string()]);
    let asked = Instant::now();
    let answer = run.answer().expect(125);
    assert!(asked.elapsed() < Duration::from_secs(4), "they heed SIGTERM");
    let why = format!("process {pid} of it is not inside its share");
    assert!(answer.stderr.contains(&why) && answer.stderr.contains(&place.uuid(1)), "{answer:?}");
    // All of it was ended, and the share is free.
    until("its end", || !alive(pid));
    place.wait_for_holders(0, 0);
    std::fs::remove_file(&pids).unwrap();

    // Outside from the beginning.
    let run = start(&place, &["run", "-i", "0", "--verify", "--json", "--", "sh", "-c", &script]);
    place.done(&["sim", "busy", "1", "--pid", &tenant().to_string()]);
    let document = run.answer().expect(125).document();
    assert_eq!(document["code"], "INVALID_STATE");
    Schema::named("error").expect(&document);
}

fn alive(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
}

#[test]
fn verify_ends_a_command_that_bypasses_its_mps_daemon() {
    let place = Place::new("1xH100-80GB");
    place.done(&[
        "mps",
        "enable",
        "--max-clients",
        "2",
        "--compute-mode",
        "unchanged",
        "--allow-hazard",
        "bypass-possible",
    ]);
    let run = start(&place, &["run", "--verify", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    let mut child = None;
    until("the command", || {
        let list = format!("/proc/{0}/task/{0}/children", run.id());
        let text = std::fs::read_to_string(list).unwrap_or_default();
        child = text.split_whitespace().next().map(str::to_owned);
        child.is_some()
    });
    place.done(&["sim", "busy", "0", "--pid", &child.unwrap()]);
    let answer = run.answer().expect(125);
    assert!(answer.stderr.contains("is not inside its share"), "{answer:?}");
}

#[test]
fn a_lease_for_a_process_outlives_its_caller_and_ends_with_that_process() {
    let place = Place::new("1xH100-80GB");
    place.done(&["time-slice", "--replicas", "2"]);
    let tenant = sleeper();
    let pid = tenant.id().to_string();
    // A caller with a descriptor of its own that is open to children: the holder must not have it.
    let outer = place.path().join("outer");
    let file = File::create(&outer).unwrap();
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty()).unwrap();
    let answer = place.done(&["lease", "--pid", &pid]);
    drop(file);
    assert!(answer.stderr.is_empty(), "{answer:?}");
    let shares = place.shares(0);
    let share = shares.iter().find(|share| !share["holder"].is_null()).unwrap();
    assert_eq!(share["lease"]["for_pid"].to_string(), pid);
    let holder = u32::try_from(share["holder"]["pid"].as_u64().unwrap()).unwrap();
    let text = place.done(&["leases"]).stdout;
    assert!(text.contains(&format!(" for pid {pid}\n")), "{text}");

    // Nothing of its caller's, neither its session.
    let open: Vec<_> = std::fs::read_dir(format!("/proc/{holder}/fd"))
        .unwrap()
        .filter_map(|entry| std::fs::read_link(entry.unwrap().path()).ok())
        .collect();
    assert!(!open.contains(&outer), "{open:?}");
    assert_eq!(open.iter().filter(|path| path.ends_with("null")).count(), 3, "{open:?}");
    let session = rustix::process::getsid(Pid::from_raw(holder.try_into().unwrap())).unwrap();
    assert_eq!(session.as_raw_pid().to_string(), holder.to_string());

    // A shell takes what it prints.
    let script = format!("{}env", answer.stdout);
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .env("CUDA_MPS_PIPE_DIRECTORY", "/elsewhere")
        .output()
        .unwrap();
    let told = Answer::of(output).expect(0).stdout;
    let told = variables(&told);
    assert_eq!(told("CUDA_VISIBLE_DEVICES"), Some(place.uuid(0)));
    assert_eq!(told("GPUSHARE_LEASE").as_deref(), share["lease"]["name"].as_str());
    assert_eq!(told("GPUSHARE_SHARES").as_deref(), share["id"].as_str());
    assert_eq!(told("CUDA_MPS_PIPE_DIRECTORY"), None);

    // The document says the same and more.
    let document = place.json(&["lease", "--pid", &pid]);
    Schema::named("lease").expect(&document);
    assert_eq!(place.holders(0).len(), 2);
    let failed = place.run(&["lease", "--pid", &pid]).expect_error("BUSY");
    assert!(failed.stdout.is_empty(), "{failed:?}");
    let failed = place.run(&["--json", "lease", "--pid", &pid]).expect_error("BUSY");
    Schema::named("error").expect(&failed.document());

    tenant.end();
    place.wait_for_holders(0, 0);
    until("the holder's end", || !alive(holder));
    place.run(&["lease", "--pid", &pid]).expect_error("NOT_FOUND");
    place.run(&["lease"]).expect_error("INVALID_ARGUMENT");
}

#[test]
fn hold_holds_until_it_is_told_and_release_tells_it() {
    let place = Place::new("1xH100-80GB");
    place.done(&["time-slice", "--replicas", "4"]);
    let hold = start(&place, &["hold"]);
    place.wait_for_holders(0, 1);
    hold.signal(Signal::TERM);
    let answer = hold.answer().expect(0);
    assert!(answer.stdout.contains("export CUDA_VISIBLE_DEVICES='GPU-"), "{answer:?}");
    assert_eq!(place.holders(0).len(), 0);

    // By the share, and by the name of the lease: then all of it goes.
    let hold = start(&place, &["hold", "--json"]);
    place.wait_for_holders(0, 1);
    let id = place.shares(0)[0]["id"].as_str().unwrap().to_owned();
    let given = place.done(&["release", &id]).stdout;
    assert_eq!(given, format!("Given back: {id}\n"));
    let document = hold.answer().expect(0).document();
    Schema::named("lease").expect(&document);

    let hold = start(&place, &["hold", "--count", "3"]);
    place.wait_for_holders(0, 3);
    let name = place.shares(0)[0]["lease"]["name"].as_str().unwrap().to_owned();
    let list = place.json(&["release", &name]);
    Schema::named("leases").expect(&list);
    let free = list["gpus"][0]["shares"].as_array().unwrap();
    assert!(free.iter().all(|share| share["holder"].is_null()), "{list}");
    hold.answer().expect(0);
    place.run(&["release", &name]).expect_error("NOT_FOUND");

    // What a command holds itself is its own.
    let run = start(&place, &["run", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    let id = place.shares(0)[0]["id"].as_str().unwrap().to_owned();
    let refused = place.run(&["release", &id]).expect_error("BUSY");
    assert!(refused.stderr.contains(&format!("pid {} (sleep 300)", run.id())), "{refused:?}");
    assert_eq!(place.holders(0).len(), 1);
    drop(run);

    // A share that somebody waits for is given back all the same.
    let place = Place::new("1xL4");
    let hold = start(&place, &["hold"]);
    place.wait_for_holders(0, 1);
    let next = start(&place, &["run", "--timeout", "none", "--", "sleep", "300"]);
    until("a waiting caller", || place.json(&["leases"])["waiting"] == 1);
    place.done(&["release", &place.uuid(0)]);
    hold.answer().expect(0);
    until("the next", || place.holders(0) == [u64::from(next.id())]);
}

#[test]
fn a_cordon_stops_new_leases_and_says_why() {
    let place = Place::new("2xH100-80GB");
    let run = start(&place, &["run", "-i", "0", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    place.run(&["cordon"]).expect_error("INVALID_ARGUMENT");
    place.run(&["cordon", "-i", "0", "--reason", "two\nlines"]).expect_error("INVALID_ARGUMENT");
    let shown = place.done(&["cordon", "-i", "0", "--reason", "fan broken"]).stdout;
    assert!(shown.contains(": 1 of 1 share leased, cordoned: fan broken\n"), "{shown}");
    assert!(place.done(&["status"]).stdout.contains("  cordoned: fan broken; no new leases\n"));
    let status = place.json(&["status"]);
    Schema::named("status").expect(&status);
    assert_eq!(status["gpus"][0]["cordoned"], "fan broken");
    // Who is there stays; the other GPU is not concerned.
    assert_eq!(place.holders(0), [u64::from(run.id())]);
    drop(run);
    let refused = place.run(&["run", "-i", "0", "--", "true"]).expect(125);
    assert!(refused.stderr.contains("fan broken"), "{refused:?}");
    let told = place.done(&["run", "--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"]).stdout;
    assert_eq!(told.trim(), place.uuid(1));
    // It is no reason for what the GPU does not have.
    let none = place.run(&["run", "--mig", "1g", "--", "true"]).expect(125);
    assert!(none.stderr.starts_with("gpushare: INSUFFICIENT: "), "{none:?}");
    // A cordon outlives a change of mode.
    place.done(&["time-slice", "--replicas", "2", "-i", "0"]);
    place.run(&["hold", "-i", "0"]).expect_error("BUSY");
    let list = place.json(&["uncordon", "-i", "0"]);
    assert_eq!(list["gpus"][0]["cordoned"], Value::Null);
    place.done(&["uncordon", "-i", "all"]);
    place.done(&["run", "-i", "0", "--", "true"]);
}

#[test]
fn a_leased_gpu_does_not_change_its_mode() {
    let place = Place::new("1xH100-80GB");
    let run = start(&place, &["run", "--", "sleep", "300"]);
    place.wait_for_holders(0, 1);
    let pid = run.id();
    for change in [&["exclusive"][..], &["mig", "enable"], &["mps", "enable"]] {
        let answer = place.run(change).expect_error("BUSY");
        let says = format!("the lease of share {} is held by pid {pid} (sleep 300)", place.uuid(0));
        assert!(answer.stderr.contains(&says), "{answer:?}");
        let plan = place.run(&[change, &["--dry-run"]].concat()).expect(2);
        assert!(plan.stdout.contains(&format!("pid {pid} (sleep 300)")), "{plan:?}");
        let plan = place.run(&[change, &["--dry-run", "--json"]].concat()).expect(2).document();
        Schema::named("plan").expect(&plan);
        assert_eq!(plan["needs"]["evict"][0]["holders"][0]["kind"], "lease");
    }
    // With consent its holder goes.
    let report = place.json(&["exclusive", "--allow-evict", "--grace", "5"]);
    Schema::named("report").expect(&report);
    assert_eq!(report["evicted"][0]["holder"]["pid"], pid, "{report}");
    assert_eq!(place.layout(0).0, "exclusive");
    drop(run);
}

#[test]
fn a_leased_mig_device_stays_whatever_goes_around_it() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g", "3g"]);
    let run = start(&place, &["run", "--mig", "1g.10gb", "--", "sleep", "300"]);
    until("the lease", || place.holders(0).len() == 1);
    let shares = place.shares(0);
    let leased = shares.iter().find(|share| !share["holder"].is_null()).unwrap();
    let device = leased["id"].as_str().unwrap();
    let answer = place.run(&["mig", "destroy", device]).expect_error("BUSY");
    assert!(answer.stderr.contains(&format!("pid {} (sleep 300)", run.id())), "{answer:?}");
    place.run(&["mig", "disable"]).expect_error("BUSY");
    let text = place.done(&["status"]).stdout;
    assert!(text.contains(&format!("    leased by pid {} (sleep 300)\n", run.id())), "{text}");
    assert!(!text.contains("in use by"), "{text}");
    let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mig",
        "mig": {"instances": {"1g.10gb": 1, "2g.20gb": 2}}}]}"#;
    place.done(&["apply", &place.spec("around.json", spec)]);
    assert!(place.devices(0).contains(&device.to_owned()));
    assert_eq!(place.holders(0), [u64::from(run.id())]);
    // Only one is of that profile, and the other is larger.
    place.run(&["hold", "--mig", "1g"]).expect_error("BUSY");
    let any =
        ["run", "--mig", "any", "--min-memory", "15GiB", "--", "sh", "-c", "echo $GPUSHARE_SHARES"];
    let other = place.done(&any).stdout;
    assert_ne!(other.trim(), device);
    drop(run);
}

#[test]
fn a_mig_device_that_was_created_for_a_command_goes_with_it() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    let script = "echo $CUDA_VISIBLE_DEVICES; exit 3";
    let run = ["run", "--mig", "1g.10gb", "--create", "--verify", "--", "sh", "-c", script];
    let answer = place.run(&run).expect(3);
    assert!(answer.stdout.starts_with("MIG-"), "{answer:?}");
    assert_eq!(place.layout(0).1.len(), 0);
    // Also where the command never ran, or was ended.
    let missing = ["run", "--mig", "1g", "--create", "--verify", "--", "no-such-program"];
    place.run(&missing).expect(127);
    assert_eq!(place.layout(0).1.len(), 0);
    // One that is there and free is taken, and stays.
    place.done(&["mig", "create", "1g"]);
    let there = place.devices(0);
    let answer = place.run(&run).expect(3);
    assert_eq!([answer.stdout.trim()], [&there[0]]);
    assert_eq!(place.devices(0), there);
    // A holder gives back what it created, too.
    let tenant = sleeper();
    let lease =
        place.json(&["lease", "--mig", "3g", "--create", "--pid", &tenant.id().to_string()]);
    assert_eq!(lease["shares"][0]["profile"], "3g.40gb");
    Schema::named("lease").expect(&lease);
    assert_eq!(place.devices(0).len(), 2);
    tenant.end();
    until("the device to go", || place.devices(0) == there);
}

#[test]
fn the_lease_of_a_device_that_another_tool_took_away_is_void() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mig", "enable"]);
    place.done(&["mig", "create", "1g"]);
    let device = place.devices(0).remove(0);
    let hold = start(&place, &["hold", "--mig", "1g"]);
    place.wait_for_holders(0, 1);
    place.done(&["sim", "reset", "0"]);
    assert_eq!(place.shares(0).len(), 0);
    let status = place.json(&["status"]);
    assert_eq!(status["void_leases"][0]["id"], device, "{status}");
    assert_eq!(status["void_leases"][0]["holder"]["pid"], hold.id());
    for command in ["status", "leases"] {
        let text = place.done(&[command]).stdout;
        assert!(text.contains(&format!("void lease of {device}: pid {}", hold.id())), "{text}");
    }
    place.done(&["release", &device]);
    hold.answer().expect(0);
    assert_eq!(place.json(&["leases"])["void"], json!([]));
}

#[test]
fn the_callers_own_visible_devices_bound_the_choice() {
    let place = Place::new("3xH100-80GB");
    let run = |visible: &str, arguments: &[&str]| {
        let echo = ["--", "sh", "-c", "echo $CUDA_VISIBLE_DEVICES"];
        let mut command = place.command(&[&["run"], arguments, &echo].concat());
        command.env("PATH", std::env::var_os("PATH").unwrap());
        Answer::of(command.env("CUDA_VISIBLE_DEVICES", visible).output().unwrap())
    };
    let uuids: Vec<String> = (0..3).map(|gpu| place.uuid(gpu)).collect();
    assert_eq!(run("2", &[]).expect(0).stdout.trim(), uuids[2]);
    assert_eq!(run(&uuids[1], &[]).expect(0).stdout.trim(), uuids[1]);
    assert_eq!(run("1,2", &["--count", "2"]).expect(0).stdout.trim(), uuids[1..].join(","));
    for (visible, arguments) in
        [("1", &["-i", "0"][..]), ("0,1", &["--count", "3"]), ("", &[]), ("-1", &[]), ("0,0", &[])]
    {
        let refused = run(visible, arguments).expect(125);
        assert!(refused.stderr.starts_with("gpushare: "), "{visible:?}: {refused:?}");
    }
    // A tenant that leases again has its own share alone.
    let inner = format!(
        "'{GPUSHARE}' --sim 3xH100-80GB --state-dir '{}' run -i 0 -- true",
        place.state().display()
    );
    let answer = place.run(&["run", "-i", "1", "--", "sh", "-c", &inner]).expect(125);
    assert!(!answer.stderr.is_empty(), "{answer:?}");
}

#[test]
fn shares_of_mps_say_what_is_declared() {
    let place = Place::new("1xH100-80GB");
    place.done(&["mps", "enable", "--max-clients", "4"]);
    let part = ["--thread-percentage", "50", "--pinned-memory-limit", "10GiB"];
    let tenant = sleeper();
    let pid = tenant.id().to_string();
    let lease = place.json(&[&["lease", "--pid", &pid], &part[..]].concat());
    Schema::named("lease").expect(&lease);
    assert_eq!(lease["variables"]["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"], "50");
    assert_eq!(lease["shares"][0]["enforced"], json!([]));
    let share = place.shares(0).remove(0);
    let terms = json!({"thread_percentage": 50.0, "pinned_memory_limit_bytes": 10_u64 << 30});
    assert_eq!(share["lease"]["terms"], terms);
    let text = place.done(&["status"]).stdout;
    assert!(text.contains(", 50 % of the threads declared, 10GiB declared\n"), "{text}");
    // What is promised is not promised twice.
    let second =
        place.run(&[&["lease", "--pid", &pid], &["--thread-percentage", "51"][..]].concat());
    second.expect_error("BUSY");
}

#[test]
fn an_ordinary_user_leases_what_root_has_made_slots_for() {
    if !can_be_nobody("leases of an ordinary user") {
        return;
    }
    let place = Place::new("2xH100-80GB");
    let command = |state: &Path, arguments: &[&str]| {
        let mut command = place.nobodys_command();
        command.args(["--sim", "2xH100-80GB", "--state-dir"]).arg(state).args(arguments);
        command
    };
    let as_nobody =
        |arguments: &[&str]| Answer::of(command(&place.state(), arguments).output().unwrap());
    place.done(&["time-slice", "--replicas", "2", "-i", "0"]);
    // GPU 1 has no slots yet: nobody may make them but root, who is told how.
    let refused = as_nobody(&["run", "-i", "1", "--", "true"]).expect(125);
    assert!(refused.stderr.starts_with("gpushare: PERMISSION_DENIED: "), "{refused:?}");
    assert!(refused.stderr.contains("`gpushare leases` as root"), "{refused:?}");
    place.done(&["leases"]);
    as_nobody(&["run", "-i", "1", "--", "true"]).expect(0);
    let mut sleep = command(&place.state(), &["run", "-i", "0", "--", "sleep", "300"]);
    let child = Running(Some(sleep.stderr(Stdio::null()).spawn().unwrap()));
    place.wait_for_holders(0, 1);
    let share = place.shares(0).into_iter().find(|share| !share["holder"].is_null()).unwrap();
    assert_eq!(share["holder"]["pid"], child.id());
    assert_eq!(share["holder"]["uid"], NOBODY);
    assert_eq!(share["lease"]["inherited"], false);
    // Both see the same list, and root's changes wait for it.
    let list = as_nobody(&["leases", "--json"]).expect(0).document();
    Schema::named("leases").expect(&list);
    assert_eq!(list["scope"], "node");
    assert!(list["gpus"][0]["shares"].as_array().unwrap().contains(&share), "{list}");
    place.run(&["exclusive", "-i", "0"]).expect_error("BUSY");
    as_nobody(&["cordon", "-i", "0"]).expect_error("PERMISSION_DENIED");
    // Root's holder is not theirs to end.
    let hold = start(&place, &["hold", "-i", "1"]);
    place.wait_for_holders(1, 1);
    as_nobody(&["release", &place.uuid(1)]).expect_error("PERMISSION_DENIED");
    assert_eq!(place.holders(1), [u64::from(hold.id())]);

    // In a directory of their own nobody else is meant, and the list says so.
    let own = place.path().join("own");
    std::fs::create_dir(&own).unwrap();
    chown(&own, Some(NOBODY), Some(NOBODY)).unwrap();
    let list = Answer::of(command(&own, &["leases"]).output().unwrap()).expect(0).stdout;
    assert!(list.contains("scope private: other users do not see these leases\n"), "{list}");
    Answer::of(command(&own, &["run", "-i", "0", "--", "true"]).output().unwrap()).expect(0);
}
