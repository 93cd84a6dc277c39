"""What a run begins with: the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..plugins import load_plugins
from ..progress import Progress, silent

if TYPE_CHECKING:
    from ..models.loading import Source
    from ..models.model import Model


def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    sources: Mapping[str, Source] | None = None,
    progress: Progress = silent,
) -> Model:
    """Load a model, and check that its residual stream can be taken apart exactly.

    Args:
        name: A model that a plugin brings (`mini`), a folder, a .gguf file, or a name on the
            Hugging Face hub.
        device: Where its weights are put, as torch names devices.
        dtype: What its weights are in: `float32` or `float64`.
        sources: Where models are, by name; None: as the plugins say.
        progress: Told when the loading begins and ends.

    Returns:
        The model, whose nodes can be read and written.

    Raises:
        UserError: in one sentence, for anything that cannot be loaded or taken apart.
    """
    from ..models import loading  # torch, only when it is needed

    progress("load", 0, 1, name)
    if sources is None:
        sources = load_plugins().models()
    model = loading.load_model(name, device=device, dtype=dtype, sources=sources)
    progress("load", 1, 1, model.name)
    return model
