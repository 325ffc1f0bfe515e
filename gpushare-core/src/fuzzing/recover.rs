//! Recovery from journals that were changed: whole, with checksums that add up, and not what this
//! crate would write for the node that they are found on.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};

use serde_json::Value;

use super::expect_error;
use crate::apply::ApplyOptions;
use crate::apply::report::Settled;
use crate::backend::sim::{Death, Fault, Faults, MemoryStore, Simulator};
use crate::error::{ErrorCode, Outcome};
use crate::node::Node;
use crate::observe::Scope;
use crate::plan::state::GpuState;
use crate::port::Store as _;
use crate::snapshot::GpuSnapshot;
use crate::state::journal;

const FLEET: &str = "3xA100-40GB";
/// What a recovery may be refused with, whatever the journal says.
const REFUSED: &[ErrorCode] = &[
    ErrorCode::RecoveryRequired,
    ErrorCode::Locked,
    ErrorCode::NotFound,
    ErrorCode::InvalidState,
    ErrorCode::Stale,
    ErrorCode::Io,
    ErrorCode::PermissionDenied,
];

/// A node on which an applier has died, and its journal.
struct Base {
    simulator: Simulator,
    store: MemoryStore,
    name: String,
    /// The lines of the journal, without checksums.
    lines: Vec<Value>,
}

/// The first byte chooses a node, the second another one whose journal it finds, and each four that follow
/// change something of that.
pub(super) fn feed(data: &[u8]) {
    let bases = bases();
    let mut bytes = data.iter().map(|byte| usize::from(*byte));
    let mut next = move || bytes.next();
    let Some((which, other)) = next().zip(next()) else { return };
    let base = &bases[which % bases.len()];
    // Mostly its own.
    let from = if other < 128 { base } else { &bases[other % bases.len()] };
    let mut lines = from.lines.clone();
    while let Some(((place, how), (high, low))) = next().zip(next()).zip(next().zip(next())) {
        change(&mut lines, place * 256 + high, how, low);
    }
    recover(base, &lines);
}

fn recover(base: &Base, lines: &[Value]) {
    let simulator = base.simulator.copy().expect("it is in memory");
    let store = base.store.copy();
    let node = Node::with_ports(simulator.ports(Arc::new(store.clone())), true);
    let texts: Vec<String> = lines.iter().map(Value::to_string).collect();
    let content = journal::sealed(texts.iter().map(String::as_str));
    store.replace(&format!("journal/{}", base.name), content.as_bytes()).expect("in memory");

    let named: BTreeSet<String> = journal::find(&store)
        .map(|found| {
            let gpus = found.iter().flat_map(|found| &found.header.gpus);
            gpus.map(|gpu| gpu.uuid.to_string()).collect()
        })
        .unwrap_or_default();
    let before = look(&node);
    let recovered = node.recover();
    let after = look(&node);
    // What the journal does not name is not touched, and where there is no journal nothing is.
    for ((uuid, before), (_, after)) in before.iter().zip(&after) {
        assert!(named.contains(uuid) || before == after, "{uuid}: {recovered:?}");
    }
    let records = |store: &MemoryStore| {
        let files = store.files().into_iter();
        files.filter(|(name, _)| !name.starts_with("journal/")).collect::<Vec<_>>()
    };
    let of_named = |name: &str| named.iter().any(|uuid| name.contains(uuid.as_str()));
    for (name, content) in records(&base.store) {
        assert!(of_named(&name) || store.files().get(&name) == Some(&content), "{name}");
    }
    for (name, _) in records(&store) {
        assert!(of_named(&name) || base.store.files().contains_key(&name), "{name}");
    }
    match &recovered {
        Ok(report) => {
            assert!(matches!(journal::find(&store), Ok(found) if found.is_empty()));
            assert!(
                report
                    .recovered
                    .iter()
                    .all(|one| one.settled != Settled::Void || !named.is_empty())
            );
            let again = node.recover().expect("nothing is left");
            assert!(again.recovered.is_empty());
        }
        Err(error) => {
            expect_error(error, REFUSED);
            // It is still there for the next one, as long as nobody decides.
            assert!(!store.list("journal").expect("in memory").is_empty());
            if error.outcome() == Outcome::Untouched && error.code() == ErrorCode::RecoveryRequired
            {
                for ((uuid, before), (_, after)) in before.iter().zip(&after) {
                    assert_eq!(before, after, "{uuid}: {error:?}");
                }
            }
        }
    }
    // No lock stays.
    for (uuid, _) in &after {
        let lock = store.try_lock(&format!("lock/{uuid}.lock")).expect("in memory");
        assert!(lock.is_some(), "{uuid} is locked");
    }
}

