"""The settings of a run: each field carries its help, its bounds and its command-line name.

The command line (`cli/options.py`), `help(Settings)` and `Settings.check` all read this one table.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypedDict, get_type_hints

from ..errors import WrongUsage
from ..llm.exchange import DEFAULT_CONCURRENCY, DEFAULT_LLM, DEFAULT_TIMEOUT
from ..models.options import ABLATIONS, DEFAULT_DEVICE, DEFAULT_DTYPE, DEFAULT_MEMORY
from .inputs.device import check_names

DEFAULT_EXAMPLES = 24  # to discover on, and twice as many held out
FEWER_EXAMPLES = 16  # where a task has no more
CHEAP_EXAMPLES = 32  # where a forward pass is cheap: verdicts are steadier (docs/labels.md)
CHEAP_PARAMETERS = 20_000_000


@dataclass(frozen=True, slots=True)
class Option:
    """What a setting means, which values it takes, and how the command line shows it.

    Attributes:
        help: One or two sentences, for the command line and for `help(Settings)`.
        name: The name on the command line without dashes; None: the setting's own name.
        minimum: The smallest value allowed.
        maximum: The largest value allowed.
        default: The default in words, where the value is chosen later.
        path: FILE or FOLDER if the value is a path.
        environment: The environment variable that gives the value.
        keys: For a mapping: a TypedDict of its keys that are command-line options too.
        on_command_line: False for a setting that only Python callers can give.
    """

    help: str
    name: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    default: str | None = None
    path: str | None = None
    environment: str | None = None
    keys: type | None = None
    on_command_line: bool = True

    def check(self, name: str, value: float) -> None:
        """Raise WrongUsage if the number is out of bounds; `name` is that of the setting."""
        if self.minimum is not None and not value >= self.minimum:
            raise WrongUsage(f"`{name}=` is {value}; at least {self.minimum} is needed.")
        if self.maximum is not None and not value <= self.maximum:
            raise WrongUsage(f"`{name}=` is {value}; at most {self.maximum} is allowed.")


class DiscovererKeys(TypedDict, total=False):
    """Settings of the built-in discoverers that have a command-line option of their own."""

    tau: Annotated[
        float | None,
        Option(
            "acdc: cut an edge if the metric gets worse by less than this.",
            default="1 % of the gap",
        ),
    ]
    max_edges: Annotated[int | None, Option("Keep at most this many edges, the best ones.")]
    steps: Annotated[
        int | None,
        Option("eap: average the gradient over this many steps (EAP-IG); 1 is plain EAP."),
    ]
    positions: Annotated[
        bool, Option("acdc: split each node by the token positions that the task names.")
    ]
    level: Annotated[
        str | None, Option("acdc: `head`, or `layer` to take each attention layer as one node.")
    ]
    orders: Annotated[
        int | None, Option("acdc: repeat the search in this many other orders of the edges.")
    ]
    screen: Annotated[
        int | None, Option("acdc: test only this many edges, those EAP ranks highest (not exact).")
    ]


class LabelerKeys(TypedDict, total=False):
    """Settings of the built-in labelers that have a command-line option of their own."""

    reveal: Annotated[bool, Option("Show the LLM the model's name, layers and head numbers.")]


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that decides a run's result besides the task's text and the model's weights.

    Only the batch sizes depend on `memory`. A run on another `device` is the same run. These never
    change the result, only how an LLM is asked and whether a run goes on: `prices`, `max_cost`,
    `concurrency`, `timeout`, `retry`, `anyway`.
    """

    discoverer: Annotated[
        str, Option("The method that finds the circuit, such as acdc or eap.")
    ] = "acdc"
    discoverer_settings: Annotated[
        Mapping[str, Any],
        Option("Any other setting of the discoverer.", name="set", keys=DiscovererKeys),
    ] = field(default_factory=dict)
    metric: Annotated[
        str | None,
        Option(
            "What is measured at the output: kl, logit_diff, prob_diff or nll.",
            default="the task's",
        ),
    ] = None
    ablation: Annotated[
        str,
        Option(
            "What a cut edge carries: corrupt (its activation on the corrupted prompt), mean, zero."
        ),
    ] = "corrupt"
    memory: Annotated[
        float, Option("Gigabytes that discovery may use; sets its batch sizes.", minimum=0.1)
    ] = DEFAULT_MEMORY
    device: Annotated[
        str,
        Option("Where the model runs: cpu, cuda, cuda:N, mps, or auto (cuda if there is one)."),
    ] = DEFAULT_DEVICE
    dtype: Annotated[
        str, Option("The type of the model's weights: float32, bfloat16, float16 or float64.")
    ] = DEFAULT_DTYPE
    revision: Annotated[
        str | None,
        Option("A commit, branch or tag of a model on the hub.", default="its main branch"),
    ] = None
    collectors: Annotated[
        tuple[str, ...] | None,
        Option("The collectors that measure the components.", default="all", on_command_line=False),
    ] = None
    labeler: Annotated[
        str | None,
        Option("Who proposes labels: rules, llm or agent.", default="llm with a key, else rules"),
    ] = None
    llm_model: Annotated[str, Option("The LLM to ask.")] = DEFAULT_LLM
    judges: Annotated[
        tuple[str, ...] | None,
        Option("The judges that test the labels.", default="the usual ones", on_command_line=False),
    ] = None
    more_judges: Annotated[
        tuple[str, ...],
        Option("A judge to add, such as prediction; repeat the option to add more.", name="judge"),
    ] = ()
    examples: Annotated[
        int | None,
        Option("Prompts to find the circuit on.", minimum=1, default="24, or 32 for a small model"),
    ] = None
    seed: Annotated[
        int, Option("The seed for drawing the task's prompts.", minimum=0, maximum=2**31 - 1)
    ] = 0
    prompts: Annotated[
        str | None,
        Option("Your own prompts (.jsonl, .csv or .json); TASK names the new task.", path="FILE"),
    ] = None
    corpus: Annotated[
        str | None,
        Option("Text to find top-activating examples in: a text file or datasets:NAME."),
    ] = None
    labeler_settings: Annotated[
        Mapping[str, Any],
        Option("A setting of the labeler, such as calls=3.", name="labeler-set", keys=LabelerKeys),
    ] = field(default_factory=dict)
    templates: Annotated[
        str | None,
        Option("Prompt templates (*.j2) to use instead of the built-in ones.", path="FOLDER"),
    ] = None
    prices: Annotated[
        str | None,
        Option("Your prices of LLMs (TOML).", path="FILE", environment="ACDC_EXPLAIN_PRICES"),
    ] = None
    max_cost: Annotated[
        float | None,
        Option(
            "The most to spend on LLM requests now, in USD; a request that could exceed it is not "
            "sent. Unusable replies, repair requests and lost replies count as well.",
            minimum=0,
        ),
    ] = None
    concurrency: Annotated[
        int, Option("How many LLM requests may run at the same time.", minimum=1)
    ] = DEFAULT_CONCURRENCY
    timeout: Annotated[float, Option("Seconds to wait for a reply of the LLM.", minimum=0.1)] = (
        DEFAULT_TIMEOUT
    )
    retry: Annotated[bool, Option("Ask again every question that got no usable reply before.")] = (
        False
    )
    anyway: Annotated[bool, Option("Go on even if the model does not reliably do the task.")] = (
        False
    )

    def check(self) -> None:
        """Check everything that needs neither the model nor the plugins. Raises UserError."""
        for setting in settings_table():
            value = getattr(self, setting.name)
            if value is not None:
                setting.option.check(setting.name, value)
        if self.templates is not None and not any(Path(self.templates).glob("**/*.j2")):
            raise WrongUsage(
                f"`templates={self.templates}` is no folder with templates (*.j2); copy those you "
                "want to change from the folder prompts/ and keep their names."
            )
        if self.ablation not in ABLATIONS:
            raise WrongUsage(
                f"There is no ablation {self.ablation!r}; choose one of {', '.join(ABLATIONS)}."
            )
        check_names(self.device, self.dtype, self.revision)


