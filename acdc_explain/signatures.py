"""What the functions of plugins are called with and return; their settings are keyword-only."""

from __future__ import annotations

from collections.abc import Awaitable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from .claims.checks import Check
    from .llm.exchange import Ask, Exchange
    from .models.contrast import Contrast
    from .progress import Progress
    from .records.claim import Claim
    from .records.graph import Discovery
    from .records.label import Label, LabelerReply
    from .records.question import Question
    from .records.role import RoleCard
    from .records.run.summary import Sentence, SummaryQuestion
    from .records.verdict import Verdict


class FindEdges(Protocol):
    """Chooses a circuit's edges. It sees the discovery prompts and no held-out one."""

    def __call__(
        self, contrast: Contrast, progress: Progress, /, *args: Any, **settings: Any
    ) -> Discovery: ...


class JudgeLabels(Protocol):
    """Yields a verdict for each label as soon as it has one. The contrast is on held-out prompts.

    A judge that asks an LLM is also given `session`, a function that opens the LLM session.
    """

    def __call__(
        self,
        contrast: Contrast,
        labels: Sequence[Label],
        roles: Mapping[str, RoleCard],
        /,
        *args: Any,
        **settings: Any,
    ) -> Iterator[Verdict]: ...


class TestClaims(Protocol):
    """Measures claims of one kind, all at once, on the prompts of a contrast.

    Args:
        prompts: The corruption that components are ablated with: `corrupt`, a scheme, a variable.
        others: Whether to measure other components, too, as the null.

    Returns:
        For each claim the checks that must hold, or why it cannot be tested. Where `others` is
        False, the last check alone is needed, of the component alone.
    """

    def __call__(
        self, contrast: Contrast, claims: Sequence[Claim], prompts: str, others: bool, /
    ) -> Sequence[Sequence[Check] | str]: ...


class Propose(Protocol):
    """Proposes roles for the node of a question, given the prompt that was made for it.

    Raises what `ask` raises.
    """

    def __call__(
        self, question: Question, prompt: str, ask: Ask | None, /, *args: Any, **settings: Any
    ) -> Awaitable[LabelerReply]: ...


class MakePrompt(Protocol):
    """What an LLM would be sent first, or a fingerprint of what the labeler looks at.

    A stored answer to the same prompt is used again.
    """

    def __call__(self, question: Question, ask: Ask | None, /) -> str: ...


class Summarise(Protocol):
    """Sentences on the whole circuit, and the exchange they came from."""

    def __call__(
        self, question: SummaryQuestion, ask: Ask | None, /
    ) -> Awaitable[tuple[Sequence[Sentence], Exchange | None]]: ...


class LabelerObject(Protocol):
    """A labeler as one object: call it for proposals. It may have a method `summarise`, too."""

    @property
    def prompt(self) -> MakePrompt: ...

    @property
    def __call__(self) -> Propose: ...
