//! The rules, one by one, and what holds of any string. The record of real CUDA is in `tests/visible.rs`.

use proptest::prelude::*;

use super::*;
use crate::id::GpuIndex;
use crate::mode::{ComputeMode, SharingMode};
use crate::snapshot::{GpuSnapshot, MigDevice, MigStatus, Usage};
use crate::units::Bytes;
