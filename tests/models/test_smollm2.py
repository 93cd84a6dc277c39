"""A real language model: the labels agree with measurements made with plain Hugging Face alone."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch

import acdc_explain as ax
from acdc_explain.discovery.engine.choose import engine_for
from acdc_explain.discovery.engine.proof import fast_trouble
from acdc_explain.discovery.engine.reference import ReferenceEngine
from acdc_explain.models.contrast import Contrast
from acdc_explain.plugins import load_plugins
from acdc_explain.records.circuit import LOGITS, Edge, Node
from acdc_explain.records.graph import SearchGraph
from acdc_explain.records.verdict import worst
from acdc_explain.store.store import Store

pytestmark = pytest.mark.slow

# names, templates and words that no built-in task uses
TEMPLATES = (
    "During the meeting,{A} and{B} argued about the plan, and{S} threw a{O} at",
    "This morning{A} and{B} were on the boat.{S} lent a{O} to",
)
NAMES = "Ruth Wendy Naomi Hugo Oscar Felix Leo Ivan Clara Nina Max Victor".split()
OBJECTS = "pencil stick blanket coat".split()


@pytest.fixture(scope="module")
def smollm2(monkeypatch_module) -> Any:
    try:
        return ax.load_model("smollm2-135m")
    except ax.UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def monkeypatch_module() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        yield patch


@pytest.fixture(scope="module")
def run(smollm2, tmp_path_factory) -> Any:
    store = Store(tmp_path_factory.mktemp("smollm2") / "s.duckdb")
    return ax.explain(
        "ioi", smollm2, store=store, discoverer="eap", max_edges=250, examples=8,
        collectors=("attention", "direct_logits", "patching", "routes", "weights"),
        judges=("role_card", "sufficiency"),
    )  # fmt: skip


class Plain:
    """Direct effect, attention and copying of every head, from the Hugging Face model alone."""

    def __init__(self, folder: str, file: str) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=file, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        cfg = self.model.config
        self.layers, self.heads = cfg.num_hidden_layers, cfg.num_attention_heads
        self.d = cfg.hidden_size // self.heads

    def token(self, word: str) -> int:
        (token,) = self.tokenizer(word, add_special_tokens=False).input_ids
        return token

    @torch.no_grad()
    def on_prompts(self, n: int = 24) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean direct effect on answer minus other name, and attention to them [layer head]."""
        rng = random.Random(0)
        direct = torch.zeros(self.layers, self.heads)
        attends = torch.zeros(self.layers, self.heads)
        unembedding, norm = self.model.lm_head.weight, self.model.model.norm
        for number in range(n):
            io, s = rng.sample(NAMES, 2)
            a, b = (io, s) if number % 2 else (s, io)
            words = {"A": a, "B": b, "S": s, "O": rng.choice(OBJECTS)}
            text = TEMPLATES[number % 4 // 2].format(**{k: f" {v}" for k, v in words.items()})
            ids = self.tokenizer(text, add_special_tokens=False).input_ids
            read: list[torch.Tensor] = []  # what each output projection and the last norm read
            projections = [layer.self_attn.o_proj for layer in self.model.model.layers]
            handles = [
                module.register_forward_pre_hook(partial(_keep_last, read))
                for module in (*projections, norm)
            ]
            out = self.model(torch.tensor([ids]), output_attentions=True)
            for handle in handles:
                handle.remove()
            *z, final = read
            scale = (final.pow(2).mean() + self.model.config.rms_norm_eps).sqrt()
            io_id, s_id = self.token(f" {io}"), self.token(f" {s}")
            direction = (unembedding[io_id] - unembedding[s_id]) * norm.weight / scale
            for layer in range(self.layers):
                weight = self.model.model.layers[layer].self_attn.o_proj.weight
                for head in range(self.heads):
                    columns = slice(head * self.d, (head + 1) * self.d)
                    direct[layer, head] += (weight[:, columns] @ z[layer][columns]) @ direction / n
            attention = torch.stack(out.attentions)[:, 0, :, -1]  # [layer head key]
            where = torch.tensor(ids)
            attends += (
                attention[..., where == io_id].sum(-1) - attention[..., where == s_id].sum(-1)
            ) / n
        return direct, attends

    @torch.no_grad()
    def attention_of(
        self, movers: Any, without: Node | None = None, n: int = 8
    ) -> dict[Node, float]:
        """Mean attention of heads from the last token to the answer minus the other name.

        `without`: a head that writes what it wrote where three people are named once each.
        """
        rng, found = random.Random(1), dict.fromkeys(movers, 0.0)
        for number in range(n):
            io, s, *others = rng.sample(NAMES, 5)
            ids, corrupt = (
                self.tokenizer(
                    TEMPLATES[number % 2].format(A=f" {a}", B=f" {b}", S=f" {c}", O=" stick"),
                    add_special_tokens=False,
                ).input_ids
                for a, b, c in ((io, s, s), others)
            )
            handles = []
            if without is not None:
                columns = slice(without.head * self.d, (without.head + 1) * self.d)
                module = self.model.model.layers[without.layer].self_attn.o_proj
                kept: list[torch.Tensor] = []
                handle = module.register_forward_pre_hook(lambda m, x, k=kept: k.append(x[0]))
                self.model(torch.tensor([corrupt]))
                handle.remove()

                def put(module, inputs, columns=columns, kept=kept):
                    changed = inputs[0].clone()
                    changed[..., columns] = kept[0][..., columns]
                    return (changed,)

                handles = [module.register_forward_pre_hook(put)]
            out = self.model(torch.tensor([ids]), output_attentions=True)
            for handle in handles:
                handle.remove()
            where = torch.tensor(ids)
            io_id, s_id = self.token(f" {io}"), self.token(f" {s}")
            for node in found:
                row = out.attentions[node.layer][0, node.head, -1]
                found[node] += float(row[where == io_id].sum() - row[where == s_id].sum()) / n
        return found

    @torch.no_grad()
    def copies(self, layer: int, head: int, sign: int) -> float:
        """Share of the names among the 5 highest logits of sign * OV of their embedding."""
        block, cfg = self.model.model.layers[layer], self.model.config
        group = head // (cfg.num_attention_heads // cfg.num_key_value_heads)
        hits = 0
        for word in NAMES:
            ids = torch.tensor([[self.token(" the"), self.token(f" {word}")]])
            stream = self.model(ids, output_hidden_states=True).hidden_states[1][0, -1]
            value = block.self_attn.v_proj.weight[group * self.d : (group + 1) * self.d]
            columns = slice(head * self.d, (head + 1) * self.d)
            written = block.self_attn.o_proj.weight[:, columns] @ (
                value @ block.input_layernorm(stream)
            )
            logits = self.model.lm_head(self.model.model.norm(sign * written))
            hits += int(self.token(f" {word}") in logits.topk(5).indices)
        return hits / len(NAMES)


def _keep_last(read: list[torch.Tensor], module: Any, inputs: Any) -> None:
    read.append(inputs[0][0, -1])


@pytest.fixture(scope="module")
def plain() -> Plain:
    from acdc_explain_plugins.models.small import smollm2 as source

    location = source()
    if not str(location).endswith(".gguf"):
        pytest.skip("the model comes from a hub here; this test reads the GGUF file")
    return Plain(str(location.parent), location.name)


def test_cutting_edges_is_exact(smollm2):
    task = load_plugins().tasks()["ioi"](smollm2, examples=2, seed=3)
    assert smollm2.graph.n_edges == 123_211
    assert fast_trouble(Contrast(smollm2, task, task.discover)) is None


def test_the_fast_engine_decides_as_the_reference_engine(smollm2):
    """Late edges into the logits and into the keys of a mover; benchmarks compare thousands."""
    task = load_plugins().tasks()["ioi"](smollm2, examples=2, seed=3)
    contrast = Contrast(smollm2, task, task.discover, "logit_diff")
    search_graph = SearchGraph(smollm2.graph)
    fast, slow = engine_for(contrast, search_graph), ReferenceEngine(contrast, search_graph)
    assert fast.name == "fast"
    mover = Node("head", 23, 1)
    kept = [Edge(mover, LOGITS)]
    nodes = [group[0][0] for group in search_graph.receiver_groups]
    later = [node for node in nodes if node.kind == "logits" or (node.layer or 0) > 23]
    for decided, receiver in (([], (LOGITS, None)), (later, (mover, "k"))):
        senders = search_graph.senders(receiver[0])[:20]
        found = []
        for engine in (fast, slow):
            engine.load(decided, kept if decided else [])
            found.append(engine.decide([(receiver, senders)], 0.05))
        assert [(d.edge, d.kept) for d in found[0]] == [(d.edge, d.kept) for d in found[1]]
        effects = [[d.edge.effect for d in one] for one in found]
        assert effects[0] == pytest.approx(effects[1], abs=2e-4)


def test_it_solves_the_tasks(smollm2):
    for name in ("ioi", "induction", "greater_than", "gendered_pronoun"):
        task = load_plugins().tasks()[name](smollm2, examples=8, seed=1)
        contrast = Contrast(smollm2, task, task.discover)
        assert contrast.clean_metric > 0.2, name
        assert contrast.clean_metric > contrast.corrupt_metric + 0.2, name


def test_labels_agree_with_plain_hugging_face(run, plain):
    direct, attends = plain.on_prompts()
    roles: dict[str, list[Node]] = {}
    for label in run.labels:
        roles.setdefault(label.role, []).append(label.node)
    movers, negative = roles["name_mover"], roles["negative_name_mover"]
    assert len(movers) >= 2
    assert len(negative) >= 1
    assert sum(plain.copies(node.layer, node.head, sign=1) > 0.4 for node in movers) >= 2
    assert any(plain.copies(node.layer, node.head, sign=-1) > 0.4 for node in negative)
    for node in movers:
        at = node.layer, node.head
        assert direct[at] > 0.05, node
        assert attends[at] > 0.05, node
    for node in negative:
        at = node.layer, node.head
        assert direct[at] < -0.05, node
        assert attends[at] > 0.05, node


def test_no_clear_mover_of_the_circuit_is_missed(run, plain):
    """Every head of the circuit that plain measurements call a mover bears the label."""
    direct, attends = plain.on_prompts()
    labeled = {label.node for label in run.labels if label.role.endswith("name_mover")}
    for node in run.circuit.components:
        if node.kind != "head":
            continue
        at = node.layer, node.head
        if attends[at] > 0.2 and abs(direct[at]) > 0.3:
            sign = 1 if direct[at] > 0 else -1
            if plain.copies(*at, sign=sign) > 0.7:
                assert node in labeled, node


def test_verdicts_support_the_clear_ones(run):
    supported = [label.role for label in run.labels if passed(run, label)]
    assert supported.count("name_mover") >= 2
    assert "negative_name_mover" in supported
    assert "induction" in supported


def passed(run: Any, label: Any) -> bool:
    verdict = worst(run.verdicts_of(label))
    return verdict is not None and verdict.outcome == "supported"


def test_s_inhibition_heads_turn_movers_in_plain_hugging_face_too(run, plain):
    """Ablated there, on other names and templates, the mover looks less at the answer."""
    inhibitors = [x.node for x in run.labels if x.role == "s_inhibition" and passed(run, x)]
    movers = {x.node for x in run.labels if x.role == "name_mover" and passed(run, x)}
    assert inhibitors
    routes = {e.node: e.facts for e in run.evidence if e.collector == "routes"}
    strongest = max(inhibitors, key=lambda node: routes[node]["measures"]["steers_movers"]["value"])
    assert routes[strongest]["measures"]["steers_movers"]["value"] > 0.2
    whole = plain.attention_of(movers)

    def lost(node: Node) -> float:
        without = plain.attention_of(movers, without=node)
        return max(whole[mover] - without[mover] for mover in movers)

    beside = [Node("head", strongest.layer, head) for head in range(plain.heads)]
    others = [lost(node) for node in beside if node != strongest]
    assert lost(strongest) > max(0.05, 2 * max(others))


def test_a_previous_token_head_feeds_the_keys_of_an_induction_head(run):
    supported = {x.node: x.role for x in run.labels if passed(run, x)}
    routes = {e.node: e.facts for e in run.evidence if e.collector == "routes"}
    fed = [
        routes[node]["into"]["feeds_induction"]
        for node, role in supported.items()
        if role == "previous_token" and routes[node]["measures"]["feeds_induction"]["value"] > 0.3
    ]
    assert fed
    assert all(port.endswith("<k>") for port in fed)
    looking = {
        e.node: e.measures["induction_attention"]["value"]
        for e in run.evidence
        if "induction_attention" in e.measures
    }
    assert any(looking.get(Node.parse(port[:-3]), 0.0) > 0.7 for port in fed)


def test_what_behaves_like_its_induction_head_in_mini(run, tmp_path):
    """The induction heads of the other model come first; one that repeats may be among them."""
    store = Store(tmp_path / "s.duckdb")
    other = ax.explain("induction", "mini", store=store)
    store.add_run(run)
    heads = {label.node for label in other.labels if label.role == "induction"}
    asked = {label.node for label in run.labels if label.role == "induction"}
    asked -= {label.node for label in run.labels if label.role != "induction"}
    assert asked
    for node in asked:
        found = store.search(like=f"{run.id}:{node}", limit=len(heads))
        nodes = [node for match in found for node in match.nodes.values()]
        assert nodes[0] in heads
        assert len({*nodes} & heads) >= len(heads) - 1
