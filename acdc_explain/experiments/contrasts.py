"""What experiments begin with: a model on a task's prompts, and a circuit without a store."""

from __future__ import annotations

from typing import Any

from ..discovery import search
from ..errors import UserError
from ..models.contrast import Contrast
from ..models.model import Model
from ..models.options import DEFAULT_MEMORY, Ablation
from ..plugins import load_plugins
from ..progress import Progress, silent
from ..records.circuit import Circuit, Node
from ..records.task import Split, Task, check_examples


def contrast(
    task: Task,
    model: Model,
    split: Split = "discover",
    *,
    metric: str | None = None,
    ablation: Ablation = "corrupt",
    memory: float = DEFAULT_MEMORY,
) -> Contrast:
    """The model on the clean and the corrupted prompts of a task: what every experiment works on.

    Args:
        task: The task, checked against the model's tokenizer.
        model: A loaded model.
        split: `discover` or `held_out`.
        metric: `logit_diff`, `prob_diff`, `kl` or `nll`; None: the task's own.
        ablation: What a cut edge carries: the sender's output on the corrupted prompt
            (`corrupt`), its `mean` over those, or `zero`.
        memory: Gigabytes that a search may take.

    Returns:
        The contrast; both runs are made when they are first needed.

    Raises:
        UserError: for a prompt that does not fit the model, or a metric that does not fit.
    """
    check_examples(task, model)
    examples = getattr(task, split)
    if not examples:
        raise UserError(f"Task {task.name!r} has no {split} prompts.")
    return Contrast(model, task, examples, metric, ablation, memory=memory)


def node_named(node: str | Node) -> Node:
    """A node, or the one of a name. Raises UserError for a text that names none."""
    if isinstance(node, Node):
        return node
    try:
        return Node.parse(node)
    except ValueError as error:
        raise UserError(f"{error}.") from None


def find_circuit(
    task: Task,
    model: Model,
    discoverer: str = "acdc",
    *,
    metric: str | None = None,
    ablation: Ablation = "corrupt",
    memory: float = DEFAULT_MEMORY,
    progress: Progress = silent,
    **settings: Any,
) -> Circuit:
    """Find a task's circuit, without a store.

    Args:
        task: The task. Its discovery prompts decide the edges; faithfulness is measured on the
            held-out ones, or on the discovery prompts if none are held out.
        model: A loaded model.
        discoverer: `acdc`, `eap`, or one that a plugin brings.
        metric, ablation, memory: As for `contrast`.
        progress: Called with the stage, how much is done, of how much, and a note.
        settings: Settings of the discoverer, such as `tau` or `max_edges`.

    Returns:
        The circuit: its edges with their effects, and how faithful it is.

    Raises:
        UserError: for an unknown discoverer or setting, or prompts that do not fit the model.
    """
    plugins = load_plugins()
    resolved = plugins.discoverer_settings(discoverer, settings)
    options: dict[str, Any] = {"metric": metric, "ablation": ablation, "memory": memory}
    prompts = contrast(task, model, "discover", **options)
    held_out = contrast(task, model, "held_out", **options) if task.held_out else prompts
    code = plugins.code("register_discoverers", discoverer)
    return search.find_circuit(
        discoverer,
        plugins.discoverers()[discoverer],
        prompts,
        held_out,
        resolved,
        recorded=search.recorded_settings(prompts, resolved, code),
        owner=plugins.owner("register_discoverers", discoverer),
        progress=progress,
    )
