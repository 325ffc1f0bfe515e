//! The audit: one line of JSON for every call that changes something.
//!
//! Apply emits an event of target `gpushare::audit` for each. They are collected here and written
//! to `audit.jsonl` in the directory of durable files when the command ends, on whatever way.
//! Warnings of the library are collected too, and told once.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use super::output::say;
use crate::port::{Clock, Store};

const TARGET: &str = "gpushare::audit";
const FILE: &str = "audit.jsonl";

/// Writes the lines of one command when it is dropped.
#[derive(Debug)]
struct Audit {
    lines: Shared<String>,
    store: Arc<dyn Store>,
}

type Shared<T> = Arc<Mutex<T>>;

/// Runs a command with its audit. Returns with its result what it warned of.
pub(super) fn audited<T>(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    command: impl FnOnce() -> T,
) -> (T, Vec<String>) {
    let (lines, warnings) = (Shared::default(), Shared::default());
    let audit = Audit { lines: Arc::clone(&lines), store };
    let collector = Collector { lines, warnings: Arc::clone(&warnings), clock };
    let subscriber = tracing_subscriber::registry().with(collector);
    let result = tracing::subscriber::with_default(subscriber, command);
    drop(audit);
    (result, std::mem::take(&mut *locked(&warnings)))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Audit {
    fn drop(&mut self) {
        let lines = std::mem::take(&mut *locked(&self.lines));
        if lines.is_empty() {
            return;
        }
        if let Err(error) = self.store.append(FILE, lines.as_bytes()) {
            say(&format!("gpushare: warning: the audit was not written: {error}"));
        }
    }
}

#[derive(Debug)]
struct Collector {
    lines: Shared<String>,
    warnings: Shared<Vec<String>>,
    clock: Arc<dyn Clock>,
}

impl<S: Subscriber> Layer<S> for Collector {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        if metadata.target() == TARGET {
            fields.0.insert("time".to_owned(), self.clock.unix_time().into());
            event.record(&mut fields);
            let mut lines = locked(&self.lines);
            lines.push_str(&Value::Object(fields.0).to_string());
            lines.push('\n');
        } else if *metadata.level() <= Level::WARN && metadata.target().starts_with("gpushare") {
            event.record(&mut fields);
            let text = |name: &str| fields.0.get(name).and_then(Value::as_str).unwrap_or_default();
            let warning = format!("{}: {}", text("message"), text("error"));
            let mut warnings = locked(&self.warnings);
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
    }
}

/// The fields of an event.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}").into());
    }
}
