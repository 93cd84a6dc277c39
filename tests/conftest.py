"""Small models made on the fly, with a tokenizer of whole words."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # no test may depend on a network
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # workers share the cores
for variable in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "ACDC_EXPLAIN_DB"):
    os.environ.pop(variable, None)

WORDS = "the cat dog bird fish saw ate liked big small red blue one two three four five six".split()
FAMILIES = ("gpt2", "llama", "neox", "neox_parallel")
OWN_FAMILIES = (*FAMILIES, "qwen3", "mistral")  # of `make_hf_model`; others of models/families.py
MORE_FAMILIES = (
    "qwen3",  # norms on queries and keys
    "mistral",  # queries that see four tokens
    "gemma2",  # norms after heads and MLPs, soft caps
    "olmo2",  # the same, without norms before them; norms over all heads' queries
    "gptj",  # interleaved rotary positions; a bias of the unembedding
    "bloom",  # ALiBi
    "mixtral",  # experts
)
HEADS, WIDTH = 4, 32


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the slow tests")


@pytest.hookimpl(tryfirst=True)  # before -m chooses among the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    cases: Counter[str] = Counter()
    for item in items:
        if marker := item.get_closest_marker("slow_after"):
            function = item.nodeid.partition("[")[0]
            cases[function] += 1
            if cases[function] > marker.args[0]:
                item.add_marker(pytest.mark.slow)
    if config.getoption("--slow"):
        return
    for item in items:
        if "slow" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


@pytest.fixture(autouse=True, scope="session")
def _softmax_in_float64() -> Iterator[None]:
    """GPT-NeoX computes its softmax in float32 even in float64; here it does not.

    In float64 a bug cannot hide behind noise. Norms that compute in float32 stay as they are.
    """
    functional = __import__("torch").nn.functional
    softmax = functional.softmax

    def in_own_type(x: Any, *args: Any, dtype: Any = None, **options: Any) -> Any:
        is_double = x.element_size() == 8
        return softmax(x, *args, dtype=None if is_double else dtype, **options)

    functional.softmax = in_own_type
    yield
    functional.softmax = softmax


@pytest.fixture(autouse=True)
def _own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes a store where it was started."""
    monkeypatch.setenv("ACDC_EXPLAIN_DB", str(tmp_path / "store.duckdb"))


