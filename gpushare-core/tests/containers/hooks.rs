//! What the engine does with a device's hooks.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::place::PATIENCE;
use crate::podman::Runtime;

const X: &str = "gpushare.dev/share=X";

impl Runtime {
    /// Gives the device X hooks of a name, each a shell's script that starts in a folder of the test.
    fn hooks(&self, name: &str, scripts: &[&str]) {
        let folder = self.told("");
        fs::create_dir_all(&folder).unwrap();
        let hooks = scripts.iter().map(|script| {
            let script = format!("cd '{}'\n{script}", folder.display());
            json!({"hookName": name, "path": "/bin/sh", "args": ["sh", "-c", script]})
        });
        self.device("0.5.0", "X", &json!({"hooks": hooks.collect::<Vec<_>>()}));
    }

    /// Where a hook writes what it has to tell.
    fn told(&self, name: &str) -> PathBuf {
        self.path().join("hooks").join(name)
    }

    #[track_caller]
    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.told(name)).unwrap()
    }
}

#[test]
fn a_create_runtime_hook_is_told_of_the_first_process_before_it_is_the_command() {
    let Some(runtime) = Runtime::new("createRuntime hooks") else { return };
    runtime.hooks(
        "createRuntime",
        &["cat >state
           pid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' state)
           cat /proc/$pid/comm >comm
           tr '\\0' ' ' </proc/$pid/cmdline >cmdline
           readlink /proc/$pid/ns/pid >tenants-namespace
           readlink /proc/self/ns/pid /proc/self/ns/mnt >own-namespaces
           umask >umask"],
    );
    runtime.start_named("tenant", &[X], "sleep 300").expect(0);
    let state: Value = serde_json::from_str(&runtime.text("state")).unwrap();
    assert_eq!(state["status"], "creating", "{state}");
    assert!(state["id"].is_string() && state["bundle"].is_string(), "{state}");
    let pid = state["pid"].as_u64().unwrap();
    // It is runc still, and becomes the command: the same process, by the host's number.
    assert_eq!(runtime.text("comm"), "runc:[2:INIT]\n");
    assert!(runtime.text("cmdline").trim_end().ends_with("runc init"));
    let inspect = ["inspect", "--format={{.State.Pid}} {{.Id}}", "tenant"];
    let inspected = runtime.podman(&inspect).output().unwrap().stdout;
    let inspected = String::from_utf8(inspected).unwrap();
    assert_eq!(inspected.trim(), format!("{pid} {}", state["id"].as_str().unwrap()));
    let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert!(command.replace('\0', " ").ends_with("sleep 300 "), "{command}");
    // The hook is in podman's namespaces, the tenant is not.
    let own = fs::read_link("/proc/self/ns/pid").unwrap().display().to_string();
    let mounts = runtime.inside("readlink", &["/proc/self/ns/mnt"]).output().unwrap().stdout;
    let mounts = String::from_utf8(mounts).unwrap();
    assert_eq!(runtime.text("own-namespaces"), format!("{own}\n{mounts}"));
    assert_ne!(runtime.text("tenants-namespace").trim(), own);
    assert_eq!(runtime.text("umask"), "0022\n");
    runtime.end("tenant");
}

#[test]
fn a_hook_has_runcs_environment_or_its_own_alone() {
    let Some(runtime) = Runtime::new("environments of hooks") else { return };
    runtime.hooks("createRuntime", &["env -0 >env; pwd >/dev/null"]);
    let mut command = runtime.command(&["--env=OF=tenant"], &[X], "true");
    // Of podman's own environment little goes on to runc.
    command
        .env("OF_PODMAN", "1")
        .env("LD_LIBRARY_PATH", "/nonexistent")
        .env("CUDA_VISIBLE_DEVICES", "0");
    assert!(command.status().unwrap().success());
    let env = runtime.text("env");
    let mut names: Vec<&str> =
        env.split_terminator('\0').map(|variable| variable.split('=').next().unwrap()).collect();
    names.sort_unstable();
    let shells = ["OLDPWD", "PWD", "SHLVL", "_"];
    names.retain(|name| !shells.contains(name));
    let expected = [
        "HOME",
        "PATH",
        "XDG_RUNTIME_DIR",
        "_CONTAINERS_ROOTLESS_UID",
        "_CONTAINERS_USERNS_CONFIGURED",
        "_OCI_STARTPIPE",
        "_OCI_SYNCPIPE",
    ];
    assert_eq!(names, expected);
    let hook = json!({"hookName": "createRuntime", "path": "/usr/bin/env", "args": ["env", "-0"],
        "env": ["ONLY=this"]});
    let fails = json!({"hookName": "createRuntime", "path": "/bin/sh",
        "args": ["sh", "-c", "/usr/bin/env >&2; exit 1"], "env": ["ONLY=this"]});
    runtime.device("0.5.0", "X", &json!({"hooks": [hook, fails]}));
    let told = runtime.run(&[X], "true").stderr;
    assert!(told.contains("ONLY=this") && !told.contains("HOME="), "{told}");
}

#[test]
fn a_hook_that_fails_keeps_the_container_from_starting() {
    let Some(runtime) = Runtime::new("failing hooks") else { return };
    for name in ["createRuntime", "prestart", "createContainer"] {
        let _ = fs::remove_dir_all(runtime.told(""));
        runtime.hooks(name, &["echo >first", "echo busy >&2; exit 3", "echo >third"]);
        let answer = runtime.run(&[X], "echo started");
        assert_eq!((answer.status, &*answer.stdout), (126, ""), "{name}: {answer:?}");
        // Whoever started it reads what the hook has said.
        assert!(answer.stderr.contains("exit status 3"), "{name}: {answer:?}");
        assert!(answer.stderr.contains("busy"), "{name}: {answer:?}");
        assert!(runtime.told("first").exists() && !runtime.told("third").exists(), "{name}");
        assert_eq!(runtime.containers(), [""; 0]);
    }
    let hook = json!({"hookName": "createRuntime", "path": "/nonexistent/hook", "args": ["hook"]});
    runtime.device("0.5.0", "X", &json!({"hooks": [hook]}));
    let answer = runtime.run(&[X], "echo started").expect(127);
    assert_eq!(answer.stdout, "");
    assert!(answer.stderr.contains("/nonexistent/hook"), "{answer:?}");
    // A timeout is seconds, and kills the hook.
    let hook = json!({"hookName": "createRuntime", "path": "/bin/sleep", "args": ["sleep", "300"], "timeout": 1});
    runtime.device("0.5.0", "X", &json!({"hooks": [hook]}));
    let answer = runtime.run(&[X], "echo started").expect(126);
    assert!(answer.stderr.contains("timeout of 1"), "{answer:?}");
    assert_eq!(answer.stdout, "");
}

#[test]
fn a_failing_poststop_hook_is_not_heard_of() {
    let Some(runtime) = Runtime::new("poststop hooks") else { return };
    runtime.hooks("poststop", &["cat >state; env >env; echo busy >&2; exit 3"]);
    let answer = runtime.run(&[X], "echo ran; exit 7").expect(7);
    assert_eq!((&*answer.stdout, &*answer.stderr), ("ran\n", ""));
    let state: Value = serde_json::from_str(&runtime.text("state")).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("stopped"), &Value::Null), "{state}");
    // It has no PATH, and no HOME.
    let env = runtime.text("env");
    assert!(
        !env.lines().any(|line| line.starts_with("PATH=") || line.starts_with("HOME=")),
        "{env}"
    );
}

#[test]
fn what_a_hook_leaves_lives_on_and_podman_does_not_wait_for_it() {
    let Some(runtime) = Runtime::new("a hook's children") else { return };
    let child = "setsid sh -c 'echo $$ >child; exec sleep 300' </dev/null >/dev/null 2>&1 &
        while ! [ -s child ]; do sleep 0.01; done";
    runtime.hooks("createRuntime", &[child]);
    let start = Instant::now();
    runtime.run(&[X], "echo ran").expect(0);
    assert!(start.elapsed() < PATIENCE, "podman has waited");
    assert_eq!(runtime.containers(), [""; 0]);
    let child: u32 = runtime.text("child").trim().parse().unwrap();
    assert!(runtime.processes().contains(&child), "it ended with the container");
    assert_eq!(fs::read_to_string(format!("/proc/{child}/comm")).unwrap(), "sleep\n");

    // One that keeps its standard output open is waited for.
    runtime.hooks("createRuntime", &["setsid sleep 2 &"]);
    let start = Instant::now();
    runtime.run(&[X], "echo ran").expect(0);
    assert!(start.elapsed() >= Duration::from_secs(2), "podman has not waited");
}
