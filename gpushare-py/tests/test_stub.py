"""The stub says what is there: the same documentation, and types that values really have.

GPUSHARE_BLESS=1 writes the documentation of the extension module into it.
"""

import ast
import importlib
import inspect
import os
import types
import typing
import unittest
from pathlib import Path

import gpushare
from common import Shared, layout, spec
from gpushare import _gpushare

STUB = Path(__file__).parents[1] / "python/gpushare/_gpushare.pyi"


def definitions(tree):
    """The classes, methods and properties of the stub, each with the object that it is at run time."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            cls = getattr(_gpushare, node.name)
            yield node, cls
            for member in node.body:
                if isinstance(member, ast.FunctionDef) and not member.name.startswith("__"):
                    yield member, inspect.getattr_static(cls, member.name)
        elif isinstance(node, ast.FunctionDef):
            yield node, getattr(_gpushare, node.name)


def documentation(runtime):
    if isinstance(runtime, staticmethod):
        runtime = runtime.__func__
    return inspect.cleandoc(runtime.__doc__ or "")


def bless(text):
    """The stub with the documentation in it."""
    lines, tree = text.splitlines(), ast.parse(text)
    for node, runtime in sorted(definitions(tree), key=lambda pair: -pair[0].lineno):
        if not (doc := documentation(runtime)):
            continue
        first = node.body[0]
        at = first.lineno - 1
        if ast.get_docstring(node) is not None:
            del lines[at : first.end_lineno]
        elif isinstance(node, ast.FunctionDef):
            lines[at] = lines[at].removesuffix(" ...")
            at += 1
        else:
            at = node.lineno
        told = f'"""{doc}"""' if "\n" not in doc else f'"""{doc}\n"""'
        indent = " " * (node.col_offset + 4)
        lines[at:at] = [f"{indent}{line}".rstrip() for line in told.splitlines()]
    return "\n".join(lines) + "\n"


def fits(value, hint):
    """Whether a value is of a type, as far as it can be told."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is typing.Any:
        return True
    if origin is types.UnionType or origin is typing.Union:
        return any(fits(value, one) for one in arguments)
    if hint is None or hint is type(None):
        return value is None
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return type(value) is tuple and all(fits(one, arguments[0]) for one in value)
    if origin is tuple:
        return type(value) is tuple and len(value) == len(arguments) and all(map(fits, value, arguments))
    if origin is dict:
        return type(value) is dict
    return type(value) is hint


class Stub(Shared):
    FLEET = "2xH100-80GB,1xL40S"

    def test_it_has_the_documentation_of_the_module(self) -> None:
        if os.environ.get("GPUSHARE_BLESS"):
            STUB.write_text(bless(STUB.read_text()))
        tree = ast.parse(STUB.read_text())
        for node, runtime in definitions(tree):
            told = ast.get_docstring(node) or ""
            wanted = documentation(runtime)
            if isinstance(runtime, type) or not node.name.startswith("_"):
                self.assertEqual(told, wanted, f"{node.name}: run with GPUSHARE_BLESS=1")
            if not node.name.startswith("_"):
                self.assertTrue(told, f"{node.name} is not documented")

    def test_values_have_the_types_that_it_says(self) -> None:
        node = self.node
        layout(node, 0, **{"3g": 1, "1g": 1})
        node.plan(spec({"select": 1, "mode": "mps", "mps": {"thread_percentage": 25}})).apply()
        self.busy(node.gpus[0].mig_devices[0].uuid)
        pid = self.busy(1, "--kind", "mps-client")
        events = []
        lease = node.lease(gpu=2)
        self.addCleanup(lease.release)
        values = [
            node,
            node.status(),
            node.leases(),
            node.advise(2),
            node.doctor(),
            node.export("mig-parted"),
            node.import_config("mig-parted", node.export("mig-parted").text),
            node.spec_in_force(),
            lease,
            lease.verify(),
        ]
        values += [gpushare.mps.verify(pid, node), gpushare.mps.split(2, gpu=1, node=node)]
        values += [gpushare.resolve_visible_devices(node.gpus[0].mig_devices[0].uuid, node=node)]
        values += gpushare.mps.hazards({"thread_percentage": 33}, gpu=1, node=node)
        lease.release()
        self.command("sim", "kill-mps", "1")
        values += node.doctor().findings
        plan = node.plan(spec({"select": "all", "mode": "exclusive"}))
        values += [plan, plan.apply(events.append, allow_evict=True), *events]
        layout(node, 0, **{"1g": 7})
        self.killed_at(5)
        values.append(node.recover())
        annotations = {}
        names = {**vars(importlib.import_module("builtins")), **vars(gpushare), "Any": typing.Any}
        for cls in ast.parse(STUB.read_text()).body:
            if isinstance(cls, ast.ClassDef):
                properties = [
                    member
                    for member in cls.body
                    if isinstance(member, ast.FunctionDef)
                    and any(getattr(d, "id", None) == "property" for d in member.decorator_list)
                ]
                annotations[cls.name] = {p.name: eval(ast.unparse(p.returns), names) for p in properties}
        seen, members = set(), set()
        while values:
            value = values.pop()
            kind = type(value).__name__
            seen.add(kind)
            for name, hint in annotations[kind].items():
                found = getattr(value, name)
                self.assertTrue(fits(found, hint), f"{kind}.{name} is {found!r}, and not {hint}")
                members.add((kind, name))
                below = found if isinstance(found, tuple) else (found,)
                values += [one for one in below if type(one).__name__ in annotations]
        self.assertEqual(set(annotations), seen)


if __name__ == "__main__":
    unittest.main()
