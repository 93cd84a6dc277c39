"""`device`, `dtype` and `revision`: what is refused, what identifies a run, what is loaded again."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.errors import UserError, WrongUsage
from acdc_explain.evaluation.labels import bench_labels
from acdc_explain.models import loading
from acdc_explain.pipeline import prepare
from acdc_explain.pipeline.inputs.device import check_names, device_here
from acdc_explain.pipeline.prepare import open_run, reopen
from acdc_explain.pipeline.settings import Settings
from acdc_explain.plugins import load_plugins
from acdc_explain.progress import silent
from acdc_explain.records.run.header import run_id, versions
from acdc_explain.report.commands import commands
from acdc_explain.store.document.write import to_document
from acdc_explain.store.store import Store

from ..conftest import word_task

pytestmark = pytest.mark.usefixtures("shared_contrasts")
OPTIONS: dict[str, Any] = {
    "discoverer": "eap", "max_edges": 12, "labeler": "rules", "anyway": True,
    "collectors": ("attention",), "judges": (),
}  # fmt: skip
KNOWN_DEVICES = "choose one of auto, cpu, cuda, cuda:N, mps."
KNOWN_TYPES = "choose one of float32, bfloat16, float16, float64."
NO_CUDA = "There is no CUDA device here (torch was built without CUDA, or there is no driver); use `device=cpu`."


class TestNames:
    @pytest.mark.parametrize(
        ("options", "complaint"),
        [
            ({"device": "gpu"}, f"There is no device 'gpu'; {KNOWN_DEVICES}"),
            ({"device": "cuda:"}, f"There is no device 'cuda:'; {KNOWN_DEVICES}"),
            ({"device": "cuda:-1"}, f"There is no device 'cuda:-1'; {KNOWN_DEVICES}"),
            ({"device": "CPU"}, f"There is no device 'CPU'; {KNOWN_DEVICES}"),
            ({"device": 0}, f"There is no device 0; {KNOWN_DEVICES}"),
            ({"dtype": "float"}, f"There is no dtype 'float'; {KNOWN_TYPES}"),
            ({"dtype": torch.float64}, f"There is no dtype torch.float64; {KNOWN_TYPES}"),
            ({"device": "mps", "dtype": "float64"}, "The device mps has no float64; use `dtype=float32`, or compute on `device=cpu`."),
            ({"revision": ""}, "`revision=` is ''; give a commit, a branch or a tag of the model's repository on the Hugging Face hub."),
            ({"revision": "a b"}, "`revision=` is 'a b'; give a commit, a branch or a tag of the model's repository on the Hugging Face hub."),
        ],
    )  # fmt: skip
    def test_refused_before_anything_is_loaded(self, options, complaint, monkeypatch):
        monkeypatch.setattr(loading, "load_model", lambda *_, **__: 1 / 0)
        with pytest.raises(WrongUsage) as caught:
            Settings(**options).check()
        assert str(caught.value) == complaint
        with pytest.raises(WrongUsage) as caught:
            ax.load_model("mini", **options)
        assert str(caught.value) == complaint

    @pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:11", "mps"])
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_allowed(self, device, dtype):
        check_names(device, dtype, None)
        check_names(device, dtype, "refs/pr/7")


class TestDeviceHere:
    @staticmethod
    def with_devices(monkeypatch, n: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: n > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: n)

    def test_auto_is_cuda_where_there_is_one(self, monkeypatch):
        self.with_devices(monkeypatch, 0)
        assert device_here("auto") == "cpu"
        self.with_devices(monkeypatch, 2)
        assert device_here("auto") == "cuda"

    @pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:1"])
    def test_one_that_is_there(self, device, monkeypatch):
        self.with_devices(monkeypatch, 2)
        assert device_here(device) == device

    @pytest.mark.parametrize(
        ("device", "n", "complaint"),
        [
            ("cuda", 0, NO_CUDA),
            ("cuda:1", 0, NO_CUDA),
            ("cuda:7", 2, "There is no device cuda:7 here: CUDA devices are counted from 0, and there are 2; use `device=cuda:1`."),
            ("cuda:1", 1, "There is no device cuda:1 here: CUDA devices are counted from 0, and there is 1; use `device=cuda:0`."),
        ],
    )  # fmt: skip
    def test_one_that_is_not(self, device, n, complaint, monkeypatch):
        self.with_devices(monkeypatch, n)
        with pytest.raises(UserError) as caught:
            device_here(device)
        assert str(caught.value) == complaint

    def test_no_mps(self, monkeypatch):
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
        with pytest.raises(UserError, match="There is no MPS device here .* use `device=cpu`"):
            device_here("mps")


class Loader:
    """Stands for `loading.load_model`: notes how it is called and gives a model of the type."""

    def __init__(self, small_model: Any) -> None:
        self.small_model = small_model
        self.asked: list[dict[str, Any]] = []

    def __call__(self, name: str, *, sources: Any, **options: Any) -> Any:
        self.asked.append(options)
        model = self.small_model("neox", dtype=options["dtype"])
        model.revision = options["revision"]
        return model


@pytest.fixture
def loader(small_model, monkeypatch) -> Any:
    """A loader in place of the real one; the models are as before when the test is over."""
    for dtype in ("float32", "float64"):
        monkeypatch.setattr(small_model("neox", dtype=dtype), "revision", None, raising=False)
    made = Loader(small_model)
    monkeypatch.setattr(loading, "load_model", made)
    return made


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(tmp_path / "s.duckdb")


def explained(store: Store, model: Any = "some/model", **more: Any) -> ax.Run:
    return ax.explain(word_task(4), model, store=store, **OPTIONS, **more)


class TestRuns:
    def test_the_defaults_leave_the_id_as_it_was(self, store, loader):
        header = explained(store).header
        assert loader.asked == [{"device": "cpu", "dtype": "float32", "revision": None}]
        assert not {"device", "dtype", "revision"} & set(header.settings)
        assert "device" not in header.versions
        said = explained(store, device="cpu", dtype="float32")
        assert (said.id, said.reused) == (header.id, True)

    def test_another_type_is_another_run_and_shares_no_circuit(self, store, loader):
        """The weights, and so the model's id, are the same."""
        usual, other = explained(store), explained(store, dtype="float64")
        assert loader.asked[1]["dtype"] == "float64"
        assert usual.header.model_id == other.header.model_id
        assert usual.id != other.id
        assert other.header.settings["dtype"] == "float64"
        assert other.header.settings == {**usual.header.settings, "dtype": "float64"}
        assert usual.circuit is not None
        assert other.circuit is not None
        assert usual.circuit.id != other.circuit.id
        assert not {e.id for e in usual.evidence} & {e.id for e in other.evidence}
        assert explained(store, dtype="float64").reused
        assert store.verify() == []

    def test_a_loaded_model_says_its_own_type(self, store, small_model):
        run = explained(store, small_model("neox", dtype="float64"))
        assert run.header.settings["dtype"] == "float64"
        with pytest.raises(WrongUsage) as caught:
            explained(store, small_model("neox"), dtype="float64")
        assert str(caught.value) == (
            "`dtype=float64` does not fit the loaded model (float32); load it with "
            "`dtype=float64`, or leave it out."
        )

    def test_a_loaded_model_stays_where_it_is(self, store, small_model):
        with pytest.raises(WrongUsage, match="`device=cuda` does not fit the loaded model .cpu."):
            explained(store, small_model("neox"), device="cuda")

    def test_the_revision_is_part_of_what_was_run(self, store, loader):
        usual, other = explained(store), explained(store, revision="step1000")
        assert loader.asked[1]["revision"] == "step1000"
        assert usual.id != other.id
        assert other.header.settings == {**usual.header.settings, "revision": "step1000"}
        model = ax.load_model("some/model", revision="step1000")
        assert explained(store, model).id == other.id
        with pytest.raises(WrongUsage, match="`revision=v2` does not fit the loaded model .step10"):
            explained(store, model, revision="v2")

    def test_the_device_is_noted_and_makes_no_other_run(self, small_model, monkeypatch, store):
        model, moved = small_model("neox"), torch.device("cuda:1")
        here = open_run(word_task(4), model, store, Settings(**_settings()), silent).header
        monkeypatch.setattr(type(model), "device", moved)
        there = prepare._header(word_task(4), model, 0, here.settings)
        assert there.id == here.id
        assert there.device == there.versions["device"] == "cuda:1"
        assert here.device == "cpu"
        assert there.versions == {**here.versions, "device": "cuda:1"} == versions("cuda:1")
        assert there.id == run_id(there.task_id, there.model_id, there.settings, there.versions)

    def test_draws_are_loaded_once_as_the_settings_say(self, loader, store, monkeypatch):
        seen: list[Any] = []

        def explain(task: Any, model: Any, *, settings: Settings, **_: Any) -> Any:
            seen.append((model.dtype, settings.seed, settings.dtype))

        monkeypatch.setattr("acdc_explain.evaluation.stability.explain", explain)
        way = {"dtype": "float64", "revision": "v1", "device": "cpu"}
        ax.stability("ioi", "some/model", seeds=2, store=store, **way)
        assert loader.asked == [way]
        assert seen == [(torch.float64, 0, "float64"), (torch.float64, 1, "float64")]