/// Each GPU as it is, with uuids and ids.
fn look(node: &Node) -> Vec<(String, (GpuState, Vec<String>))> {
    let observer = node.observer();
    let snapshot =
        observer.and_then(|mut observer| observer.snapshot(&Scope::all().with_intervals()));
    let devices = |gpu: &GpuSnapshot| {
        let devices = gpu.mig_devices.iter();
        devices.map(|device| format!("{} {} {}", device.uuid, device.gi, device.ci)).collect()
    };
    let snapshot = snapshot.expect("it is seen");
    let gpus = snapshot.gpus.iter();
    gpus.map(|gpu| (gpu.uuid.to_string(), (GpuState::of(gpu), devices(gpu)))).collect()
}

/// Changes one value of the journal, or one of its lines.
fn change(lines: &mut Vec<Value>, place: usize, how: usize, what: usize) {
    let count = lines.len();
    match how % 16 {
        // A line goes, comes twice, or changes its place. The first stays the first.
        0 if count > 1 => drop(lines.remove(1 + place % (count - 1))),
        1 if count > 1 && count < 40 => {
            lines.insert(1 + what % count, lines[1 + place % (count - 1)].clone());
        }
        2 if count > 2 => lines.swap(1 + place % (count - 1), 1 + what % (count - 1)),
        3 if count < 40 => {
            let entry = serde_json::json!({"begin": [place % 4, what % 24]});
            lines.push(entry);
        }
        4 if count > 1 => lines.truncate(1 + place % count),
        // A value takes the place of another, of its kind or of any.
        how => {
            let mut pool = Vec::new();
            lines.iter().for_each(|line| collect(line, &mut pool));
            let sizes: Vec<usize> = lines.iter().map(size).collect();
            // What takes the place of a part of itself doubles, and again.
            const MOST: usize = 4_000;
            if sizes.iter().sum::<usize>() > MOST {
                return;
            }
            let mut place = place % sizes.iter().sum::<usize>().max(1);
            for (line, size) in lines.iter_mut().zip(sizes) {
                if place < size {
                    alter(value_at(line, place), how, what, &pool);
                    break;
                }
                place -= size;
            }
        }
    }
}

fn alter(value: &mut Value, how: usize, what: usize, pool: &[Value]) {
    match (value, how) {
        (Value::Bool(flag), _) => *flag = !*flag,
        (Value::Number(number), 5..=9) => {
            let numbers = [0, 1, 2, 3, 4, 5, 7, 8, 9, 14, 15, 16, 19, 255, u64::from(u32::MAX)];
            *number = numbers[what % numbers.len()].into();
        }
        (Value::Array(items), 5) if !items.is_empty() => drop(items.remove(what % items.len())),
        (Value::Array(items), 6) if !items.is_empty() && items.len() < 40 => {
            items.push(items[what % items.len()].clone());
        }
        (Value::Array(items), 7) if !items.is_empty() => {
            let length = items.len();
            items.swap(what % length, what / 16 % length);
        }
        (Value::Object(map), 5) => {
            let key = map.keys().nth(what % map.len().max(1)).cloned();
            key.map(|key| map.remove(&key));
        }
        (value, 8..=12) => {
            // One of the same kind.
            let kind = std::mem::discriminant(value);
            let same: Vec<&Value> =
                pool.iter().filter(|other| std::mem::discriminant(*other) == kind).collect();
            if let Some(other) = same.get(what % same.len().max(1)) {
                *value = (*other).clone();
            }
        }
        (value, 13) => *value = Value::Null,
        (value, _) => {
            if let Some(other) = pool.get(what * 7 % pool.len().max(1)) {
                *value = other.clone();
            }
        }
    }
}

/// Every value in this one, itself included.
fn collect(value: &Value, found: &mut Vec<Value>) {
    found.push(value.clone());
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, found)),
        Value::Object(map) => map.values().for_each(|item| collect(item, found)),
        _ => {}
    }
}

