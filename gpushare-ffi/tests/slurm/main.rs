//! The plugin of examples/slurm in a real Slurm, on a simulated node.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod cluster;
#[path = "../common/mod.rs"]
mod common;
mod gres;
mod transcript;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::{Cluster, ended, until};
use gpushare_core::lease::LeaseRequest;
use gpushare_core::units::Bytes;

/// What of the environment a lease, a Slurm, or somebody who sets GPUs by hand could have set.
const SHOW: &str = "env | grep -E '^(GPUSHARE|CUDA)_' | sort";

fn variables(text: &str) -> BTreeMap<String, String> {
    let pair = |line: &str| line.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned()));
    text.lines().filter_map(pair).collect()
}

fn srun(cluster: &Cluster, options: &[&str], shell: &str) -> Command {
    let mut command = cluster.slurm("srun");
    command.args(options).args(["sh", "-c", shell]);
    command
}

/// What srun shows of its task's environment.
fn shown(cluster: &Cluster, options: &[&str]) -> BTreeMap<String, String> {
    let output = srun(cluster, options, SHOW)
        // What is outside counts for nothing within a lease.
        .env("CUDA_MPS_PIPE_DIRECTORY", "/an/outer/one")
        .env("CUDA_MPS_ACTIVE_THREAD_PERCENTAGE", "3")
        .env("CUDA_DEVICE_ORDER", "PCI_BUS_ID")
        .output()
        .unwrap();
    variables(&ended(&output, 0).0)
}

