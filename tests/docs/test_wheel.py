"""A wheel built from the repository contains prompts, plugins and `mini`, and works alone."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    pytest.importorskip("setuptools", "77", reason="building a wheel needs setuptools >= 77")
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run([*pip, "-w", str(folder), str(ROOT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("*.whl")
    return built


def test_contents(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for folder, package in (
        ("acdc_explain", "acdc_explain"),
        ("plugins", "acdc_explain_plugins"),
        ("prompts", "acdc_explain_prompts"),
    ):
        for suffix in ("*.py", "*.j2", "*.js", "*.css", "*.toml", "*.json", "*.safetensors"):
            for file in (ROOT / folder).rglob(suffix):
                assert f"{package}/{file.relative_to(ROOT / folder)}" in names
    assert not [name for name in names if name.startswith(("tests", "plugins", "prompts"))]


@pytest.mark.slow
def test_it_runs_in_a_fresh_environment(wheel, tmp_path):
    """A .pth file adds the installed libraries; nothing of the repository can be imported."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run(
        [sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "env")], check=True
    )
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    code = "import acdc_explain, acdc_explain_plugins; print(acdc_explain.__file__)"
    imported = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert str(site) in imported.stdout, imported.stderr
    command = [python, "-m", "acdc_explain", "run", "ioi", "--examples", "2",
               "--discoverer", "eap", "--max-edges", "10"]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "ioi on mini  (done)" in done.stdout
