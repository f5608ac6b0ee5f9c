"""The cheap parts of the isolation check; `make isolate` is the whole of it."""

import subprocess
import sys
import zipfile
from pathlib import Path

import isolate
import pytest
from check_tree import projects

ROOT = Path(__file__).resolve().parents[2]


def test_all_eleven_distributions_are_there():
    assert set(projects(ROOT)) == {
        *("avobject", "core", "daved", "ewatermark", "huper", "pivotrl", "pvf", "repcomplexity"),
        *("testtime", "umpwatermark", "zeroth"),
    }


def test_call_tells_what_failed():
    assert isolate.call(sys.executable, "-c", "print('out')") == "out\n"
    with pytest.raises(isolate.Failure, match=r"(?s)exit status 3.*the reason"):
        isolate.call(sys.executable, "-c", "import sys; print('the reason'); sys.exit(3)")
    with pytest.raises(isolate.Failure, match="exit status 0"):
        isolate.call(sys.executable, "-c", "", ok=False)


def test_engines_and_extras_are_unwanted():
    unwanted = isolate.unwanted_modules("pvf")
    assert {"torch", "transformers", "diffusers", "matplotlib", "vllm"} <= unwanted
    assert not {"numpy", "scipy", "modicum", "modicum_core"} & unwanted


def test_probe_reports_what_an_import_loads():
    done = subprocess.run(
        [sys.executable, "-I", "-c", isolate._IMPORT, "wave"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"wave"' in done.stdout
    assert '"numpy"' not in done.stdout


def test_wheels_hold_their_package_and_no_namespace_file(tmp_path):
    names = sorted(projects(ROOT))
    isolate.build(names, tmp_path)
    for name in names:
        (wheel,) = tmp_path.glob(f"modicum_{name}-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            held = set(archive.namelist())
        info = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
        assert {f"modicum/{name}/__init__.py", f"modicum/{name}/py.typed"} <= held
        assert f"{info}/licenses/LICENSE" in held
        assert "modicum/__init__.py" not in held
        assert {entry.split("/")[0] for entry in held} == {"modicum", info}
        assert {entry.split("/")[1] for entry in held if entry.startswith("modicum/")} == {name}


def test_compatible_core_versions_share_an_environment(tmp_path):
    if isolate.portable_lock.find_uv() is None:
        pytest.skip("uv is not installed")
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    isolate.build(["core"], wheels)
    isolate.constraints(wheels)
    assert "refuses >=" in isolate.try_core_versions(wheels, tmp_path)