#[test]
fn tasks_have_what_the_lease_says_and_give_it_back() {
    let Some(cluster) = Cluster::start("the environment of a step of Slurm's") else { return };
    cluster.prolog();
    let percent = |p: f64| p.try_into().unwrap();
    let mig = |name: &str| LeaseRequest::mig(name.parse().unwrap());
    let cases = [
        ("mps", LeaseRequest::gpu("0")),
        ("mps:12.5", LeaseRequest::gpu("0").thread_percentage(percent(12.5))),
        ("mps:50", LeaseRequest::gpu("0").thread_percentage(percent(50.0))),
        (
            "mps:25,mem=2G",
            LeaseRequest::gpu("0")
                .thread_percentage(percent(25.0))
                .pinned_memory_limit(Bytes::new(2 << 30)),
        ),
        ("mig:1g.10gb", mig("1g.10gb")),
        ("mig:1g.10gb,count=2", mig("1g.10gb").count(2.try_into().unwrap())),
        ("mig:3g", mig("3g")),
        ("mig,mem=20GiB", LeaseRequest::any_mig().min_memory(Bytes::new(20 << 30))),
    ];
    for (option, request) in cases {
        let lease = cluster.node().lease(&request).unwrap();
        let mut wanted = lease.variables().clone();
        let unset = lease.unset().clone();
        lease.release().unwrap();

        let mut got = shown(&cluster, &["--gres=gpu:2", &format!("--gpushare={option}")]);
        // The plugin's own, for steps that are started from there.
        assert_eq!(got.remove("GPUSHARE_SLURM").as_deref(), Some(option));
        let ours = wanted.insert("GPUSHARE_LEASE".to_owned(), "another".to_owned());
        let theirs = got.insert("GPUSHARE_LEASE".to_owned(), "another".to_owned());
        assert_ne!(ours.unwrap(), theirs.unwrap());
        assert_eq!(got, wanted, "{option}");
        assert!(unset.iter().all(|name| !got.contains_key(name)), "{option}: {got:?}");
        cluster.until_free();
    }
    // Who asks for nothing gets what Slurm gives, and keeps its own.
    let got = shown(&cluster, &["--gres=gpu:2"]);
    assert_eq!(got["CUDA_VISIBLE_DEVICES"], "0,1");
    assert_eq!(got["CUDA_MPS_PIPE_DIRECTORY"], "/an/outer/one");
    assert!(got.keys().all(|name| !name.starts_with("GPUSHARE_")), "{got:?}");
    assert_eq!(shown(&cluster, &["--gres=gpu:2", "--gpushare=none"]), got);

    // Every task of a step runs in its lease, and holds it.
    let options = ["-n3", "--gres=gpu:2", "--gpushare=mig:3g.40gb"];
    let see = "readlink /proc/self/fd/* | grep -c slot; echo $GPUSHARE_SHARES";
    let (out, _) = ended(&srun(&cluster, &options, see).output().unwrap(), 0);
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.iter().filter(|line| **line == "1").count(), 3, "{out}");
    let shares: Vec<_> = lines.iter().filter(|line| line.starts_with("MIG-")).collect();
    assert!(shares.len() == 3 && shares.iter().all(|share| *share == shares[0]), "{out}");

    // GPUs that a gres of another name stands for.
    let got = shown(&cluster, &["--gres=shard:1", "--gpushare=mps"]);
    assert!(got["GPUSHARE_SHARES"].starts_with("GPU-"), "{got:?}");
    cluster.until_free();
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let Some(cluster) = Cluster::start("what Slurm's users are told") else { return };
    cluster.prolog();
    // On the way in, before there is a job.
    let wrong = [
        "",
        " ",
        "mpx",
        "MPS",
        "mps:",
        "mps:0",
        "mps:-1",
        "mps:101",
        "mps:nan",
        "mps:2x",
        "mps:1.",
        "mps:25:3",
        "mps,",
        "mps,mem",
        "mps,mem=",
        "mps,mem=2",
        "mps,mem=2X",
        "mps,mem=512K",
        "mps,mem=0G",
        "mps,mem=99999999999999999999G",
        "mps,mem=1G,mem=1G",
        "mps,count=0",
        "mps,count=1025",
        "mps,count=1x",
        "mps,25",
        "mig:",
        "mig:g",
        "mig:1G",
        "mig:1g.10gb:2",
        "mig:1g 10gb",
        "mig:1g.10gb.10gb.10gb.10gb.10gb.10gb",
        "time_sliced:4",
        "none,count=2",
        "any,gpu=1",
    ];
    for option in wrong {
        for (name, tail) in [("srun", "true"), ("sbatch", "--wrap=true")] {
            if name == "sbatch" && option.len() > 4 {
                continue;
            }
            let mut command = cluster.slurm(name);
            let output = command.arg(format!("--gpushare={option}")).arg(tail).output().unwrap();
            let errors = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success(), "{option}: {errors}");
            assert!(
                errors.contains("Allowed is mps[:PERCENT], mig[:PROFILE]"),
                "{option}: {errors}"
            );
        }
    }
    let queue = cluster.slurm("squeue").args(["-h", "-t", "all"]).output().unwrap();
    assert_eq!(ended(&queue, 0).0, "", "no job was made");

    // On the node, where it is known what there is. The last: past the login node's check.
    let told: [(&[&str], &str, &str); 6] = [
        (&["--gpushare=any"], "", "gave this step no GPU"),
        (&["--gres=gpu:2", "--gpushare=time_sliced"], "", "GPU 0 is mps, GPU 1 is mig"),
        (&["--gres=gpu:1", "--gpushare=mig"], "", "none of the step's GPUs is mig: GPU 0 is mps"),
        (&["--gres=gpu:2", "--gpushare=mig:7g.80gb"], "", "INSUFFICIENT: "),
        (&["--gres=gpu:2", "--gpushare=mps:75"], "", "INSUFFICIENT: "),
        (&["--gres=gpu:2"], "mug", "there is no such mode"),
    ];
    for required in ["required", "optional"] {
        cluster.plugstack(required, "timeout=10");
        for (options, forged, says) in &told {
            let options = [*options, &["-n2"]].concat();
            let mut command = srun(&cluster, &options, "echo ran");
            if !forged.is_empty() {
                command.env("_SLURM_SPANK_OPTION_gpushare_gpushare", forged);
            }
            let (out, err) = ended(&command.output().unwrap(), 125);
            assert_eq!(out, "", "a task ran without its share");
            assert_eq!(err.matches(says).count(), 1, "{options:?}: {err}");
        }
        // A user's mistake is not the node's: it is not drained, and the job not requeued.
        let file = cluster.path("batch.out");
        let mut sbatch = cluster.slurm("sbatch");
        sbatch.args(["-W", "--gres=gpu:2", "--gpushare=mig:7g.80gb", "--wrap=echo ran"]);
        ended(&sbatch.arg("-o").arg(&file).output().unwrap(), 125);
        let said = std::fs::read_to_string(&file).unwrap();
        assert!(said.starts_with("gpushare: --gpushare=mig:7g.80gb: INSUFFICIENT"), "{said}");
        assert!(!said.contains("ran\n"), "{said}");
        let state = cluster.slurm("sinfo").args(["-h", "-o", "%T"]).output().unwrap();
        assert!(!ended(&state, 0).0.contains("drain"));
    }
    // Without GPUs of Slurm's, where the site says so.
    cluster.plugstack("required", "any_gpu");
    ended(&srun(&cluster, &["--gpushare=mig:3g"], "true").output().unwrap(), 0);
    for wrong in ["timeot=3", "timeout=", "timeout=-1", "timeout=1s", "state_dir=here"] {
        cluster.plugstack("required", wrong);
        let output = srun(&cluster, &[], "true").output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && errors.contains(wrong), "{errors}");
    }
    assert_eq!(cluster.leased(), 0);
}

