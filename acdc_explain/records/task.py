"""A behavior: pairs of clean and corrupted prompts, and what to measure on them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from ..errors import UserError
from ..ids import content_id, plain

Split = Literal["discover", "held_out"]

MOST_POSITIONS = 50  # that an example may name


class Tokenizer(Protocol):
    """What a task needs to know about a model: how its tokenizer splits a text."""

    @property
    def unknown(self) -> str | None:
        """The token of words outside the vocabulary; None if there are no such words."""
        ...

    def pieces(self, text: str) -> list[str]:
        """The tokens of a text, as text, without a beginning-of-sequence token."""
        ...

    def piece(self, token_id: int) -> str:
        """The text of a token of the vocabulary. Raises IndexError for an id outside it."""
        ...


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt that shows the behavior, and its corruption.

    Attributes:
        clean: The prompt.
        corrupt: The corrupted prompt, of the same number of tokens.
        answers: The correct next words. Each is one token, with the space before it if it has one.
        foils: Wrong next words to compare with, of the same form.
        positions: Names of tokens in both prompts, counted from 0 without a beginning-of-sequence
            token.
        variables: Prompts in which only one thing differs from the clean prompt, such as one name,
            by what differs. They have as many tokens.
    """

    clean: str
    corrupt: str
    answers: tuple[str, ...]
    foils: tuple[str, ...]
    positions: Mapping[str, int] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Task:
    """A named behavior with examples: some to discover on, others held out for verdicts.

    Attributes:
        name: The task's name.
        description: What the model does, in a sentence.
        metric: The default metric: "logit_diff", "kl", "prob_diff" or "nll".
        discover: The examples on which the circuit is found, measured and labeled.
        held_out: The examples of the verdicts. None of their clean prompts is in `discover`.
        schemes: Other corruptions by name: the corrupted prompts of `discover` and then of
            `held_out`, in their order.

    Raises:
        ValueError: A prompt is in both splits, or a scheme has too many or too few prompts.
    """

    name: str
    description: str
    metric: str
    discover: tuple[Example, ...]
    held_out: tuple[Example, ...]
    schemes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        both = {example.clean for example in self.discover} & {e.clean for e in self.held_out}
        if both:
            raise ValueError(
                f"task {self.name!r}: {min(both)!r} is in discover and in held_out; "
                "verdicts need prompts that discovery has not seen"
            )
        expected = len(self.discover) + len(self.held_out)
        for scheme, prompts in self.schemes.items():
            if len(prompts) != expected:
                raise ValueError(
                    f"task {self.name!r}: scheme {scheme!r} has {len(prompts)} prompts "
                    f"for {expected} examples"
                )

    @property
    def id(self) -> str:
        """A hash of the content."""
        content = plain(self)
        for example in (*content["discover"], *content["held_out"]):
            if not example["variables"]:  # which older tasks do not have
                del example["variables"]
        return content_id("task", content)

    @staticmethod
    def parse(body: Mapping[str, Any]) -> Task:
        """A task from its JSON form.

        Args:
            body: All fields of the task.

        Returns:
            The task.

        Raises:
            KeyError: A field is missing.
            TypeError: A field has the wrong type.
            ValueError: The examples do not fit together.
        """

        def examples(entries: Sequence[Mapping[str, Any]]) -> tuple[Example, ...]:
            return tuple(
                Example(
                    e["clean"],
                    e["corrupt"],
                    tuple(e["answers"]),
                    tuple(e["foils"]),
                    dict(e["positions"]),
                    dict(e.get("variables", {})),
                )
                for e in entries
            )

        return Task(
            name=body["name"],
            description=body["description"],
            metric=body["metric"],
            discover=examples(body["discover"]),
            held_out=examples(body["held_out"]),
            schemes={name: tuple(prompts) for name, prompts in body["schemes"].items()},
        )

    @staticmethod
    def from_prompts(
        name: str,
        clean: Sequence[str],
        corrupt: Sequence[str],
        answers: Sequence[str | Sequence[str]],
        foils: Sequence[str | Sequence[str]] | None = None,
        *,
        positions: Mapping[str, int | Sequence[int]] | None = None,
        metric: str | None = None,
        description: str = "",
    ) -> Task:
        """A task from lists of prompts: every second one is held out for verdicts.

        Args:
            name: What to call the task.
            clean: The prompts that show the behavior, no two the same.
            corrupt: For each its corruption, with as many tokens.
            answers: For each the next token that is right, or several; with the space before it.
            foils: For each the wrong answer, or several; None where there are none.
            positions: Names of tokens, counted from 0 over the prompt's own tokens: one number
                for all prompts, or one for each.
            metric: `logit_diff`, `prob_diff`, `kl` or `nll`; None: `logit_diff` with foils, `nll`
                without.
            description: What the model does, in a sentence.

        Returns:
            The task. Whether its prompts fit a model's tokenizer is checked when a model sees it.

        Raises:
            UserError: for lists of different lengths, a prompt that is there twice, or fewer than
                two prompts.
        """
        lists: dict[str, Sequence[Any]] = {"clean": clean, "corrupt": corrupt, "answers": answers}
        lists |= {} if foils is None else {"foils": foils}
        lists |= {k: v for k, v in (positions or {}).items() if not isinstance(v, int)}
        for what, values in lists.items():
            if len(values) != len(clean):
                raise UserError(
                    f"Task {name!r}: {what} has {len(values)} entries for {len(clean)} prompts."
                )
        if len(set(clean)) != len(clean) or len(clean) < 2:
            raise UserError(f"Task {name!r}: give at least two clean prompts, no two the same.")
        examples = [
            Example(
                clean[i],
                corrupt[i],
                _words(answers[i]),
                () if foils is None else _words(foils[i]),
                {k: v if isinstance(v, int) else v[i] for k, v in (positions or {}).items()},
            )
            for i in range(len(clean))
        ]
        return Task(
            name=name,
            description=description or f"The model continues the prompts of {name}.",
            metric=metric or ("nll" if foils is None else "logit_diff"),
            discover=tuple(examples[::2]),
            held_out=tuple(examples[1::2]),
        )

    @property
    def position_names(self) -> tuple[str, ...]:
        """The names of positions that every discovery example has."""
        return shared_positions(self.discover)

    @property
    def variable_names(self) -> tuple[str, ...]:
        """The variables that every example has, in the order of the first."""
        examples = (*self.discover, *self.held_out)
        names = examples[0].variables if examples else ()
        return tuple(name for name in names if all(name in e.variables for e in examples))

    def under(self, scheme: str) -> Task:
        """The same task with another corruption.

        Args:
            scheme: The name of the corruption.

        Returns:
            The task without other schemes.

        Raises:
            KeyError: There is no such scheme.
        """
        prompts = iter(self.schemes[scheme])

        def corrupted(examples: tuple[Example, ...]) -> tuple[Example, ...]:
            return tuple(replace(example, corrupt=next(prompts)) for example in examples)

        return replace(
            self,
            discover=corrupted(self.discover),
            held_out=corrupted(self.held_out),
            schemes={},
        )


