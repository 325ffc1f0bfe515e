//! The time-slice interval and resets, through `nvidia-smi`: NVML has no function for either.
//!
//! Never run on hardware by this project: the setter and the reset. The answers that are
//! understood are those that `nvidia-smi` 580 printed on an H200 and those that NVIDIA documents.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::command::{self, Answer};
use crate::error::{Error, ErrorCode, Result};
use crate::id::GpuUuid;
use crate::mode::Interval;
use crate::port::{ComputePolicy, NvmlReturn, Reset};

/// Where NVIDIA's installers put it.
const DEFAULT_PATH: &str = "/usr/bin/nvidia-smi";
/// How long a question or a setting may take. On an H200 it is 22 ms; with a cold driver, seconds.
const LIMIT: Duration = Duration::from_secs(30);
/// How long a reset may take. Killing one half-way helps nobody.
const RESET_LIMIT: Duration = Duration::from_secs(300);

/// NVIDIA's `nvidia-smi`.
///
/// It is run by its absolute path, without a shell, with an empty environment and a deadline.
/// As root only a file is run that belongs to root and that others cannot write.
#[derive(Clone, Debug)]
pub struct NvidiaSmi {
    path: PathBuf,
    limit: Duration,
    reset_limit: Duration,
}

impl NvidiaSmi {
    /// The program at that path; by default `/usr/bin/nvidia-smi`.
    pub fn new(path: Option<PathBuf>) -> Self {
        let path = path.unwrap_or_else(|| DEFAULT_PATH.into());
        Self { path, limit: LIMIT, reset_limit: RESET_LIMIT }
    }

    /// The same with other deadlines.
    #[must_use]
    pub fn with_limits(self, limit: Duration, reset_limit: Duration) -> Self {
        Self { limit, reset_limit, ..self }
    }

    /// Where the program is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn ask(
        &self,
        gpu: &GpuUuid,
        arguments: &[&str],
        limit: Duration,
        lock: Option<OwnedFd>,
    ) -> Result<Answer> {
        command::run(&self.path, arguments, limit, lock).map_err(|error| error.of_gpu(gpu))
    }

    /// The error for an answer that is no success. Its exit status is NVML's return code.
    fn refused(&self, gpu: &GpuUuid, doing: &str, answer: &Answer) -> Error {
        let output = answer.output.to_ascii_lowercase();
        let ret = answer.status.code().and_then(|code| u32::try_from(code).ok());
        let ret = ret.map_or(NvmlReturn::UNKNOWN, NvmlReturn);
        let says = |texts: &[&str]| texts.iter().any(|text| output.contains(text));
        let code = if ret == NvmlReturn::IN_USE
            || says(&["in use", "being used", "used by some other process"])
        {
            ErrorCode::Busy
        } else if ret == NvmlReturn::NO_PERMISSION || says(&["insufficient permission"]) {
            ErrorCode::PermissionDenied
        } else if ret == NvmlReturn::NOT_SUPPORTED || says(&["not supported", "unsupported"]) {
            ErrorCode::Unsupported
        } else if matches!(
            ret,
            NvmlReturn::NOT_FOUND | NvmlReturn::DRIVER_NOT_LOADED | NvmlReturn::LIBRARY_NOT_FOUND
        ) || says(&["no devices were found"])
        {
            ErrorCode::NotFound
        } else {
            ErrorCode::Driver
        };
        let error = Error::new(
            code,
            format!(
                "{} did not {doing} of {gpu} ({}): {}",
                self.path.display(),
                answer.status,
                answer.brief()
            ),
        );
        let error = match code {
            ErrorCode::PermissionDenied => error.with_needs(vec!["root".to_owned()]),
            _ => error,
        };
        error.of_gpu(gpu)
    }
}

impl ComputePolicy for NvidiaSmi {
    fn able(&self) -> bool {
        command::trust(&self.path).is_ok()
    }

    fn interval(&self, gpu: &GpuUuid) -> Result<Interval> {
        let doing = "tell the time-slice interval";
        let arguments = ["compute-policy", "-i", gpu.as_str(), "-l"];
        let answer = self.ask(gpu, &arguments, self.limit, None)?;
        if !answer.status.success() {
            return Err(self.refused(gpu, doing, &answer));
        }
        parse_interval(&answer.output).ok_or_else(|| self.refused(gpu, doing, &answer))
    }

    fn set_interval(&self, gpu: &GpuUuid, interval: Interval) -> Result<()> {
        self.set(gpu, interval, None)
    }

