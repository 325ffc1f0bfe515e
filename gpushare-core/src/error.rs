//! The one error type of gpushare.
//!
//! An [`Error`] is one word wide and opaque. Programs decide by its [`code`](Error::code),
//! which is the same number in Rust, C and Python and never changes, and by its
//! [`outcome`](Error::outcome): whether the hardware is as it was. People read its message,
//! which says what was asked, of which GPU, what stood in the way and what to do.

use std::error::Error as StdError;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::id::GpuUuid;
use crate::process::Holder;
use crate::terminal::printable;

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What kind of error, with a number that is the same on every surface and never reused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[repr(i32)]
        #[non_exhaustive]
        pub enum ErrorCode {
            $($(#[$doc])* #[serde(rename = $text)] $name = $number,)*
        }

        impl ErrorCode {
            /// Every code, in the order of their numbers. OK is no error and not among them.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name that the command line prints and C's constants end in.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

codes! {
    /// Something asked for makes no sense as written: a spec, a name, a size, an option.
    InvalidArgument = 1, "INVALID_ARGUMENT";
    /// No driver, no GPU, or none of that name.
    NotFound = 2, "NOT_FOUND";
    /// This GPU or this driver cannot do it.
    Unsupported = 3, "UNSUPPORTED";
    /// The caller may not; the error names what is missing.
    PermissionDenied = 4, "PERMISSION_DENIED";
    /// Somebody uses what would have to go; the error names them.
    Busy = 5, "BUSY";
    /// It does not fit; the error says what would.
    Insufficient = 6, "INSUFFICIENT";
    /// Only a reset of the GPU leads there, and none was allowed.
    ResetRequired = 7, "RESET_REQUIRED";
    /// The GPU is no longer as it was when the plan was made.
    Stale = 8, "STALE";
    /// Another gpushare process is changing the GPU.
    Locked = 9, "LOCKED";
    /// The object cannot do that in the state it is in.
    InvalidState = 10, "INVALID_STATE";
    /// It would work and do harm; allowed only by name.
    Hazard = 11, "HAZARD";
    /// It took longer than the caller wanted to wait.
    Timeout = 12, "TIMEOUT";
    /// The driver refused or failed.
    Driver = 13, "DRIVER";
    /// The MPS daemon refused or failed.
    Mps = 14, "MPS";
    /// A file, directory or process of the system refused or failed.
    Io = 15, "IO";
    /// The caller asked to stop.
    Interrupted = 16, "INTERRUPTED";
    /// A defect of gpushare, caught at the border of the C ABI.
    Panic = 17, "PANIC";
    /// An unfinished change lies in the way and a person has to decide.
    RecoveryRequired = 18, "RECOVERY_REQUIRED";
}

impl ErrorCode {
    /// The number, as C and Python see it.
    pub const fn number(self) -> i32 {
        self as i32
    }

    /// The code with that number.
    pub fn from_number(number: i32) -> Option<Self> {
        Self::ALL.iter().copied().find(|code| code.number() == number)
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What an error left behind on the hardware.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// Nothing was changed.
    #[default]
    Untouched,
    /// Something was changed and is back as it was.
    RolledBack,
    /// It is not known; `recover` settles it.
    Indeterminate,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Untouched => "untouched",
            Self::RolledBack => "rolled_back",
            Self::Indeterminate => "indeterminate",
        })
    }
}

/// A failed driver call: which, and what NVML returned.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DriverCall {
    /// The NVML function.
    pub call: String,
    /// NVML's return code.
    pub nvml_return: u32,
    /// Its name, as `nvml.h` spells it without the prefix.
    pub name: String,
}

/// Why an operation failed.
///
/// One type for all of gpushare, as there is one for `std::io`: callers match on
/// [`code`](Error::code); the foreign errors that caused it are reachable through
/// [`source`](StdError::source) and in no signature, so they can change freely.
#[derive(Clone)]
pub struct Error(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    code: ErrorCode,
    outcome: Outcome,
    message: String,
    context: Vec<String>,
    gpu: Option<GpuUuid>,
    holders: Vec<Holder>,
    evicted: Vec<Holder>,
    needs: Vec<String>,
    fits: Vec<String>,
    safe: Vec<String>,
    driver: Option<DriverCall>,
    path: Option<PathBuf>,
    source: Option<Arc<dyn StdError + Send + Sync>>,
}

