//! Documents of many simulated states, held against their schemas.

use gpushare_core::backend::sim::{FaultSpec, Loss, PRODUCTS, ProcessKind, ProcessSpec, Target};
use gpushare_core::mode::Mode;
use gpushare_core::parameters::{Access, MpsConfig, TimeSlicing};
use gpushare_core::plan::Request;
use gpushare_core::port::NvmlReturn;
use gpushare_core::spec::{Instance, Selector, Sharing, Spec, Want};
use gpushare_core::units::{Bytes, ThreadPercentage};
use gpushare_core::{ApplyOptions, Error, Node, Report};
use serde_json::Value;

use crate::place::Place;
use crate::schema::Schema;

/// A node of one card whose every document is checked.
struct Checked {
    node: Node,
    documents: Vec<Value>,
}

impl Checked {
    fn new(product: &str) -> Self {
        let node = Node::builder().sim(format!("2x{product}")).open().unwrap();
        let mut checked = Self { node, documents: Vec::new() };
        checked.look();
        checked
    }

    #[track_caller]
    fn check(&mut self, document: Value) {
        Schema::of(&document).expect(&document);
        self.documents.push(document);
    }

    #[track_caller]
    fn error(&mut self, error: &Error) {
        self.check(error.to_document());
    }

    #[track_caller]
    fn look(&mut self) {
        match self.node.snapshot() {
            Ok(snapshot) => self.check(serde_json::to_value(snapshot).unwrap()),
            Err(error) => self.error(&error),
        }
    }

    /// Plans and applies, and checks what comes of it.
    #[track_caller]
    fn request(&mut self, request: &Request, options: &ApplyOptions) -> Option<Report> {
        match self.node.plan_request(request) {
            Ok(plan) => self.check(serde_json::to_value(plan).unwrap()),
            Err(error) => self.error(&error),
        }
        let source = gpushare_core::apply::Source::Request(request);
        let result = self.node.apply_with(source, options, |_| std::ops::ControlFlow::Continue(()));
        let report = match result {
            Ok(report) => {
                self.check(serde_json::to_value(&report).unwrap());
                Some(report)
            }
            Err(error) => {
                self.error(&error);
                None
            }
        };
        self.look();
        report
    }

    #[track_caller]
    fn want(&mut self, want: Want) -> Option<Report> {
        let spec = Spec::new().gpu([Selector::All], want);
        let options = ApplyOptions::new().allow_reset(true).allow_evict(true);
        let hazards = gpushare_core::hazard::HazardName::ALL;
        let options = hazards.iter().fold(options, |options, &name| options.allow_hazard(name));
        // Refused without consent, then done.
        self.request(&Request::Apply(spec.clone()), &ApplyOptions::new());
        self.request(&Request::Apply(spec), &options)
    }
}

fn mps() -> MpsConfig {
    let mut config = MpsConfig::default();
    config.thread_percentage = ThreadPercentage::new(40.0).unwrap();
    config.pinned_memory_limit = Some(Bytes::from_mebibytes(512));
    config.access = Access::Group("ml".to_owned());
    config
}

