"""The notebook runs from its first cell to its last, and what it shows is what it prints."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_tour(tmp_path):
    cells = [
        cell
        for cell in json.loads((ROOT / "examples/tour.ipynb").read_text(encoding="utf-8"))["cells"]
        if cell["cell_type"] == "code"
    ]
    script = tmp_path / "tour.py"
    script.write_text("\n".join("".join(cell["source"]) for cell in cells), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, script], cwd=ROOT, env={**os.environ, "MPLBACKEND": "Agg"}, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    shown = "".join(
        "".join(out["text"]) for cell in cells for out in cell["outputs"] if out["output_type"] == "stream"
    )
    assert run.stdout == shown
    assert any("image/png" in out.get("data", {}) for cell in cells for out in cell["outputs"])