/// The result of an operation of gpushare.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of that kind. The message says what was asked, what stood in the way, what to do.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self(Arc::new(Inner {
            code,
            outcome: Outcome::Untouched,
            message: message.into(),
            context: Vec::new(),
            gpu: None,
            holders: Vec::new(),
            evicted: Vec::new(),
            needs: Vec::new(),
            fits: Vec::new(),
            safe: Vec::new(),
            driver: None,
            path: None,
            source: None,
        }))
    }

    fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        change(Arc::make_mut(&mut self.0));
        self
    }

    /// The same error, said of that GPU.
    #[must_use]
    pub fn of_gpu(self, gpu: &GpuUuid) -> Self {
        self.with(|inner| inner.gpu = Some(gpu.clone()))
    }

    /// The same error with what was being done when it happened, outermost last.
    #[must_use]
    pub fn context(self, context: impl Into<String>) -> Self {
        self.with(|inner| inner.context.push(context.into()))
    }

    /// The same error in other words.
    #[must_use]
    pub(crate) fn with_message(self, message: impl Into<String>) -> Self {
        self.with(|inner| inner.message = message.into())
    }

    /// The same error with what it left behind.
    #[must_use]
    pub fn with_outcome(self, outcome: Outcome) -> Self {
        self.with(|inner| inner.outcome = outcome)
    }

    /// The same error with who is in the way.
    #[must_use]
    pub fn with_holders(self, holders: Vec<Holder>) -> Self {
        self.with(|inner| inner.holders = holders)
    }

    /// The same error with who was ended before it happened, by consent, and stays ended.
    #[must_use]
    pub fn with_evicted(self, evicted: Vec<Holder>) -> Self {
        self.with(|inner| inner.evicted = evicted)
    }

    /// The same error with what the caller lacks.
    #[must_use]
    pub fn with_needs(self, needs: Vec<String>) -> Self {
        self.with(|inner| inner.needs = needs)
    }

    /// The same error with what would fit.
    #[must_use]
    pub fn with_fits(self, fits: Vec<String>) -> Self {
        self.with(|inner| inner.fits = fits)
    }

    /// The same error with values that do no harm.
    #[must_use]
    pub fn with_safe(self, safe: Vec<String>) -> Self {
        self.with(|inner| inner.safe = safe)
    }

    /// The same error with the driver call that failed.
    #[must_use]
    pub fn with_driver_call(self, call: &str, nvml_return: u32, name: &str) -> Self {
        let driver = DriverCall { call: call.to_owned(), nvml_return, name: name.to_owned() };
        self.with(|inner| inner.driver = Some(driver))
    }

    /// The same error with the foreign error that caused it.
    #[must_use]
    pub fn with_source(self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.with(|inner| inner.source = Some(Arc::new(source)))
    }

    /// An IO error about a path.
    pub fn io(doing: &str, path: &Path, source: std::io::Error) -> Self {
        let code = match source.kind() {
            std::io::ErrorKind::PermissionDenied => ErrorCode::PermissionDenied,
            _ => ErrorCode::Io,
        };
        let error = Self::new(code, format!("cannot {doing} {}: {source}", path.display()));
        let error = match code {
            ErrorCode::PermissionDenied => error.with_needs(vec![path.display().to_string()]),
            _ => error,
        };
        error.with_path(path).with_source(source)
    }

    /// The same error about that file.
    #[must_use]
    pub(crate) fn with_path(self, path: &Path) -> Self {
        self.with(|inner| inner.path = Some(path.to_owned()))
    }

    /// What kind of error.
    pub fn code(&self) -> ErrorCode {
        self.0.code
    }

    /// What it left behind on the hardware.
    pub fn outcome(&self) -> Outcome {
        self.0.outcome
    }

    /// The message without its context.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The GPU it is about.
    pub fn gpu(&self) -> Option<&GpuUuid> {
        self.0.gpu.as_ref()
    }

    /// BUSY: who is in the way.
    pub fn holders(&self) -> &[Holder] {
        &self.0.holders
    }

    /// Who was ended before it happened, by consent, and stays ended.
    pub fn evicted(&self) -> &[Holder] {
        &self.0.evicted
    }

    /// PERMISSION_DENIED: what is missing.
    pub fn needs(&self) -> &[String] {
        &self.0.needs
    }

    /// INSUFFICIENT: what would fit.
    pub fn fits(&self) -> &[String] {
        &self.0.fits
    }

    /// HAZARD: values that do no harm.
    pub fn safe(&self) -> &[String] {
        &self.0.safe
    }

    /// DRIVER: the call that failed and what NVML returned.
    pub fn driver_call(&self) -> Option<&DriverCall> {
        self.0.driver.as_ref()
    }

    /// The number of the system's error (`errno`: ENOSPC is 28), where the system gave one: of IO and
    /// PERMISSION_DENIED above all.
    pub fn os_error(&self) -> Option<i32> {
        self.causes().find_map(|cause| cause.downcast_ref::<std::io::Error>()?.raw_os_error())
    }

    /// The file or directory that the system's error is about, where it is one.
    pub fn path(&self) -> Option<&Path> {
        let own = self.0.path.as_deref();
        own.or_else(|| self.causes().find_map(|cause| cause.downcast_ref::<Self>()?.path()))
    }

    /// What caused it, and what caused that.
    fn causes(&self) -> impl Iterator<Item = &(dyn StdError + 'static)> {
        std::iter::successors(self.source(), |&cause| cause.source())
    }

    /// The error as a document of schema `gpushare.error/v1`, for `--json`, C and Python.
    ///
    /// Its `simulated` is null: an error knows no node. The command line says it where it knows.
    pub fn to_document(&self) -> serde_json::Value {
        serde_json::json!({
            "schema": "gpushare.error/v1",
            // An error knows no node; whoever does sets it.
            "simulated": null,
            "code": self.code().name(),
            "number": self.code().number(),
            "outcome": self.outcome(),
            "message": self.message(),
            "context": self.0.context,
            "gpu": self.gpu(),
            "holders": self.holders(),
            "evicted": self.evicted(),
            "needs": self.needs(),
            "fits": self.fits(),
            "safe": self.safe(),
            "driver": self.driver_call(),
            "os_error": self.os_error(),
            "path": self.path().map(Path::to_string_lossy),
        })
    }
}

