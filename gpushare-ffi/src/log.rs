//! What happens within the calls of a node, told to a function of the caller's.

use std::ffi::{c_char, c_void};

use gpushare_core::log::{self, Dispatch, Level, Message};
use gpushare_core::{Error, ErrorCode, Result};

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

/// Who hears it.
struct Listener {
    log: unsafe extern "C" fn(u32, *const c_char, *const c_char, *mut c_void),
    user: *mut c_void,
}

// SAFETY: the header says that the function is called from every thread that calls the library.
unsafe impl Send for Listener {}
// SAFETY: as above.
unsafe impl Sync for Listener {}

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
    Ok(log.map(|log| {
        let listener = Listener { log, user };
        log::dispatch(level, move |message| listener.tell(message))
    }))
}

impl Listener {
    fn tell(&self, message: &Message<'_>) {
        let level = match message.level {
            Level::ERROR => gpushare_log_level::Error,
            Level::WARN => gpushare_log_level::Warn,
            Level::INFO => gpushare_log_level::Info,
            Level::DEBUG => gpushare_log_level::Debug,
            Level::TRACE => gpushare_log_level::Trace,
        };
        let (target, text) = (nul_terminated(message.target), nul_terminated(message.text));
        // SAFETY: the caller gave it for this, with what it points to.
        unsafe { (self.log)(level as u32, target.as_ptr(), text.as_ptr(), self.user) };
    }
}
