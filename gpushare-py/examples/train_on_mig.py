"""Trains on a MIG device of its own, and on nothing else.

    python train_on_mig.py --mig 1g.10gb
    sudo python train_on_mig.py --mig 1g.10gb --create     # where MIG is on, and none is free

``GPUSHARE_SIM=1xH100-80GB`` with ``GPUSHARE_STATE_DIR`` (a directory) runs it on a simulated node, where
``gpushare mig enable`` turns MIG on. Without torch or a GPU it computes in plain Python.
"""

import argparse
import random
import signal
import sys

import gpushare


def train(steps: int) -> float:
    """Fits a line by gradient descent, and returns the loss."""
    try:
        import torch
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        x = torch.linspace(-1, 1, 1 << 16, device="cuda").unsqueeze(1)
        y = 3 * x + 1
        model = torch.nn.Linear(1, 1).cuda()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(steps):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(model(x), y)
            loss.backward()
            optimizer.step()
        return float(loss)
    print("no torch with a GPU here: plain Python")
    points = [(x, 3 * x + 1) for x in (random.uniform(-1, 1) for _ in range(200))]
    slope = offset = 0.0
    for _ in range(steps):
        errors = [(slope * x + offset - y, x) for x, y in points]
        slope -= 0.2 * sum(error * x for error, x in errors) / len(points)
        offset -= 0.2 * sum(error for error, _ in errors) / len(points)
    return sum((slope * x + offset - y) ** 2 for x, y in points) / len(points)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mig", default="1g", help="the profile; 1g is the smallest of a GPU")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--timeout", type=float, default=60, help="seconds to wait for a free one")
    parser.add_argument("--create", action="store_true", help="create one where none is free; takes root")
    options = parser.parse_args()

    # What was created is destroyed when this is asked to end, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    node = gpushare.Node()
    with node.lease(
        mig=options.mig, timeout=options.timeout, create=options.create, give_back=options.create
    ) as lease:
        # Before CUDA begins: it reads its environment once.
        lease.activate()
        [share] = lease.shares
        print(f"on {share.profile} {share.mig_device}: {share.memory_bytes / 2**30:.1f} GiB")
        loss = train(options.steps)
        print(f"loss {loss:.6f}")
        if not lease.simulated:
            # Whether it ran there, by what the driver and this process's CUDA say.
            print(lease.verify())


if __name__ == "__main__":
    main()
