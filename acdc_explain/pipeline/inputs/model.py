"""The model of a run: loaded from a name, or loaded already, and as the settings say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ...errors import WrongUsage
from ...models.options import DEFAULT_DEVICE, DEFAULT_DTYPE
from ...plugins import load_plugins
from ...progress import Progress, silent
from .device import check_names, device_here

if TYPE_CHECKING:
    from ...models.loading import Source
    from ...models.model import Model
    from ...records.run.header import RunHeader
    from ..settings import Settings


def load_model(
    name: str,
    *,
    device: str = DEFAULT_DEVICE,
    dtype: str = DEFAULT_DTYPE,
    revision: str | None = None,
    sources: Mapping[str, Source] | None = None,
    progress: Progress = silent,
) -> Model:
    """Load a model, and check that its residual stream can be taken apart exactly.

    Args:
        name: A model that a plugin brings (`mini`), a folder, a .gguf file, or a name on the
            Hugging Face hub.
        device: Where it runs: `cpu`, `cuda`, `cuda:1` or `mps`; `auto` is cuda if there is one
            here, else cpu.
        dtype: What its weights are in: `float32`, `bfloat16`, `float16` or `float64`.
        revision: A commit, a branch or a tag of a model on the hub; None: its main branch.
        sources: Where models are, by name; None: as the plugins say.
        progress: Told when the loading begins and ends.

    Returns:
        The model, whose nodes can be read and written.

    Raises:
        UserError: in one sentence, for anything that cannot be loaded or taken apart, and for a
            device that is not here.
    """
    check_names(device, dtype, revision)
    device = device_here(device)
    from ...models import loading  # torch and transformers, only when they are needed

    progress("load", 0, 1, name)
    if sources is None:
        sources = load_plugins().models()
    model = loading.load_model(name, device=device, dtype=dtype, revision=revision, sources=sources)
    progress("load", 1, 1, model.name)
    return model


def load_for(
    model: str | Model, settings: Settings, progress: Progress = silent
) -> tuple[Model, dict[str, str]]:
    """The model that a run is on, loaded as its settings say.

    Args:
        model: What `load_model` takes, or a loaded model.
        settings: The device, the type and the revision.
        progress: As for `load_model`.

    Returns:
        The model; and its type and revision where they are not the usual ones, since these decide
        the result.

    Raises:
        UserError: as `load_model`; also for a loaded model that is not as the settings say.
    """
    revision = settings.revision
    if isinstance(model, str):
        model = load_model(
            model,
            device=settings.device,
            dtype=settings.dtype,
            revision=revision,
            progress=progress,
        )
    else:
        _check_loaded(model, settings)
        revision = model.revision
    dtype = model.dtype_name
    special = {} if dtype == DEFAULT_DTYPE else {"dtype": dtype}
    return model, special if revision is None else {**special, "revision": revision}


def check_as_stored(stored: RunHeader, settings: Settings) -> None:
    """Whether settings can load the model of a stored run as it was; their defaults say nothing.

    Raises:
        UserError: if they name another type or revision, or a device that is not here.
    """
    for name, usual in (("dtype", DEFAULT_DTYPE), ("revision", None)):
        asked, has = getattr(settings, name), stored.settings.get(name, usual)
        if asked not in (usual, has):
            raise WrongUsage(
                f"`{name}={asked}` is not how the model of run {stored.id} was loaded "
                f"({has or f'no {name}'}); leave it out, or run the task again with it."
            )
    if settings.device != DEFAULT_DEVICE:
        device_here(settings.device)


def _check_loaded(model: Model, settings: Settings) -> None:
    """Whether a loaded model is as settings say, whose defaults say nothing. Raises UserError."""
    device = str(model.device)
    has = {
        "device": settings.device if device.split(":")[0] == settings.device else device,
        "dtype": model.dtype_name,
        "revision": model.revision,
    }
    usual = {"device": DEFAULT_DEVICE, "dtype": DEFAULT_DTYPE, "revision": None}
    for name, value in has.items():
        asked = getattr(settings, name)
        if asked not in (usual[name], value):
            raise WrongUsage(
                f"`{name}={asked}` does not fit the loaded model ({value or f'no {name}'}); load "
                f"it with `{name}={asked}`, or leave it out."
            )
