//! Who may do what: the one table of it. `privileges.md` is this, printed.

use std::fmt::Write as _;

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A user, where root has the state directory.
    Anybody,
    /// A user with a state directory of their own.
    Owner,
    /// The same, who may open `mig/config`.
    Configurer,
    Root,
}

impl Caller {
    pub(crate) const ALL: [Self; 4] = [Self::Anybody, Self::Owner, Self::Configurer, Self::Root];
}

/// How a node is before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// As the driver was loaded.
    Off,
    /// The same, with two processes of the caller's.
    Own,
    /// MIG without instances.
    Empty,
    /// MIG with two instances.
    Layout,
    /// The same, with somebody else's process on one.
    Tenant,
    /// Time-sliced, with slots that root has made.
    Slots,
    /// After a reboot, with a spec stored.
    Stored,
    /// With the journal of somebody who died.
    Unsettled,
}

/// What a caller is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is done.
    Done,
    /// All but placements are shown, and this is named as missing.
    Partial(&'static str),
    /// PERMISSION_DENIED, which names this as needed, before anything is touched.
    Denied(&'static str),
    /// The same, once the driver or the kernel said so: all is as it was.
    Undone(&'static str),
    /// BUSY, before anything is touched: who uses an instance is not shown, so somebody may.
    Unseen,
}

pub(crate) struct Row {
    pub(crate) to: &'static str,
    pub(crate) stage: Stage,
    pub(crate) arguments: &'static [&'static str],
    /// In the order of [`Caller::ALL`].
    pub(crate) answers: [Answer; 4],
}

use Answer::{Denied, Done, Partial, Undone, Unseen};

const fn row(
    to: &'static str,
    stage: Stage,
    arguments: &'static [&'static str],
    answers: [Answer; 4],
) -> Row {
    Row { to, stage, arguments, answers }
}

/// A part of what is named as needed.
const CONFIG: &str = "mig/config";
const ROOT: &str = "root";
const DIRECTORY: &str = "/state/";

/// What the driver lets everybody do, and writes to the state directory.
const OWNERS: [Answer; 4] = [Denied(DIRECTORY), Done, Done, Done];
/// What the driver lets only root do.
const ROOTS: [Answer; 4] = [Denied(DIRECTORY), Undone(ROOT), Undone(ROOT), Done];
/// What takes a look at where instances stand.
const CONFIGURERS: [Answer; 4] = [Denied(CONFIG), Denied(CONFIG), Done, Done];
/// What would take an instance from whoever is on it.
const DESTROYERS: [Answer; 4] = [Denied(CONFIG), Denied(CONFIG), Unseen, Done];

pub(crate) const TABLE: &[Row] = &[
    row("see all of a GPU without MIG", Stage::Off, &["status"], [Done; 4]),
    row("plan a change of it", Stage::Off, &["exclusive", "--dry-run"], [Done; 4]),
    row(
        "see a GPU with MIG on",
        Stage::Layout,
        &["status"],
        [Partial(CONFIG), Partial(CONFIG), Done, Done],
    ),
    row("plan a change of it", Stage::Layout, &["mig", "create", "1g", "--dry-run"], CONFIGURERS),
    row("diagnose a node, list its leases", Stage::Layout, &["leases"], [Done; 4]),
    row("create instances", Stage::Layout, &["mig", "create", "1g"], CONFIGURERS),
    row("destroy idle instances", Stage::Layout, &["mig", "destroy", "1"], DESTROYERS),
    row(
        "destroy one in use, by ending who uses it",
        Stage::Tenant,
        &["mig", "destroy", "1", "--allow-evict"],
        DESTROYERS,
    ),
    row("turn MIG on", Stage::Off, &["mig", "enable"], ROOTS),
    row("turn MIG off", Stage::Empty, &["mig", "disable"], DESTROYERS),
    row("set the compute mode", Stage::Off, &["exclusive"], ROOTS),
    row(
        "set the compute mode, and end one's own processes for it",
        Stage::Own,
        &["exclusive", "--allow-evict"],
        [Denied(DIRECTORY), Denied(ROOT), Denied(ROOT), Done],
    ),
    row("set the time-slice interval", Stage::Off, &["time-slice", "--interval", "long"], ROOTS),
    row(
        "time-slice where compute mode and interval stay",
        Stage::Off,
        &["time-slice", "--replicas", "4"],
        OWNERS,
    ),
    row(
        "share through an MPS daemon for oneself, compute mode unchanged",
        Stage::Off,
        &["mps", "enable", "--compute-mode", "unchanged", "--allow-hazard", "bypass-possible"],
        OWNERS,
    ),
    row("share through an MPS daemon, EXCLUSIVE_PROCESS", Stage::Off, &["mps", "enable"], ROOTS),
    row(
        "share through an MPS daemon for another user",
        Stage::Off,
        &[
            "mps",
            "enable",
            "--compute-mode",
            "unchanged",
            "--allow-hazard",
            "bypass-possible",
            "--user",
            "1",
        ],
        ROOTS,
    ),
    row(
        "lease a share with a slot that root has made",
        Stage::Slots,
        &["run", "--", "true"],
        [Done; 4],
    ),
    row("lease a share without one", Stage::Off, &["run", "--", "true"], OWNERS),
    row("cordon a GPU", Stage::Slots, &["cordon"], OWNERS),
    row("settle what a dead one left", Stage::Unsettled, &["recover"], OWNERS),
    row("remove the spec of the next boot", Stage::Stored, &["persist", "--remove"], OWNERS),
    row("restore it", Stage::Stored, &["restore"], OWNERS),
];

fn named(needs: &str) -> &str {
    match needs {
        CONFIG => "`mig/config`",
        DIRECTORY => "a state directory of one's own",
        other => other,
    }
}

impl Answer {
    fn cell(self) -> String {
        match self {
            Done => "yes".to_owned(),
            Partial(missing) => format!("all but placements: needs {}", named(missing)),
            Denied(needs) => format!("no: needs {}", named(needs)),
            Undone(needs) => format!("no, and all is as it was: needs {}", named(needs)),
            Unseen => "BUSY: who is on an instance is shown to root".to_owned(),
        }
    }
}

/// The table as a page.
pub(crate) fn page() -> String {
    let mut page = "\
# Who may do what

Printed from `privileges/table.rs`. `cargo test -p gpushare-tests --test privileges`, as root, runs each command as each
caller, on the simulator. *No* is PERMISSION_DENIED, which names what is needed, before a file or the driver was
touched; *as it was* means that the driver said so when it was asked to.

| to | any user | … with a state directory of their own | … who may open `mig/config` besides | root |
|---|---|---|---|---|
"
    .to_owned();
    for Row { to, arguments, answers, .. } in TABLE {
        let cells = answers.map(Answer::cell).join(" | ");
        writeln!(page, "| {to}: `gpushare {}` | {cells} |", arguments.join(" ")).unwrap();
    }
    page
}
