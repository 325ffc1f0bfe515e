//! Follows a process through its calls of the kernel, and records what they do to a disk.
//!
//! What a descriptor leads to the kernel is asked, by `/proc`, whenever it counts: so nothing need be known of
//! copies of descriptors. A call that changes files in a way that is not followed here is an error, and so is a
//! second thread or process; and whatever is overlooked all the same shows when what is there is held against
//! what was recorded.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::disk::{Disk, Operation};
use super::record::{Happened, Means, Record, Recorder};
use super::registers::{self, Call};

/// What the followed process exits with where it may not be followed.
pub(super) const NOT_PERMITTED: i32 = 77;

/// Why there is no record.
#[derive(Debug)]
pub(super) enum NoRecord {
    /// Processes cannot be followed here.
    NotHere(String),
    /// Something went wrong, or was done that is not understood.
    Failed(String),
}

impl From<String> for NoRecord {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

/// What is watched.
#[derive(Debug)]
pub(super) struct Watched<'a> {
    /// The disk.
    pub(super) disk: &'a Path,
    /// What is on it and does not outlive this life of the machine.
    pub(super) volatile: &'a Path,
    /// The hardware: a file that is renamed into place.
    pub(super) hardware: &'a Path,
    /// Files are made here when commands return.
    pub(super) marks: &'a Path,
}

/// What a call is about to do.
enum Begun {
    /// Nothing that counts.
    Nothing,
    Open {
        path: PathBuf,
        flags: i32,
        there: bool,
    },
    Write {
        descriptor: u64,
        parts: Vec<(u64, u64)>,
        at: Option<u64>,
    },
    Cut {
        descriptor: u64,
        length: u64,
    },
    Sync {
        descriptor: u64,
    },
    SyncAll,
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
    Remove {
        path: PathBuf,
    },
    MakeDirectory {
        path: PathBuf,
    },
}

/// Runs a command, which asks to be followed, and records what it does to a disk on which that is there.
pub(super) fn record(
    command: &mut Command,
    watched: &Watched<'_>,
    there: Disk,
) -> Result<Record, NoRecord> {
    if !registers::KNOWN {
        let machine = std::env::consts::ARCH;
        return Err(NoRecord::NotHere(format!("the registers of {machine} are not known")));
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
    let child = child.map_err(|error| format!("cannot start {command:?}: {error}"))?;
    let pid = Pid::from_raw(child.id() as i32);
    let mut tracee =
        Tracee { pid, watched, recorder: Recorder::new(watched.disk, watched.volatile, there) };
    match waited(pid)? {
        WaitStatus::Stopped(..) => {}
        WaitStatus::Exited(_, NOT_PERMITTED) => {
            return Err(NoRecord::NotHere("ptrace is not permitted".to_owned()));
        }
        other => return Err(NoRecord::Failed(format!("it does not begin: {other:?}"))),
    }
    let done = tracee.follow();
    if done.is_err() {
        // It is stopped, or dead already.
        let _ = ptrace::kill(pid);
        let _ = waitpid(pid, Some(WaitPidFlag::__WALL));
    }
    done?;
    tracee.recorder.compare()?;
    Ok(tracee.recorder.record)
}

fn waited(pid: Pid) -> Result<WaitStatus, String> {
    waitpid(pid, Some(WaitPidFlag::__WALL)).map_err(|error| format!("waiting for it: {error}"))
}

struct Tracee<'a> {
    pid: Pid,
    watched: &'a Watched<'a>,
    recorder: Recorder,
}

