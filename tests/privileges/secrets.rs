//! What the command and its tenants have in their environment and on their command lines stays there.
//!
//! `status`, plans and BUSY name who is in the way with the command line, as ps does, to who asks; nothing
//! of it is written down, and no report, which is kept, has it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use gpushare_core::backend::sim::ProcessSpec;
use gpushare_core::id::{GpuUuid, Pid};
use gpushare_tests::nvml_sim::text;

use crate::is_root;
use crate::machine::Machine;
use crate::place::tree;

const ENVIRONMENT: &str = "secret-of-the-environment";
const ARGUMENT: &str = "secret-of-the-command-line";

/// A real process with both, on a GPU.
struct Tenant(Child);

impl Tenant {
    fn on(machine: &Machine, gpu: &GpuUuid) -> Self {
        let mut command = Command::new("/bin/sh");
        // It waits for a line that does not come, and starts nobody.
        command.args(["-c", "read line", ARGUMENT]).env("TOKEN", ENVIRONMENT).stdin(Stdio::piped());
        let tenant = Self(command.spawn().unwrap());
        let spec = ProcessSpec::new("").being(Pid::new(tenant.0.id()));
        machine.node.simulator().busy(gpu, spec).unwrap();
        tenant
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn has(bytes: &[u8], secret: &str) -> bool {
    bytes.windows(secret.len()).any(|window| window == secret.as_bytes())
}

/// All that was ever written, by its name: each journal is gone when its change is done.
#[derive(Default)]
struct Written(BTreeMap<PathBuf, Vec<u8>>);

impl Written {
    fn look(&mut self, machine: &Machine) {
        for (path, entry) in tree(&machine.state()) {
            self.0.entry(path).or_default().extend(entry.content);
        }
    }
}

#[test]
fn no_secret_of_environments_or_command_lines_is_written_down() {
    if !is_root("secrets in what a change writes") {
        return;
    }
    let mut machine = Machine::new("4xH100-80GB", "022");
    machine.variables.push(("TOKEN", ENVIRONMENT.to_owned()));
    let gpus = machine.node.simulator().gpus().unwrap();
    let _tenants: Vec<_> = [0, 0, 1, 1, 2].map(|n| Tenant::on(&machine, &gpus[n])).into();
    let mut written = Written::default();

    // Each with what it prints of the tenants' command lines: to who asks, and nowhere else.
    let shared = ["--compute-mode", "unchanged", "--allow-hazard", "bypass-possible"];
    let shared = [&["mps", "enable", "-i", "3"][..], &shared].concat();
    let evict = ["--allow-evict", "--grace", "0.2"];
    let evict = |command: &[&'static str]| [command, &evict].concat();
    let lease = ["run", "-i", "3", "--", "/bin/sh", "-c", ":", ARGUMENT];
    let mut steps: Vec<(Vec<&str>, bool)> = vec![
        (vec!["status"], true),
        (vec!["--json", "status"], true),
        (vec!["exclusive", "-i", "0"], true),
        (evict(&["exclusive", "-i", "0", "--dry-run"]), true),
        (evict(&["--json", "exclusive", "-i", "0"]), false),
        (evict(&["exclusive", "-i", "1"]), true),
        (vec!["time-slice", "-i", "2", "--replicas", "2"], false),
        (vec!["leases"], false),
        (lease.to_vec(), false),
        (vec!["--json", "leases"], false),
        (vec!["doctor", "--json"], false),
        (vec!["metrics"], false),
        (vec!["recover", "--json"], false),
    ];
    if machine.has_mps {
        steps.insert(0, (shared, false));
        steps.push((vec!["mps", "status", "-i", "3"], false));
    }
    for (arguments, tells) in steps {
        let output = machine.run(&arguments);
        let said = text(&output);
        assert!(!said.contains(ENVIRONMENT), "{arguments:?}: {said}");
        if !tells {
            assert!(!said.contains(ARGUMENT), "{arguments:?}: {said}");
        }
        assert_ne!(output.status.code(), None, "{arguments:?}: {said}");
        if machine.state().exists() {
            written.look(&machine);
        }
    }
    // What a change writes while it is under way.
    let dies = ["mig", "enable", "-i", "2", "--allow-evict", "--grace", "0.2"];
    machine.dies(&dies);
    written.look(&machine);

    assert!(written.0.keys().any(|path| path.ends_with("audit.jsonl")));
    assert!(written.0.keys().any(|path| path.starts_with(machine.state().join("lib/journal"))));
    let audit = &written.0[&machine.state().join("lib/audit.jsonl")];
    // They were ended, and it says which program they were.
    assert!(
        has(audit, "SIGTERM pid") && has(audit, "(/bin/sh)"),
        "{}",
        String::from_utf8_lossy(audit)
    );
    for (path, content) in &written.0 {
        for secret in [ENVIRONMENT, ARGUMENT] {
            assert!(!has(content, secret), "{secret} in {}", path.display());
        }
    }
}
