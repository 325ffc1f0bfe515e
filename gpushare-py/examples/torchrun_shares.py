"""One share for each rank, however the GPUs are shared.

    torchrun --nproc-per-node=4 torchrun_shares.py

The ranks take what is free: MIG devices, parts under MPS, replicas. They talk through gloo, since NCCL wants
a GPU for each rank. ``GPUSHARE_SIM=1xH100-80GB`` with ``GPUSHARE_STATE_DIR`` runs it on a simulated node.
Without torch or a GPU it computes in plain Python, and the ranks do not talk.
"""

import os

import gpushare


def main() -> None:
    if "RANK" not in os.environ:
        raise SystemExit(__doc__)
    rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with gpushare.Node().lease(timeout=60) as lease:
        # Before CUDA begins. This rank's share is then its cuda:0, and not cuda:LOCAL_RANK.
        lease.activate()
        print(f"rank {rank} of {ranks}: {lease.share}", flush=True)
        try:
            import torch
            import torch.distributed
        except ImportError:
            torch = None
        if torch is None:
            print("no torch here: plain Python", flush=True)
            total = sum(range(1, ranks + 1))
        else:
            # MASTER_ADDR and MASTER_PORT are torchrun's.
            torch.distributed.init_process_group("gloo")
            device = "cuda:0" if torch.cuda.is_available() else "cpu"
            # On the share, and over the ranks by way of the host.
            mine = (torch.ones(1000, device=device) * (rank + 1)).mean().cpu()
            torch.distributed.all_reduce(mine)
            total = int(mine)
            # Nobody gives its share back while others still want theirs.
            torch.distributed.barrier()
            torch.distributed.destroy_process_group()
        print(f"rank {rank}: the sum over the ranks is {total}", flush=True)


if __name__ == "__main__":
    main()