/// How many values there are in this one, itself included.
fn size(value: &Value) -> usize {
    1 + match value {
        Value::Array(items) => items.iter().map(size).sum(),
        Value::Object(map) => map.values().map(size).sum(),
        _ => 0,
    }
}

/// The value at that place, in the order of [`collect`].
fn value_at(value: &mut Value, place: usize) -> &mut Value {
    if place == 0 || place >= size(value) {
        return value;
    }
    let mut place = place - 1;
    let within: Box<dyn Iterator<Item = &mut Value>> = match value {
        Value::Array(items) => Box::new(items.iter_mut()),
        Value::Object(map) => Box::new(map.values_mut()),
        _ => unreachable!("it has no values"),
    };
    for item in within {
        let size = size(item);
        if place < size {
            return value_at(item, place);
        }
        place -= size;
    }
    unreachable!("its size says that it is there")
}

/// Nodes on which an applier has died: of each change, at some of its calls.
fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| {
        let changes = [
            // Layouts, on one GPU and on two.
            (r#"{"mode": "mig", "mig": {"instances": {"3g": 1, "2g": 1}}}"#, "0",
             r#"{"mode": "mig", "mig": {"instances": {"3g": 1, "1g": 4}}}"#, "0"),
            (r#"{"mode": "mig", "mig": {"instances": {"1g": 2}}}"#, "[0, 1]",
             r#"{"mode": "mig", "mig": {"instances": {"4g": 1}}}"#, "[0, 1]"),
            // Into MIG mode and out of it.
            (r#"{"mode": "exclusive"}"#, "[0, 1]",
             r#"{"mode": "mig", "mig": {"instances": [{"profile": "3g", "compute": ["1c", "2c"]}]}}"#, "0"),
            (r#"{"mode": "mig", "mig": {"instances": {"7g": 1}}}"#, "0",
             r#"{"mode": "time_sliced", "time_sliced": {"replicas": 4, "interval": "long"}}"#, "[0, 1]"),
            // Daemons, of a GPU and of an instance.
            (r#"{"mode": "time_sliced"}"#, "0", r#"{"mode": "mps", "mps": {"thread_percentage": 50}}"#, "[0, 1]"),
            (r#"{"mode": "mps"}"#, "[0, 1]",
             r#"{"mode": "mig", "mig": {"instances": [{"profile": "2g", "mps": {"max_clients": 4}}]}}"#, "1"),
        ];
        let mut bases = Vec::new();
        for (from, of, to, gpus) in changes {
            let mut nth = 1;
            while let Some(base) = died(from, of, to, gpus, nth) {
                bases.push(base);
                nth += 2;
            }
        }
        assert!(bases.len() > 20 && bases.len() <= 256, "{} nodes", bases.len());
        bases
    })
}

fn spec(want: &str, gpus: &str) -> crate::Spec {
    let want = want.trim_start_matches('{');
    let text = format!(r#"{{"version": "gpushare/v1", "gpus": [{{"select": {gpus}, {want}]}}"#);
    text.parse().expect("a spec")
}

/// The node whose applier died at the nth line of its journal; none where it has fewer.
fn died(from: &str, of: &str, to: &str, gpus: &str, nth: usize) -> Option<Base> {
    let simulator = Simulator::new(FLEET.parse().expect("a fleet")).expect("a node");
    let store = MemoryStore::new();
    let (ports, faults) = Faults::wrap(simulator.ports(Arc::new(store.clone())));
    let node = Node::with_ports(ports, true);
    let options = crate::hazard::HazardName::ALL
        .iter()
        .fold(ApplyOptions::new().allow_reset(true), |options, &name| options.allow_hazard(name));
    node.apply(&spec(from, of), &options).expect("it is brought there");
    faults.revive();
    faults.on("store.append", nth, Fault::Die(Death::After));
    let applied = node.apply(&spec(to, gpus), &options);
    if !faults.is_dead() {
        applied.expect("nothing failed");
        return None;
    }
    // The last line is no journal's: it counts transitions.
    let name = store.list("journal").expect("in memory").pop()?;
    let content = store.read(&format!("journal/{name}")).expect("in memory").expect("a journal");
    let text = String::from_utf8(content).expect("text");
    let lines = text.lines().map(|line| {
        let (_, json) = line.split_once(' ').expect("a checksum");
        serde_json::from_str(json).expect("JSON")
    });
    Some(Base { lines: lines.collect(), simulator: simulator.copy().ok()?, store, name })
}
