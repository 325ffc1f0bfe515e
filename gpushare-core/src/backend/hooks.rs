//! Hooks that are programs in a directory.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::command::{Input, run_with, trust};
use crate::error::{Error, ErrorCode, Result};

/// The programs of a directory, by their names.
#[derive(Clone, Debug)]
pub(crate) struct HookDirectory {
    path: PathBuf,
    found: Vec<&'static str>,
    limit: Duration,
}

impl HookDirectory {
    /// Looks for programs of these names; each may run that long.
    ///
    /// # Errors
    /// INVALID_ARGUMENT where it is no directory, has none of them, or has a program of another name,
    /// which would never be called; PERMISSION_DENIED where root should not run one of them.
    pub(crate) fn open(path: &Path, names: &[&'static str], limit: Duration) -> Result<Self> {
        let refuse = |why: String| {
            Error::new(ErrorCode::InvalidArgument, format!("hooks in {}: {why}", path.display()))
        };
        let path = std::path::absolute(path).map_err(|error| Error::io("find", path, error))?;
        let entries = std::fs::read_dir(&path).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => refuse("there is no such directory".to_owned()),
            std::io::ErrorKind::NotADirectory => refuse("it is no directory".to_owned()),
            _ => Error::io("read", &path, error),
        })?;
        let mut found = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("read", &path, error))?;
            let name = entry.file_name();
            let program = std::fs::metadata(entry.path())
                .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0);
            match names.iter().find(|known| name == ***known) {
                Some(known) => {
                    trust(&entry.path())?;
                    found.push(*known);
                }
                None if program => {
                    return Err(refuse(format!(
                        "{:?} is the name of no hook and would never be called; there are {}",
                        name.to_string_lossy(),
                        names.join(", ")
                    )));
                }
                None => {}
            }
        }
        if found.is_empty() {
            let names = names.join(", ");
            return Err(refuse(format!("there is none; they are programs called {names}")));
        }
        Ok(Self { path, found, limit })
    }

    /// Runs the one of that name, if there is one, to its end: it reads the input, stands in `/`, and
    /// has nothing in its environment but this and what [`run_with`] gives.
    ///
    /// # Errors
    /// IO where it says no, TIMEOUT where it says nothing in time.
    pub(crate) fn call(
        &self,
        name: &str,
        environment: &[(&str, String)],
        input: &str,
    ) -> Result<()> {
        if !self.found.contains(&name) {
            return Ok(());
        }
        let program = self.path.join(name);
        // A variable cannot have a zero byte.
        let plain: Vec<_> = environment
            .iter()
            .map(|(name, value)| (*name, value.replace('\0', "\u{fffd}")))
            .collect();
        let environment: Vec<(&str, &OsStr)> =
            plain.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let began = Instant::now();
        let answer = run_with(&program, &[], &environment, self.limit, Input::Text(input))?;
        if !answer.status.success() {
            let (program, said) = (program.display(), answer.brief());
            let why = format!("{program} ended with {}; {said}", answer.status);
            return Err(Error::new(ErrorCode::Io, why));
        }
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(
            target: "gpushare::hooks",
            program = %program.display(),
            milliseconds,
            "hook done; {}",
            answer.brief()
        );
        Ok(())
    }
}
