"""``Node.leased``: functions that have a lease while they run."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Concatenate, ParamSpec, TypeVar

from gpushare._gpushare import Lease, Node

P = ParamSpec("P")
R = TypeVar("R")


def leased(
    node: Node, options: Mapping[str, Any]
) -> Callable[[Callable[Concatenate[Lease, P], R]], Callable[P, R]]:
    """What ``Node.leased(**options)`` decorates with."""

    def decorate(function: Callable[Concatenate[Lease, P], R]) -> Callable[P, R]:
        if not callable(function):
            raise TypeError(f"leased: a {type(function).__name__} cannot be called; it is for functions")
        # Their bodies run after the call has returned, and the lease would be gone.
        later = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)
        if any(test(run) for test in later for run in (function, type(function).__call__)):
            raise TypeError(
                "leased: a coroutine or generator runs after the call has returned; take the lease inside, "
                "as in `with await asyncio.to_thread(node.lease, gpu=0) as lease:`"
            )

        try:
            signature = inspect.signature(function)
        except ValueError:
            # Some of C have none.
            signature = None
        if signature is not None:
            parameters = [*signature.parameters.values()]
            first = parameters[0] if parameters else None
            if first is None or first.kind in (first.KEYWORD_ONLY, first.VAR_KEYWORD):
                raise TypeError("leased: the function takes no first argument, which is to be the lease")
            if first.name in ("self", "cls"):
                raise TypeError(
                    "leased: the first argument of a method is its own, and would be the lease; take the "
                    "lease inside, as in `with node.lease(gpu=0) as lease:`"
                )
            if first.kind is not first.VAR_POSITIONAL:
                signature = signature.replace(parameters=parameters[1:])

        @functools.wraps(function)
        def with_lease(*args: P.args, **kwargs: P.kwargs) -> R:
            with node.lease(**options) as lease:
                return function(lease, *args, **kwargs)

        if signature is not None:
            # What callers give, and not the lease.
            vars(with_lease)["__signature__"] = signature
        return with_lease

    return decorate
