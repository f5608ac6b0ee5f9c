"""The README's examples, run as they stand."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [text for language, text in BLOCKS if not language and "modicum-daved" in text]


def test_examples_run_in_order_and_say_what_they_should(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    printed = []
    namespace: dict = {}
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), namespace)
        printed.append(capsys.readouterr().out.splitlines())
    first, estimated, federated = printed
    count, spent = map(float, re.findall(r"[\d.]+", first[0]))
    assert 10 <= count <= 30 and spent == 30
    before, after = map(float, re.findall(r"[\d.]+", first[1]))
    assert after < before / 100
    assert re.fullmatch(r"the design is at least \d+% of the optimum", first[2])
    errors = [float(line.split()[3]) for line in first[3:]]
    assert errors == sorted(errors, reverse=True) and len(errors) == 3
    assert estimated[0].endswith(" 10.0") and estimated[1].endswith(" 20.0")
    rows, labels = re.findall(r"\((\d+),", estimated[2])
    assert rows == labels
    assert int(federated[0].split()[0]) > 5 and int(federated[1].split()[0]) > 1000


@pytest.mark.slow
def test_commands_run_in_order(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        rows_nd = np.column_stack([rng.normal(size=(50, 3)), rng.integers(1, 4, size=50)])
        lines = ["id,x,y,z,price"]
        lines += [
            f"{name}{number}," + ",".join(f"{value:g}" for value in row_d)
            for number, row_d in enumerate(rows_nd)
        ]
        (tmp_path / f"{name}.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "queries.csv").write_text("x,y,z\n1,0.5,-1\n")
    (block,) = [block for block in SHELL if "modicum-daved plan" in block]
    scripts = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-e", "-c", block],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    bought = (tmp_path / "picks.csv").read_text().splitlines()
    assert len(bought) > 5 and bought[1].split(",")[0]
    assert "<html" in (tmp_path / "report.html").read_text()[:200]
