//! What a process did to a disk, call by call, and what became of the hardware meanwhile.

use std::path::{Path, PathBuf};

use super::disk::{Disk, Operation, ROOT, Tree};

/// One thing that happened.
#[derive(Clone, Debug)]
pub(super) enum Happened {
    /// To the disk.
    Disk(Operation),
    /// The simulated hardware is in that state from now on.
    Hardware(Vec<u8>),
    /// A command returned.
    Returned,
}

/// Everything that happened.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) happened: Vec<Happened>,
}

impl Record {
    /// The same, as if nobody had synced what matches.
    pub(super) fn without(&self, is: impl Fn(&Operation) -> bool) -> Self {
        let drop = |happened: &&Happened| !matches!(happened, Happened::Disk(done) if is(done));
        Self { happened: self.happened.iter().filter(drop).cloned().collect() }
    }
}

/// Writes a record, and finds things by their paths meanwhile.
#[derive(Debug)]
pub(super) struct Recorder {
    /// The directory that is the disk.
    disk: PathBuf,
    /// What does not outlive this life of the machine: in it is the hardware.
    volatile: PathBuf,
    model: Disk,
    made: usize,
    pub(super) record: Record,
}

/// What a path means.
#[derive(Debug)]
pub(super) enum Means {
    /// Nothing of the disk's.
    Elsewhere,
    /// Something that does not outlive this life of the machine.
    Volatile,
    /// A name in a directory of the disk.
    Name(usize, String),
    /// The disk's own directory.
    Root,
}

impl Recorder {
    pub(super) fn new(disk: &Path, volatile: &Path, model: Disk) -> Self {
        let (disk, volatile) = (disk.to_owned(), volatile.to_owned());
        Self { disk, volatile, made: model.last(), model, record: Record::default() }
    }

    pub(super) fn means(&self, path: &Path) -> Result<Means, String> {
        if path.starts_with(&self.volatile) {
            return Ok(Means::Volatile);
        }
        let Ok(below) = path.strip_prefix(&self.disk) else { return Ok(Means::Elsewhere) };
        let Some((name, above)) =
            below.components().collect::<Vec<_>>().split_last().map(|(name, above)| {
                let text = |part: &std::path::Component<'_>| {
                    part.as_os_str().to_string_lossy().into_owned()
                };
                (text(name), above.iter().map(text).collect::<Vec<_>>())
            })
        else {
            return Ok(Means::Root);
        };
        let mut directory = ROOT;
        for part in above {
            directory = self
                .model
                .find(directory, &part)
                .ok_or_else(|| format!("{} is below what was never made", path.display()))?;
        }
        Ok(Means::Name(directory, name))
    }

    /// The file or directory of that path; none where it is none of the disk's.
    pub(super) fn id(&self, path: &Path) -> Result<Option<usize>, String> {
        match self.means(path)? {
            Means::Name(directory, name) => self
                .model
                .find(directory, &name)
                .map(Some)
                .ok_or_else(|| format!("{} was never made", path.display())),
            Means::Root => Ok(Some(ROOT)),
            Means::Elsewhere | Means::Volatile => Ok(None),
        }
    }

    pub(super) fn is_directory(&self, id: usize) -> bool {
        self.model.is_directory(id)
    }

    /// A number for what is made.
    pub(super) fn next(&mut self) -> usize {
        self.made += 1;
        self.made
    }

    pub(super) fn perform(&mut self, operation: Operation) {
        self.model.perform(&operation);
        self.record.happened.push(Happened::Disk(operation));
    }

    /// Holds what is really there against what the record says.
    pub(super) fn compare(&self) -> Result<(), String> {
        let mut there = Tree::new();
        read(&self.disk, "", &self.volatile, &mut there)
            .map_err(|error| format!("cannot read {}: {error}", self.disk.display()))?;
        let recorded = self.model.now();
        let differ = recorded.iter().find(|(path, content)| there.get(*path) != Some(content));
        let differ = differ.or(there.iter().find(|(path, _)| !recorded.contains_key(*path)));
        match differ {
            None => Ok(()),
            Some((path, _)) => Err(format!(
                "{path} is not as it was recorded: a call was not seen, or misunderstood"
            )),
        }
    }
}

fn read(path: &Path, name: &str, volatile: &Path, tree: &mut Tree) -> std::io::Result<()> {
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let path = entry.path();
        if path == volatile {
            continue;
        }
        let below = entry.file_name().to_string_lossy().into_owned();
        let below = if name.is_empty() { below } else { format!("{name}/{below}") };
        if entry.file_type()?.is_dir() {
            tree.insert(below.clone(), None);
            read(&path, &below, volatile, tree)?;
        } else {
            tree.insert(below, Some(std::fs::read(&path)?));
        }
    }
    Ok(())
}
