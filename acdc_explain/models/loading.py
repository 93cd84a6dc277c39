"""Load a transformer from a name, a folder or a file, if it splits into heads and MLPs exactly."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UserError, first_line
from ..guard import Unfit, must_work
from .model import Model
from .network.find import find_network
from .network.names import Names
from .network.norm import UnsupportedModel
from .network.shared import ungroup
from .network.watch import plain_logits, probe_tokens
from .weights import (
    check_gguf,
    check_numbers,
    check_split,
    check_tokenizer,
    check_weights,
    no_pickles,
    no_tokenizer,
)

Source = Callable[[], "str | Path"]
"""Returns where a model is: a folder, a .gguf file or a name on the hub."""
Read = tuple[Any, Any]  # the Hugging Face model and its tokenizer


def load_model(
    name: str,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    revision: str | None = None,
    sources: Mapping[str, Source],
) -> Model:
    """Load a model.

    Args:
        name: A key of `sources`, a folder, a .gguf file or a name on the Hugging Face hub.
        device: As PyTorch names it.
        dtype: Of the weights, as PyTorch names it.
        revision: A commit, a branch or a tag of a model on the hub; None: its main branch.
        sources: Models of plugins by name.

    Returns:
        The model, in evaluation mode, with the grouped keys and values of heads copied to every
        head (see `ungroup`).

    Raises:
        UserError: The model cannot be found, read, or split into heads and MLPs exactly.
    """
    location = str(_location_from(name, sources[name])) if name in sources else name
    hub = {} if revision is None else {"revision": revision}
    if hub and (location.endswith(".gguf") or Path(location).exists()):
        raise UserError(f"{name} is not read from the hub here, so leave out `revision=`.")
    with quiet():
        hf_model, tokenizer = _read(name, location, list(sources), getattr(torch, dtype), **hub)
        hf_model.eval().requires_grad_(False)
        hf_model.config.use_cache = False  # a layer run twice must not see its first run's keys
        digest, n_parameters = weights_digest(hf_model), hf_model.num_parameters()
        model = _split(name, hf_model.to(device), tokenizer, digest, n_parameters)
        model.revision = revision
        check_split(model)
        return model


@torch.no_grad()
def _split(name: str, hf_model: Any, tokenizer: Any, digest: str, n_parameters: int) -> Model:
    """The model with its nodes. Raises UserError if they cannot be found."""
    kind = type(hf_model).__name__
    try:
        names = Names.of(hf_model)  # before the model is run: some cannot be
        tokens = probe_tokens(hf_model)
        logits = plain_logits(hf_model, tokens)
        ungroup(hf_model)
        network = find_network(hf_model, names, tokens, logits)
    except UnsupportedModel as reason:
        raise UserError(
            f"{name} ({kind}) cannot be split into heads and MLPs here: {reason}; docs/models.md "
            "lists the families that can."
        ) from reason
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
        message = first_line(error, 200)
        raise UserError(
            f"{name} ({kind}) cannot be split into heads and MLPs here: its layers are built in a "
            f"way that is not known ({message}); docs/models.md lists the families that can."
        ) from error
    return Model(name, network, tokenizer, digest=digest, n_parameters=n_parameters)


def _location_from(name: str, source: Source) -> str | Path:
    """Where a plugin's model is. Raises UserError for a plugin that fails."""
    with must_work(f"model {name!r} of a plugin"):
        location = source()
        if not isinstance(location, (str, Path)):
            raise Unfit(f"it returned {type(location).__name__}, which is no path or name")
        return location


def _read(name: str, location: str, names: list[str], dtype: torch.dtype, **hub: Any) -> Read:
    """The Hugging Face model and its tokenizer. Raises UserError."""
    path = Path(location)
    if location.endswith(".gguf"):
        if not path.is_file():
            raise UserError(f"There is no file {location}; give the path of a .gguf file.")
        return _pretrained(name, str(path.parent), dtype, gguf_file=path.name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f"The folder {location} has no config.json, so it holds no Hugging Face model; "
                "give a folder that save_pretrained wrote."
            )
        return _pretrained(name, location, dtype)
    if path.exists():
        raise UserError(
            f"{location} is a file, but no .gguf file; give a .gguf file or a model's folder."
        )
    if "/" in location and location.startswith((".", "/", "~")):
        raise UserError(f"There is no folder {location}; give the path of a model's folder.")
    return _from_hub(name, location, names, dtype, **hub)