    fn set_interval_locked(&self, gpu: &GpuUuid, interval: Interval, lock: OwnedFd) -> Result<()> {
        self.set(gpu, interval, Some(lock))
    }
}

impl NvidiaSmi {
    /// Sets it and reads it back: the program's word is not taken for it.
    fn set(&self, gpu: &GpuUuid, interval: Interval, lock: Option<OwnedFd>) -> Result<()> {
        let number = match interval {
            Interval::Default => 0,
            Interval::Short => 1,
            Interval::Medium => 2,
            Interval::Long => 3,
        };
        let set = format!("--set-timeslice={number}");
        let arguments = ["compute-policy", "-i", gpu.as_str(), set.as_str()];
        let answer = self.ask(gpu, &arguments, self.limit, lock)?;
        if !answer.status.success() {
            return Err(self.refused(gpu, "set the time-slice interval", &answer));
        }
        let now = self.interval(gpu)?;
        if now == interval {
            return Ok(());
        }
        Err(Error::new(
            ErrorCode::Driver,
            format!(
                "{} was told to set the time-slice interval of {gpu} to {interval} and ended with \
                 success, but the interval is {now}; {}",
                self.path.display(),
                answer.brief()
            ),
        )
        .of_gpu(gpu))
    }
}

/// The interval in the table that `nvidia-smi compute-policy -i UUID -l` prints, if it has
/// exactly one.
///
/// ```text
/// |   0   Timeslice       Default       |
/// ```
fn parse_interval(output: &str) -> Option<Interval> {
    let rows = output.lines().filter_map(|line| {
        let row = line.trim().strip_prefix('|')?.strip_suffix('|')?;
        match row.split_whitespace().collect::<Vec<_>>()[..] {
            [index, name, value] if name.eq_ignore_ascii_case("timeslice") => {
                index.parse::<u32>().ok().map(|_| value)
            }
            _ => None,
        }
    });
    let mut rows = rows.fuse();
    match (rows.next(), rows.next()) {
        (Some(value), None) => value.to_ascii_lowercase().parse().ok(),
        _ => None,
    }
}

impl Reset for NvidiaSmi {
    fn able(&self) -> bool {
        command::trust(&self.path).is_ok()
    }

    fn reset(&self, gpu: &GpuUuid) -> Result<()> {
        self.run_reset(gpu, None)
    }

    fn reset_locked(&self, gpu: &GpuUuid, lock: OwnedFd) -> Result<()> {
        self.run_reset(gpu, Some(lock))
    }
}

impl NvidiaSmi {
    /// Believed only when it ends with success and says that it reset the GPU.
    fn run_reset(&self, gpu: &GpuUuid, lock: Option<OwnedFd>) -> Result<()> {
        let answer = self.ask(gpu, &["-r", "-i", gpu.as_str()], self.reset_limit, lock)?;
        if answer.status.success() && answer.output.contains("was successfully reset") {
            return Ok(());
        }
        let error = self.refused(gpu, "reset", &answer);
        Err(match error.code() {
            ErrorCode::Busy => error.context(
                "everything that holds the GPU must end before a reset: monitors, \
                 nvidia-persistenced and DCGM too",
            ),
            _ => error,
        })
    }
}

#[cfg(all(any(test, fuzzing), feature = "cli"))]
pub(crate) mod fuzzing {
    //! What the program's answers are taken for, for who feeds them.

    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    pub(crate) fn interval(output: &str) -> Option<Interval> {
        parse_interval(output)
    }