class Setting(NamedTuple):
    """One row of the table of settings."""

    name: str
    type: Any  # as annotated, without the option
    default: Any
    option: Option

    @property
    def keys(self) -> list[Setting]:
        """The keys of a mapping that are options of their own; they have no default."""
        return [] if self.option.keys is None else list(_described(self.option.keys, {}))

    @property
    def default_in_words(self) -> str | None:
        """The default as people read it; None if nothing is the default."""
        if self.option.default is not None:
            return self.option.default
        nothing = self.default is None or self.default is False or self.default in ((), {})
        return None if nothing else str(self.default)


@cache
def settings_table() -> tuple[Setting, ...]:
    """The fields of Settings in their order, with types, defaults and options."""
    defaults = {
        entry.name: entry.default if entry.default_factory is MISSING else entry.default_factory()
        for entry in fields(Settings)
    }
    return tuple(_described(Settings, defaults))


def _described(owner: type, defaults: Mapping[str, Any]) -> Iterator[Setting]:
    """A row for each annotation of a class. Raises ValueError if one has no option."""
    for name, hint in get_type_hints(owner, include_extras=True).items():
        (option,) = [x for x in getattr(hint, "__metadata__", ()) if isinstance(x, Option)]
        yield Setting(name, hint.__origin__, defaults.get(name), option)


def settings_text() -> str:
    """The table of settings as text: name, default and help of each, keys of mappings below it."""
    return "\n".join(
        _entry(setting, indent)
        for row in settings_table()
        for setting, indent in ((row, 4), *((key, 8) for key in row.keys))
    )


def _entry(setting: Setting, indent: int) -> str:
    default = setting.default_in_words
    text = f"{setting.name}: {setting.option.help}"
    text += f" Default: {default}." if default is not None else ""
    return textwrap.fill(
        text, 96, initial_indent=" " * indent, subsequent_indent=" " * (indent + 4)
    )


Settings.__doc__ = (
    f"{Settings.__doc__}\n    Attributes:\n{textwrap.indent(settings_text(), '    ')}"
)


def settings_from(options: Mapping[str, Any], base: Settings | None = None) -> Settings:
    """Settings from keywords; those that Settings does not know go to the discoverer."""
    known = set(Settings.__slots__)
    own = {name: value for name, value in options.items() if name in known}
    rest = {name: value for name, value in options.items() if name not in known}
    settings = replace(base or Settings(), **own)
    return replace(settings, discoverer_settings={**settings.discoverer_settings, **rest})
