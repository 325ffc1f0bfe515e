//! What a container finds, as far as CDI can change it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::podman::Runtime;

/// Told by programs in the container: of its variables, of the nodes below /dev, of its mounts.
const LOOK: &str = r#"
env -0
printf '\1'
find /dev -type c -o -type b | while read -r node; do stat -c '%n %f %t %T %u %g' "$node"; done
printf '\1'
while read -r _ _ _ _ point options rest; do
    echo "$point $options ${rest#*- } $(stat -c '%d %i' "$point")"
done </proc/self/mountinfo
"#;

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    pub(crate) variables: BTreeMap<String, String>,
    /// By path: `c 195:7 666 0:0` is type, major:minor, mode, owner:group.
    pub(crate) nodes: BTreeMap<String, String>,
    /// By mount point.
    pub(crate) mounts: BTreeMap<String, Mount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mount {
    /// In order of the alphabet, comma between.
    pub(crate) options: String,
    kind: String,
    /// Device and inode of what is mounted.
    file: (u64, u64),
}

impl Mount {
    pub(crate) fn is(&self, path: &Path) -> bool {
        let host = std::fs::metadata(path).unwrap();
        self.file == (host.dev(), host.ino())
    }
}

fn octal(raw: &str) -> (char, String) {
    let mode = u32::from_str_radix(raw, 16).unwrap();
    (if mode & 0o170_000 == 0o020_000 { 'c' } else { 'b' }, format!("{:o}", mode & 0o7777))
}

fn hexadecimal(number: &str) -> u32 {
    u32::from_str_radix(number, 16).unwrap()
}

impl Seen {
    fn read(text: &str) -> Self {
        let sections: Vec<&str> = text.split('\u{1}').collect();
        let [variables, nodes, mounts] = sections[..] else { panic!("{text}") };
        let variables = variables.split_terminator('\0').map(|variable| {
            let (name, value) = variable.split_once('=').unwrap();
            (name.to_owned(), value.to_owned())
        });
        let nodes = nodes.lines().map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [path, mode, major, minor, uid, gid] = fields[..] else { panic!("{line}") };
            let (kind, mode) = octal(mode);
            let number = format!("{}:{}", hexadecimal(major), hexadecimal(minor));
            (path.to_owned(), format!("{kind} {number} {mode} {uid}:{gid}"))
        });
        let mounts = mounts.lines().map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [point, options, kind, _source, _super, device, inode] = fields[..] else {
                panic!("{line}")
            };
            let mut options: Vec<&str> = options.split(',').collect();
            options.sort_unstable();
            let file = (device.parse().unwrap(), inode.parse().unwrap());
            let mount = Mount { options: options.join(","), kind: kind.to_owned(), file };
            (point.to_owned(), mount)
        });
        Self { variables: variables.collect(), nodes: nodes.collect(), mounts: mounts.collect() }
    }

    /// What this one has and the other has not, or has otherwise; and what the other alone has.
    pub(crate) fn beyond(&self, other: &Self) -> (Self, Vec<String>) {
        let mut more = self.clone();
        more.variables.retain(|name, value| other.variables.get(name) != Some(value));
        more.nodes.retain(|path, node| other.nodes.get(path) != Some(node));
        // Two containers' own file systems are never the same.
        more.mounts.retain(|point, mount| {
            other.mounts.get(point).is_none_or(|before| {
                (&before.options, &before.kind) != (&mount.options, &mount.kind)
            })
        });
        let lacks = |own: Vec<&String>, others: Vec<&String>| -> Vec<String> {
            others.into_iter().filter(|name| !own.contains(name)).cloned().collect()
        };
        let missing = [
            lacks(self.variables.keys().collect(), other.variables.keys().collect()),
            lacks(self.nodes.keys().collect(), other.nodes.keys().collect()),
            lacks(self.mounts.keys().collect(), other.mounts.keys().collect()),
        ];
        (more, missing.concat())
    }
}

impl Runtime {
    /// What a container with these devices finds.
    #[track_caller]
    pub(crate) fn look(&self, devices: &[&str]) -> Seen {
        let answer = self.run(devices, LOOK).expect(0);
        assert_eq!(answer.stderr, "");
        Seen::read(&answer.stdout)
    }

    /// What these devices alone bring: nothing else may differ from a container without them.
    #[track_caller]
    pub(crate) fn brings(&self, devices: &[&str]) -> Seen {
        let (more, missing) = self.look(devices).beyond(&self.look(&[]));
        assert!(missing.is_empty(), "{missing:?}");
        more
    }
}
