"""The tutorial, piece after piece: it runs, and prints what stands below each piece. The README, too, runs.

GPUSHARE_BLESS=1 writes there what they print.
"""

import contextlib
import io
import os
import re
import tempfile
import unittest
from pathlib import Path
from xml.etree import ElementTree

TUTORIAL = Path(__file__).resolve().parents[1] / "TUTORIAL.md"
PIECE = re.compile(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```\n)?", re.DOTALL)


class Readme(unittest.TestCase):
    def test_its_pieces_run(self) -> None:
        text = TUTORIAL.with_name("README.md").read_text()
        pieces = re.findall(r"^```python\n(.*?)^```\n", text, re.DOTALL | re.MULTILINE)
        self.assertGreaterEqual(len(pieces), 4)
        # The quick start is an example of its own.
        for piece in pieces[1:]:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(piece, "README.md", "exec"), {"__name__": "readme"})


class Tutorial(unittest.TestCase):
    def test_it_runs_and_prints_what_it_says(self) -> None:
        text = TUTORIAL.read_text()
        names = {"__name__": "tutorial"}
        blessed, at, pieces = "", 0, 0
        before = Path.cwd()
        with tempfile.TemporaryDirectory() as folder:
            self.addCleanup(os.chdir, before)
            os.chdir(folder)
            for piece in PIECE.finditer(text):
                code, told = piece[1], piece[2] or ""
                line = text.count("\n", 0, piece.start(1))
                printed = io.StringIO()
                with contextlib.redirect_stdout(printed):
                    exec(compile("\n" * line + code, str(TUTORIAL), "exec"), names)
                said = printed.getvalue()
                shown = f"\n```text\n{said}```\n" if said else ""
                blessed += text[at : piece.start()] + f"```python\n{code}```\n{shown}"
                at, pieces = piece.end(), pieces + 1
                if not os.environ.get("GPUSHARE_BLESS"):
                    self.assertEqual(said, told, f"TUTORIAL.md, line {line}: run with GPUSHARE_BLESS=1")
            for drawing in ("node.html", "plan.html"):
                ElementTree.parse(drawing)
            os.chdir(before)
        self.assertEqual(text.count("```python"), pieces)
        self.assertGreaterEqual(pieces, 12)
        if os.environ.get("GPUSHARE_BLESS"):
            TUTORIAL.write_text(blessed + text[at:])


if __name__ == "__main__":
    unittest.main()