impl Tracee<'_> {
    fn follow(&mut self) -> Result<(), String> {
        let failed = |error: nix::errno::Errno| format!("following it: {error}");
        let options = Options::PTRACE_O_TRACESYSGOOD
            | Options::PTRACE_O_EXITKILL
            | Options::PTRACE_O_TRACECLONE
            | Options::PTRACE_O_TRACEFORK
            | Options::PTRACE_O_TRACEVFORK
            | Options::PTRACE_O_TRACEEXEC;
        ptrace::setoptions(self.pid, options).map_err(failed)?;
        let (mut begun, mut signal) = (None, None);
        loop {
            ptrace::syscall(self.pid, signal.take()).map_err(failed)?;
            match waited(self.pid)? {
                WaitStatus::PtraceSyscall(_) => match begun.take() {
                    None => {
                        let call = registers::call(self.pid).map_err(failed)?;
                        begun = Some(self.begin(call)?);
                    }
                    Some(begun) => {
                        let result = registers::result(self.pid).map_err(failed)?;
                        if let Ok(result) = u64::try_from(result) {
                            self.end(begun, result)?;
                        }
                    }
                },
                WaitStatus::Stopped(_, sent) => signal = Some(sent),
                WaitStatus::PtraceEvent(..) => {
                    return Err(
                        "it started a thread or a process, which is not followed".to_owned()
                    );
                }
                WaitStatus::Exited(_, 0) => return Ok(()),
                WaitStatus::Exited(_, status) => {
                    return Err(format!("it failed: exit status {status}"));
                }
                other => return Err(format!("it ended: {other:?}")),
            }
        }
    }

    /// What a call is about to do.
    fn begin(&self, Call { number, arguments }: Call) -> Result<Begun, String> {
        let [a, b, c, d, e, _] = arguments;
        let here = i64::from(libc::AT_FDCWD) as u64;
        Ok(match number {
            libc::SYS_openat => self.open(a, b, c)?,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_open => self.open(here, a, b)?,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_creat => {
                self.open(here, a, (libc::O_CREAT | libc::O_TRUNC | libc::O_WRONLY) as u64)?
            }
            libc::SYS_write => Begun::Write { descriptor: a, parts: vec![(b, c)], at: None },
            libc::SYS_pwrite64 => Begun::Write { descriptor: a, parts: vec![(b, c)], at: Some(d) },
            libc::SYS_writev => Begun::Write { descriptor: a, parts: self.parts(b, c)?, at: None },
            libc::SYS_pwritev => {
                Begun::Write { descriptor: a, parts: self.parts(b, c)?, at: Some(d) }
            }
            libc::SYS_ftruncate => Begun::Cut { descriptor: a, length: b },
            libc::SYS_fsync | libc::SYS_fdatasync => Begun::Sync { descriptor: a },
            libc::SYS_sync | libc::SYS_syncfs => Begun::SyncAll,
            registers::RENAMEAT => Begun::Rename { from: self.path(a, b)?, to: self.path(c, d)? },
            libc::SYS_renameat2 => {
                let (from, to) = (self.path(a, b)?, self.path(c, d)?);
                let kept = u64::from(libc::RENAME_NOREPLACE);
                if e & !kept != 0 {
                    self.refuse(number, &[from.clone(), to.clone()])?;
                }
                Begun::Rename { from, to }
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_rename => {
                Begun::Rename { from: self.path(here, a)?, to: self.path(here, b)? }
            }
            libc::SYS_unlinkat => Begun::Remove { path: self.path(a, b)? },
            #[cfg(target_arch = "x86_64")]
            libc::SYS_unlink | libc::SYS_rmdir => Begun::Remove { path: self.path(here, a)? },
            libc::SYS_mkdirat => Begun::MakeDirectory { path: self.path(a, b)? },
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mkdir => Begun::MakeDirectory { path: self.path(here, a)? },
            // What is not followed: harmless elsewhere.
            libc::SYS_linkat => {
                let _ = self.refuse(number, &[self.path(a, b)?, self.path(c, d)?])?;
                Begun::Nothing
            }
            #[cfg(target_arch = "x86_64")]
            libc::SYS_link => self.refuse(number, &[self.path(here, a)?, self.path(here, b)?])?,
            libc::SYS_symlinkat => self.refuse(number, &[self.path(b, c)?])?,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_symlink => self.refuse(number, &[self.path(here, b)?])?,
            libc::SYS_mknodat | libc::SYS_openat2 => self.refuse(number, &[self.path(a, b)?])?,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_mknod => self.refuse(number, &[self.path(here, a)?])?,
            libc::SYS_truncate => self.refuse(number, &[self.path(here, a)?])?,
            libc::SYS_fallocate
            | libc::SYS_pwritev2
            | libc::SYS_sendfile
            | registers::SYNC_FILE_RANGE
            | libc::SYS_ioctl => {
                self.refuse(number, &self.of_descriptor(a)?.into_iter().collect::<Vec<_>>())?
            }
            libc::SYS_copy_file_range | libc::SYS_splice => {
                self.refuse(number, &self.of_descriptor(c)?.into_iter().collect::<Vec<_>>())?
            }
            libc::SYS_mmap
                if c & libc::PROT_WRITE as u64 != 0 && d & libc::MAP_SHARED as u64 != 0 =>
            {
                self.refuse(number, &self.of_descriptor(e)?.into_iter().collect::<Vec<_>>())?
            }
            libc::SYS_io_uring_setup => {
                return Err("it uses io_uring, which is not followed".to_owned());
            }
            _ => Begun::Nothing,
        })
    }

    fn refuse(&self, number: i64, paths: &[PathBuf]) -> Result<Begun, String> {
        for path in paths {
            if !matches!(self.recorder.means(path)?, Means::Elsewhere | Means::Volatile) {
                let path = path.display();
                return Err(format!("it changes {path} by call {number}, which is not followed"));
            }
        }
        Ok(Begun::Nothing)
    }

    fn open(&self, above: u64, name: u64, flags: u64) -> Result<Begun, String> {
        let path = self.path(above, name)?;
        // An int of the caller's.
        let flags = flags as i32;
        if flags & libc::O_TMPFILE == libc::O_TMPFILE {
            return self.refuse(libc::SYS_openat, &[path]);
        }
        let there = path.symlink_metadata().is_ok();
        Ok(Begun::Open { path, flags, there })
    }

    /// What a call did that succeeded.
    fn end(&mut self, begun: Begun, result: u64) -> Result<(), String> {
        match begun {
            Begun::Nothing => {}
            Begun::Open { path, flags, there } => self.opened(&path, flags, there)?,
            Begun::Write { descriptor, parts, at } => {
                self.written(descriptor, &parts, at, result)?
            }
            Begun::Cut { descriptor, length } => {
                if let Some(file) = self.id_of_descriptor(descriptor)? {
                    self.recorder.perform(Operation::Truncate { file, length: index(length)? });
                }
            }
            Begun::Sync { descriptor } => {
                if let Some(id) = self.id_of_descriptor(descriptor)? {
                    let directory = self.recorder.is_directory(id);
                    let sync =
                        if directory { Operation::SyncDirectory } else { Operation::SyncFile };
                    self.recorder.perform(sync(id));
                }
            }
            Begun::SyncAll => self.recorder.perform(Operation::SyncAll),
            Begun::Rename { from, to } => self.renamed(&from, &to)?,
            Begun::Remove { path } => {
                if let Means::Name(directory, name) = self.recorder.means(&path)? {
                    self.recorder.perform(Operation::Remove { directory, name });
                }
            }
            Begun::MakeDirectory { path } => {
                if let Means::Name(directory, name) = self.recorder.means(&path)? {
                    let made = self.recorder.next();
                    self.recorder.perform(Operation::MakeDirectory { directory, name, made });
                }
            }
        }
        Ok(())
    }

    fn opened(&mut self, path: &Path, flags: i32, there: bool) -> Result<(), String> {
        if path.starts_with(self.watched.marks) && flags & libc::O_CREAT != 0 {
            self.recorder.compare()?;
            self.recorder.record.happened.push(Happened::Returned);
        }
        let Means::Name(directory, name) = self.recorder.means(path)? else { return Ok(()) };
        if flags & libc::O_CREAT != 0 && !there {
            let file = self.recorder.next();
            self.recorder.perform(Operation::Create { directory, name, file });
        } else if flags & libc::O_TRUNC != 0 {
            if let Some(file) = self.recorder.id(path)? {
                self.recorder.perform(Operation::Truncate { file, length: 0 });
            }
        }
        Ok(())
    }

    fn written(
        &mut self,
        descriptor: u64,
        parts: &[(u64, u64)],
        at: Option<u64>,
        count: u64,
    ) -> Result<(), String> {
        let Some(file) = self.id_of_descriptor(descriptor)? else { return Ok(()) };
        let offset = match at {
            Some(at) => at,
            // Where it stands now is behind what was written, appended or not.
            None => self.position(descriptor)?.saturating_sub(count),
        };
        let mut data = Vec::new();
        for (address, length) in parts {
            let rest = count.saturating_sub(data.len() as u64);
            data.extend(self.memory(*address, (*length).min(rest))?);
        }
        self.recorder.perform(Operation::Write { file, offset: index(offset)?, data });
        Ok(())
    }

    fn renamed(&mut self, from: &Path, to: &Path) -> Result<(), String> {
        if to == self.watched.hardware {
            let content = std::fs::read(to).map_err(|error| format!("the hardware: {error}"))?;
            self.recorder.record.happened.push(Happened::Hardware(content));
            return Ok(());
        }
        match (self.recorder.means(from)?, self.recorder.means(to)?) {
            (Means::Name(directory, from), Means::Name(same, to)) if directory == same => {
                self.recorder.perform(Operation::Rename { directory, from, to });
                Ok(())
            }
            (Means::Elsewhere | Means::Volatile, Means::Elsewhere | Means::Volatile) => Ok(()),
            _ => Err(format!(
                "it renames {} to {}, which is not followed",
                from.display(),
                to.display()
            )),
        }
    }

    fn memory(&self, address: u64, length: u64) -> Result<Vec<u8>, String> {
        let failed = |error| format!("its memory: {error}");
        let memory = std::fs::File::open(format!("/proc/{}/mem", self.pid)).map_err(failed)?;
        let mut data = vec![0; index(length)?];
        memory.read_exact_at(&mut data, address).map_err(failed)?;
        Ok(data)
    }

    /// The parts of a call that writes several.
    fn parts(&self, address: u64, count: u64) -> Result<Vec<(u64, u64)>, String> {
        let number = |bytes: &[u8]| {
            bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let data = self.memory(address, count.saturating_mul(16))?;
        Ok(data
            .chunks_exact(16)
            .map(|pair| {
                let (address, length) = pair.split_at(8);
                (number(address), number(length))
            })
            .collect())
    }

    /// A path as the kernel takes it, its last name not followed.
    fn path(&self, above: u64, name: u64) -> Result<PathBuf, String> {
        let mut text = Vec::new();
        // No further than the page, behind which there may be nothing.
        while !text.contains(&0) && text.len() < 8192 {
            let from = name + text.len() as u64;
            text.extend(self.memory(from, 4096 - from % 4096)?);
        }
        let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
        text.truncate(end);
        let given = PathBuf::from(OsString::from_vec(text));
        // An int of the caller's: the upper half is whatever was there.
        let above = above as i32;
        let path = if given.is_absolute() {
            given
        } else {
            let link = match above {
                libc::AT_FDCWD => format!("/proc/{}/cwd", self.pid),
                above => format!("/proc/{}/fd/{above}", self.pid),
            };
            match std::fs::read_link(link) {
                Ok(above) => above.join(given),
                // The kernel refuses it as well.
                Err(_) => return Ok(PathBuf::from("/nowhere")),
            }
        };
        let (Some(above), Some(name)) = (path.parent(), path.file_name()) else { return Ok(path) };
        Ok(above.canonicalize().map(|above| above.join(name)).unwrap_or(path))
    }

    /// What a descriptor leads to; none where that has no path.
    fn of_descriptor(&self, descriptor: u64) -> Result<Option<PathBuf>, String> {
        let descriptor = descriptor as i32;
        let path = std::fs::read_link(format!("/proc/{}/fd/{descriptor}", self.pid));
        Ok(path.ok().filter(|path| path.is_absolute()))
    }

    fn id_of_descriptor(&self, descriptor: u64) -> Result<Option<usize>, String> {
        let Some(path) = self.of_descriptor(descriptor)? else { return Ok(None) };
        if path.to_string_lossy().ends_with(" (deleted)") {
            // Nobody finds again what is written there.
            return Ok(None);
        }
        self.recorder.id(&path)
    }

    fn position(&self, descriptor: u64) -> Result<u64, String> {
        let path = format!("/proc/{}/fdinfo/{}", self.pid, descriptor as i32);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let position = text.lines().find_map(|line| line.strip_prefix("pos:")?.trim().parse().ok());
        position.ok_or_else(|| format!("{path} has no position"))
    }
}

fn index(number: u64) -> Result<usize, String> {
    usize::try_from(number).map_err(|_| format!("{number} is too much"))
}
