//! The examples do what they say, linked either way, without a leak or an error in memory.

// A test fails by a panic, in its helpers too.
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{Link, build, directory, program, run, skipped};

/// Under valgrind, and with the address sanitizer.
const WATCHED: [Link; 2] = [Link::Shared, Link::Sanitized];
const LINKS: [Link; 3] = [Link::Shared, Link::Static, Link::Sanitized];

const SPEC: &str = "version: gpushare/v1
gpus:
  - {select: 0, mode: mig, mig: {instances: {3g.40gb: 1, 1g.10gb: 2}}}
  - {select: 1, mode: mps, mps: {thread_percentage: 25, pinned_memory_limit: 8GiB, max_clients: 3}}
";

/// A simulated node whose state programs share, and the examples.
struct Node {
    directory: PathBuf,
    link: Link,
}

impl Node {
    fn new(name: &str, link: Link) -> Self {
        Self { directory: directory(&format!("{name}-{link:?}")), link }
    }

    /// An example, on this node. Under valgrind where it is linked with the plain shared library.
    fn example(&self, name: &str) -> Command {
        let built = build(&format!("examples/{name}.c"), self.link, &self.directory);
        self.on_this(watched(&built, self.link))
    }

    /// An example that is not the one to be tested: not under valgrind.
    fn aid(&self, name: &str) -> Command {
        let built = self.path(name);
        let source = format!("examples/{name}.c");
        let built = if built.exists() { built } else { build(&source, self.link, &self.directory) };
        self.on_this(program(&built))
    }

    fn on_this(&self, mut command: Command) -> Command {
        command.env("GPUSHARE_SIM", "3xH100-80GB");
        command.env("GPUSHARE_STATE_DIR", self.directory.join("state"));
        command
    }

