//! A simulated node that configs are brought to and exported from.

use std::collections::BTreeMap;

use gpushare_core::export::{self, Exported};
use gpushare_core::import::{self, Imported};
use gpushare_core::{ApplyOptions, Error, Node, Snapshot, Spec};

/// How many MIG devices there are of each profile; none where MIG is off.
pub(crate) type Devices = Option<BTreeMap<String, u32>>;

/// A layout in a word: `1g.5gb=2 3g.20gb=1`; an empty one is MIG without instances.
pub(crate) fn devices(text: &str) -> Devices {
    let counted = text.split_whitespace().map(|part| {
        let (name, count) = part.split_once('=').unwrap();
        (name.to_owned(), count.parse().unwrap())
    });
    Some(counted.collect())
}

pub(crate) struct Place {
    pub(crate) node: Node,
}

impl Place {
    pub(crate) fn new(fleet: &str) -> Self {
        Self { node: Node::builder().sim(fleet).open().unwrap() }
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.node.snapshot().unwrap()
    }

    pub(crate) fn import(&self, text: &str, config: Option<&str>) -> Result<Imported, Error> {
        let mut options = import::Options::default();
        options.config = config.map(str::to_owned);
        import::import(text.as_bytes(), import::Kind::MigParted, &options, &self.snapshot())
    }

    #[track_caller]
    pub(crate) fn apply(&self, spec: &Spec) {
        let options = ApplyOptions::new().allow_reset(true).allow_evict(true);
        let hazards = gpushare_core::hazard::HazardName::ALL.iter();
        let options = hazards.fold(options, |options, &name| options.allow_hazard(name));
        let report = self.node.apply(spec, &options);
        assert!(report.is_ok(), "{report:?} of {spec}");
    }

    pub(crate) fn apply_text(&self, spec: &str) {
        self.apply(&spec.parse().unwrap());
    }

    /// Whether a spec asks for nothing more.
    pub(crate) fn is(&self, spec: &Spec) -> bool {
        self.node.plan(spec).unwrap().noop
    }

    pub(crate) fn export(&self) -> Exported {
        let options = export::Options::default();
        export::export(&self.snapshot(), export::Kind::MigParted, &options).unwrap()
    }

    /// What each GPU is.
    pub(crate) fn found(&self) -> Vec<Devices> {
        let snapshot = self.snapshot();
        let devices = snapshot.gpus.iter().map(|gpu| {
            gpu.mig.as_ref().filter(|mig| mig.enabled)?;
            let mut counts = BTreeMap::new();
            for device in &gpu.mig_devices {
                *counts.entry(device.profile.to_string()).or_default() += 1;
            }
            Some(counts)
        });
        devices.collect()
    }

    /// Brings a config in and out, and in again, here and on a node that is new: it stays what it is.
    #[track_caller]
    pub(crate) fn goes_round(&self, fleet: &str, text: &str, config: Option<&str>) {
        let imported = self.import(text, config).unwrap();
        // What is printed is what is applied.
        let printed: Spec = imported.spec.to_string().parse().unwrap();
        assert_eq!(printed, imported.spec);
        self.apply(&printed);
        let found = self.found();
        let exported = self.export();
        let again = self.import(&exported.text, Some("current")).unwrap();
        assert!(self.is(&again.spec), "{} is not\n{}", again.spec, exported.text);
        let other = Self::new(fleet);
        other.apply(&other.import(&exported.text, None).unwrap().spec);
        assert_eq!(other.found(), found, "{}", exported.text);
        assert_eq!(other.export().text, exported.text);
        // mig-parted's assert: the same config asks for nothing now.
        assert!(self.is(&self.import(text, config).unwrap().spec), "{text}");
    }
}
