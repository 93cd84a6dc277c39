"""Proof, on a few random prompts, that cutting edges in a model does what it should.

No model is searched on trust: each check compares what an engine computes with something computed
another way, and has a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias
from weakref import WeakKeyDictionary

import torch

from ...errors import UserError
from ...models.contrast import Contrast
from ...models.model import Model
from ...models.network.norm import UnsupportedModel
from ...models.network.precision import Check, relative_error
from ...records.circuit import PORTS
from .fast import Engine
from .reference import Cut, ReferenceEngine, readers

SEED = 0
LENGTH = 12  # tokens, if the prompts are not longer
LOGITS = 0.1  # logits that are all smaller than this differ by noise alone


@dataclass(frozen=True)
class Proof:
    """The checks of a model, and why the fast engine does not apply, if it does not."""

    checks: tuple[Check, ...]
    not_fast: str | None

    @property
    def is_fast(self) -> bool:
        """Whether the fast engine is exact."""
        return self.not_fast is None and self.trouble("fast") is None

    @property
    def is_exact(self) -> bool:
        """Whether the engine that will be used is exact."""
        return self.is_fast or self.trouble("reference") is None

    def trouble(self, engine: str) -> str | None:
        """The first check of an engine that failed, in words; None if all passed."""
        for check in self.checks:
            if check.of == engine and not check.passed:
                return f"{check.what} are off by {check.error:.1g} (relative)"
        return None


Proven: TypeAlias = WeakKeyDictionary[Model, tuple[int, Proof]]
"""By model, how many tokens the prompts had, and what was found."""
_FAST: Proven = WeakKeyDictionary()
_REFERENCE: Proven = WeakKeyDictionary()


def prove(contrast: Contrast) -> Proof:
    """Every check of both engines, on random tokens in prompts as long as those of a contrast."""
    random, length = _random_contrast(contrast), contrast.clean.tokens.shape[1]
    fast, model = _prove_fast(random, thorough=True), contrast.model
    reference = Proof(tuple(_reference_checks(random)), None)
    _FAST[model], _REFERENCE[model] = (length, fast), (length, reference)
    return Proof((*reference.checks, *fast.checks), fast.not_fast)


def fast_trouble(contrast: Contrast) -> str | None:
    """Why the fast engine is not exact for a model, in a few words; None if it is.

    Each loaded model is checked once, with everything and with a random half of the edges cut;
    again for longer prompts.
    """
    proof = _once(_FAST, contrast, lambda: _prove_fast(_random_contrast(contrast), thorough=False))
    return proof.not_fast or proof.trouble("fast")


def reference_trouble(contrast: Contrast) -> str | None:
    """Why cutting edges by hooks is not exact for a model, in a few words; None if it is.

    Each loaded model is checked once; again for longer prompts.
    """

    def check() -> Proof:
        return Proof(tuple(_reference_checks(_random_contrast(contrast))), None)

    return _once(_REFERENCE, contrast, check).trouble("reference")


def require_exact_cuts(contrast: Contrast) -> None:
    """Raise UserError unless cutting edges by hooks is exact for a model."""
    if (problem := reference_trouble(contrast)) is not None:
        raise UserError(f"{contrast.model.name}: cutting edges is not exact: {problem}.")


def _once(proven: Proven, contrast: Contrast, check: Callable[[], Proof]) -> Proof:
    """What was found for a model on prompts as long as these, or longer ones."""
    length = contrast.clean.tokens.shape[1]
    if contrast.model not in proven or proven[contrast.model][0] < length:
        proven[contrast.model] = length, check()
    return proven[contrast.model][1]


def _random_contrast(contrast: Contrast) -> Contrast:
    """Two pairs of prompts of random tokens, as long as those of a contrast, one shorter.

    The task's own prompts may differ in few tokens, or in none that the tokenizer knows.
    """
    model = contrast.model
    longest = contrast.clean.tokens.shape[1] - len(model.prefix)
    length = max(longest, min(LENGTH, model.context_length - len(model.prefix)))
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.randint(0, model.n_tokens, (4, length), generator=generator).tolist()
    rows = [row[: length - (number % 2) * (length // 4)] for number, row in enumerate(rows)]
    random = Contrast(model, contrast.task, contrast.examples[:2], "kl", memory=contrast.memory)
    random.clean, random.corrupt = model.batch_ids(rows[:2]), model.batch_ids(rows[2:])
    return random


def _prove_fast(contrast: Contrast, *, thorough: bool) -> Proof:
    try:
        return Proof(tuple(_fast_checks(contrast, thorough=thorough)), None)
    except UnsupportedModel as reason:
        return Proof((), str(reason))


# --- the reference engine ------------------------------------------------------------------------


@torch.no_grad()
def _reference_checks(contrast: Contrast) -> Iterator[Check]:
    engine, limit = ReferenceEngine(contrast), contrast.model.limit
    clean, ablated = contrast.clean_run.logits, contrast.ablated_logits
    error = relative_error(engine.logits(engine.cut_none()), clean, LOGITS)
    yield Check("reference", "the logits with nothing cut", error, limit)
    kinds = (*PORTS, *(["mlp_in"] if engine.graph.has_mlps else []))
    for kind in kinds:
        error = _patching_error(engine, kind)
        yield Check("reference", f"the logits with all edges into {_WORDS[kind]} cut", error, limit)
    error = _last_stream_error(engine)
    yield Check("reference", LAST_STREAMS, error, limit)
    error = relative_error(engine.logits(engine.cut_all()), ablated, LOGITS)
    yield Check("reference", "the logits with everything cut", error, limit)


LAST_STREAMS = "the last streams with every edge into heads and MLPs cut"
_WORDS = {"q": "queries", "k": "keys", "v": "values", "mlp_in": "MLPs"}


def _last_stream_error(engine: ReferenceEngine) -> float:
    """Cut every edge into heads and MLPs and none into the logits.

    Then every node writes what it writes when ablated, and the input what it writes on clean
    prompts, so the last stream is a plain sum. A port that does not listen shows here.
    """
    contrast, cut = engine.contrast, engine.cut_all()
    cut[:, 0] = False  # the logits' edges
    heads_and_mlps = contrast.ablated[1:].sum(0).to(engine.model.device)
    expected = contrast.clean_run.written(0) + heads_and_mlps + engine.model.output_biases
    within = contrast.clean.within
    return relative_error(engine.last_stream(cut)[within], expected[within])


def _patching_error(engine: ReferenceEngine, kind: str) -> float:
    """Cut all edges into one kind of port, and compare with patching what the port makes of it.

    Then all queries must be those of the corrupted prompts, and so on. These are put in place by
    hand here, without any stream.
    """
    contrast, cut, everything = engine.contrast, engine.cut_none(), engine.cut_all()
    for rows, point, _ in readers(engine.graph):
        if point.kind == kind:
            cut[:, rows] = everything[:, rows]
    expected = engine.model.patched(kind, contrast.clean, contrast.corrupt)
    return relative_error(engine.logits(cut), expected, LOGITS)


# --- the fast engine -----------------------------------------------------------------------------


@torch.no_grad()
def _fast_checks(contrast: Contrast, *, thorough: bool) -> Iterator[Check]:
    """Against the model itself with everything cut, and the reference engine with half.

    Args:
        contrast: The prompts.
        thorough: Also with nothing cut, and with half of the edges into each kind of port.
    """
    fast, reference = Engine(contrast), ReferenceEngine(contrast)
    cuts = [("everything", reference.cut_all(), contrast.ablated_logits)]
    for what, cut in _random_cuts(reference, thorough=thorough):
        cuts.append((what, cut, reference.logits(cut)))
    if thorough:
        cuts.append(("nothing", reference.cut_none(), contrast.clean_run.logits))
    for what, cut, expected in cuts:
        error = relative_error(fast.logits(reference.kept(cut)), expected, LOGITS)
        yield Check("fast", f"the logits with {what} cut", error, contrast.model.limit)


def _random_cuts(engine: ReferenceEngine, *, thorough: bool) -> Iterator[tuple[str, Cut]]:
    everything = engine.cut_all()
    generator = torch.Generator().manual_seed(SEED)
    random_half = torch.rand(everything.shape, generator=generator) < 0.5
    yield "a random half of the edges", everything & random_half
    kinds = [*PORTS, *(["mlp_in"] if engine.graph.has_mlps else []), "final"]
    for kind in kinds if thorough else ():
        cut = engine.cut_none()
        for rows, point, _ in readers(engine.graph):
            if point.kind == kind:
                cut[:, rows] = everything[:, rows] & random_half[:, rows]
        name = "the logits" if kind == "final" else _WORDS[kind]
        yield f"a random half of the edges into {name}", cut