def make_tokenizer() -> Any:
    """Words with the space before them are one token each; `<bos>` is put in front."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<bos>", "<unk>", *WORDS, *(f" {word}" for word in WORDS)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r" ?\w+"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", special_tokens=[("<bos>", 0)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", unk_token="<unk>", pad_token="<bos>"
    )


def make_hf_model(family: str, *, layers: int = 2, seed: int = 0, scale: float = 4.0) -> Any:
    """A random transformer. Weights are scaled up so that heads attend to something."""
    import torch
    import transformers

    torch.manual_seed(seed)
    vocabulary = 2 + 2 * len(WORDS)
    if family == "gpt2":
        config: Any = transformers.GPT2Config(
            vocab_size=vocabulary, n_embd=WIDTH, n_layer=layers, n_head=HEADS, n_positions=32,
            bos_token_id=0, eos_token_id=0, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
        )  # fmt: skip
        model: Any = transformers.GPT2LMHeadModel(config)
    elif family in ("llama", "qwen3", "mistral"):
        name = {"llama": "Llama", "qwen3": "Qwen3", "mistral": "Mistral"}[family]
        own = {"qwen3": {"head_dim": WIDTH // HEADS}, "mistral": {"sliding_window": 4}}
        config = getattr(transformers, f"{name}Config")(
            vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=layers,
            num_attention_heads=HEADS, num_key_value_heads=2, intermediate_size=48,
            max_position_embeddings=32, bos_token_id=0, eos_token_id=0, **own.get(family, {}),
        )  # fmt: skip
        model = getattr(transformers, f"{name}ForCausalLM")(config)
    else:
        config = transformers.GPTNeoXConfig(
            vocab_size=vocabulary, hidden_size=WIDTH, num_hidden_layers=layers,
            num_attention_heads=HEADS, intermediate_size=48, max_position_embeddings=32,
            use_parallel_residual=family == "neox_parallel", bos_token_id=0, eos_token_id=0,
        )  # fmt: skip
        model = transformers.GPTNeoXForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter *= scale
            elif "bias" in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model.eval()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A folder in Hugging Face format for a family."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp(family)
            if family in OWN_FAMILIES:
                make_hf_model(family).save_pretrained(made[family])
                make_tokenizer().save_pretrained(made[family])
            else:
                from .models.families import save

                save(family, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def small_model(model_folder: Callable[[str], Path]) -> Callable[..., Any]:
    """A loaded model of a family: `small_model("gpt2", dtype="float64")`."""
    from acdc_explain import load_model

    loaded: dict[tuple[str, str], Any] = {}

    def load(family: str, dtype: str = "float32") -> Any:
        if (family, dtype) not in loaded:
            loaded[family, dtype] = load_model(str(model_folder(family)), dtype=dtype)
        return loaded[family, dtype]

    return load


def word_task(n: int = 4, *, seed: int = 0, length: int = 6) -> Any:
    """Random words; clean and corrupted prompts differ in two places."""
    import random

    from acdc_explain.records.task import Example, Task

    rng = random.Random(seed)
    examples = []
    for _ in range(2 * n):
        words = [f" {word}" for word in rng.choices(WORDS, k=length + rng.randint(0, 2))]
        corrupt = list(words)
        for place in rng.sample(range(len(words)), 2):
            corrupt[place] = f" {rng.choice(WORDS)}"
        answer, foil = rng.sample([f" {word}" for word in WORDS], 2)
        examples.append(
            Example("".join(words), "".join(corrupt), (answer,), (foil,), {"END": len(words) - 1})
        )
    return Task("words", "Random words.", "logit_diff", tuple(examples[:n]), tuple(examples[n:]))


@pytest.fixture(scope="session")
def mini() -> Any:
    from acdc_explain import load_model

    return load_model("mini")


@pytest.fixture(scope="session")
def _words_measured(small_model: Callable[..., Any], tmp_path_factory: Any) -> Path:
    """A store that holds the circuit of `words` and its evidence, and no run."""
    import duckdb

    import acdc_explain as ax

    folder = tmp_path_factory.mktemp("measured")
    run = ax.explain(
        word_task(4), small_model("neox"), store=folder / "run.duckdb", labeler="rules",
        discoverer="eap", max_edges=12, judges=(), anyway=True,
    )  # fmt: skip
    store = ax.Store(folder / "measured.duckdb")
    writer = store.writer(run.id)
    store.add_circuit(run.circuit)
    writer.write_header(run.header)
    writer.add_evidence(run.evidence)
    with duckdb.connect(str(store.path)) as connection:
        for table in ("runs", "run_evidence", "standings"):
            connection.execute(f"DELETE FROM {table}")
    return store.path


_contrasts: dict[tuple[Any, ...], Any] = {}


@pytest.fixture
def measured(
    _words_measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared_contrasts: None
) -> Any:
    """A store in which a run on `words` by `neox` finds circuit and evidence as from before.

    For tests of what is done with them: labels, verdicts, what is stored of a run.
    """
    import acdc_explain as ax

    path = tmp_path / "s.duckdb"
    shutil.copyfile(_words_measured, path)
    return ax.Store(path)


@pytest.fixture
def shared_contrasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was measured on the same prompts in other tests is remembered, as within one run."""
    from acdc_explain.models.contrast import NoCheckpoints
    from acdc_explain.pipeline.context import RunContext

    new = RunContext._contrast

    def contrast(run: Any, split: str) -> Any:
        model, chosen = run.load(), run.header.settings
        how = (chosen["metric"], chosen["ablation"], run.settings.memory)
        key = (model, run.task.id, split, *how)
        if key not in _contrasts:
            _contrasts[key] = new(run, split)
        _contrasts[key].checkpoints = NoCheckpoints()
        return _contrasts[key]

    monkeypatch.setattr(RunContext, "_contrast", contrast)
