"""MPS: whether a process is a client, equal parts that corrupt nothing, and settings that harm."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpushare._gpushare import Attachment, Gpu, Hazard, Node, Split

__all__ = ["hazards", "split", "verify"]


def verify(pid: int | None = None, node: Node | None = None) -> Attachment:
    """Whether a process is a client of an MPS daemon of gpushare's, by what daemon and driver say.

    With a misspelt directory CUDA gives a process the whole GPU without an error; this tells. What is
    returned is true for a client alone: unknown never passes.

    :param pid: the process, by default this one.
    :param node: the node, by default this machine's.
    """
    return (Node() if node is None else node)._verify_mps(os.getpid() if pid is None else pid)


def split(n: int, *, gpu: int | str | Gpu | None = None, node: Node | None = None) -> Split:
    """Equal parts of a GPU for that many clients, without a hazard.

    :param gpu: which GPU; needed where the GPUs of the node differ.
    :param node: the node, by default this machine's.
    """
    return (Node() if node is None else node)._split_mps(n, gpu)


def hazards(
    mps: Mapping[str, Any], *, gpu: int | str | Gpu = "all", node: Node | None = None
) -> tuple[Hazard, ...]:
    """The settings of an MPS configuration that work and harm, on these GPUs. Empty is good.

    :param mps: what a spec says at ``mps``: ``{"thread_percentage": 40}``.
    :param node: the node, by default this machine's.
    """
    return (Node() if node is None else node)._hazards_mps(mps, gpu)
