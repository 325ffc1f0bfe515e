//! MPS daemons on real GPUs: not in this version.

use crate::error::{Error, ErrorCode, Result};
use crate::mps::{Command, Dialect, MpsDomain, Reply};
use crate::parameters::Access;
use crate::port::{ForeignDaemon, MpsDaemon, MpsHost};

/// A host that starts no MPS daemons, and says so.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct NoMps;

impl NoMps {
    /// Such a host.
    pub const fn new() -> Self {
        Self
    }
}

fn refuse<R>() -> Result<R> {
    Err(Error::new(ErrorCode::Unsupported, "not yet"))
}

impl MpsHost for NoMps {
    fn able(&self) -> bool {
        false
    }
    fn dialect(&self) -> Result<Dialect> {
        refuse()
    }
    fn probe(&self, _: &MpsDomain) -> Result<Option<MpsDaemon>> {
        Ok(None)
    }
    fn expect_startable(&self, _: &MpsDomain, _: &Access) -> Result<()> {
        refuse()
    }
    fn start(&self, _: &MpsDomain, _: &Access) -> Result<()> {
        refuse()
    }
    fn command(&self, _: &MpsDomain, _: &Command) -> Result<Reply> {
        refuse()
    }
    fn admit(&self, _: &MpsDomain, _: bool) -> Result<()> {
        refuse()
    }
    fn stop(&self, _: &MpsDomain) -> Result<()> {
        refuse()
    }
    fn log(&self, _: &MpsDomain) -> String {
        String::new()
    }
    fn foreign(&self) -> Result<Vec<ForeignDaemon>> {
        Ok(Vec::new())
    }
}
