//! What was measured, and on what.

use serde::{Deserialize, Serialize};

use super::Way;

/// A measured figure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Figure {
    /// What was measured.
    pub what: String,
    /// What it came to.
    pub value: String,
    /// On what.
    pub machine: String,
}

/// The card of all of them.
const H200: &str = "measured on H200 (132 SMs, driver 580.159.04, CUDA 13.0, November 2026)";

/// What, and what it came to.
type Row = (&'static str, &'static str);

const TURNS: Row = (
    "512³ fp32 products per second of each process, without MPS: 1, 2 and 4 processes",
    "54.8k, 27.2k and 13.0k: they take turns",
);
const AT_ONCE: Row = (
    "small products (512³ fp32) of all processes together, MPS to time slicing: 2, 4 and 8 processes",
    "1.63, 2.33 and 2.09 times; in another run on another such card 1.39, 1.76 and 1.76 times",
);
const WRONG: Row = (
    "wrong half-precision products of cuBLAS at a thread percentage of 40 %",
    "62 of 66 in bf16 and 62 of 66 in fp16, without an error of CUDA; at 25 % and 100 % none; fp32 and tf32 none at any",
);
const ENABLE: Row = ("`mps enable` until every limit is read back", "72 ms");
const DISABLE: Row = (
    "`mps disable --grace 0` while a client works",
    "0.38 s; NVIDIA's plain `quit` waited 25.5 s for such a client",
);
const CLIENTS: Row = ("64 clients of one daemon at once", "48 were served, 16 refused");
const CONTEXT: Row = ("what a CUDA context takes of a memory limit", "514 MiB of 2 GiB");

/// The figures of a way. Nothing of MIG was run on hardware.
pub(super) fn of(way: Way) -> Vec<Figure> {
    let rows: &[Row] = match way {
        Way::Exclusive | Way::Mig | Way::MigWithMps => &[],
        Way::TimeSliced => &[TURNS],
        Way::Mps => &[AT_ONCE, WRONG, ENABLE, DISABLE, CLIENTS, CONTEXT],
    };
    let figure = |&(what, value): &Row| Figure {
        what: what.to_owned(),
        value: value.to_owned(),
        machine: H200.to_owned(),
    };
    rows.iter().map(figure).collect()
}
