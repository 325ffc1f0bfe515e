"""Plans a node, leases a share of it to a child, and puts the node back: the quick start of the README.

It needs no GPU: the node is simulated.
"""

import subprocess
import sys

import gpushare

node = gpushare.Node(sim="2xH100-80GB")
plan = node.plan(
    {
        "version": "gpushare/v1",
        "gpus": [{"select": 0, "mode": "mig", "mig": {"instances": {"3g.40gb": 1, "1g.10gb": 4}}}],
    }
)
print(plan)
report = plan.apply(progress=print)
print(node.status())

with node.lease(mig="1g.10gb", timeout=5) as lease:
    print(lease.share, lease.memory_bytes, lease.sm_count)
    code = "import os; print('CUDA_VISIBLE_DEVICES =', os.environ['CUDA_VISIBLE_DEVICES'])"
    subprocess.run([sys.executable, "-c", code], env=lease.env(), pass_fds=[lease.fileno()], check=True)

node.plan(report.previous).apply()
