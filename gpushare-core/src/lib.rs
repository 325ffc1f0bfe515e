/*!
gpushare shares NVIDIA GPUs between workloads, and changes how they are shared as a transaction.

A GPU is given to one process at a time, to several that take turns, to the clients of an MPS daemon, or cut into MIG
instances. Going from one of these to another takes a handful of driver calls in the right order, each of which can fail, on a
machine where others work. This crate plans the calls, shows them, refuses beforehand what cannot be done or was not
allowed, does them one by one with a journal, and undoes them when one fails.

# Overview

| you have | and want | call |
|---|---|---|
| a machine | its GPUs as they are | [`Node::snapshot`], or an [`Observer`](observe::Observer) to look often |
| a file, or an idea | a state that can be asked for | [`Spec`], by parsing or building |
| a node and a spec | what it would take | [`Node::plan`], which changes nothing |
| a plan, and consent | the GPUs to be so | [`Plan::apply`] |
| one GPU | to go from mode to mode, with types | [`Node::gpu`], [`gpu::Gpu`] |
| several processes that shall run at once | an MPS daemon with limits | [`Want::Mps`](spec::Want::Mps) in a spec, or [`Gpu::into_mps`](gpu::Gpu::into_mps) |
| a process | to know whether it is a client of that daemon, and within what | [`Node::verify_mps`] |
| a number of clients | equal parts that corrupt nothing | [`hazard::split`] |
| a process that is to have a part of a GPU | a share that nobody else is given | [`Node::lease`] |
| a value of `CUDA_VISIBLE_DEVICES` | the devices that CUDA shows with it, without CUDA | [`Node::resolve_visible_devices`], [`visible::resolve`] |
| a workload | the mode that suits it here, and its spec | [`advise::advise`] |
| a file of mig-parted's | the spec that it means here, and the way back | [`import::import`], [`export::export`] |
| a machine where something does not work | what it is, and what mends it | [`Node::doctor`] |
| a process that was killed while it applied | the GPUs to be in one state or the other | [`Node::recover`] |
| a node that will reboot | what is in force as a spec, to apply afterwards | [`Node::spec_in_force`], `gpushare persist` |
| monitors that hold the GPUs, or a kubelet | them stopped and started around a change | [`ApplyOptions::hooks`], [`Node::hooks`] |
| a Prometheus | numbers by tenant | [`Node::metrics`] |
| tests, and no GPU | all of the above | [`NodeBuilder::sim`](node::NodeBuilder::sim) |

Everything else is in these or below them. The modules from the ground up are [`units`], [`id`], [`error`], [`fork`], [`log`]; [`mode`],
[`parameters`]; [`mig`], [`mps`]; [`spec`], [`snapshot`], [`hazard`], [`visible`], [`plan`], [`doctor`], [`advise`], [`import`], [`export`], [`metrics`]: values without I/O. Then [`port`], the traits to the outside;
[`observe`], [`apply`]; and [`node`], [`gpu`] and [`lease`], which programs use.
[`_documentation::design`] says why.

What is verified on hardware and what on the simulator alone is in the README, [`_documentation::readme`]. In short: reading, and MPS with
the compute mode unchanged, on an H200; what changes the GPU itself (MIG, compute mode, interval, resets) on the simulator alone.

# What holds

* **Planning is pure.** The same snapshot and spec give the same plan anywhere, and planning needs no consent. On a GPU without MIG
  it needs no privilege.
* **Apply asks first.** Without consent in [`ApplyOptions`] nobody is evicted, nothing is reset, and no [hazard] is
  accepted: the errors BUSY, RESET_REQUIRED and HAZARD come before anything is touched.
* **Old or new, never a third.** After apply a GPU is in the state before or in the state wanted, also when the process is killed in between
  and [`Node::recover`] or the next apply follows. The [outcome](Error::outcome) of an error says which; `Indeterminate` means
  that recovery is due. MIG devices that had to be created again may have new uuids.
* **Applying twice is applying once.** When there is nothing to do, nothing is locked or written.
* **Calls block** and can be made from any thread. A [`Node`] is a handle; clones are the same node. Nothing is held open between calls.
* **No panics** on what comes from outside, and no output: this crate prints nothing. It emits [`tracing`] events; the target `gpushare::audit`
  has one for each call that changed something.

# Cookbook

The examples use a simulated node, so they run anywhere with feature `sim`. With [`Node::open`] instead they act on the GPUs of this machine.

## Plan, apply, undo

A spec says all there is to say of the GPUs that it selects. The report of what was done has [`previous`](Report::previous), a spec that leads back.

```
# #[cfg(feature = "sim")] {
use gpushare_core::{ApplyOptions, Node, Spec};

let node = Node::builder().sim("4xH100-80GB").open()?;
let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
    {"select": [0, 1], "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 4}}},
    {"select": "all", "mode": "exclusive"}]}"#.parse()?;

let plan = node.plan(&spec)?;
assert!(plan.needs.is_empty(), "nobody is in the way");
println!("{plan}");

let report = plan.apply(&node, ApplyOptions::new())?;
assert!(node.plan(&spec)?.noop);

node.apply(&report.previous, &ApplyOptions::new())?;
# }
# Ok::<(), gpushare_core::Error>(())
```

## Grow beside a running job

What is in use stays where that is possible at all. If it is not, the plan says who is in the way.

```
# #[cfg(feature = "sim")] {
use gpushare_core::backend::sim::ProcessSpec;
use gpushare_core::spec::{Instance, Selector, Want};
use gpushare_core::{ApplyOptions, ErrorCode, Node, Spec};

let node = Node::builder().sim("H100-80GB").open()?;
let layout = |profiles: &[&str]| -> gpushare_core::Result<Spec> {
    let instances = profiles.iter().map(|name| Ok(Instance::new(name.parse()?)));
    let instances = instances.collect::<gpushare_core::Result<_>>()?;
    Ok(Spec::new().gpu([Selector::All], Want::Mig(Some(instances))))
};
node.apply(&layout(&["3g"])?, &ApplyOptions::new())?;
let device = node.snapshot()?.gpus[0].mig_devices[0].uuid.clone();
# let simulator = node.simulator().expect("it is simulated");
simulator.busy(&device, ProcessSpec::new("python train.py"))?;

// Room is found beside it.
let plan = node.plan(&layout(&["3g", "2g", "1g"])?)?;
assert!(plan.needs.is_empty() && plan.gpus[0].keep[0].uuids == [device]);

// A whole-card instance has none.
let all = layout(&["7g"])?;
assert_eq!(node.plan(&all)?.needs.evict[0].holders[0].command, "python train.py");
let refused = node.apply(&all, &ApplyOptions::new()).unwrap_err();
assert_eq!(refused.code(), ErrorCode::Busy);
node.apply(&all, &ApplyOptions::new().allow_evict(true))?;
# }
# Ok::<(), gpushare_core::Error>(())
```

## Review now, apply later

A [digest](Plan::digest) names one plan on one state. Apply with [`expect`](ApplyOptions::expect) does that plan or answers STALE.

```
# #[cfg(feature = "sim")] {
use gpushare_core::{ApplyOptions, ErrorCode, Node, Spec};

let node = Node::builder().sim("2xA30-24GB").open()?;
let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": "all", "mode": "exclusive"}]}"#.parse()?;
let reviewed = node.plan(&spec)?.digest;

# let other: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 1, "mode": "exclusive"}]}"#.parse()?;
node.apply(&other, &ApplyOptions::new())?; // meanwhile somebody does something else
let error = node.apply(&spec, &ApplyOptions::new().expect(reviewed)).unwrap_err();
assert_eq!(error.code(), ErrorCode::Stale);
# }
# Ok::<(), gpushare_core::Error>(())
```

## Share by MPS

A daemon in a directory of its own lets several processes run at once. It starts with the directory closed; clients come in when its limits are set and read back. What a client needs
is in the snapshot. [`verify_mps`](Node::verify_mps) says whether a process really is one: with a misspelt directory CUDA gives it the whole GPU without an error.

```
# #[cfg(feature = "sim")] {
use gpushare_core::backend::sim::{ProcessKind, ProcessSpec};
use gpushare_core::hazard::{MpsTarget, split};
use gpushare_core::mode::Verdict;
use gpushare_core::{ApplyOptions, ErrorCode, Node, Spec};

let node = Node::builder().sim("H200-141GB").open()?;
let before = node.snapshot()?;

// A third of the card for each of three clients would leave products of cuBLAS unwritten.
let thirds: Spec = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mps", "mps": {"thread_percentage": 33}}]}"#.parse()?;
let refused = node.apply(&thirds, &ApplyOptions::new()).unwrap_err();
assert_eq!(refused.code(), ErrorCode::Hazard);
let parts = split(&MpsTarget::of_gpu(&before.gpus[0]), &before.driver, 3)?;
assert_eq!((parts.thread_percentage.get(), parts.sm_count), (27.0, 34));

let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "mps",
    "mps": {"thread_percentage": 27, "pinned_memory_limit": "40GiB", "max_clients": 3}}]}"#.parse()?;
let report = node.apply(&spec, &ApplyOptions::new())?;
let gpu = &node.snapshot()?.gpus[0];
let directory = gpu.mps.as_ref().and_then(|mps| mps.directory.as_deref()).expect("a daemon of ours");
println!("CUDA_MPS_PIPE_DIRECTORY={}", directory.display());
println!("CUDA_VISIBLE_DEVICES={}", gpu.uuid);

# let simulator = node.simulator().expect("it is simulated");
let pid = simulator.busy(&gpu.uuid, ProcessSpec::new("python serve.py").doing(ProcessKind::MpsClient))?;
let attachment = node.verify_mps(pid)?;
assert_eq!(attachment.verdict, Verdict::Attached);
assert_eq!(attachment.at_most.sm_count, Some(34));

// A daemon with clients is not ended unless that is allowed; then it ends them itself.
let busy = node.apply(&report.previous, &ApplyOptions::new()).unwrap_err();
assert_eq!(busy.code(), ErrorCode::Busy);
node.apply(&report.previous, &ApplyOptions::new().allow_evict(true))?;
# }
# Ok::<(), gpushare_core::Error>(())
```

On a real GPU EXCLUSIVE_PROCESS, which keeps others from going past the daemon, takes root. Without it there is `"compute_mode": "unchanged"`, and the hazard
[`BypassPossible`](hazard::HazardName::BypassPossible) to be allowed.

## Lease a share

A [`Lease`] is the right of one process tree to one share: an exclusive GPU, a replica, a place at an MPS daemon, a MIG device. It lasts until it is released, or until the last process that has its descriptor is gone; no daemon keeps it.
[`Grant`](lease::Grant) says what of it is enforced, and what only declared.

```
# #[cfg(feature = "sim")] {
use std::process::Command;
use std::time::Duration;

use gpushare_core::lease::LeaseRequest;
use gpushare_core::{ApplyOptions, ErrorCode, Node, Spec};

let node = Node::builder().sim("H100-80GB").open()?;
let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": {"1g.10gb": 2}}}]}"#.parse()?;
node.apply(&spec, &ApplyOptions::new())?;

let small = LeaseRequest::mig("1g".parse()?).timeout(Some(Duration::from_secs(5)));
let lease = node.lease(&small)?;
for grant in lease.grants() {
    println!("{} of GPU {}", grant.share, grant.gpu);
    for line in grant.terms() {
        println!("  {line}");
    }
}
let mut command = Command::new("true"); // python3 train.py
lease.apply_to(&mut command)?; // variables, and the descriptor: its children keep the share, too
assert!(command.status().is_ok_and(|status| status.success()));

// A plan sees it: what is leased is in use.
let none: Spec = r#"{"version": "gpushare/v1", "gpus": [{"select": 0, "mode": "exclusive"}]}"#.parse()?;
assert_eq!(node.apply(&none, &ApplyOptions::new()).unwrap_err().code(), ErrorCode::Busy);
lease.release()?;
node.apply(&none, &ApplyOptions::new())?;
# }
# Ok::<(), gpushare_core::Error>(())
```

[`apply_to`](Lease::apply_to) hands the descriptor on, so a tenant that is still there keeps the share after [`release`](Lease::release). Files are locked for it in the node's state directory, which root prepares; a
simulated node in memory has a directory of its own.

## Look often

[`Node::snapshot`] opens the driver and closes it again. An [`Observer`](observe::Observer) keeps it open, and with it the devices: a GPU that is observed cannot be reset by others.

```
# #[cfg(feature = "sim")] {
use gpushare_core::Node;
use gpushare_core::observe::Scope;

let node = Node::builder().sim("2xH200-141GB").open()?;
let mut observer = node.observer()?;
let mut last = String::new();
for _ in 0..3 {
    let snapshot = observer.snapshot(&Scope::all())?;
    let digest = snapshot.digest(); // changes with the structure, not with every process
    if digest != last {
        for gpu in &snapshot.gpus {
            println!("{} {} {} ({})", gpu.uuid, gpu.model, gpu.mode, gpu.reason);
        }
        last = digest;
    }
}
# }
# Ok::<(), gpushare_core::Error>(())
```

## One GPU, with its mode as a type

A transition consumes the handle. What has no meaning in a mode does not compile. When a transition fails, the error hands the GPU back as it is then.

```
# #[cfg(feature = "sim")] {
use gpushare_core::gpu::{AnyGpu, Layout};
use gpushare_core::parameters::TimeSlicing;
use gpushare_core::{ErrorCode, Node};

let node = Node::builder().sim("H100-80GB").open()?;
let gpu = match node.gpu("0")? {
    AnyGpu::TimeSliced(gpu) => gpu,
    AnyGpu::Other(gpu) => gpu.into_time_sliced(TimeSlicing::default())?,
    other => panic!("it is {}", other.mode()),
};
let failed = gpu.into_mig(Layout::of(["4g", "4g"])?).unwrap_err();
assert_eq!(failed.error().code(), ErrorCode::Insufficient);
let Some(AnyGpu::TimeSliced(gpu)) = failed.into_gpu() else { panic!("it was untouched") };

let gpu = gpu.into_mig(Layout::of(["4g", "3g"])?)?;
for device in gpu.devices()? {
    println!("{} {}", device.uuid, device.profile);
}
let gpu = gpu.into_exclusive()?;
# let _ = gpu;
# }
# Ok::<(), gpushare_core::Error>(())
```

## Errors

One type. Decide by [`code`](Error::code) and [`outcome`](Error::outcome); show the message.

```
# #[cfg(feature = "sim")] {
use gpushare_core::{ApplyOptions, ErrorCode, Node, Outcome, Spec};

fn bring(node: &Node, spec: &Spec) -> gpushare_core::Result<()> {
    match node.apply(spec, &ApplyOptions::new()) {
        Ok(report) => println!("{report}"),
        Err(error) if error.outcome() == Outcome::Indeterminate => {
            println!("{}", node.recover()?);
        }
        Err(error) => match error.code() {
            ErrorCode::Busy => println!("in the way: {:?}", error.holders()),
            ErrorCode::Insufficient => println!("would fit: {:?}", error.fits()),
            ErrorCode::PermissionDenied => println!("missing: {:?}", error.needs()),
            _ => return Err(error),
        },
    }
    Ok(())
}

let node = Node::builder().sim("L40S").open()?;
let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 1}}}]}"#.parse()?;
assert_eq!(bring(&node, &spec).unwrap_err().code(), ErrorCode::Unsupported);
# }
# Ok::<(), gpushare_core::Error>(())
```

## A node for your own tests

Feature `sim` is public. A simulated node can be made busy, lost, rebooted; [`Faults`](backend::sim::Faults) lets any call of any port fail, or be the last of the process.

```
# #[cfg(feature = "sim")] {
use gpushare_core::backend::sim::{Death, Fault, Faults, Simulator};
use gpushare_core::{ApplyOptions, Node, Spec};

let simulator = Simulator::new("A100-40GB".parse()?)?;
let (ports, faults) = Faults::wrap(simulator.ports_in_memory());
let node = Node::with_ports(ports, true);
let spec: Spec = r#"{"version": "gpushare/v1", "gpus": [
    {"select": 0, "mode": "mig", "mig": {"instances": {"1g": 7}}}]}"#.parse()?;
let options = ApplyOptions::new().allow_reset(true); // an A100 changes MIG mode by a reset

// The agent is killed right after the third GPU instance was created …
faults.on("nvml.create_gpu_instance", 3, Fault::Die(Death::After));
assert!(node.apply(&spec, &options).is_err());

// … and started again.
faults.revive();
println!("{}", node.recover()?);
assert!(node.snapshot()?.gpus[0].mig_devices.is_empty(), "rolled back");
node.apply(&spec, &options)?;
# }
# Ok::<(), gpushare_core::Error>(())
```

# Crate features

None is on by default.

| feature | what it adds | dependencies |
|---|---|---|
| `yaml` | [`Spec`] reads YAML too; without it JSON alone, in the same form | saphyr-parser |
| `sim` | [`backend::sim`] and [`NodeBuilder::sim`](node::NodeBuilder::sim): simulated nodes and faults | none |
| `cli` | the command `gpushare`; implies `yaml` and `sim` | clap, anstyle, signal-hook, tracing-subscriber |

Linux only. Rust 1.85 or newer. NVIDIA's library is loaded when it is needed: a program that links this crate starts on machines without a GPU, and gets NOT_FOUND.
MPS needs the driver's `nvidia-cuda-mps-control`; without it that mode is UNSUPPORTED.

# Environment

What a [`NodeBuilder`](node::NodeBuilder) was not told it takes from the environment, unless the program is set-id:

| variable | instead of |
|---|---|
| `GPUSHARE_SIM` | [`sim`](node::NodeBuilder::sim) |
| `GPUSHARE_STATE_DIR` | [`state_dir`](node::NodeBuilder::state_dir) |
| `GPUSHARE_NVML_PATH` | [`nvml_path`](node::NodeBuilder::nvml_path) |
| `GPUSHARE_NVIDIA_SMI` | [`nvidia_smi`](node::NodeBuilder::nvidia_smi) |
| `GPUSHARE_MPS_CONTROL` | [`mps_control`](node::NodeBuilder::mps_control) |
*/
#![deny(missing_docs)]
#![warn(missing_debug_implementations)]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("gpushare drives NVIDIA's Linux driver and builds for Linux only");

