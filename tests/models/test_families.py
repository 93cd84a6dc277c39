"""Every family of transformers' models: exact on one of the engines, or refused in one sentence.

`python -m tests.models.test_families` writes the tables of docs/models.md, with which the tests
compare what becomes of each family.
"""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CLASSES

from acdc_explain import load_model
from acdc_explain.discovery.engine.proof import prove
from acdc_explain.errors import UserError
from acdc_explain.models.contrast import Contrast

from ..conftest import word_task
from .families import FAMILIES, save

FILE = Path(__file__).parent.parent.parent / "docs" / "models.md"
MARK = "<!-- from here on written by: python -m tests.models.test_families -->\n"
FAST = (
    "gpt2 gpt_neo falcon-40b llama-gqa gemma2 olmo2 granitemoehybrid-dense gpt_oss nanochat afmoe "
    "bloom-post-residual gemma2-bias falcon_h1 mamba bert"
).split()
"""Families of every kind, which are tried in the fast tests."""


@dataclass(frozen=True)
class Outcome:
    """What becomes of a family: `engine` is fast, reference or refused.

    `reason`: why it is refused, or why the fast engine is not used. `error`: the worst of all
    checks, relative; None where it is refused.
    """

    engine: str
    reason: str
    error: float | None = None


def outcome(name: str) -> Outcome:
    """Save a family, load it, and prove both engines on it."""
    with tempfile.TemporaryDirectory() as folder:
        save(name, folder)
        try:
            model = load_model(folder)
        except UserError as error:
            return Outcome("refused", _reason(str(error)))
    task = word_task(4, length=9)
    proof = prove(Contrast(model, task, task.discover))
    if not proof.is_exact:
        return Outcome(
            "refused", _plain(f"cutting edges is not exact: {proof.trouble('reference')}")
        )
    engine = "fast" if proof.is_fast else "reference"
    checks = [check for check in (*model.checks, *proof.checks) if check.of in ("model", engine)]
    assert len(checks) > 10
    assert all(check.passed for check in checks)
    reason = "" if proof.is_fast else proof.not_fast or proof.trouble("fast") or ""
    return Outcome(engine, _plain(reason), max(check.error for check in checks))


def _reason(sentence: str) -> str:
    """A refusal without the model's name, the numbers, and what all refusals say."""
    sentence = sentence.partition("split into heads and MLPs here: ")[2] or sentence
    sentence = re.sub(r"^\S+ is a \w+; ", "", sentence)
    sentence = re.sub(r": [^:]* are off by \S+ \(relative\)", "", sentence)
    return _plain(sentence.partition("; docs/models.md")[0].removesuffix("."))


def _plain(reason: str) -> str:
    """A reason without the size of an error, which is not the same on all machines."""
    return re.sub(r" are off by \S+ \(relative\)", " differ", reason)


# --- docs/models.md --------------------------------------------------------------------------------


def tables(outcomes: Mapping[str, Outcome]) -> str:
    """The two tables of docs/models.md."""
    accepted = [
        f"| {_title(name)} | {found.engine} | {_power(found.error)} | {_note(name, found)} |"
        for name, found in outcomes.items()
        if found.error is not None
    ]
    refused = [
        f"| {_title(name)} | {found.reason} |"
        for name, found in outcomes.items()
        if found.error is None
    ]
    return "\n".join(
        [
            f"\n## {len(accepted)} that are exact\n",
            "| family | engine | checks | note |\n| --- | --- | --- | --- |",
            *accepted,
            f"\n## {len(refused)} that are refused\n",
            "| family | reason |\n| --- | --- |",
            *refused,
            "",
        ]
    )


def _title(name: str) -> str:
    return f"`{name}` ({CLASSES[FAMILIES[name].kind]})"


def _power(error: float) -> str:
    return f"1e{max(-5, math.ceil(math.log10(error))):03d}"  # smaller ones depend on the machine


def _note(name: str, found: Outcome) -> str:
    note = FAMILIES[name].note
    return "; ".join(filter(None, [note, found.reason and f"not fast: {found.reason}"]))


def recorded() -> dict[str, Outcome]:
    """The outcomes that docs/models.md names."""
    accepted, refused = FILE.read_text().partition(MARK)[2].split("\n## ")[1:]
    found = {}
    for name, engine, error, note in re.findall(
        r"^\| `(.+?)` \(.+?\) \| (\w+) \| (.+?) \| (.*) \|$", accepted, re.M
    ):
        found[name] = Outcome(engine, note.partition("not fast: ")[2], float(error))
    for name, reason in re.findall(r"^\| `(.+?)` \(.+?\) \| (.*) \|$", refused, re.M):
        found[name] = Outcome("refused", reason)
    return found


def write() -> None:
    """Write the tables of docs/models.md; what stands above them stays."""
    text = FILE.read_text().partition(MARK)[0]
    FILE.write_text(text + MARK + tables({name: outcome(name) for name in FAMILIES}))


# --- tests -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [*FAST, *(pytest.param(n, marks=pytest.mark.slow) for n in FAMILIES if n not in FAST)]
)
def test_a_family_is_exact_or_refused_as_the_documents_say(name):
    found, expected = outcome(name), recorded()[name]
    assert (found.engine, found.reason) == (expected.engine, expected.reason)


def test_the_documents_name_every_family():
    found = recorded()
    assert sorted(found) == sorted(FAMILIES)
    assert sum(outcome.engine == "fast" for outcome in found.values()) > 70
    text = FILE.read_text().partition(MARK)[2]
    assert tables(found).count("\n") == text.count("\n")  # and nothing else


def test_every_refusal_has_a_reason():
    for found in recorded().values():
        assert found.engine == "fast" or len(found.reason.split()) > 4
        assert "way that is not known" not in found.reason


if __name__ == "__main__":
    write()