/// Everything that can happen to a card.
fn torment(product: &str) -> Vec<Value> {
    let mut checked = Checked::new(product);
    let node = checked.node.clone();
    let simulator = node.simulator().unwrap();
    let gpus = simulator.gpus().unwrap();
    checked.want(Want::Exclusive);
    simulator.busy(&gpus[0], ProcessSpec::new("one")).unwrap();
    checked.want(Want::TimeSliced(TimeSlicing::default()));
    simulator.busy(&gpus[0], ProcessSpec::new("two").doing(ProcessKind::Graphics)).unwrap();
    checked.look();
    simulator.idle_all(&gpus[0]).unwrap();
    checked.want(Want::Mps(MpsConfig::default()));
    checked.want(Want::Mps(mps()));
    simulator.busy(&gpus[0], ProcessSpec::new("three").doing(ProcessKind::MpsClient)).unwrap();
    checked.look();
    simulator.kill_mps_daemon(&gpus[0]).unwrap();
    checked.want(Want::Mps(mps()));
    let leave = Request::Leave { mode: Mode::Mps, gpus: gpus.clone() };
    checked.request(&leave, &ApplyOptions::new().allow_evict(true));

    if checked.want(Want::Mig(None)).is_some() {
        layouts(&mut checked);
    }
    checked.want(Want::Exclusive);
    simulator.lose(&gpus[1], Loss::Lost).unwrap();
    checked.look();
    checked.want(Want::Exclusive);
    simulator.lose(&gpus[1], Loss::Gone).unwrap();
    checked.want(Want::Exclusive);
    simulator.reboot().unwrap();
    checked.look();
    let mut rules = simulator.rules().unwrap();
    rules.mode_change_stays_pending = true;
    rules.reset_able = false;
    simulator.set_rules(rules.clone()).unwrap();
    checked.want(Want::Mig(None));
    // Somebody else turned it on, and it waits for a reset.
    let _ = node.ports().nvml.open().unwrap().set_mig_mode(&gpus[0], true);
    checked.look();
    rules.reset_able = true;
    simulator.set_rules(rules).unwrap();
    checked.want(Want::Mig(None));
    simulator.fault(FaultSpec::next("nvmlInit_v2", NvmlReturn::DRIVER_NOT_LOADED)).unwrap();
    checked.look();
    checked.documents
}

/// Everything that can happen to layouts.
fn layouts(checked: &mut Checked) {
    let node = checked.node.clone();
    let simulator = node.simulator().unwrap();
    let gpus = simulator.gpus().unwrap();
    let snapshot = node.snapshot().unwrap();
    let geometry = snapshot.gpus[0].mig.as_ref().unwrap().geometry.clone();
    for profile in geometry.profiles() {
        checked.want(Want::Mig(Some(vec![Instance::new(profile.name).named("only")])));
        let cut = Instance::new(profile.name).with_compute(vec![1; profile.slices.into()]);
        checked.want(Want::Mig(Some(vec![cut])));
        checked.want(Want::Mig(Some(vec![Instance::new(profile.name).with_compute(vec![])])));
        let many = vec![Instance::new(profile.name); profile.max_instances.into()];
        checked.want(Want::Mig(Some(many)));
    }
    let whole = geometry.profiles()[0].name;
    checked.want(Want::Mig(Some(vec![Instance::new(whole); 2])));
    let smallest = geometry.profiles().last().unwrap().name;
    let shared = Instance::new(smallest).shared(Sharing::TimeSliced(TimeSlicing::default()));
    checked.want(Want::Mig(Some(vec![shared])));
    let device = node.snapshot().unwrap().gpus[0].mig_devices[0].uuid.clone();
    simulator.busy(&device, ProcessSpec::new("tenant")).unwrap();
    checked.look();
    checked.want(Want::Mig(Some(Vec::new())));
    checked.want(Want::Mig(Some(vec![Instance::new(smallest)])));
    let device = node.snapshot().unwrap().gpus[0].mig_devices[0].uuid.clone();
    simulator.busy(Target::MigDevice(device), ProcessSpec::new("unseen").invisible()).unwrap();
    checked.want(Want::Mig(Some(Vec::new())));
    simulator.act_as(1000).unwrap();
    checked.look();
    checked.want(Want::Exclusive);
    simulator.act_as(0).unwrap();
    simulator.idle_all(&gpus[0]).unwrap();
    let leave = Request::Leave { mode: Mode::Mig, gpus };
    checked.request(&leave, &ApplyOptions::new().allow_reset(true));
}