pub mod advise;
pub mod apply;
pub mod backend;
#[cfg(feature = "cli")]
pub mod cli;
pub mod doctor;
pub mod error;
pub mod export;
pub mod fork;
#[cfg(all(any(test, fuzzing), feature = "cli"))]
#[doc(hidden)]
pub mod fuzzing;
pub mod gpu;
mod handover;
pub mod hazard;
pub mod id;
pub mod import;
pub mod lease;
pub mod log;
pub mod metrics;
pub mod mig;
pub mod mode;
pub mod mps;
pub mod node;
pub mod observe;
pub mod parameters;
pub mod plan;
pub mod port;
pub mod process;
pub mod snapshot;
pub mod spec;
pub(crate) mod state;
mod terminal;
pub mod units;
pub mod visible;

pub use apply::{ApplyOptions, Event, Report};
pub use error::{Error, ErrorCode, Outcome, Result};
pub use lease::{Lease, LeaseRequest};
pub use node::Node;
pub use plan::Plan;
pub use snapshot::Snapshot;
pub use spec::Spec;

/// Documents that are longer than a page.
pub mod _documentation {
    /// How gpushare is built, and why.
    pub mod design {
        #![doc = include_str!("../DESIGN.md")]
    }
    /// What gpushare is and does, what was verified where, and its limits.
    pub mod readme {
        // Its example needs these features.
        #![cfg_attr(any(not(doctest), all(feature = "sim", feature = "yaml")), doc = include_str!("../README.md"))]
    }
    /// What changed.
    pub mod changelog {
        #![doc = include_str!("../CHANGELOG.md")]
    }
}