def _words(words: str | Sequence[str]) -> tuple[str, ...]:
    return (words,) if isinstance(words, str) else tuple(words)


def shared_positions(examples: Sequence[Example]) -> tuple[str, ...]:
    """The names of positions that all examples have, in the order of the first example."""
    names = list(examples[0].positions)
    return tuple(n for n in names if all(n in e.positions for e in examples))


def check_examples(task: Task, tokenizer: Tokenizer) -> Task:
    """The task itself. Raises UserError if an example does not fit the tokenizer."""
    examples: Iterable[tuple[str, Example]] = [
        *(
            (f"task {task.name!r}, discover example {i + 1}", e)
            for i, e in enumerate(task.discover)
        ),
        *(
            (f"task {task.name!r}, held-out example {i + 1}", e)
            for i, e in enumerate(task.held_out)
        ),
    ]
    for where, example in examples:
        check_example(example, tokenizer, where)
    for scheme in task.schemes:
        other = task.under(scheme)
        for example in (*other.discover, *other.held_out):
            check_example(example, tokenizer, f"task {task.name!r}, scheme {scheme!r}")
    return task


def check_example(example: Example, tokenizer: Tokenizer, where: str) -> None:
    """Raises UserError, beginning with `where`, if an example does not fit the tokenizer."""
    for text in (example.clean, example.corrupt, *example.answers, *example.foils):
        _check_text(text, tokenizer, where)
    n_tokens = _check_prompts(example, tokenizer, where)
    for name, prompt in example.variables.items():
        _check_text(prompt, tokenizer, where)
        if (n_other := len(tokenizer.pieces(prompt))) != n_tokens:
            raise UserError(
                f"{where}: the prompt of variable {name!r} has {n_other} tokens and the clean one "
                f"{n_tokens}; make them the same length for this model's tokenizer."
            )
    _check_words(example, tokenizer, where)
    if len(example.positions) > MOST_POSITIONS:
        raise UserError(
            f"{where}: {len(example.positions)} positions have names; {MOST_POSITIONS} are the "
            "most, as attention is measured between each two of them."
        )
    for name, position in example.positions.items():
        if not 0 <= position < n_tokens:
            raise UserError(
                f"{where}: position {name!r} is {position}, but the prompt has "
                f"{n_tokens} tokens (0 to {n_tokens - 1})."
            )


def _check_prompts(example: Example, tokenizer: Tokenizer, where: str) -> int:
    """The number of tokens that both prompts have."""
    clean, corrupt = tokenizer.pieces(example.clean), tokenizer.pieces(example.corrupt)
    if not clean:
        raise UserError(f"{where}: the clean prompt is empty; write at least one token.")
    if len(clean) != len(corrupt):
        raise UserError(
            f"{where}: the clean prompt has {len(clean)} tokens and the corrupted one "
            f"{len(corrupt)}; make them the same length for this model's tokenizer."
        )
    partial = "\ufffd" in "".join(clean)  # tokens of parts of letters look alike and may differ
    if example.clean == example.corrupt or (clean == corrupt and not partial):
        raise UserError(
            f"{where}: the corrupted prompt is the clean one, so there is nothing to measure; "
            "change a word of it."
        )
    return len(clean)


def _check_words(example: Example, tokenizer: Tokenizer, where: str) -> None:
    """Answers and foils must be single tokens, and different ones."""
    if not example.answers:
        raise UserError(f"{where}: there is no answer; give at least one token that is right.")
    for name, words in (("answer", example.answers), ("foil", example.foils)):
        for word in words:
            pieces = tokenizer.pieces(word)
            if len(pieces) != 1:
                raise UserError(
                    f"{where}: the {name} {word!r} is {len(pieces)} tokens "
                    f"({' '.join(map(repr, pieces))}), not one; "
                    "use a word that is a single token, with the space before it."
                )
    answers, foils = (
        {piece for word in words for piece in tokenizer.pieces(word)}
        for words in (example.answers, example.foils)
    )
    if shared := answers & foils:
        raise UserError(f"{where}: {min(shared)!r} is both an answer and a foil; keep one.")


def _check_text(text: str, tokenizer: Tokenizer, where: str) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {text!r:.60} holds half a character; write it again.") from None
    if tokenizer.unknown is not None and tokenizer.unknown in tokenizer.pieces(text):
        raise UserError(
            f"{where}: {text!r:.60} has words that this model does not know; "
            "use words of its vocabulary, or another model."
        )