#[test]
fn documents_of_every_card_are_as_their_schemas_say() {
    let documents: Vec<Value> = PRODUCTS.iter().flat_map(|product| torment(product.name)).collect();
    let count = |schema: &str| documents.iter().filter(|d| d["schema"] == schema).count();
    // Enough of each that the test means something.
    for schema in ["status", "plan", "report", "error"] {
        let count = count(&format!("gpushare.{schema}/v1"));
        assert!(count > 100, "{count} documents of {schema}");
    }
    let codes = |code: &str| documents.iter().any(|document| document["code"] == code);
    for code in [
        "BUSY",
        "UNSUPPORTED",
        "PERMISSION_DENIED",
        "RESET_REQUIRED",
        "HAZARD",
        "NOT_FOUND",
        "INSUFFICIENT",
    ] {
        assert!(codes(code), "{code} did not happen");
    }
    let modes = |mode: &str| {
        documents
            .iter()
            .any(|d| d["gpus"].as_array().is_some_and(|g| g.iter().any(|g| g["mode"] == mode)))
    };
    for mode in ["exclusive", "time_sliced", "mps", "mig", "degraded", "pending", "lost"] {
        assert!(modes(mode), "{mode} did not happen");
    }
}

#[test]
fn a_key_that_is_missing_is_missed() {
    let documents = torment("H100-80GB");
    let mut removed = 0;
    for schema in ["status", "plan", "report", "error"] {
        let own = documents.iter().filter(|d| d["schema"] == format!("gpushare.{schema}/v1"));
        let Some(document) = own.max_by_key(|document| document.to_string().len()) else {
            continue;
        };
        let mut pointers = Vec::new();
        keys(document, String::new(), &mut pointers);
        for pointer in pointers {
            // In a spec most keys may be left out.
            if pointer.starts_with("/request/apply") || pointer.starts_with("/previous/") {
                continue;
            }
            let mut broken = document.clone();
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            broken.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
            assert!(!Schema::named(schema).takes(&broken), "{schema} without {pointer}");
            // Of another type.
            let mut broken = document.clone();
            *broken.pointer_mut(&pointer).unwrap() = serde_json::json!([[[]]]);
            assert!(!Schema::named(schema).takes(&broken), "{schema} with another {pointer}");
            removed += 1;
        }
        // Keys are only added: whoever has this version reads the next one.
        let mut next = document.clone();
        next.as_object_mut().unwrap().insert("from_a_later_version".to_owned(), Value::Null);
        assert!(Schema::named(schema).takes(&next));
    }
    assert!(removed > 100, "{removed}");
}

fn keys(value: &Value, pointer: String, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields {
                found.push(format!("{pointer}/{key}"));
                keys(value, format!("{pointer}/{key}"), found);
            }
        }
        Value::Array(items) => {
            for (number, item) in items.iter().enumerate() {
                keys(item, format!("{pointer}/{number}"), found);
            }
        }
        _ => {}
    }
}

#[test]
fn the_command_prints_the_documents_of_the_library() {
    let place = Place::new("1xH100-80GB");
    let status = place.json(&["status"]);
    Schema::named("status").expect(&status);
    assert_eq!(status, place.json(&["mig", "list"]));
    assert_eq!(status, place.json(&["mig", "profiles"]));
    let snapshot: gpushare_core::Snapshot = serde_json::from_value(status.clone()).unwrap();
    assert_eq!(serde_json::to_value(snapshot).unwrap(), status);
    let plan = place.run(&["mig", "enable", "--dry-run", "--json"]).expect(2).document();
    Schema::named("plan").expect(&plan);
    let report = place.json(&["mig", "enable"]);
    Schema::named("report").expect(&report);
    assert_eq!(plan["digest"], report["digest"]);
    Schema::named("report").expect(&place.json(&["recover"]));
    let error = place.run(&["--json", "mig", "create", "9g"]).expect(1).document();
    Schema::named("error").expect(&error);
}

#[test]
fn the_examples_are_specs() {
    let mig = include_str!("../../../examples/mig.yaml");
    let mps = include_str!("../../../examples/mps.yaml");
    for text in [mig, mps] {
        let spec: Spec = text.parse().unwrap();
        Schema::named("spec").expect(&serde_json::to_value(spec).unwrap());
    }
}