    pub(crate) fn refused(status: usize, output: &str) -> Error {
        let gpu = "GPU-8f3b98ec-0635-dff0-ff24-353df283557b".parse().expect("a uuid");
        // As wait(2) says it: the exit status above, a signal below.
        let status = std::process::ExitStatus::from_raw(i32::try_from(status << 8).unwrap_or(0));
        let answer = Answer { status, output: output.to_owned() };
        NvidiaSmi::new(None).refused(&gpu, "reset", &answer)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::Instant;

    use super::*;

    /// A `nvidia-smi` that is a shell script of ours. `$STATE` in it is a file of its own.
    struct Fake {
        smi: NvidiaSmi,
        folder: tempfile::TempDir,
    }

    impl Fake {
        fn new(script: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("nvidia-smi");
            let state = folder.path().join("state");
            std::fs::write(&state, "Default").unwrap();
            let text = format!("#!/bin/sh\nSTATE={}\n{script}\n", state.display());
            // Written under another name and moved: a child forked by another test meanwhile may
            // hold the written file open, and a file that is open for writing does not run.
            let written = folder.path().join("written");
            std::fs::write(&written, text).unwrap();
            std::fs::set_permissions(&written, std::fs::Permissions::from_mode(0o755)).unwrap();
            let copied = std::process::Command::new("cp").args([&written, &path]).status().unwrap();
            assert!(copied.success());
            let limit = Duration::from_secs(5);
            Self { smi: NvidiaSmi::new(Some(path)).with_limits(limit, limit), folder }
        }
    }

    const TABLE: &str = r#"
table() {
    echo "+-------------------------------------+"
    echo "| GPU compute policies:               |"
    echo "| GPU     Name           Value        |"
    echo "|=====================================|"
    echo "|   0   Timeslice       $(cat $STATE)       |"
    echo "+-------------------------------------+"
}
"#;

    fn gpu() -> GpuUuid {
        "GPU-8f3b98ec-0635-dff0-ff24-353df283557b".parse().unwrap()
    }

    fn honest() -> Fake {
        Fake::new(&format!(
            r#"{TABLE}
[ "$1 $2 $3" = "compute-policy -i GPU-8f3b98ec-0635-dff0-ff24-353df283557b" ] || exit 2
case $4 in
-l) table ;;
--set-timeslice=0) echo Default >$STATE ;;
--set-timeslice=1) echo Short >$STATE ;;
--set-timeslice=2) echo Medium >$STATE ;;
--set-timeslice=3) echo Long >$STATE ;;
*) exit 2 ;;
esac"#
        ))
    }

    #[test]
    fn an_interval_is_set_and_read_back() {
        let fake = honest();
        assert!(ComputePolicy::able(&fake.smi));
        for &interval in Interval::ALL {
            fake.smi.set_interval(&gpu(), interval).unwrap();
            assert_eq!(fake.smi.interval(&gpu()).unwrap(), interval);
        }
    }

    #[test]
    fn a_setter_that_lies_is_found_out() {
        let fake = Fake::new(&format!(
            r#"{TABLE}
case $4 in -l) table ;; *) echo "Timeslice is set to 3 for GPU 0000:00:06.0." ;; esac"#
        ));
        let error = fake.smi.set_interval(&gpu(), Interval::Long).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Driver);
        assert!(error.to_string().contains("the interval is default"), "{error}");
        fake.smi.set_interval(&gpu(), Interval::Default).unwrap();
    }

    #[test]
    fn one_that_hangs_is_killed_with_its_children() {
        let fake = Fake::new("echo begun; sleep 1000 & echo $! >$STATE; wait");
        let smi = fake.smi.clone().with_limits(Duration::from_millis(300), Duration::ZERO);
        let start = Instant::now();
        let error = smi.interval(&gpu()).unwrap_err();
        assert_eq!(error.code(), ErrorCode::Timeout);
        assert!(error.to_string().contains("begun"), "{error}");
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let child = std::fs::read_to_string(fake.folder.path().join("state")).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.trim()));
        assert!(stat.map_or(true, |stat| stat.contains(") Z ")), "the child lives on");
    }

    #[test]
    fn one_that_prints_without_an_end_is_killed_at_the_deadline() {
        let row = "|   0   Timeslice       Default       |";
        for script in [format!("exec yes '{row}'"), format!("yes '{row}' & exit 0")] {
            let fake = Fake::new(&script);
            let smi = fake.smi.clone().with_limits(Duration::from_millis(200), Duration::ZERO);
            let start = Instant::now();
            let error = smi.interval(&gpu()).unwrap_err();
            // One that has ended, and left a child that goes on, is heard no longer than it pauses.
            let ended = script.ends_with("exit 0") && error.code() == ErrorCode::Driver;
            assert!(ended || error.code() == ErrorCode::Timeout, "{script}: {error}");
            assert!(error.to_string().len() < 1000);
            assert!(start.elapsed() < Duration::from_secs(4), "{script}: {:?}", start.elapsed());
        }
    }

    #[test]
    fn one_that_leaves_a_child_behind_does_not_hold_us_up() {
        let fake = Fake::new(&format!("{TABLE} sleep 30 & table"));
        let start = Instant::now();
        assert_eq!(fake.smi.interval(&gpu()).unwrap(), Interval::Default);
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }

    #[test]
    fn garbage_is_not_read_as_an_interval() {
        for script in [
            "",
            "echo nonsense",
            "echo '|   0   Timeslice       Fast       |'",
            "echo '|   0   Timeslice       Long       |'; echo '|   1   Timeslice   Short  |'",
            "head -c 300000 /dev/zero | tr '\\0' '|'",
            "echo '|   0   Timeslice       Long       |'; exit 3",
        ] {
            let fake = Fake::new(script);
            let error = fake.smi.interval(&gpu()).unwrap_err();
            assert!(
                matches!(error.code(), ErrorCode::Driver | ErrorCode::Unsupported),
                "{script}: {error}"
            );
            assert!(error.to_string().len() < 1000);
        }
    }

    #[test]
    fn one_that_is_missing_or_not_to_be_trusted_is_not_run() {
        let missing = NvidiaSmi::new(Some("/nonexistent/nvidia-smi".into()));
        assert!(!Reset::able(&missing));
        assert_eq!(missing.interval(&gpu()).unwrap_err().code(), ErrorCode::Io);
        let relative = NvidiaSmi::new(Some("nvidia-smi".into()));
        assert_eq!(relative.reset(&gpu()).unwrap_err().code(), ErrorCode::PermissionDenied);
        let fake = honest();
        let path = fake.folder.path().join("nvidia-smi");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(fake.smi.reset(&gpu()).unwrap_err().code(), ErrorCode::PermissionDenied);
        if rustix::process::geteuid().is_root() {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o757)).unwrap();
            assert!(!Reset::able(&fake.smi));
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
            assert!(Reset::able(&fake.smi));
            std::os::unix::fs::chown(&path, Some(65_534), None).unwrap();
            let error = fake.smi.reset(&gpu()).unwrap_err();
            assert_eq!(error.code(), ErrorCode::PermissionDenied);
            assert!(error.to_string().contains("65534"), "{error}");
        }
    }

    #[test]
    fn a_reset_is_believed_only_when_it_says_so() {
        let done = "echo 'GPU 00000000:00:06.0 was successfully reset.'; echo 'All done.'";
        let checked = format!("[ \"$1 $2 $3 $#\" = \"-r -i {} 3\" ] || exit 2\n{done}", gpu());
        Fake::new(&checked).smi.reset(&gpu()).unwrap();
        for (script, code) in [
            ("echo 'All done.'", ErrorCode::Driver),
            ("echo 'GPU 00000000:00:06.0 was successfully reset.'; exit 1", ErrorCode::Driver),
            (
                "echo 'The following GPUs could not be reset:'; \
                 echo '  GPU 00000000:00:06.0: In use by another client'; exit 255",
                ErrorCode::Busy,
            ),
            (
                "echo 'Resetting GPU 00000000:00:06.0 is not supported.'; exit 3",
                ErrorCode::Unsupported,
            ),
            (
                "echo 'GPU 00000000:00:06.0: Insufficient Permissions'; exit 4",
                ErrorCode::PermissionDenied,
            ),
            ("echo 'No devices were found'; exit 6", ErrorCode::NotFound),
        ] {
            let error = Fake::new(script).smi.reset(&gpu()).unwrap_err();
            assert_eq!(error.code(), code, "{script}: {error}");
        }
    }

    #[test]
    fn the_environment_is_empty_and_there_is_nothing_to_read() {
        let fake = Fake::new("env | sort; cat; pwd; exit 3");
        let error = fake.smi.interval(&gpu()).unwrap_err().to_string();
        assert!(error.contains("LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin PWD=/ /"), "{error}");
        assert!(!error.contains("HOME="), "{error}");
    }

    #[test]
    fn a_reset_that_outlives_us_still_holds_the_lock() {
        use crate::port::Store as _;

        let fake = Fake::new(r#"sleep 1; echo "GPU was successfully reset.""#);
        let files = fake.folder.path().join("files");
        let store = crate::backend::files::FileStore::below(&files).unwrap();
        let ours = store.try_lock("lock/gpu.lock").unwrap().unwrap();
        let lock = ours.descriptor().unwrap();
        let smi = fake.smi.clone();
        let reset = std::thread::spawn(move || smi.reset_locked(&gpu(), lock));
        let until = Instant::now() + Duration::from_millis(300);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(10));
        }
        // As if we had died: our own descriptor is closed.
        drop(ours);
        assert!(store.try_lock("lock/gpu.lock").unwrap().is_none());
        reset.join().unwrap().unwrap();
        assert!(store.try_lock("lock/gpu.lock").unwrap().is_some());
    }
}
