//! What happens within calls, told to a function: the [`tracing`] events of this crate in words, for who
//! has no subscriber of their own. The C and Python faces have their logs from it.
//!
//! ```
//! # #[cfg(feature = "sim")] {
//! use std::sync::mpsc::channel;
//!
//! use gpushare_core::log::{self, Level};
//! use gpushare_core::{ApplyOptions, Node};
//!
//! let (said, heard) = channel();
//! let log = log::dispatch(Level::INFO, move |message| {
//!     let _ = said.send(format!("{}: {}", message.target, message.text));
//! });
//! let node = Node::builder().sim("1xL40S").open()?;
//! let spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}"#.parse()?;
//! log::with_default(&log, || node.apply(&spec, &ApplyOptions::new()))?;
//! assert!(heard.try_iter().any(|line| line.starts_with("gpushare::audit: ")));
//! # }
//! # Ok::<(), gpushare_core::Error>(())
//! ```

use std::cell::Cell;
use std::fmt::{Debug, Write as _};

use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

pub use tracing::dispatcher::with_default;
pub use tracing::{Dispatch, Level};

/// What happened.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Message<'a> {
    /// How much it matters. Each change of the hardware is INFO.
    pub level: Level,
    /// Of what it is: `gpushare::audit` for each change of the hardware.
    pub target: &'a str,
    /// What happened in words, where there are any, and then each field as `name=value`, with blanks
    /// between. For people: which fields there are is not promised.
    pub text: &'a str,
}

/// What tells `hear` every event of that level and above. [`with_default`] has it hear what one call does.
///
/// It is called on the thread of the call, before the call returns, and must not panic.
pub fn dispatch(level: Level, hear: impl Fn(&Message<'_>) + Send + Sync + 'static) -> Dispatch {
    Dispatch::new(Sink { level, hear })
}

/// Where this thread is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Where {
    /// In no call that has a log.
    Unlogged,
    /// In a call with a log, or in a function of the caller's that it called.
    LoggedCall,
    /// In a function that hears a log.
    Hearing,
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

/// Runs a call with that log, or none: what a call does within another is not of the other's log.
///
/// A function that hears a log may make calls, too; nobody hears of those.
pub fn of_call<R>(log: Option<&Dispatch>, call: impl FnOnce() -> R) -> R {
    match (WHERE.get(), log) {
        // A message is being delivered: who delivers it lets nobody exchange the log, and hears nothing.
        (Where::Hearing, _) | (Where::Unlogged, None) => call(),
        (_, Some(log)) => {
            let _within = Within::enter(Where::LoggedCall);
            with_default(log, call)
        }
        (Where::LoggedCall, None) => {
            let _within = Within::enter(Where::Unlogged);
            with_default(&Dispatch::none(), call)
        }
    }
}

struct Sink<F> {
    level: Level,
    hear: F,
}

impl<F: Fn(&Message<'_>) + Send + Sync + 'static> Subscriber for Sink<F> {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::from_level(self.level))
    }

    // Spans say nothing here.
    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let metadata = event.metadata();
        let mut line = Line::default();
        event.record(&mut line);
        let text = line.message + &line.fields;
        // Some consist of fields alone.
        let text = text.trim_start();
        let _within = Within::enter(Where::Hearing);
        (self.hear)(&Message { level: *metadata.level(), target: metadata.target(), text });
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

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn each_level_hears_itself_and_what_matters_more() {
        let levels = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE];
        for (count, level) in levels.into_iter().enumerate() {
            let (said, heard) = channel();
            let log = dispatch(level, move |message| {
                said.send((message.level, message.target.to_owned(), message.text.to_owned()))
                    .unwrap();
            });
            with_default(&log, || {
                tracing::error!(target: "a", number = 1, "it {}", "failed");
                tracing::warn!(target: "b", error = %"a b", name = "c d");
                tracing::info!(target: "c", "words");
                tracing::debug!(target: "d", flag = true, "more words");
                tracing::trace!(target: "e", list = ?[1, 2]);
            });
            let all = [
                ("a", "it failed number=1"),
                ("b", "error=a b name=\"c d\""),
                ("c", "words"),
                ("d", "more words flag=true"),
                ("e", "list=[1, 2]"),
            ];
            let expected = levels.into_iter().zip(all).take(count + 1);
            let expected: Vec<_> = expected
                .map(|(level, (target, text))| (level, target.to_owned(), text.to_owned()))
                .collect();
            assert_eq!(heard.try_iter().collect::<Vec<_>>(), expected);
        }
    }
}
