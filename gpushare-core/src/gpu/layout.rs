//! The instances that a GPU is cut into.

use crate::error::Result;
use crate::spec::Instance;

/// A MIG layout: GPU instances, each with one compute instance that fills it unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Layout {
    pub(super) instances: Vec<Instance>,
}

impl Layout {
    /// No instances.
    pub const fn empty() -> Self {
        Self { instances: Vec::new() }
    }

    /// One instance for each name, wherever it costs least.
    ///
    /// # Errors
    /// INVALID_ARGUMENT for what is no profile name.
    pub fn of<'a>(profiles: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let instances = profiles.into_iter().map(|name| Ok(Instance::new(name.parse()?)));
        Ok(Self { instances: instances.collect::<Result<_>>()? })
    }

    /// The same with another instance.
    #[must_use]
    pub fn with(mut self, instance: Instance) -> Self {
        self.instances.push(instance);
        self
    }
}

impl FromIterator<Instance> for Layout {
    fn from_iter<I: IntoIterator<Item = Instance>>(instances: I) -> Self {
        Self { instances: instances.into_iter().collect() }
    }
}
