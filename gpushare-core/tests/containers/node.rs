//! A simulated node whose shares are to be had by the containers of a runtime.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::{Answer, PATIENCE, Place};
use crate::podman::Runtime;
use crate::seen::Seen;

pub(crate) struct Node {
    /// First: what its containers hold is given back before the place goes.
    pub(crate) runtime: Runtime,
    pub(crate) place: Place,
    plain: Seen,
}

/// The name of a device as a container asks for it.
pub(crate) fn device(share: &str) -> String {
    format!("gpushare.dev/share={share}")
}

#[track_caller]
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Node {
    /// None where no containers can be had here: the test is skipped aloud.
    pub(crate) fn new(what: &str, fleet: &str) -> Option<Self> {
        let runtime = Runtime::new(what)?;
        let plain = runtime.look(&[]);
        Some(Self { runtime, place: Place::new(fleet), plain })
    }

    /// Changes GPUs, whose specifications are the runtime's from now on.
    #[track_caller]
    pub(crate) fn change(&self, arguments: &[&str]) -> Answer {
        let option = format!("--cdi={}", self.runtime.cdi().display());
        let mut all = arguments.to_vec();
        all.push(&option);
        self.place.done(&all)
    }

    /// The same by a spec of one GPU.
    #[track_caller]
    pub(crate) fn apply(&self, gpu: &str) {
        let spec = format!("version: gpushare/v1\ngpus:\n  - {gpu}\n");
        let spec = self.place.spec("spec.yaml", &spec);
        self.change(&["apply", &spec, "--allow-hazard=bypass-possible", "--allow-reset"]);
    }

    #[track_caller]
    fn listed(&self) -> Vec<Value> {
        let list = self.place.json(&["leases"]);
        let gpus = list["gpus"].as_array().unwrap().iter();
        gpus.flat_map(|gpu| gpu["shares"].as_array().unwrap().clone()).collect()
    }

    /// The ids of all shares, in order.
    #[track_caller]
    pub(crate) fn shares(&self) -> Vec<String> {
        self.listed().iter().map(|share| share["id"].as_str().unwrap().to_owned()).collect()
    }

    /// For which process each leased share is held.
    #[track_caller]
    pub(crate) fn leased(&self) -> BTreeMap<String, u64> {
        let leased = self.listed().into_iter().filter(|share| !share["holder"].is_null());
        leased
            .map(|share| {
                let pid = share["lease"]["for_pid"].as_u64().unwrap();
                (share["id"].as_str().unwrap().to_owned(), pid)
            })
            .collect()
    }

    #[track_caller]
    pub(crate) fn wait_until_free(&self) {
        until("a lease outlives its container", || self.leased().is_empty());
    }

    /// The first process of a container, by the host's number.
    #[track_caller]
    pub(crate) fn first_process(&self, container: &str) -> u64 {
        let inspect = ["inspect", "--format={{.State.Pid}}", container];
        let answer = Answer::of(self.runtime.podman(&inspect).output().unwrap()).expect(0);
        answer.stdout.trim().parse().unwrap()
    }

    /// What podman has at a path of its own.
    pub(crate) fn there(&self, path: &Path) -> PathBuf {
        self.runtime.root().join(path.strip_prefix("/").unwrap())
    }

    /// Makes the directory of a simulated daemon, which only podman sees, as a real one leaves it: with
    /// something in it.
    #[track_caller]
    pub(crate) fn pipe_directory(&self, path: &str) -> PathBuf {
        let there = self.there(Path::new(path));
        fs::create_dir_all(&there).unwrap();
        fs::write(there.join("control"), path).unwrap();
        there
    }

    /// What a lease of that share gives a process, as the container's own.
    #[track_caller]
    pub(crate) fn promise(&self, share: &str) -> Promise {
        let mut process = sleeper();
        let for_it = format!("--pid={}", process.id());
        let lease = self.place.json(&["lease", "--share", share, &for_it]);
        process.kill().unwrap();
        process.wait().unwrap();
        self.wait_until_free();
        Promise::of(&lease)
    }

    /// Starts a container with that device, by the name of the share or its id, which finds what was
    /// promised and nothing else.
    #[track_caller]
    pub(crate) fn expect(&self, name: &str, promise: &Promise) {
        let seen = self.runtime.look(&[&device(name)]);
        let (mut more, missing) = seen.beyond(&self.plain);
        assert!(missing.is_empty(), "{name}: {missing:?}");
        // Told by what it is: the engine's own has the same options.
        let memory =
            more.mounts.remove("/dev/shm").unwrap_or_else(|| seen.mounts["/dev/shm"].clone());
        let shared = memory.is(&self.there(Path::new("/dev/shm")));
        assert_eq!(shared, promise.pipe_directory.is_some(), "{name}: {memory:?}");
        assert_eq!(more.variables, promise.variables, "{name}");
        assert_eq!(more.nodes, promise.nodes, "{name}");
        let mounts: Vec<&String> = more.mounts.keys().collect();
        assert_eq!(mounts, promise.pipe_directory.iter().collect::<Vec<_>>(), "{name}");
        for (point, mount) in &more.mounts {
            assert!(mount.is(&self.there(Path::new(point))), "{name}: {more:?}");
            let options: Vec<&str> = mount.options.split(',').collect();
            for option in ["ro", "nosuid", "nodev", "noexec"] {
                assert!(options.contains(&option), "{name}: {more:?}");
            }
        }
        self.wait_until_free();
    }

    /// The files of the directory with their text.
    pub(crate) fn files(&self) -> BTreeMap<String, String> {
        let entries = fs::read_dir(self.runtime.cdi()).unwrap().map(Result::unwrap);
        let file = |entry: fs::DirEntry| {
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        };
        entries.map(file).collect()
    }
}

fn sleeper() -> Child {
    Command::new("sleep").arg("300").stdout(Stdio::null()).spawn().unwrap()
}

/// What a container is to find.
#[derive(Debug, Clone)]
pub(crate) struct Promise {
    pub(crate) variables: BTreeMap<String, String>,
    nodes: BTreeMap<String, String>,
    pub(crate) pipe_directory: Option<String>,
}

impl Promise {
    /// By a lease, `gpushare lease --json`.
    fn of(lease: &Value) -> Self {
        let variables = lease["variables"].as_object().unwrap().iter();
        let variables = variables.map(|(name, value)| (name, value.as_str().unwrap().to_owned()));
        let mut variables: BTreeMap<String, String> =
            variables.map(|(name, value)| (name.clone(), value)).collect();
        // Each lease has its own; and NVIDIA's own hook is to do nothing.
        assert!(variables.remove("GPUSHARE_LEASE").is_some());
        variables.insert("NVIDIA_VISIBLE_DEVICES".to_owned(), "void".to_owned());
        let [share] = &lease["shares"].as_array().unwrap()[..] else { panic!("{lease}") };
        let nodes = share["device_nodes"].as_array().unwrap().iter().map(|node| {
            let numbers = format!("c {}:{} 666 0:0", node["major"], node["minor"]);
            (node["path"].as_str().unwrap().to_owned(), numbers)
        });
        let pipe_directory = variables.get("CUDA_MPS_PIPE_DIRECTORY").cloned();
        Self { nodes: nodes.collect(), pipe_directory, variables }
    }
}