def _from_hub(name: str, location: str, names: list[str], dtype: torch.dtype, **hub: Any) -> Read:
    from transformer_lens.tools.model_registry.registry_io import resolve_model_alias

    official = resolve_model_alias(location) or location
    online = hub_reachable()
    try:
        return _pretrained(name, official, dtype, local_files_only=not online, **hub)
    except UserError:
        raise
    except (OSError, ValueError) as error:
        message = first_line(error, 200)
        reason = (
            f"and it cannot be loaded from the Hugging Face hub ({message})"
            if online
            else "and the Hugging Face hub cannot be reached from here"
        )
        raise UserError(
            f"There is no model {name!r}{' of this revision' if hub else ''}: it is none of "
            f"{', '.join(names)}, no folder and no .gguf file, {reason}; see `acdc-explain models`."
        ) from error


def hub_reachable() -> bool:
    """Whether the Hugging Face hub answers; asking first avoids minutes of retries."""
    from urllib.error import HTTPError
    from urllib.request import urlopen

    if os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        return False
    try:
        urlopen(os.environ.get("HF_ENDPOINT", "https://huggingface.co"), timeout=4).close()
    except HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True


def _pretrained(name: str, folder: str, dtype: torch.dtype, **options: Any) -> Read:
    """Read a model and its tokenizer, with weights from safetensors or GGUF and never pickles.

    Code that comes with a model is never run. Raises UserError; for a model of the hub also the
    OSError or ValueError of its reader.
    """
    from transformers import AutoConfig

    local = Path(folder).is_dir()
    where = os.path.join(folder, options.get("gguf_file", "")).rstrip("/") if local else folder
    with no_pickles() as pickles, one_gguf_reader():
        try:
            config = AutoConfig.from_pretrained(folder, trust_remote_code=False, **options)
            _check_architecture(name, config)
            hf_model = _whole_model(where, folder, dtype, options)
            return hf_model, _tokenizer_of(where, folder, hf_model, options)
        except Exception as error:  # a broken file makes the readers raise anything
            if pickles:
                raise UserError(
                    f"{where} has weights in a pickle ({pickles[0]}), which could run code and is "
                    "never read here; save them as safetensors."
                ) from error
            if isinstance(error, UserError):
                raise
            if "trust_remote_code" in str(error):
                raise UserError(
                    f"{where} can only be read by running Python code that comes with it "
                    "(auto_map), which acdc-explain never does; use a model whose architecture "
                    "is part of transformers."
                ) from error
            if not local:
                raise
            message = first_line(error, 200)
            raise UserError(f"{where} cannot be read as a model: {message}") from error


def _whole_model(where: str, folder: str, dtype: torch.dtype, options: Mapping[str, Any]) -> Any:
    """The model with all its weights from the checkpoint. Raises UserError if any do not fit."""
    from transformers import AutoModelForCausalLM

    file = options.get("gguf_file")
    weights = {} if file else {"use_safetensors": True}
    hf_model, loading_info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager", experts_implementation="eager",
        trust_remote_code=False, output_loading_info=True, ignore_mismatched_sizes=True,
        **options, **weights,
    )  # fmt: skip
    check_weights(where, hf_model, loading_info)
    if file:
        check_gguf(where, Path(folder) / file, hf_model)
    check_numbers(where, hf_model)
    return hf_model


def _tokenizer_of(where: str, folder: str, hf_model: Any, options: Mapping[str, Any]) -> Any:
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, **options)
    except Exception as error:  # a broken file makes the reader raise anything
        if not Path(folder).is_dir() or "trust_remote_code" in str(error):
            raise
        raise no_tokenizer(where) from error
    check_tokenizer(where, hf_model, tokenizer)
    return tokenizer


def _check_architecture(name: str, config: Any) -> None:
    """Raise UserError for a model that predicts no next token."""
    architectures = getattr(config, "architectures", None) or [config.model_type]
    causal = [a for a in architectures if a.endswith(("ForCausalLM", "LMHeadModel"))]
    if "architectures" in config.to_dict() and config.architectures and not causal:
        raise UserError(
            f"{name} is a {architectures[0]}; acdc-explain reads classes that predict the next "
            "token, whose names end with ForCausalLM or LMHeadModel."
        )


def weights_digest(hf_model: Any) -> str:
    """A short hash of the names and values (as float32) of all weights."""
    digest = hashlib.sha256()
    for key, value in sorted(hf_model.state_dict().items()):
        digest.update(key.encode())
        digest.update(memoryview(value.detach().float().cpu().contiguous().numpy()).cast("B"))
    return digest.hexdigest()[:12]


@contextlib.contextmanager
def one_gguf_reader() -> Iterator[None]:
    """Let a GGUF file be parsed once: transformers parses it anew for each part of a model.

    That takes most of the time where there are many tokens (Gemma 3 has 262,144).
    """
    import gguf

    module: Any = gguf
    parse = module.GGUFReader
    module.GGUFReader = functools.cache(parse)
    try:
        yield
    finally:
        module.GGUFReader = parse


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars and notices of the libraries that load models."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