impl fmt::Display for Error {
    /// `{}` is the message after its context; `{:#}` adds the chain of causes. It is one line:
    /// characters that a terminal obeys are replaced, and stand in [`message`](Self::message).
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for context in self.0.context.iter().rev() {
            write!(f, "{}: ", printable(context))?;
        }
        f.write_str(&printable(&self.0.message))?;
        if f.alternate() {
            let mut cause = self.source();
            while let Some(error) = cause {
                write!(f, ": {}", printable(&error.to_string()))?;
                cause = error.source();
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {self:#}", self.code(), self.outcome())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as &(dyn StdError + 'static))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_a_contract() {
        let numbers: Vec<_> =
            ErrorCode::ALL.iter().map(|code| (code.number(), code.name())).collect();
        assert_eq!(
            numbers,
            [
                (1, "INVALID_ARGUMENT"),
                (2, "NOT_FOUND"),
                (3, "UNSUPPORTED"),
                (4, "PERMISSION_DENIED"),
                (5, "BUSY"),
                (6, "INSUFFICIENT"),
                (7, "RESET_REQUIRED"),
                (8, "STALE"),
                (9, "LOCKED"),
                (10, "INVALID_STATE"),
                (11, "HAZARD"),
                (12, "TIMEOUT"),
                (13, "DRIVER"),
                (14, "MPS"),
                (15, "IO"),
                (16, "INTERRUPTED"),
                (17, "PANIC"),
                (18, "RECOVERY_REQUIRED"),
            ]
        );
        assert!(ErrorCode::ALL.iter().all(|&c| ErrorCode::from_number(c.number()) == Some(c)));
        assert_eq!(ErrorCode::from_number(0), None);
    }

    #[test]
    fn an_error_is_one_word_and_crosses_threads() {
        fn crosses<T: Send + Sync + Clone + 'static>() {}
        crosses::<Error>();
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn what_the_system_said_is_kept_through_everything_that_wraps_it() {
        use rustix::io::Errno;
        let path = Path::new("/var/lib/gpushare/journal/x");
        for (errno, code) in
            [(Errno::NOSPC, ErrorCode::Io), (Errno::ACCESS, ErrorCode::PermissionDenied)]
        {
            let inner = Error::io("write", path, errno.into());
            let outer = Error::new(ErrorCode::RecoveryRequired, "stuck").with_source(inner.clone());
            assert_eq!(inner.code(), code);
            for error in [inner.clone().context("apply"), outer] {
                assert_eq!(error.os_error(), Some(errno.raw_os_error()));
                assert_eq!(error.path(), Some(path));
                assert_eq!(error.to_document()["os_error"], errno.raw_os_error());
                assert_eq!(error.to_document()["path"], "/var/lib/gpushare/journal/x");
            }
        }
        let ours = Error::io("read", path, std::io::ErrorKind::UnexpectedEof.into());
        assert_eq!((ours.os_error(), ours.path()), (None, Some(path)));
        let plain = Error::new(ErrorCode::Io, "no").to_document();
        assert!(plain["os_error"].is_null() && plain["path"].is_null());
    }

    #[test]
    fn context_reads_from_the_outside_in() {
        let error = Error::new(ErrorCode::Busy, "1g.10gb is in use")
            .context("destroy the instance")
            .context("apply spec.yaml")
            .with_source(std::io::Error::other("why"));
        assert_eq!(error.to_string(), "apply spec.yaml: destroy the instance: 1g.10gb is in use");
        assert!(format!("{error:#}").ends_with(": why"));
    }
}
