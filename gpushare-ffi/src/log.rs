//! What happens within the calls of a node, told to a function of the caller's.

use std::cell::Cell;
use std::ffi::{c_char, c_void};
use std::fmt::{Debug, Write as _};

use gpushare_core::{Error, ErrorCode, Result};
use tracing::dispatcher::with_default;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Dispatch, Event, Level, Metadata, Subscriber};

use crate::text::nul_terminated;

/// How much is logged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum gpushare_log_level {
    /// Of options: INFO. No message has it.
    Default = 0,
    /// What failed.
    Error = 1,
    /// What is not as it should be, and did not fail for it.
    Warn = 2,
    /// Each change of the hardware, among others; target `gpushare::audit` has those alone.
    Info = 3,
    /// How decisions came about.
    Debug = 4,
    /// Everything.
    Trace = 5,
}

/// A function that hears what happens. Level is a gpushare_log_level; target, such as
/// `gpushare::audit`, and message are UTF-8 and valid during the call alone.
///
/// The message is what happened in words, where there are any, and then each field as name=value, with blanks
/// between; of `gpushare::audit` it is fields alone, "uid=0 pid=4711 digest=4ad2... gpu=GPU-1e10...", and a
/// field that is text may stand in quotes. People read it: which fields there are is not promised.
///
/// It runs on the thread that called the library, and from several at once where several call; before the
/// call that it is of returns. It may call the library: that is not logged, and a change of the GPU that
/// the call is of is LOCKED. It must return: no exception and no longjmp may leave it.
pub type gpushare_log_fn = Option<
    unsafe extern "C" fn(
        level: u32,
        target: *const c_char,
        message: *const c_char,
        user: *mut c_void,
    ),
>;

struct Sink {
    log: unsafe extern "C" fn(u32, *const c_char, *const c_char, *mut c_void),
    user: *mut c_void,
    level: Level,
}

// SAFETY: the header says that the function is called from every thread that calls the library.
unsafe impl Send for Sink {}
// SAFETY: as above.
unsafe impl Sync for Sink {}

/// The log of a node, if one is wanted.
pub(crate) fn dispatch(
    log: gpushare_log_fn,
    user: *mut c_void,
    level: u32,
) -> Result<Option<Dispatch>> {
    let level = match level {
        0 | 3 => Level::INFO,
        1 => Level::ERROR,
        2 => Level::WARN,
        4 => Level::DEBUG,
        5 => Level::TRACE,
        other => {
            return Err(Error::new(
                ErrorCode::InvalidArgument,
                format!("log_level {other} is no gpushare_log_level: they go from 0 to 5"),
            ));
        }
    };
    Ok(log.map(|log| Dispatch::new(Sink { log, user, level })))
}

impl Subscriber for Sink {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let level = match *metadata.level() {
            Level::ERROR => gpushare_log_level::Error,
            Level::WARN => gpushare_log_level::Warn,
            Level::INFO => gpushare_log_level::Info,
            Level::DEBUG => gpushare_log_level::Debug,
            Level::TRACE => gpushare_log_level::Trace,
        };
        let mut line = Line::default();
        event.record(&mut line);
        let target = nul_terminated(metadata.target());
        let message = line.message + &line.fields;
        // Some consist of fields alone.
        let message = nul_terminated(message.trim_start());
        let _within = Within::enter(Where::LogFunction);
        // SAFETY: the caller gave it for this, with what it points to.
        unsafe { (self.log)(level as u32, target.as_ptr(), message.as_ptr(), self.user) };
    }
}

/// Where this thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In no call that has a log.
    Unlogged,
    /// In a call with a log, or in a function of the caller's that it called.
    LoggedCall,
    /// In a function that hears the log.
    LogFunction,
}

thread_local! {
    static WHERE: Cell<Where> = const { Cell::new(Where::Unlogged) };
}

/// This thread is there, until it is dropped.
struct Within(Where);

impl Within {
    fn enter(there: Where) -> Self {
        Self(WHERE.replace(there))
    }
}

impl Drop for Within {
    fn drop(&mut self) {
        WHERE.set(self.0);
    }
}

/// Runs something with that log, or none: what a call does within another is not of the other's log.
pub(crate) fn with_log<R>(log: Option<&Dispatch>, body: impl FnOnce() -> R) -> R {
    match (WHERE.get(), log) {
        // A message is being delivered: who delivers it lets nobody exchange the log, and hears nothing.
        (Where::LogFunction, _) | (Where::Unlogged, None) => body(),
        (_, Some(log)) => {
            let _within = Within::enter(Where::LoggedCall);
            with_default(log, body)
        }
        (Where::LoggedCall, None) => {
            let _within = Within::enter(Where::Unlogged);
            with_default(&Dispatch::none(), body)
        }
    }
}

/// A message, and its fields after it.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else {
            self.record_debug(field, &value);
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
}
