"""The environment of this process, as a lease changes it and puts it back."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, MutableMapping


class Activation:
    """What a lease has changed in an environment. It is made where the lease is taken."""

    __slots__ = ("_changed", "_environment", "_name")

    def __init__(self, name: str, environment: MutableMapping[str, str]) -> None:
        self._name = name
        self._environment = environment
        # What each variable was before, and what it was set to; None is a variable that is not there.
        self._changed: dict[str, tuple[str | None, str | None]] = {}

    def __repr__(self) -> str:
        return f"<lease {self._name}>"

    def activate(self, variables: Mapping[str, str], unset: Iterable[str]) -> None:
        """Sets and removes variables."""
        if not self._changed:
            # A program may have put something else there meanwhile.
            self._environment = os.environ
        for name, after in {**dict.fromkeys(unset), **variables}.items():
            now = self._environment.get(name)
            before, was_set_to = self._changed.get(name, (now, now))
            # Noted first: whoever is interrupted in between can put back what is changed by then.
            self._changed[name] = (before if now == was_set_to else now, after)
            self._set(name, after)

    def put_back(self) -> None:
        """Puts back what nobody has changed since."""
        while self._changed:
            name, (before, after) = self._changed.popitem()
            if self._environment.get(name) == after:
                self._set(name, before)

    def _set(self, name: str, value: str | None) -> None:
        if value is None:
            self._environment.pop(name, None)
            os.unsetenv(name)
        else:
            self._environment[name] = value
            # CUDA asks getenv(3). A plain dict in the place of os.environ does not tell it.
            os.putenv(name, value)