    fn status(&self) -> String {
        run(&mut self.aid("status_printer"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

fn valgrind() -> bool {
    Command::new("valgrind").arg("--version").output().is_ok()
}

/// A program, under valgrind where that is there and the program is not watched already.
fn watched(path: &Path, link: Link) -> Command {
    let mut command = program(path);
    if link == Link::Sanitized {
        command.env("ASAN_OPTIONS", "detect_leaks=1:abort_on_error=0:exitcode=99");
    }
    if link != Link::Shared {
        return command;
    }
    if !valgrind() {
        skipped("a C program under valgrind", "it is not installed");
        return command;
    }
    let mut valgrind = program(Path::new("valgrind"));
    valgrind.args(["--quiet", "--error-exitcode=99", "--leak-check=full", "--fair-sched=try"]);
    let suppressions = common::crate_dir().join("tests/c/valgrind.supp");
    valgrind.arg(format!("--suppressions={}", suppressions.display()));
    // What statics hold until the end is reachable, and no leak.
    valgrind.args(["--errors-for-leak-kinds=definite,indirect,possible"]);
    valgrind.args(["--show-leak-kinds=definite,indirect,possible", "--"]).arg(path);
    valgrind
}

fn failed(output: &Output, code: i32, says: &str) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert!(errors.contains(says), "{errors}");
}

#[test]
fn an_epilog_undoes_what_a_prolog_did() {
    for link in WATCHED {
        let node = Node::new("prolog", link);
        let (spec, saved) = (node.path("spec.yaml"), node.path("saved.json"));
        std::fs::write(&spec, SPEC).unwrap();
        let before = node.status();
        assert!(before.starts_with("SIMULATED\n") && !before.contains("mig"), "{before}");

        let prolog = || {
            let mut command = node.example("prolog");
            command.arg("-e").arg(&spec).arg(&saved);
            command
        };
        let epilog = || {
            let mut command = node.example("epilog");
            command.arg("-e").arg(&saved);
            command
        };
        assert_eq!(run(&mut epilog()), "nothing was saved, and nothing is undone\n");
        assert_eq!(run(&mut prolog()), "applied\n");
        let during = node.status();
        assert_eq!(during.matches(" 1g.10gb: free").count(), 2, "{during}");
        assert_eq!(during.matches("whole GPU: free").count(), 3 + 1, "{during}");
        let previous = std::fs::read_to_string(&saved).unwrap();
        assert!(previous.contains("time_sliced"), "{previous}");

        // A job that runs again keeps what leads back to where it began.
        let again = prolog().output().unwrap();
        assert_eq!(String::from_utf8_lossy(&again.stdout), "nothing to do\n");
        assert!(String::from_utf8_lossy(&again.stderr).contains("is kept"), "{again:?}");
        assert_eq!(std::fs::read_to_string(&saved).unwrap(), previous);

        // What somebody else put in its place is not obeyed.
        let elsewhere = node.path("elsewhere.json");
        std::fs::rename(&saved, &elsewhere).unwrap();
        std::os::unix::fs::symlink(&elsewhere, &saved).unwrap();
        failed(&epilog().output().unwrap(), 1, "cannot read");
        std::fs::rename(&elsewhere, &saved).unwrap();

        assert_eq!(run(&mut epilog()), "undone\n");
        assert!(!saved.exists());
        // The share counts are of the record that there is now; the rest is as before.
        let modes = |status: &str| -> Vec<String> {
            status.lines().filter(|line| line.contains(" MiB, ")).map(str::to_owned).collect()
        };
        assert_eq!(modes(&node.status()), modes(&before));

        std::fs::write(&spec, "version: gpushare/v1\ngpus: [{select: 9, mode: mig}]\n").unwrap();
        failed(&prolog().output().unwrap(), 1, "NOT_FOUND");
        std::fs::write(&spec, "version: gpushare/v1\ngpus: [{select: 0, mode: mug}]\n").unwrap();
        failed(&prolog().output().unwrap(), 1, "INVALID_ARGUMENT");

        // Without -e the environment is another's: this is a real node, and it has no driver here.
        let mut real = node.example("prolog");
        real.env("GPUSHARE_NVML_PATH", "relative").arg(&spec).arg(&saved);
        let output = real.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(!errors.contains("absolute") && !errors.contains("simulated"), "{errors}");
        failed(&prolog().arg("more").output().unwrap(), 1, "usage");

        // What cannot be saved is not applied, and what is not applied leaves nothing.
        std::fs::write(&spec, SPEC).unwrap();
        let before = node.status();
        let nowhere = node.path("no/such/folder.json");
        let output = node.example("prolog").arg("-e").arg(&spec).arg(&nowhere).output().unwrap();
        failed(&output, 1, "cannot write");
        assert_eq!(node.status(), before);
        let mut holder = node.aid("lease_child");
        holder.args(["gpu=0", "sh", "-c", "echo held; read line"]);
        let mut holder = holder.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(holder.stdout.as_mut().unwrap(), &mut line).unwrap();
        failed(&prolog().output().unwrap(), 1, "BUSY");
        drop(holder.stdin.take());
        holder.wait().unwrap();
        let left: Vec<_> = std::fs::read_dir(&node.directory).unwrap().flatten().collect();
        assert!(
            left.iter().all(|e| !e.file_name().to_string_lossy().contains("saved")),
            "{left:?}"
        );
    }
}

/// From its first moment to its last: killed there, a prolog has left what an epilog undoes.
#[test]
fn a_prolog_that_is_killed_at_any_moment_is_undone() {
    let node = Node::new("killed", Link::Shared);
    let (spec, saved) = (node.path("spec.yaml"), node.path("saved.json"));
    std::fs::write(&spec, SPEC).unwrap();
    let modes = || -> Vec<String> {
        let status = node.status();
        status.lines().filter(|line| line.contains(" MiB, ")).map(str::to_owned).collect()
    };
    let before = modes();
    let start = || {
        let mut prolog = node.aid("prolog");
        prolog.arg("-e").arg(&spec).arg(&saved);
        prolog.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let began = std::time::Instant::now();
    assert!(start().wait().unwrap().success());
    let whole = began.elapsed();
    let epilog = || run(node.aid("epilog").arg("-e").arg(&saved));
    assert_eq!(epilog(), "undone\n");
    let mut undone = 0;
    for part in 0..60 {
        let mut prolog = start();
        std::thread::sleep(whole * part / 50);
        prolog.kill().unwrap();
        prolog.wait().unwrap();
        let said = epilog();
        undone += usize::from(said == "undone\n");
        assert_eq!(modes(), before, "{part}: {said}");
        assert!(!saved.exists(), "{part}: {said}");
    }
    print(&format!("{undone} of 60 killed prologs had changed the GPUs for good\n"));
    assert!((1..60).contains(&undone), "{undone}: they were not killed at different moments");
}

#[test]
fn a_child_runs_within_a_lease_and_keeps_it() {
    for link in WATCHED {
        let node = Node::new("lease", link);
        let (spec, saved) = (node.path("spec.yaml"), node.path("saved.json"));
        std::fs::write(&spec, SPEC).unwrap();
        run(node.aid("prolog").arg("-e").arg(&spec).arg(&saved));

        let tell = "echo \"$CUDA_VISIBLE_DEVICES $CUDA_MPS_PIPE_DIRECTORY $GPUSHARE_SHARES\"";
        let mut command = node.example("lease_child");
        command.env("CUDA_MPS_PIPE_DIRECTORY", "/an/outer/one").args(["mig=3g.40gb", "sh", "-c"]);
        let said = run(command.arg(tell));
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(words.len() == 2 && words[0].starts_with("MIG-") && words[0] == words[1], "{said}");

        let mut command = node.example("lease_child");
        let said = run(command.args(["gpu=1", "sh", "-c"]).arg(tell));
        let words: Vec<&str> = said.split_whitespace().collect();
        assert!(words.len() == 3 && words[0].starts_with("GPU-"), "{said}");
        assert!(words[1].starts_with('/') && words[2].starts_with(words[0]), "{said}");

        // The command's own status, and that of one that is not there.
        let mut command = node.example("lease_child");
        let status = command.args(["any", "sh", "-c", "exit 42"]).status().unwrap();
        assert_eq!(status.code(), Some(42));
        let output = node.example("lease_child").args(["any", "/no/such"]).output().unwrap();
        failed(&output, 127, "cannot run");
        let output = node.example("lease_child").args(["mig=7g.80gb", "true"]).output().unwrap();
        failed(&output, 125, "INSUFFICIENT");

        failed(
            &node.example("lease_child").args(["gpus=1", "true"]).output().unwrap(),
            125,
            "usage",
        );

        // What it is told is passed on, and its status is the command's.
        let mut command = node.example("lease_child");
        command.args([
            "any",
            "sh",
            "-c",
            "trap 'exit 43' TERM; echo held; while :; do sleep 0.05; done",
        ]);
        let mut parent = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = [0; 5];
        std::io::Read::read_exact(parent.stdout.as_mut().unwrap(), &mut line).unwrap();
        run(Command::new("kill").arg(parent.id().to_string()));
        assert_eq!(parent.wait().unwrap().code(), Some(43));

        // Killed with its child alive, it leaves the share with the child until that ends.
        let mut command = node.example("lease_child");
        command.args(["mig=3g.40gb", "sh", "-c", "echo held; read line; exit 0"]);
        let mut parent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = std::io::BufReader::new(parent.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut stdout, &mut line).unwrap();
        assert_eq!(line, "held\n");
        let stdin = parent.stdin.take().unwrap();
        parent.kill().unwrap();
        parent.wait().unwrap();
        let status = node.status();
        assert!(status.contains(" 3g.40gb: leased by pid "), "{status}");
        drop(stdin);
        // It ends on its own time.
        std::io::Read::read_to_string(&mut stdout, &mut line).unwrap();
        let status = node.status();
        assert!(status.contains(" 3g.40gb: free"), "{status}");
    }
}

#[test]
fn an_agent_says_what_a_container_needs() {
    for link in WATCHED {
        let node = Node::new("agent", link);
        let (spec, saved) = (node.path("spec.yaml"), node.path("saved.json"));
        std::fs::write(&spec, SPEC).unwrap();
        run(node.aid("prolog").arg("-e").arg(&spec).arg(&saved));
        let said = run(node.example("agent").arg("4096").stdin(Stdio::null()));
        assert!(said.contains("env CUDA_VISIBLE_DEVICES="), "{said}");
        assert!(said.contains("unset CUDA_MPS_"), "{said}");
        for line in said.lines().filter(|line| line.starts_with("device ")) {
            let words: Vec<&str> = line.split_whitespace().collect();
            assert!(words[1].starts_with("/dev/nvidia"), "{line}");
            assert_eq!(
                words[2].split(':').filter(|n| n.parse::<i32>().is_ok()).count(),
                2,
                "{line}"
            );
        }
        assert!(said.matches("\ndevice ").count() >= 3, "{said}");
        // Within what is visible.
        let uuid = node.status().lines().find(|line| line.starts_with("2 ")).unwrap().to_owned();
        let uuid = uuid.split_whitespace().nth(1).unwrap();
        let said = run(node.example("agent").args(["4096", uuid]).stdin(Stdio::null()));
        assert!(said.contains(&format!("env CUDA_VISIBLE_DEVICES={uuid}\n")), "{said}");
        // The container's process has the share: its own descriptor, past exec and the agent's end.
        let mut command = node.example("agent");
        command.args(["4096", uuid, "--", "sh", "-c"]);
        command.arg("readlink /proc/self/fd/$GPUSHARE_FD; echo held; read line; exit 44");
        let mut agent = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let mut stdout = std::io::BufReader::new(agent.stdout.take().unwrap());
        while !said.ends_with("held\n") {
            assert!(std::io::BufRead::read_line(&mut stdout, &mut said).unwrap() > 0, "{said}");
        }
        assert!(said.contains(&format!("{uuid}.slot\nheld")), "{said}");
        let stdin = agent.stdin.take().unwrap();
        let status = node.status();
        assert!(status.contains(&format!("{uuid} whole GPU: leased by pid ")), "{status}");
        drop(stdin);
        assert_eq!(agent.wait().unwrap().code(), Some(44));
        assert!(node.status().contains(&format!("{uuid} whole GPU: free")));

        for wrong in [&["0"][..], &["12x"], &["-1"], &[" 1"], &["99999999999999"], &["1", "0", "x"]]
        {
            let output = node.example("agent").args(wrong).stdin(Stdio::null()).output().unwrap();
            failed(&output, 1, "usage");
        }
        failed(&node.example("agent").args(["1", "--"]).output().unwrap(), 1, "usage");
        let output = node.example("agent").arg("99999999").stdin(Stdio::null()).output().unwrap();
        failed(&output, 1, "\"code\":\"INSUFFICIENT\"");
    }
}

#[test]
fn a_status_is_printed_and_a_node_without_a_driver_says_so() {
    for link in LINKS {
        let node = Node::new("status", link);
        let text = run(node.example("status_printer").arg("--json"));
        assert!(text.contains("\"schema\":\"gpushare.status/v1\""), "{text}");
        assert!(text.contains("\"simulated\":true"), "{text}");
        let mut real = node.example("status_printer");
        real.env_remove("GPUSHARE_SIM").env("GPUSHARE_NVML_PATH", "/no/such/libnvidia-ml.so.1");
        failed(&real.output().unwrap(), 1, "NOT_FOUND");
    }
}

#[test]
fn abuse_is_answered() {
    for link in LINKS {
        let directory = directory(&format!("abuse-{link:?}"));
        let built = build("tests/c/abuse.c", link, &directory);
        run(&mut watched(&built, link));
        // Who watches sees a leak where there is one.
        let leak = watched(&built, link).arg("leak").output().unwrap();
        let seen = link == Link::Sanitized || (link == Link::Shared && valgrind());
        assert_eq!(leak.status.code(), Some(if seen { 99 } else { 0 }), "{link:?}: {leak:?}");
        if !cfg!(debug_assertions) {
            skipped("a planted panic", "this is a release build, which has none");
            continue;
        }
        for planted in ["gpushare_node_refresh", "gpushare_plan_apply"] {
            run(watched(&built, link).arg("panic").env("GPUSHARE_TEST_PANIC", planted));
        }
        if link == Link::Static {
            let code = program(&built).arg("namespaces").status().unwrap().code();
            match code {
                Some(77) => {
                    skipped("a child of its parent's pid", "no pid namespace can be made here")
                }
                code => assert_eq!(code, Some(0)),
            }
        }
    }
}

#[test]
fn hooks_are_called_around_a_change() {
    for link in WATCHED {
        let directory = directory(&format!("hooks-{link:?}"));
        let built = build("tests/c/hooks.c", link, &directory);
        run(watched(&built, link).arg(&directory));
    }
}

#[test]
fn specifications_for_containers_follow_the_gpus() {
    for link in WATCHED {
        let directory = directory(&format!("cdi-{link:?}"));
        let built = build("tests/c/cdi.c", link, &directory);
        run(watched(&built, link).arg(&directory));
    }
}

/// `GPUSHARE_TEST_SECONDS=60` for longer.
#[test]
fn eight_threads_use_one_node() {
    let directory = directory("threads");
    let built = build("tests/c/threads.c", Link::Sanitized, &directory);
    let seconds = std::env::var("GPUSHARE_TEST_SECONDS").unwrap_or_else(|_| "2".to_owned());
    let said = run(watched(&built, Link::Sanitized).arg(seconds));
    assert!(said.ends_with(" calls\n"), "{said}");
}

#[test]
fn a_child_that_is_forked_at_any_moment_has_no_lease_and_gets_its_own() {
    let node = Node::new("forks", Link::Shared);
    let (spec, saved) = (node.path("spec.yaml"), node.path("saved.json"));
    let replicas = "version: gpushare/v1
gpus: [{select: all, mode: time_sliced, time_sliced: {replicas: 4}}]
";
    std::fs::write(&spec, replicas).unwrap();
    run(node.aid("prolog").arg("-e").arg(&spec).arg(&saved));
    let built = build("tests/c/forks.c", Link::Shared, &node.directory);
    run(node.on_this(program(&built)).arg("300"));
}

/// `cargo test --release -p gpushare-ffi --test programs -- --nocapture cost` shows them.
#[test]
fn costs_and_size_are_within_their_targets() {
    if cfg!(debug_assertions) {
        skipped("what calls cost", "this is no release build");
        return;
    }
    let directory = directory("cost");
    let built = build("tests/c/cost.c", Link::Shared, &directory);
    print(&run(program(&built).arg(directory.join("state"))));
    let stripped = directory.join("stripped.so");
    run(Command::new("strip").arg(common::library("libgpushare.so")).arg("-o").arg(&stripped));
    let size = std::fs::metadata(&stripped).unwrap().len();
    print(&format!("libgpushare.so, stripped: {size} bytes\n"));
    assert!(size <= 4 << 20, "{size} bytes");
}

fn print(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr().lock(), text.as_bytes());
}
