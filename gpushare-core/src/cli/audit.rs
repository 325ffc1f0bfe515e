//! The audit: one line of JSON for every call that changes something.
//!
//! Apply emits an event of target `gpushare::audit` for each, when the call has returned. Each is
//! written to `audit.jsonl` in the directory of durable files there and then: a command that is
//! killed leaves the lines of the calls that it made. Warnings of the library are collected, and
//! told once when the command ends.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

use crate::port::{Clock, Store};

const TARGET: &str = "gpushare::audit";
const FILE: &str = "audit.jsonl";

type Shared<T> = Arc<Mutex<T>>;

/// Runs a command with its audit. Returns with its result what it warned of.
pub(super) fn audited<T>(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    command: impl FnOnce() -> T,
) -> (T, Vec<String>) {
    let warnings = Shared::default();
    let audit = Audit { store, warnings: Arc::clone(&warnings), clock };
    let subscriber = tracing_subscriber::registry().with(audit);
    let result = tracing::subscriber::with_default(subscriber, command);
    (result, std::mem::take(&mut *locked(&warnings)))
}

fn locked<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Audit {
    store: Arc<dyn Store>,
    warnings: Shared<Vec<String>>,
    clock: Arc<dyn Clock>,
}

impl Audit {
    /// Makes a line durable. A failure is a warning: no change stops half-way for want of its audit.
    fn write(&self, mut line: String) {
        line.push('\n');
        if let Err(error) = self.store.append(FILE, line.as_bytes()) {
            self.warn(format!("the audit was not written: {error}"));
        }
    }

    fn warn(&self, warning: String) {
        let mut warnings = locked(&self.warnings);
        if !warnings.contains(&warning) {
            warnings.push(warning);
        }
    }
}

impl<S: Subscriber> Layer<S> for Audit {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let metadata = event.metadata();
        let mut fields = Fields::default();
        if metadata.target() == TARGET {
            fields.0.insert("time".to_owned(), self.clock.unix_time().into());
            event.record(&mut fields);
            // It is for logs: the fields say the same.
            fields.0.remove("message");
            self.write(Value::Object(fields.0).to_string());
        } else if *metadata.level() <= Level::WARN && metadata.target().starts_with("gpushare") {
            event.record(&mut fields);
            let text = |name: &str| fields.0.get(name).and_then(Value::as_str).unwrap_or_default();
            self.warn(format!("{}: {}", text("message"), text("error")));
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