#[test]
fn a_share_is_one_steps_alone_as_long_as_anything_of_it_runs() {
    let Some(cluster) = Cluster::start("who has a share in Slurm") else { return };
    cluster.prolog();
    // Two MIG devices, four steps at once: never more than two at once.
    let show = "echo $(date +%s.%N) $GPUSHARE_SHARES; sleep 0.4; date +%s.%N";
    let mut salloc = cluster.slurm("salloc");
    let step = format!("srun -n1 --overlap --gres=gpu:2 --gpushare=mig:1g.10gb sh -c '{show}'");
    let all = format!("for i in 1 2 3 4; do {step} & done; wait");
    let path = std::env::var("PATH").unwrap();
    let bin = cluster.slurm("srun").get_program().to_owned();
    let bin = std::path::Path::new(&bin).parent().unwrap().display().to_string();
    salloc.env("PATH", format!("{bin}:{path}"));
    let output = salloc.args(["-n4", "--gres=gpu:2", "sh", "-c", &all]).output().unwrap();
    let (out, _) = ended(&output, 0);
    assert_eq!(out.lines().count(), 8, "{out}");
    let devices: Vec<&str> = out.lines().filter_map(|line| line.split(' ').nth(1)).collect();
    let distinct: std::collections::BTreeSet<_> = devices.iter().collect();
    assert!(devices.len() == 4 && distinct.len() == 2, "{out}");
    let times = |line: &str| line.split(' ').next().unwrap().parse::<f64>().unwrap();
    let mut changes: Vec<(f64, i32)> =
        out.lines().map(|line| (times(line), if line.contains(' ') { 1 } else { -1 })).collect();
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let most = changes.iter().scan(0, |now, change| {
        *now += change.1;
        Some(*now)
    });
    assert_eq!(most.max(), Some(2), "{out}");
    cluster.until_free();

    // Who waits too long is told for whom.
    cluster.plugstack("required", "timeout=0.5");
    let held = "echo $$; exec sleep 30";
    let one = ["--gres=gpu:2", "--gpushare=mig:3g.40gb"];
    let mut holder = srun(&cluster, &one, held).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(holder.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let task: i32 = line.trim().parse().unwrap();
    let queue = cluster.slurm("squeue").args(["-h", "-o", "%i"]).output().unwrap();
    let id = ended(&queue, 0).0.trim().to_owned();
    let also = [&one[..], &["--overlap", "--jobid", &id]].concat();
    let start = Instant::now();
    let (_, err) = ended(&srun(&cluster, &also, "echo ran").output().unwrap(), 125);
    assert!(err.contains("TIMEOUT: waited 0.5 s"), "{err}");
    assert!(err.contains(&format!("slurmstepd: [{id}.0]")), "{err}");
    assert!(start.elapsed() < Duration::from_secs(5));

    // Killed, slurmstepd leaves the share with its task.
    let parent = parent_of(task);
    kill(parent);
    until("the end of slurmstepd", || parent_of(task) != parent);
    assert_eq!(cluster.leased(), 1, "the task has it still");
    let found = cluster.node().lease(&LeaseRequest::mig("3g.40gb".parse().unwrap()));
    assert!(found.unwrap_err().message().contains(&format!("pid {task}")));
    kill(task);
    cluster.until_free();
    let _ = holder.kill();
    let _ = holder.wait();
    let _ = cluster.slurm("scancel").arg(&id).output();
}

#[test]
fn steps_of_a_batch_script_run_in_its_lease() {
    let Some(cluster) = Cluster::start("leases of Slurm's batch scripts") else { return };
    cluster.prolog();
    cluster.plugstack("required", "timeout=1");
    let (script, out) = (cluster.path("job.sh"), cluster.path("job.out"));
    let bin = cluster.slurm("srun").get_program().to_owned();
    let steps = [
        ("inside", "--overlap"),
        ("own", "--overlap --gpushare=mig:1g.10gb"),
        ("outside", "--overlap --gpushare=none"),
        ("no GPU", "--overlap --gres=none"),
        ("elsewhere", "--overlap --export=NONE"),
    ];
    let mut text = "#!/bin/sh\n#SBATCH --gres=gpu:2 --gpushare=mig:3g.40gb\n".to_owned();
    text.push_str(&format!("echo '# script'; {SHOW}\n"));
    for (name, options) in steps {
        let srun = bin.to_str().unwrap();
        text.push_str(&format!("echo '# {name}'; {srun} {options} /bin/sh -c \"{SHOW}\" 2>&1\n"));
    }
    std::fs::write(&script, text).unwrap();
    let mut sbatch = cluster.slurm("sbatch");
    sbatch.arg("-W").arg("-o").arg(&out).arg(&script);
    let output = sbatch.output().unwrap();
    let said = std::fs::read_to_string(&out).unwrap();
    assert!(output.status.code().is_some(), "{said}");
    let of = |name: &str| {
        let rest = said.split(&format!("# {name}\n")).nth(1).unwrap_or_else(|| panic!("{said}"));
        rest.split("# ").next().unwrap().to_owned()
    };
    let script = variables(&of("script"));
    assert!(script["CUDA_VISIBLE_DEVICES"].starts_with("MIG-"), "{said}");
    assert_eq!(variables(&of("inside")), script, "{said}");
    let own = variables(&of("own"));
    assert_ne!(own["GPUSHARE_LEASE"], script["GPUSHARE_LEASE"]);
    assert_ne!(own["CUDA_VISIBLE_DEVICES"], script["CUDA_VISIBLE_DEVICES"]);
    assert_eq!(of("outside"), "CUDA_VISIBLE_DEVICES=0,1\n", "{said}");
    assert_eq!(of("no GPU"), "", "{said}");
    // What does not know of the script's lease asks for one of its own, and there is no other.
    assert!(of("elsewhere").contains("TIMEOUT: waited 1.0 s"), "{said}");
    cluster.until_free();

    // A lease of which the environment only tells is nobody's.
    let mut stale = srun(&cluster, &["--gres=gpu:2", "--gpushare=mig:3g.40gb"], SHOW);
    stale.env("GPUSHARE_SLURM", "mig:3g.40gb");
    let (out, _) =
        ended(&stale.env("GPUSHARE_SHARES", &script["GPUSHARE_SHARES"]).output().unwrap(), 0);
    let now = variables(&out);
    assert_eq!(now["GPUSHARE_SHARES"], script["GPUSHARE_SHARES"]);
    assert_ne!(now["GPUSHARE_LEASE"], script["GPUSHARE_LEASE"]);
    cluster.until_free();
}

#[test]
fn an_ordinary_user_leases_too() {
    const NOBODY: u32 = 65534;
    let Some(cluster) = Cluster::start("leases of Slurm's users") else { return };
    cluster.prolog();
    let own =
        std::fs::metadata(cluster.path("")).map(|of| std::os::unix::fs::MetadataExt::uid(&of));
    if own.unwrap() != 0 {
        common::skipped("a job of another user", "the tests do not run as root");
        return;
    }
    let as_nobody = |shell: &str| {
        let mut command = srun(&cluster, &["-D/", "--gres=gpu:2", "--gpushare=mig:3g.40gb"], shell);
        command.uid(NOBODY).gid(NOBODY);
        command
    };
    if cluster.slurm("srun").uid(NOBODY).gid(NOBODY).arg("--version").output().is_err() {
        common::skipped("a job of another user", "it may not read this checkout");
        return;
    }
    let (out, err) = ended(&as_nobody("id -u; echo $CUDA_VISIBLE_DEVICES").output().unwrap(), 0);
    assert!(out.starts_with("65534\nMIG-"), "{out}");
    // One lease for all users: it is not theirs alone.
    assert_eq!(err, "");
    let lease = cluster.node().lease(&LeaseRequest::mig("3g.40gb".parse().unwrap())).unwrap();
    cluster.plugstack("required", "timeout=0.2");
    ended(&as_nobody("true").output().unwrap(), 125);
    lease.release().unwrap();
    cluster.until_free();

    // Steps of their batch scripts run in the script's lease, of which they see less than root does.
    let open = std::env::temp_dir().join(format!("gpushare-slurm-{}", std::process::id()));
    std::fs::create_dir(&open).unwrap();
    let everybodys = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(&open, everybodys).unwrap();
    let (out, bin) = (open.join("out"), cluster.slurm("srun").get_program().to_owned());
    let show = "echo $CUDA_VISIBLE_DEVICES";
    let mut sbatch = cluster.slurm("sbatch");
    sbatch.args(["-W", "-D/", "--gres=gpu:2", "--gpushare=mig:3g.40gb"]).arg("-o").arg(&out);
    let step = format!("{} --overlap /bin/sh -c '{show}' 2>&1", bin.to_str().unwrap());
    sbatch.arg(format!("--wrap={show}; {step}")).uid(NOBODY).gid(NOBODY);
    ended(&sbatch.output().unwrap(), 0);
    let said = std::fs::read_to_string(&out).unwrap();
    std::fs::remove_dir_all(&open).unwrap();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("MIG-") && lines[0] == lines[1], "{said}");
    cluster.until_free();
}

fn kill(pid: i32) {
    // SAFETY: it changes nothing of ours; the process is a step of our cluster.
    assert_eq!(unsafe { libc::kill(pid, libc::SIGKILL) }, 0);
}

/// 0 where there is no such process.
fn parent_of(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let behind = stat.rsplit(')').next().unwrap_or_default();
    behind.split_whitespace().nth(1).and_then(|parent| parent.parse().ok()).unwrap_or(0)
}
