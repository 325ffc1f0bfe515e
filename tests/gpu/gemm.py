#!/usr/bin/env python3
"""Half-precision products under a partial thread percentage. gpushare refuses 40 % on a Hopper card
with 132 SMs and names safe values; where the hazard is allowed the products are wrong, without an
error of CUDA; at the nearest safe value they are right. Needs PyTorch."""

import json
import re
import sys

from harness import HERE, main, parser

SQUARES = [256, 512, 768, 1024, 1280, 1536, 2048, 2560, 3072, 4096, 5120, 6144, 8192]
OTHERS = [
    (256, 4096, 4096), (512, 4096, 4096), (1024, 4096, 4096), (2048, 4096, 4096),
    (4096, 1024, 4096), (4096, 4096, 1024), (4096, 8192, 2048), (8192, 4096, 4096),
    (8192, 1024, 8192), (2048, 6144, 2048), (2048, 8192, 2048), (1920, 1920, 1920),
    (4096, 11008, 4096), (320, 5120, 1280), (640, 2560, 640), (448, 4480, 2240),
    # Odd ones, for which cuBLAS has other kernels.
    (1000, 1000, 1000), (1111, 2222, 3333), (2047, 2049, 2051), (257, 4099, 1023),
]
SHAPES = [(size, size, size) for size in SQUARES] + OTHERS
TOLERANCE = 2e-2
PERCENT = 40


def child():
    """Every shape, as NN and NT: the output is filled with NaN first and compared with fp32."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    torch.manual_seed(1)
    seen = torch.cuda.get_device_properties(0).multi_processor_count
    print(json.dumps({"event": "ready", "torch": torch.__version__, "sm_count": seen}), flush=True)
    for m, n, k in SHAPES:
        for layout in ("NN", "NT"):
            a = torch.randn(m, k, device="cuda")
            b = torch.randn(k, n, device="cuda")
            for kind in (torch.bfloat16, torch.float16):
                left = a.to(kind)
                right = b.to(kind) if layout == "NN" else b.to(kind).t().contiguous().t()
                expected = left.float() @ right.float()
                found = torch.full((m, n), float("nan"), device="cuda", dtype=kind)
                torch.mm(left, right, out=found)
                torch.cuda.synchronize()
                unwritten = int(torch.isnan(found).sum())
                off = (found.float() - expected).abs().nan_to_num(0.0).max() / expected.abs().max()
                reference = not bool(torch.isfinite(expected).all())
                print(json.dumps({
                    "event": "product", "shape": [m, n, k], "layout": layout,
                    "kind": str(kind).removeprefix("torch."), "unwritten": unwritten, "of": m * n,
                    "off": float(off), "reference_broken": reference,
                    "wrong": bool(unwritten or off > TOLERANCE),
                }), flush=True)
                del left, right, expected, found
    print(json.dumps({"event": "end"}), flush=True)


def products(session, report, how, pipe=None):
    """Every product of one process: those that are wrong, or None where it did not end."""
    environment = {"CUDA_VISIBLE_DEVICES": session.uuid,
                   "CUDA_MPS_PIPE_DIRECTORY": pipe or session.root + "/nobody-is-here"}
    worker = session.child([sys.executable, str(HERE / "gemm.py"), "--child"], environment)
    ready = worker.first(90)
    ended = ready["event"] == "ready" and worker.wait_for("end", timeout=90)
    if not report.check(f"{how}: CUDA reports no error", bool(ended),
                        f"{ready.get('sm_count')} SMs, torch {ready.get('torch')}" if ended
                        else [ready["event"], worker.stderr()[-1000:]]):
        worker.kill()
        return None
    worker.end()
    lines = [line for line in worker.lines if line["event"] == "product"]
    report.check(f"{how}: all products were made, and no reference is broken",
                 len(lines) == 4 * len(SHAPES) and not any(l["reference_broken"] for l in lines), len(lines))
    wrong = [line for line in lines if line["wrong"]]
    counts = {kind: sum(line["kind"] == kind for line in wrong) for kind in ("bfloat16", "float16")}
    report.figure(how.replace(" ", "_").replace("%", "percent"), {
        "sm_count": ready["sm_count"], "wrong": counts, "of_each": 2 * len(SHAPES)})
    for shape in SHAPES:
        of_shape = [line for line in wrong if tuple(line["shape"]) == shape]
        if of_shape:
            parts = [f"{l['kind']} {l['layout']} {100 * l['unwritten'] / l['of']:.1f} % unwritten"
                     + (f", off by {l['off']:.2g}" if l["off"] > TOLERANCE else "") for l in of_shape]
            report.say(f"{' x '.join(map(str, shape)):>20}: {'; '.join(parts)}")
    return wrong


def nearest(safe, percent):
    """The value nearest to a percentage within ranges like "23-27" or values like "47"."""
    ends = []
    for text in safe:
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)(?:\s*(?:-|–|to|\.\.)\s*(\d+(?:\.\d+)?))?\s*%?\s*", text)
        if found:
            ends += [found[1], *([found[2]] if found[2] else [])]
    return min(ends, key=lambda end: abs(float(end) - percent), default=None)


def body(session, report):
    control = products(session, report, "without MPS")
    report.check("without MPS all are right", control == [], "" if control == [] else len(control or []))
    total = session.status().get("sm_count")
    if total != 132:
        report.skipped = f"the hazard was measured on Hopper cards with 132 SMs; this GPU has {total}"
        return

    answer = session.try_enable("--thread-percentage", str(PERCENT), "--json")
    document = answer.document or {}
    report.check(f"mps enable at {PERCENT} % is refused as a HAZARD, by name",
                 answer.rc == 1 and answer.code == "HAZARD" and "hopper-partial-sm" in answer.stderr, answer)
    safe = [str(value) for value in document.get("safe") or []]
    value = nearest(safe, PERCENT)
    report.check("the error names safe values", value is not None, safe)
    report.check("nothing was touched", document.get("outcome") == "untouched"
                 and not session.serves() and not session.ours(), document.get("outcome"))

    mps = session.enable("--thread-percentage", str(PERCENT), "--allow-hazard", "hopper-partial-sm")
    wrong = products(session, report, f"at {PERCENT} % with the hazard", mps["directory"])
    report.check(f"at {PERCENT} % products are wrong, so the refusal is for a reason", bool(wrong),
                 len(wrong or []))
    answer = session.disable("--grace", "10")
    report.check(f"mps disable after {PERCENT} %", answer.rc == 0, answer)

    if value is not None:
        report.figure("safe_percent", value)
        # Without the hazard: that the value is safe is gpushare's word too.
        mps = session.enable("--thread-percentage", value)
        wrong = products(session, report, "at the safe value", mps["directory"])
        report.check(f"at {value} % all are right", wrong == [], "" if wrong == [] else len(wrong or []))


if __name__ == "__main__":
    if sys.argv[1:] == ["--child"]:
        child()
        sys.exit()
    main("gemm", parser(__doc__).parse_args(), body)
