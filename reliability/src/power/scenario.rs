//! What is asked of a node while the power may fail.

use std::path::Path;

/// A node, and what is asked of it one after the other.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) name: &'static str,
    pub(super) fleet: &'static str,
    pub(super) commands: Vec<Command>,
}

/// One command.
#[derive(Clone, Debug)]
pub(super) enum Command {
    /// Brings the GPUs to a spec.
    Apply { spec: String, cdi: bool },
    /// Stores what is in force.
    Persist,
    /// Brings the GPUs to what is stored, and notes that.
    Restore,
}

impl Command {
    /// The arguments of `gpushare`, by which it is done.
    pub(super) fn arguments(&self, number: usize, place: &Place) -> Vec<String> {
        let mut arguments: Vec<String> = match self {
            Self::Apply { cdi, .. } => {
                let spec = place.spec(number);
                let allow = [
                    "--allow-reset",
                    "--allow-hazard=bypass-possible",
                    "--allow-hazard=hopper-unmeasured",
                ];
                let mut arguments = vec!["apply".to_owned(), spec];
                arguments.extend(allow.map(str::to_owned));
                if *cdi {
                    let directory = place.disk().join("cdi");
                    arguments.extend([
                        format!("--cdi={}", directory.display()),
                        "--no-lease".to_owned(),
                    ]);
                }
                arguments
            }
            Self::Persist => vec!["persist".to_owned()],
            Self::Restore => vec!["restore".to_owned(), "--allow-reset".to_owned()],
        };
        arguments.push("--json".to_owned());
        arguments
    }

    pub(super) fn name(&self) -> String {
        match self {
            Self::Apply { spec, cdi } => {
                format!("apply {spec}{}", if *cdi { " --cdi" } else { "" })
            }
            Self::Persist => "persist".to_owned(),
            Self::Restore => "restore".to_owned(),
        }
    }
}

/// Where everything of a scenario is.
#[derive(Clone, Debug)]
pub(super) struct Place {
    pub(super) root: std::path::PathBuf,
    pub(super) fleet: &'static str,
}

impl Place {
    pub(super) fn disk(&self) -> std::path::PathBuf {
        self.root.join("disk")
    }

    pub(super) fn state(&self) -> std::path::PathBuf {
        self.disk().join("state")
    }

    /// What does not outlive this life of the machine.
    pub(super) fn volatile(&self) -> std::path::PathBuf {
        self.state().join("run")
    }

    pub(super) fn hardware(&self) -> std::path::PathBuf {
        self.volatile().join(format!("sim-{}.json", self.fleet))
    }

    pub(super) fn marks(&self) -> std::path::PathBuf {
        self.root.join("marks")
    }

    fn spec(&self, number: usize) -> String {
        self.root.join(format!("{number}.json")).display().to_string()
    }

    /// Writes what the commands read, and the commands.
    pub(super) fn prepare(&self, commands: &[Command]) -> std::io::Result<()> {
        std::fs::create_dir(self.disk())?;
        std::fs::create_dir(self.marks())?;
        // The first makes the hardware, and changes nothing.
        let mut all = vec![vec!["status".to_owned(), "--json".to_owned()]];
        for (number, command) in commands.iter().enumerate() {
            if let Command::Apply { spec, .. } = command {
                std::fs::write(Path::new(&self.spec(number)), spec)?;
            }
            all.push(command.arguments(number, self));
        }
        self.write(all)
    }

    /// The same of one command alone.
    pub(super) fn command(&self, words: &[&str]) -> std::io::Result<()> {
        self.write(vec![words.iter().map(|word| (*word).to_owned()).collect()])
    }

    fn write(&self, commands: Vec<Vec<String>>) -> std::io::Result<()> {
        let state = self.state().display().to_string();
        let node = ["gpushare", "--sim", self.fleet, "--state-dir", &state].map(str::to_owned);
        let all: Vec<_> = commands.iter().map(|words| [&node[..], words].concat()).collect();
        std::fs::write(self.root.join("commands.json"), serde_json::json!(all).to_string())
    }
}

fn spec(select: &str, mode: &str, block: &str) -> String {
    let block = if block.is_empty() { String::new() } else { format!(r#", "{mode}": {block}"#) };
    format!(r#"{{"select": {select}, "mode": "{mode}"{block}}}"#)
}

fn apply(specs: &[String], cdi: bool) -> Command {
    let gpus = specs.join(", ");
    Command::Apply { spec: format!(r#"{{"version": "gpushare/v1", "gpus": [{gpus}]}}"#), cdi }
}

fn all(mode: &str, block: &str, cdi: bool) -> Command {
    apply(&[spec(r#""all""#, mode, block)], cdi)
}

fn mig(instances: &str, cdi: bool) -> Command {
    all("mig", &format!(r#"{{"instances": {{{instances}}}}}"#), cdi)
}

/// Every scenario.
pub(super) fn scenarios() -> Vec<Scenario> {
    let exclusive = || all("exclusive", "", false);
    vec![
        Scenario {
            name: "a30-bare",
            fleet: "1xA30-24GB",
            commands: vec![mig(r#""1g.6gb": 1"#, true)],
        },
        Scenario {
            name: "a30",
            fleet: "1xA30-24GB",
            commands: vec![
                all("exclusive", "", true),
                mig(r#""1g.6gb": 2"#, false),
                Command::Persist,
                mig(r#""2g.12gb": 1"#, false),
                Command::Persist,
                exclusive(),
            ],
        },
        Scenario {
            name: "h100",
            fleet: "1xH100-80GB",
            commands: vec![
                all("exclusive", "", true),
                mig(r#""1g.10gb": 2"#, false),
                mig(r#""3g.40gb": 1, "1g.10gb": 1"#, false),
                Command::Persist,
                Command::Restore,
                exclusive(),
            ],
        },
        Scenario {
            name: "mps",
            fleet: "1xH100-80GB",
            commands: vec![
                all("mps", r#"{"max_clients": 2}"#, true),
                all("time_sliced", r#"{"replicas": 3}"#, false),
                Command::Persist,
                exclusive(),
            ],
        },
        Scenario {
            name: "two-a30",
            fleet: "2xA30-24GB",
            commands: vec![
                exclusive(),
                mig(r#""1g.6gb": 1"#, true),
                apply(&[spec("0", "exclusive", ""), spec("1", "time_sliced", "")], false),
            ],
        },
        Scenario {
            name: "two-h100",
            fleet: "2xH100-80GB",
            commands: vec![apply(
                &[spec("0", "mig", r#"{"instances": {"7g.80gb": 1}}"#), spec("1", "exclusive", "")],
                true,
            )],
        },
    ]
}
