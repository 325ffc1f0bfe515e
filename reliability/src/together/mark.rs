//! The mark of who has a share, which knows nothing of slots: a file that only one can make.
//!
//! It has a line for each process that holds the share, and one more for each that gave it back. Who gets a share
//! whose mark has a living holder has found a second one.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use gpushare_core::id::ShareId;

/// Of a process that exits (the kernel's include/linux/sched.h).
const PF_EXITING: u32 = 4;

/// When a process that is alive began.
pub(super) fn start_time(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = text.rsplit(')').next()?.split_ascii_whitespace().collect();
    // Nothing is held by a zombie, nor by what is about to be one: a killed process gives its descriptors up
    // before its state says so, and says that it exits before it gives them up.
    let flags: u32 = fields.get(6)?.parse().ok()?;
    if fields.first() == Some(&"Z") || flags & PF_EXITING != 0 {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// A process, as no later one is named, and which of its leases it is.
fn token(pid: u32) -> String {
    static LEASES: AtomicU32 = AtomicU32::new(0);
    let number = LEASES.fetch_add(1, Ordering::Relaxed);
    format!("{pid} {} {number}", start_time(pid).unwrap_or_default())
}

fn is_alive(token: &str) -> bool {
    let mut words = token.split(' ');
    let pid = words.next().and_then(|pid| pid.parse().ok());
    let begun = words.next().and_then(|start| start.parse().ok());
    pid.is_some_and(|pid| start_time(pid).is_some_and(|now| Some(now) == begun))
}

/// Who is said to hold, alive or not.
fn holders(text: &str) -> impl Iterator<Item = &str> {
    let left: BTreeSet<&str> = text.lines().filter_map(|line| line.strip_prefix('-')).collect();
    text.lines().filter_map(|line| line.strip_prefix('+')).filter(move |t| !left.contains(t))
}

/// This process holds a share.
#[derive(Debug)]
pub(super) struct Mark {
    path: PathBuf,
    token: String,
}

impl Mark {
    /// Says that this process has it.
    ///
    /// # Errors
    /// Who else has it.
    pub(super) fn stand(folder: &Path, share: &ShareId) -> Result<Self, String> {
        let path = folder.join(share.to_string().replace('/', "+"));
        let token = token(std::process::id());
        // Two more than can have died here while this one looks.
        for _ in 0..3 {
            match OpenOptions::new().append(true).create_new(true).open(&path) {
                Ok(mut file) => {
                    let written = file.write_all(format!("+{token}\n").as_bytes());
                    return written.map(|()| Self { path, token }).map_err(|e| e.to_string());
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    let there = fs::read_to_string(&path).unwrap_or_default();
                    if let Some(other) = holders(&there).find(|token| is_alive(token)) {
                        return Err(format!(
                            "two holders of {share}: {other:?} has it, and {token:?} got it"
                        ));
                    }
                    let _ = fs::remove_file(&path);
                }
                Err(error) => return Err(format!("{}: {error}", path.display())),
            }
        }
        Err(format!("{share} has holder after holder"))
    }

    /// Says that this process has it too, from the one that started it.
    ///
    /// # Errors
    /// Somebody else has it by now.
    pub(super) fn join(path: &Path, from: &str) -> Result<Self, String> {
        let mark = Self { path: path.to_owned(), token: token(std::process::id()) };
        let there = fs::read_to_string(path).unwrap_or_default();
        if there.lines().next() != Some(&format!("+{from}")) {
            return Err(format!(
                "{} inherited from {from:?}, and it is another's: {there:?}",
                path.display()
            ));
        }
        mark.append('+').map(|()| mark)
    }

    fn append(&self, sign: char) -> Result<(), String> {
        let line = format!("{sign}{}\n", self.token);
        let file = OpenOptions::new().append(true).open(&self.path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.map_err(|error| format!("the mark {} went: {error}", self.path.display()))
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Who this process is.
    pub(super) fn token(&self) -> &str {
        &self.token
    }

    /// Before it is given back.
    ///
    /// # Errors
    /// Somebody else marked it meanwhile.
    pub(super) fn withdraw(&self) -> Result<(), String> {
        let there = fs::read_to_string(&self.path).unwrap_or_default();
        if !holders(&there).any(|token| token == self.token) {
            return Err(format!(
                "{} is {:?}'s, and the mark says {there:?}",
                self.path.display(),
                self.token
            ));
        }
        self.append('-')
    }
}

/// All that are held now: share and holder.
pub(super) fn living(folder: &Path) -> std::io::Result<BTreeSet<(String, String)>> {
    let mut found = BTreeSet::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let share = entry.file_name().to_string_lossy().replace('+', "/");
        let text = fs::read_to_string(entry.path()).unwrap_or_default();
        let alive = holders(&text).filter(|token| is_alive(token));
        found.extend(alive.map(|token| (share.clone(), token.to_owned())));
    }
    Ok(found)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests fail by panics")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_second_holder_is_seen_and_a_dead_one_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let share: ShareId = "GPU-1::2".parse().unwrap();
        let path = folder.path().join(share.to_string());
        let mut other = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        fs::write(&path, format!("+{}\n", token(other.id()))).unwrap();
        assert!(Mark::stand(folder.path(), &share).unwrap_err().contains("two holders"));
        assert_eq!(living(folder.path()).unwrap().len(), 1);
        other.kill().unwrap();
        other.wait().unwrap();
        assert!(living(folder.path()).unwrap().is_empty());
        let mark = Mark::stand(folder.path(), &share).unwrap();
        let child = Mark::join(&path, mark.token()).unwrap();
        assert!(Mark::join(&path, "1 1").is_err());
        mark.withdraw().unwrap();
        child.withdraw().unwrap();
        assert!(child.withdraw().is_err(), "it is withdrawn");
        let mark = Mark::stand(folder.path(), &share).unwrap();
        fs::write(&path, "+1 1\n").unwrap();
        assert!(mark.withdraw().is_err());
    }
}
