"""Drawings for notebooks: what snapshots, GPUs and plans say, as HTML with an SVG of each GPU.

It decides nothing and asks nobody. A slot of MIG has the same width on every GPU.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from gpushare._gpushare import Gpu, GpuProcess, MigDevice, MpsDaemon, Plan, Share, Snapshot
from gpushare._svg import LEFT, SLOT, WIDTH, Box, Cell, element, picture, said

LISTED = 12
"""So many processes are told one by one."""


DRAWN = 256
"""So many shares are drawn one by one."""


def draw(thing: Snapshot | Gpu | Plan) -> str:
    """The drawing of one of these; anything else is a TypeError."""
    if isinstance(thing, Gpu):
        parts: Iterable[str] = [_gpu(thing)]
    elif isinstance(thing, Snapshot):
        parts = _snapshot(thing)
    elif isinstance(thing, Plan):
        parts = _plan(thing)
    else:
        raise TypeError(f"draw: wants a Snapshot, Gpu or Plan, and not {type(thing).__name__}")
    # A name without a space in it would make the page as wide as it is.
    return element("div", *parts, style="overflow-wrap:anywhere")


def _bytes(size: int | None) -> str | None:
    return None if size is None else f"{size / (1 << 30):.1f} GiB"


def _counted(shares: int) -> str | None:
    return f"{shares} shares" if shares > 1 else None


def _joined(*parts: str | None, by: str = " · ") -> str:
    return by.join(part for part in parts if part)


def _process(process: GpuProcess, devices: Iterable[MigDevice]) -> str:
    on = next((device for device in devices if _is_on(process, device)), None)
    where = process.gi if on is None else None
    told = _joined(
        process.kind,
        None if process.uid is None else f"user {process.uid}",
        _bytes(process.memory_bytes),
        None if on is None else f"on {on.uuid[:12]}",
        None if where is None else f"on GPU instance {where}",
        by=", ",
    )
    # The command last: anybody makes it as long as they like.
    return f"pid {process.pid} ({told}): {process.command}"


def _is_on(process: GpuProcess, device: MigDevice) -> bool:
    return process.gi is not None and (process.gi, process.ci) == (device.gi, device.ci)


def _at_most(daemon: MpsDaemon | None) -> str | None:
    """What each client of a daemon gets."""
    if daemon is None or daemon.thread_percentage is None:
        return None
    return f"≤ {daemon.thread_percentage:g} %"


def _shares(shares: Sequence[Share], daemon: MpsDaemon | None) -> Iterator[Cell]:
    """Shares beside one another, each as wide as what it gets where that fits beside the others."""
    part = 1 / max(len(shares), 1)
    if daemon is not None and daemon.thread_percentage is not None:
        part = min(part, daemon.thread_percentage / 100)
    limit = None if daemon is None else _bytes(daemon.pinned_memory_limit_bytes)
    for number, share in enumerate(shares):
        state = "leased" if share.leased else "free"
        pid = None if share.holder is None else f"pid {share.holder.pid}"
        who = None if share.holder is None else f"by pid {share.holder.pid}, {share.holder.command}"
        name = None if share.lease is None else f"as {share.lease}"
        other = None if share.for_pid is None else f"for pid {share.for_pid}"
        gets = _joined(_at_most(daemon), limit and f"≤ {limit}", by=", ")
        told = _joined(f"share {share.id}: {state}", who, name, other, gets and f"({gets})", by=" ")
        label = _joined(state, pid, _at_most(daemon))
        yield Cell(state, label, told, number * part, part, share.id)


def _used_by(processes: Sequence[GpuProcess]) -> str:
    return f"pid {processes[0].pid}" if len(processes) == 1 else f"{len(processes)} processes"


def _mig_box(gpu: Gpu, device: MigDevice, x: float, width: float) -> Box:
    processes = [process for process in gpu.processes if _is_on(process, device)]
    use = {True: "in use", False: "not in use", None: "whether it is in use was not seen"}[device.busy]
    told = _joined(
        f"MIG device {device.uuid}",
        device.name and f"name {device.name}",
        device.profile,
        f"GPU instance {device.gi}, compute instance {device.ci}",
        _bytes(device.memory_bytes),
        None if device.sm_count is None else f"{device.sm_count} SMs",
        use,
        *(_process(process, ()) for process in processes),
    )
    lines = (device.profile, device.uuid[:12], _used_by(processes) if processes else "")
    cells = _shares([share for share in gpu.shares if share.device == device.uuid], device.mps)
    return Box(x, width, lines, told, list(cells), device.uuid)


def _mig_boxes(gpu: Gpu, mig: Mapping[str, Any]) -> tuple[list[Box], list[Box]]:
    """The MIG devices where they stand, and those of which that was not seen, one after the other."""
    slices = {profile["id"]: profile["slices"] for profile in mig["profiles"]}
    placed: dict[str, tuple[float, float]] = {}
    for instance in mig["gpu_instances"]:
        start, size = instance["placement"]["start"], instance["placement"]["size"]
        parts = instance["compute_instances"]
        ends = (part["start"] + part["slices"] for part in parts)
        unit = size / slices.get(instance["profile"], max(ends, default=1))
        for part in parts:
            placed[part["uuid"]] = (start + part["start"] * unit, part["slices"] * unit)
    boxes: list[Box] = []
    others: list[Box] = []
    for device in gpu.mig_devices:
        if (place := placed.get(device.uuid)) is not None and device.start is not None:
            boxes.append(_mig_box(gpu, device, LEFT + SLOT * place[0], SLOT * place[1]))
        else:
            others.append(_mig_box(gpu, device, LEFT + SLOT * len(others), SLOT))
    return boxes, others


def _name(index: int | None, model: str) -> str:
    return f"GPU {'?' if index is None else index} · {model}"


def _gpu(gpu: Gpu) -> str:
    daemon = gpu.mps
    mig = gpu.to_dict().get("mig")
    lines = [
        _joined(gpu.uuid, _bytes(gpu.memory_bytes), None if gpu.sm_count is None else f"{gpu.sm_count} SMs"),
        gpu.reason,
    ]
    if gpu.cordoned is not None:
        lines.append(f"cordoned: {gpu.cordoned}")
    if gpu.unsettled is not None:
        lines.append(f"not settled: {gpu.unsettled}")
    if gpu.missing:
        lines.append(f"not all was seen: {', '.join(gpu.missing)}")
    devices = {device.uuid for device in gpu.mig_devices}
    rows: list[tuple[str, int, Sequence[Box]]] = []
    if mig is not None and gpu.mig_enabled:
        placements = (place for profile in mig["profiles"] for place in profile["placements"])
        slots = max((place["start"] + place["size"] for place in placements), default=0)
        placed, others = _mig_boxes(gpu, mig)
        rows.append(("", slots, placed))
        if others:
            rows.append(("where these stand was not seen", 0, others))
    whole = [share for share in gpu.shares if share.device not in devices]
    if whole or not rows:
        clients = f"clients: {len(daemon.clients)}" if daemon is not None else None
        health = f"MPS daemon: {daemon.health or 'not ours'}" if daemon is not None else None
        leased = sum(share.leased is True for share in whole)
        counted = _joined(_counted(len(whole)), f"{leased} leased" if leased and len(whole) > 1 else None)
        head = (gpu.mode.value, _joined(counted, _at_most(daemon), clients), health or "")
        cells = list(_shares(whole, daemon))
        rows.append(("", 0, [Box(LEFT, WIDTH, head, f"{gpu.uuid}: {gpu.mode.value}", cells, gpu.uuid)]))
    below = [_process(process, gpu.mig_devices) for process in gpu.processes[:LISTED]]
    if len(gpu.processes) > LISTED:
        below.append(f"and {len(gpu.processes) - LISTED} processes more")
    if gpu.processes_hidden:
        below.append("the driver did not show who uses it")
    return picture(f"{_name(gpu.index, gpu.model)} · {gpu.mode.value}", lines, rows, below)


def _paragraph(*parts: str | None) -> str:
    return element("p", said(_joined(*parts)))


def _snapshot(snapshot: Snapshot) -> Iterator[str]:
    yield _paragraph(
        "SIMULATED" if snapshot.simulated else None,
        f"Driver {snapshot.driver_version}",
        snapshot.cuda_version and f"CUDA {snapshot.cuda_version}",
        f"{len(snapshot.gpus)} GPU{'s' * (len(snapshot.gpus) != 1)}",
    )
    yield from map(_gpu, snapshot.gpus)
    for share in snapshot.void_leases:
        yield _paragraph(f"void lease {share.lease} of {share.id}")


def _plan(plan: Plan) -> Iterator[str]:
    document = plan.to_dict()
    needs = plan.needs
    yield _paragraph(
        "SIMULATED" if plan.simulated else None,
        "nothing to do" if plan.is_noop else f"{len(plan.steps)} step{'s' * (len(plan.steps) != 1)}",
    )
    for eviction in needs.evict:
        pids = ", ".join(f"pid {holder.pid} {holder.command}" for holder in eviction.holders)
        yield _paragraph("needs allow_evict", eviction.what, pids or "holders were not seen")
    for gpu in needs.reset:
        yield _paragraph("needs allow_reset", gpu)
    for hazard in needs.hazards:
        yield _paragraph(f"needs allow_hazards {hazard.name.value}", hazard.message)
    for gpu in document["gpus"]:
        holders = [eviction.holders for eviction in needs.evict if eviction.gpu == gpu["uuid"]]
        yield _planned(gpu, sum(map(len, holders)))


def _planned(gpu: Mapping[str, Any], holders: int) -> str:
    """Before and after, as far as the plan tells: what it does not touch, it does not describe."""
    slots = _slots(gpu)
    rows = []
    for over, mode, verb in (("before", gpu["from"], "destroy"), ("after", gpu["to"], "create")):
        boxes = list(_instances(gpu, over, verb))
        if mode == "mig" or boxes:
            rows.append((f"{over}: {mode}", slots, boxes))
        else:
            rows.append((f"{over}: {mode}", 0, [_whole(gpu, over, mode)]))
    return picture(
        f"{_name(gpu['index'], gpu['model'])} · {gpu['from']} → {gpu['to']}",
        [
            _joined(
                gpu["uuid"], f"{holders} process{'es' * (holders != 1)} would have to go" if holders else None
            )
        ],
        rows,
        [*gpu["notes"]],
    )


def _slots(gpu: Mapping[str, Any]) -> int:
    """The slots that a plan speaks of."""
    places = [kept["placement"] for kept in gpu["keep"]]
    places += (step["placement"] for step in gpu["steps"] if step["step"].endswith("_gpu_instance"))
    ends = [place["start"] + place["size"] for place in places]
    ends += (start + 1 for fit in gpu["fits_after"] for start in fit["starts"])
    return max(ends, default=0)


def _record(gpu: Mapping[str, Any], over: str) -> Mapping[str, Any]:
    """What is written down of the GPU before or after, where the plan tells."""
    written = (step for step in gpu["steps"] if step["step"] == "write_record")
    record = next((step["from" if over == "before" else "to"] for step in written), None) or {}
    mode = gpu["from" if over == "before" else "to"]
    # A record of another mode is out of date, and does not describe this one.
    return record if record.get("parameters", {}).get("mode") == mode else {}


class _Sharing(NamedTuple):
    """How many share something, and what each gets."""

    shares: int
    part: float
    """Of its width, for each."""
    each: str

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> _Sharing:
        """As a record's parameters of time-slicing or MPS say; one, where they say nothing."""
        count = parameters.get("replicas") or parameters.get("max_clients") or 1
        percentage, limit = parameters.get("thread_percentage"), parameters.get("pinned_memory_limit_bytes")
        part = 1 / count if percentage is None else min(1 / count, percentage / 100)
        each = _joined(
            None if percentage is None else f"≤ {percentage:g} %",
            None if limit is None else f"≤ {_bytes(limit)}",
        )
        return cls(count, part, each)

    def cells(
        self, state: str, label: str, told: str, start: float = 0.0, width: float = 1.0
    ) -> Iterator[Cell]:
        if self.shares > DRAWN:
            # Of a plan that came as a document: how many there are is told.
            yield Cell(state, label, _joined(told, _counted(self.shares)), start, width)
            return
        for number in range(self.shares):
            yield Cell(state, label, told, start + number * self.part * width, self.part * width)


