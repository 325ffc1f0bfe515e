//! What nvidia-ml-py, nvitop and gpustat show of a node, as facts.

use std::path::{Path, PathBuf};
use std::process::Command;

use gpushare_tests::nvml_sim::{Node, text};
use serde_json::Value;

use crate::facts::{Facts, Field, address, model};

/// The environment that has them, or why there is none.
pub(crate) fn environment() -> Result<PathBuf, String> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("fetch-readers");
    let fetched = Command::new(&script).output().map_err(|error| error.to_string())?;
    if !fetched.status.success() {
        return Err(String::from_utf8_lossy(&fetched.stderr).trim().to_owned());
    }
    Ok(PathBuf::from(String::from_utf8_lossy(&fetched.stdout).trim()))
}

fn said(node: &Node, command: &mut Command) -> String {
    let output = node.tell(command).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// nvidia-ml-py or nvitop, through a script that prints all they have.
pub(crate) fn library(node: &Node, environment: &Path, name: &str) -> Facts {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("readers/read.py");
    let mut python = Command::new(environment.join("bin/python"));
    let lines = said(node, python.arg("-B").arg(script).arg(name));
    let mut facts = Facts::default();
    for line in lines.lines() {
        let words: Vec<_> = line.split('\t').collect();
        let &[word, uuid, ref words @ ..] = &words[..] else { panic!("{line}") };
        let field = Field::ALL.into_iter().find(|field| field.word() == word).unwrap();
        match field {
            Field::Name => facts.add(field, uuid, &[&model(words[0])]),
            Field::Pci => facts.add(field, uuid, &[&address(words[0])]),
            _ => {
                let words: Vec<_> = words.iter().map(|word| word as &dyn ToString).collect();
                facts.add(field, uuid, &words);
            }
        }
    }
    facts
}

/// `gpustat --json`.
pub(crate) fn gpustat(node: &Node, environment: &Path) -> Facts {
    let document = said(node, Command::new(environment.join("bin/gpustat")).arg("--json"));
    let document: Value = serde_json::from_str(&document).unwrap();
    let mebibytes = |value: &Value| value.as_u64().unwrap() << 20;
    let mut facts = Facts::default();
    for gpu in document["gpus"].as_array().unwrap() {
        let uuid = gpu["uuid"].as_str().unwrap();
        facts.add(Field::Index, uuid, &[&gpu["index"]]);
        facts.add(Field::Name, uuid, &[&model(gpu["name"].as_str().unwrap())]);
        facts.add(Field::Memory, uuid, &[&mebibytes(&gpu["memory.total"])]);
        facts.add(Field::Used, uuid, &[&mebibytes(&gpu["memory.used"])]);
        for process in gpu["processes"].as_array().unwrap() {
            let memory = mebibytes(&process["gpu_memory_usage"]);
            facts.add(Field::Process, uuid, &[&process["pid"], &memory]);
        }
    }
    facts
}
