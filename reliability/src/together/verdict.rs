//! After a round: one process recovers, and what is left is what somebody asked for.

use std::collections::BTreeSet;

use gpushare_core::lease::LeaseList;
use gpushare_core::plan::{Plan, Step};
use gpushare_core::{Error, ErrorCode, Node};

use super::place::{Asked, GPUS, OTHERS_PROFILE, Place, simulator, spec};
use super::{Figures, events};

fn said(doing: &'static str) -> impl Fn(Error) -> String {
    move |error| format!("{doing}: {error:?}")
}

/// Recovers, and looks at everything that is left. Whoever worked is gone.
pub(super) fn settle(place: &Place, figures: &mut Figures) -> Result<(), String> {
    let node = place.node().map_err(said("to open"))?;
    let store = node.ports().store.clone();
    let journals = || store.list("journal").map_err(said("to list journals"));
    let unfinished = journals()?.len();
    figures.journals += unfinished;
    let all = events::all(&place.events());
    let mut decided = BTreeSet::new();
    match node.recover() {
        Ok(report) => figures.recovered += report.recovered.len(),
        Err(error) if error.code() == ErrorCode::RecoveryRequired => {
            // For a person, where others came in between: and nowhere else.
            let stuck = journals()?;
            let decisions = stuck.len();
            for name in stuck {
                let text = store.read(&format!("journal/{name}")).map_err(said("to read"))?;
                let text = String::from_utf8_lossy(&text.unwrap_or_default()).into_owned();
                let gpus = simulator(&node).and_then(|sim| sim.gpus()).map_err(said("to list"))?;
                let of: BTreeSet<usize> =
                    (0..GPUS).filter(|gpu| text.contains(gpus[*gpu].as_str())).collect();
                if !of.contains(&place.roles.other) {
                    return Err(format!("nobody else was at GPUs {of:?}, and {error:?}"));
                }
                decided.extend(of);
                node.discard(&name).map_err(said("to set a journal aside"))?;
                figures.decided += 1;
            }
            figures.recovered += unfinished - decisions;
            node.recover().map_err(said("to recover again"))?;
        }
        Err(error) => return Err(format!("recover: {error:?}")),
    }
    let left = journals()?;
    if !left.is_empty() {
        return Err(format!("journals are left: {left:?}"));
    }
    let mut asked: BTreeSet<(usize, usize)> = BTreeSet::new();
    for event in all.iter().filter_map(|event| event.what.strip_prefix("asks ")) {
        let list: Asked = parse(event);
        asked.extend(list);
    }
    let any = all.iter().any(|event| event.what == "other destroys any");
    let set_aside = all.iter().filter(|event| event.what == "decides").count();
    figures.decided += set_aside;
    if set_aside > 0 {
        decided.insert(place.roles.other);
    }
    figures.judged += GPUS - decided.len();
    for gpu in 0..GPUS {
        if !decided.contains(&gpu) {
            expect_asked(&node, gpu, &asked, (gpu == place.roles.other).then_some(any))?;
        }
    }
    expect_clean(&node)
}

/// `[(0, 3), (1, 2)]`.
fn parse(text: &str) -> Asked {
    let numbers: Vec<usize> = text
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect();
    numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The GPU is as one of those who asked wanted it, but for what the other agent did there: whether it destroyed
/// what was not its own.
fn expect_asked(
    node: &Node,
    gpu: usize,
    asked: &BTreeSet<(usize, usize)>,
    other: Option<bool>,
) -> Result<(), String> {
    let mut plans = Vec::new();
    for (_, want) in asked.iter().filter(|(of, _)| *of == gpu) {
        let spec = spec(&vec![(gpu, *want)]).map_err(said("a spec"))?;
        let plan = node.plan(&spec).map_err(said("to plan"))?;
        if plan.noop || other.is_some_and(|any| is_others_doing(&plan, any)) {
            return Ok(());
        }
        plans.push(plan.to_string());
    }
    let snapshot = node.snapshot().map_err(said("to look"))?;
    let now = snapshot.gpus.get(gpu);
    Err(format!("GPU {gpu} is as nobody asked: {now:#?}\n{}", plans.join("\n")))
}

/// Whether all that keeps the GPU from what was asked is what the other agent did.
fn is_others_doing(plan: &Plan, destroyed_any: bool) -> bool {
    let theirs: BTreeSet<_> = plan
        .gpus
        .iter()
        .flat_map(|gpu| &gpu.steps)
        .filter_map(|step| match step {
            Step::DestroyGpuInstance(gi) if gi.profile.get() == OTHERS_PROFILE => {
                Some(gi.placement)
            }
            _ => None,
        })
        .collect();
    plan.gpus.iter().flat_map(|gpu| &gpu.steps).all(|step| match step {
        Step::DestroyGpuInstance(gi) => theirs.contains(&gi.placement),
        Step::DestroyComputeInstance(ci) => theirs.contains(&ci.gpu_instance),
        Step::CreateGpuInstance(_) | Step::CreateComputeInstance(_) | Step::StartMps { .. } => {
            destroyed_any
        }
        _ => false,
    })
}

/// No lock, no lease, nobody who waits, and no daemon that is not in the state.
fn expect_clean(node: &Node) -> Result<(), String> {
    let ports = node.ports();
    for gpu in simulator(node).and_then(|sim| sim.gpus()).map_err(said("to list"))? {
        if ports.store.try_lock(&format!("lock/{gpu}.lock")).map_err(said("to lock"))?.is_none() {
            return Err(format!("the lock of {gpu} is left"));
        }
        node.uncordon(&gpu).map_err(said("to uncordon"))?;
    }
    let list = node.leases().map_err(said("to list leases"))?;
    let leased = |list: &LeaseList| {
        let shares = list.gpus.iter().flat_map(|gpu| &gpu.shares).chain(&list.void);
        shares.filter(|share| share.is_leased()).map(|share| share.id.clone()).collect::<Vec<_>>()
    };
    if !leased(&list).is_empty() || list.waiting > 0 {
        return Err(format!("leases are left, or somebody waits: {list:?}"));
    }
    let snapshot = node.snapshot().map_err(said("to look"))?;
    let known = snapshot.gpus.iter().map(|gpu| {
        let devices = gpu.mig_devices.iter().filter(|device| device.mps.is_some()).count();
        devices + usize::from(gpu.mps.is_some())
    });
    let known: usize = known.sum();
    let daemons = ports.mps.domains().map_err(said("to list daemons"))?;
    if daemons.len() > known {
        return Err(format!("a daemon is left: {daemons:?}, and {known} are known"));
    }
    let shares = snapshot.gpus.iter().flat_map(|gpu| &gpu.shares);
    let shares: BTreeSet<_> = shares.map(|share| share.id.clone()).collect();
    match ports.slots.has_litter(&shares) {
        Ok(false) => Ok(()),
        other => Err(format!("slots of no share are left: {other:?}")),
    }
}