def _shared(gpu: Mapping[str, Any], over: str, place: Mapping[str, int]) -> Mapping[str, Any]:
    """How an instance is shared before or after: nothing, or the kind and its parameters."""
    for instance in _record(gpu, over).get("instances", ()):
        if instance["placement"] == place:
            return instance["sharing"] or {}
    return {}


def _instances(gpu: Mapping[str, Any], over: str, verb: str) -> Iterator[Box]:
    """The GPU instances before (verb `destroy`) or after (`create`), each with its compute instances."""
    changed = "goes" if verb == "destroy" else "new"
    instances = [
        (kept["placement"], kept["profile"], kept["uuids"], "stays", kept["busy"]) for kept in gpu["keep"]
    ]
    instances += (
        (step["placement"], step["name"], [], changed, False)
        for step in gpu["steps"]
        if step["step"] == f"{verb}_gpu_instance"
    )
    for place, profile, uuids, state, busy in sorted(instances, key=lambda instance: instance[0]["start"]):
        parts = [
            step
            for step in gpu["steps"]
            if step["step"] == f"{verb}_compute_instance" and step["gpu_instance"] == place
        ]
        # `3g.40gb` has three slices for compute instances, wherever they stand in four slots.
        slices = re.match(r"\d+", profile)
        whole = int(slices[0]) if slices else max((_end(part["placement"]) for part in parts), default=1)
        at = f"at {place['start']}"
        kinds = _shared(gpu, over, place)
        sharing = _Sharing.of(next(iter(kinds.values()), {}))
        cells: list[Cell] = []
        for part in parts:
            label = _joined(changed, part["name"] if part["name"] != profile else None)
            told = _joined(f"{part['name']} {at}: {changed}", sharing.each)
            start, size = part["placement"]["start"] / whole, part["placement"]["size"] / whole
            cells += sharing.cells(changed, label, told, start, size)
        daemon = _mps_on(gpu, place, verb)
        known = " ".join(uuid[:12] for uuid in uuids)
        if not parts:
            # Its shares may change where it stays.
            other = _shared(gpu, "after" if over == "before" else "before", place)
            shares = changed if daemon or kinds != other else state
            known = _joined(state if shares != state else None, known)
            told = _joined(f"{profile} {at}: {state}", f"its shares: {shares}", sharing.each)
            # How the compute instances of one that stays stand in it, the plan does not tell.
            drawn = sharing if len(uuids) < 2 else _Sharing.of({})
            cells += drawn.cells(shares, shares, told)
        use = _joined(
            daemon or ("MPS" if "mps" in kinds else None),
            _counted(sharing.shares),
            sharing.each,
            "in use" if busy else None,
        )
        told = _joined(f"{profile} {at}: {state}", ", ".join(uuids), use)
        yield Box(LEFT + SLOT * place["start"], SLOT * place["size"], (profile, known, use), told, cells)


def _end(place: Mapping[str, int]) -> int:
    return place["start"] + place["size"]


def _mps_on(gpu: Mapping[str, Any], place: Mapping[str, int], verb: str) -> str | None:
    """The MPS daemon of an instance that a plan stops or starts."""
    wanted = "stop_mps" if verb == "destroy" else "start_mps"
    for step in gpu["steps"]:
        if step["step"] == wanted and step.get("on") and step["on"]["gpu_instance"] == place:
            return f"{'new' if verb == 'create' else 'goes'}: MPS"
    return None


def _whole(gpu: Mapping[str, Any], over: str, mode: str) -> Box:
    """A GPU that is not partitioned, with the shares of which a plan's record tells."""
    sharing = _Sharing.of(_record(gpu, over).get("parameters", {}))
    state = ("goes" if over == "before" else "new") if gpu["steps"] else "stays"
    told = _joined(f"{over}: {mode}", state, sharing.each)
    cells = list(sharing.cells(state, _joined(state, sharing.each), told))
    return Box(LEFT, WIDTH, (mode, _joined(_counted(sharing.shares), sharing.each)), told, cells, gpu["uuid"])