def _settings() -> dict[str, Any]:
    own = {k: v for k, v in OPTIONS.items() if k != "max_edges"}
    return {**own, "discoverer_settings": {"max_edges": 12}}


@pytest.fixture
def special(store, loader) -> ax.Run:
    """A run in float64, of a revision."""
    run = explained(store, dtype="float64", revision="it's;v1")
    loader.asked.clear()
    return run


class TestAgain:
    """What goes on from a stored run loads its model as it was."""

    def test_label_and_judge(self, special, store, loader):
        revision = special.header.settings["revision"]
        more = Settings(more_judges=("role_card",), device="cpu", anyway=True)
        judged = ax.judge(special, store, more)
        assert loader.asked == [{"device": "cpu", "dtype": "float64", "revision": revision}]
        for name in ("dtype", "revision"):
            assert judged.header.settings[name] == special.header.settings[name]
        labeled = ax.label(special, store, replace(more, labeler="rules"))
        assert labeled.header.settings["dtype"] == "float64"
        assert labeled.id == judged.id

    @pytest.mark.parametrize(("name", "other"), [("dtype", "bfloat16"), ("revision", "v2")])
    def test_another_way_is_refused(self, name, other, special, store):
        with pytest.raises(WrongUsage) as caught:
            reopen(special, store, Settings(**{name: other}), silent)
        assert str(caught.value) == (
            f"`{name}={other}` is not how the model of run {special.id} was loaded "
            f"({special.header.settings[name]}); leave it out, or run the task again with it."
        )

    def test_a_device_that_is_not_here_is_refused_before_the_work(
        self, special, store, monkeypatch
    ):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(UserError, match="There is no CUDA device here"):
            reopen(special, store, Settings(device="cuda", labeler="rules"), silent)

    def test_the_device_stays_noted(self, special, store):
        noted = replace(special.header, versions=versions("cuda:1"))
        work = reopen(replace(special, header=noted), store, Settings(labeler="rules"), silent)
        assert work.header.id == special.id
        other = reopen(
            replace(special, header=noted), store, Settings(more_judges=("role_card",)), silent
        )
        assert other.header.device == "cuda:1"

    def test_the_command_has_them(self, special):
        (*_, command) = commands(special, load_plugins())
        words = shlex.split(command)
        for name in ("dtype", "revision"):
            assert words[words.index(f"--{name}") + 1] == special.header.settings[name]
        assert "--device" not in words

    def test_the_usual_run_does_not(self, store, loader):
        (*_, command) = commands(explained(store), load_plugins())
        assert not {"--device", "--dtype", "--revision"} & set(command.split())

    def test_the_export_says_it(self, special, store):
        document = to_document(store.get(special.id))
        assert document["run"]["settings"]["dtype"] == "float64"
        assert document["circuit"]["settings"]["dtype"] == "float64"


def test_known_roles_are_tested_in_the_type(monkeypatch):
    asked: list[dict[str, Any]] = []

    def load(name: str, **options: Any) -> Any:
        asked.append({**options, "sources": None})
        raise UserError("stopped here")

    monkeypatch.setattr("acdc_explain.evaluation.labels.load_model", load)
    settings = Settings(device="cpu", dtype="float64")
    with pytest.raises(UserError, match="stopped here"):
        bench_labels(load_plugins(), ["mini"], silent, settings)
    assert asked == [{"device": "cpu", "dtype": "float64", "sources": None}]
