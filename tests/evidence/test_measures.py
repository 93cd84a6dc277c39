"""Attention measures on constructed patterns, interventions against plain hooks, scores by hand."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
import torch

from acdc_explain import load_model
from acdc_explain.errors import UserError
from acdc_explain.evidence.attention import (
    _repeated_length,
    diagonal,
    example_attention,
    last_occurrence,
    named_attention,
    occurrences,
    random_repeats,
)
from acdc_explain.evidence.effects import (
    ablated_output,
    final_direction,
    logits_with,
    norm_weight,
    of_nodes,
    standing_in,
    top_logits,
)
from acdc_explain.evidence.measurement import NotMeasurable
from acdc_explain.evidence.measures import MEASURES, measure
from acdc_explain.evidence.mlps import neuron_effects
from acdc_explain.evidence.ov import copying, relations
from acdc_explain.evidence.ov.copying import effective_embedding, qk_affinity
from acdc_explain.evidence.top_examples import corpus_batch, strongest_places
from acdc_explain.models.activations import Batch, writer_hooks
from acdc_explain.models.contrast import Contrast
from acdc_explain.models.functional.layers import Layers, ov_outputs
from acdc_explain.models.metrics import TokenSets
from acdc_explain.records.circuit import Node
from acdc_explain.records.graph import Graph
from acdc_explain.records.task import Example, Task

from ..conftest import FAMILIES, WORDS, make_hf_model, make_tokenizer, word_task


@pytest.fixture
def contrast(small_model) -> Contrast:
    task = word_task(6)
    return Contrast(small_model("neox"), task, task.discover)


def attends(offset: int, length: int = 12) -> torch.Tensor:
    """One head that always attends `offset` tokens away (to the first token before that)."""
    pattern = torch.zeros(1, 1, 1, length, length)
    for query in range(length):
        pattern[..., query, max(0, query + offset)] = 1.0
    return pattern


class TestDiagonals:
    """A period of 6 repeated: -1 previous, -6 duplicate, -5 induction; off by one is 0."""

    @pytest.mark.parametrize("actual", [-1, -4, -5, -6, -7])
    @pytest.mark.parametrize("offset", [-1, -5, -6])
    def test_offsets(self, actual, offset):
        found = diagonal(attends(actual), offset, range(7, 12))
        assert found.shape == (1, 1, 1)
        assert float(found) == (1.0 if actual == offset else 0.0)

    def test_queries_without_such_a_key_do_not_count(self):
        assert float(diagonal(attends(-3), -3, range(12))) == 1.0


def test_random_repeats_are_repeats_of_ordinary_tokens(contrast):
    batch = random_repeats(contrast.model)
    rows = batch.tokens[:, len(contrast.model.prefix) :]
    half = rows.shape[1] // 2
    assert (rows[:, :half] == rows[:, half:]).all()
    assert not set(rows.flatten().tolist()) & set(contrast.model.tokenizer.all_special_ids)
    assert (random_repeats(contrast.model).tokens == batch.tokens).all()


def test_occurrences():
    tokens = torch.tensor([[5, 7, 5, 8, 5], [7, 7, 9, 5, 0]])
    batch = Batch(tokens, torch.tensor([4, 3]))
    sets = TokenSets.of([[5], [7, 9]], torch.device("cpu"))
    assert occurrences(batch, sets).tolist() == [[1, 0, 1, 0, 0], [1, 1, 1, 0, 0]]
    assert last_occurrence(batch, sets).tolist() == [[0, 0, 1, 0, 0], [0, 0, 1, 0, 0]]


def with_patterns(contrast: Contrast, make) -> Contrast:
    """The contrast with every head attending from `query` to the key `make(tokens, query)`."""
    patterns = torch.zeros_like(contrast.clean_run.patterns)
    for row, tokens in enumerate(contrast.clean.tokens.tolist()):
        for query in range(len(tokens)):
            patterns[:, row, :, query, make(tokens, query)] = 1.0
    contrast.clean_run.patterns.copy_(patterns)
    return contrast


class TestAnswerAttention:
    def task(self) -> Task:
        example = Example(
            " cat dog bird", " fish dog bird", (" cat",), (" dog",), {"A": 0, "END": 2}
        )
        return Task("t", "", "logit_diff", (example,), ())

    @pytest.mark.parametrize(
        ("target", "expected"), [(" cat", 1.0), (" dog", -1.0), (" bird", 0.0)]
    )
    def test_answer_minus_foil(self, small_model, target, expected):
        model, task = small_model("gpt2"), self.task()
        contrast = Contrast(model, task, task.discover)
        target_id = model.single(target)
        with_patterns(contrast, lambda tokens, query: min(query, tokens.index(target_id)))
        found = measure("answer_attention", contrast)
        assert (found.samples == expected).all()

    def test_named_positions(self, small_model):
        model, task = small_model("gpt2"), self.task()
        contrast = Contrast(model, task, task.discover)
        with_patterns(contrast, lambda tokens, query: len(model.prefix))
        found = named_attention(contrast)[Node("head", 1, 2)]
        assert found == {"A to A": 1.0, "END to A": 1.0, "END to END": 0.0}

    def test_on_an_example(self, small_model, monkeypatch):
        """Row by row the attention pattern of a plain forward pass, for the last tokens."""
        model, task = small_model("gpt2"), self.task()
        contrast, node = Contrast(model, task, task.discover), Node("head", 1, 2)
        pattern = model.patterns(contrast.clean)[1, 0, 2]
        size = int(contrast.clean.end[0]) + 1
        found = example_attention(contrast, node)
        assert found["tokens"][-3:] == [" cat", " dog", " bird"]
        assert [len(row) for row in found["attention"]] == list(range(1, size + 1))
        for i, row in enumerate(found["attention"]):
            assert row == pytest.approx(pattern[i, : i + 1].tolist(), abs=0.006)
        monkeypatch.setattr("acdc_explain.evidence.attention.EXAMPLE_TOKENS", 2)
        cut = example_attention(contrast, node)
        assert cut["tokens"] == found["tokens"][-2:]
        assert cut["attention"][-1] == found["attention"][-1][-2:]

    def test_an_answer_that_is_not_in_the_prompt(self, contrast):
        with pytest.raises(NotMeasurable, match="does not occur"):
            measure("answer_attention", contrast)


def test_sink_attention(contrast):
    with_patterns(contrast, lambda tokens, query: 0)
    assert torch.allclose(measure("sink_attention", contrast).samples, torch.tensor(1.0))
    contrast._results.clear()
    with_patterns(contrast, lambda tokens, query: query)
    assert (measure("sink_attention", contrast).samples == 0).all()


@pytest.mark.parametrize("family", FAMILIES)
class TestAgainstPlainRuns:
    def make(self, small_model, family) -> Contrast:
        task = word_task(5, seed=3)
        return Contrast(small_model(family), task, task.discover)

    def test_direct_effects_and_the_embedding_add_up_to_the_logits(self, small_model, family):
        """With the final norm's scale frozen the writers' shares are the logit difference."""
        contrast = self.make(small_model, family)
        model = contrast.model
        direct = measure("direct_effect", contrast)
        direction = final_direction(contrast)
        embedded = (contrast.clean.at_end(contrast.clean_run.writers[0]) * direction).sum(-1)
        rest = (model.output_biases * direction).sum(-1)
        norm_bias = model.network.norm.bias
        if norm_bias is not None:
            rest = rest + contrast.direction @ norm_bias
        total = direct.samples.sum(0) + embedded + rest
        logits = contrast.clean_run.logits
        expected = contrast.answers.mean(logits) - contrast.foils.mean(logits)
        assert torch.allclose(total, expected, atol=1e-4)

    def test_ablation_is_a_whole_run_with_one_output_replaced(self, small_model, family):
        contrast = self.make(small_model, family)
        model = contrast.model
        for node in (Node("head", 0, 1), Node("mlp", 0), Node("head", 1, 3), Node("mlp", 1)):
            index = model.graph.writer_index[node]
            written = contrast.corrupt_run.writers[index]

            def record(writers, value, index=index, written=written):
                if not writers.start <= index < writers.stop:
                    return None
                changed = value.clone()
                changed[index - writers.start] = written
                return changed

            with torch.no_grad():
                logits = model.forward(contrast.clean, writer_hooks(model.graph, record))
            gap = contrast.clean_metric - contrast.corrupt_metric
            clean = contrast.metric(contrast.clean_run.logits)
            expected = (clean - contrast.metric(logits)) / gap
            found = of_nodes("ablation_effect", contrast, [node]).samples[0]
            assert torch.allclose(found, expected, atol=1e-4), node

    def test_every_measure_has_samples_or_a_reason(self, small_model, family):
        contrast = self.make(small_model, family)
        measurable = 0
        for name in MEASURES:
            try:
                found = measure(name, contrast)
            except NotMeasurable:
                continue
            measurable += 1
            assert found.measure == name
            assert set(found.nodes) <= set(contrast.model.graph.writers)
            assert found.samples.shape[0] == len(found.nodes)
            assert torch.isfinite(found.samples).all(), name
        assert measurable >= 12

    def test_several_nodes_are_rewritten_together(self, small_model, family):
        """Heads of one layer, and layers after each other, by plain hooks as well."""
        contrast = self.make(small_model, family)
        model = contrast.model
        nodes = [Node("head", 0, 1), Node("head", 0, 2), Node("mlp", 1)]
        indices = [model.graph.writer_index[node] for node in nodes]
        corrupt = contrast.corrupt_run.writers

        def record(writers, value):
            changed = value.clone()
            for index in indices:
                if writers.start <= index < writers.stop:
                    changed[index - writers.start] = corrupt[index]
            return changed

        with torch.no_grad():
            expected = model.forward(contrast.clean, writer_hooks(model.graph, record))
        found = logits_with(contrast, {node: ablated_output(contrast, node) for node in nodes})
        assert torch.allclose(found, expected, atol=1e-4)

    def test_ablation_at_named_positions_changes_nothing_elsewhere(self, small_model, family):
        contrast = self.make(small_model, family)
        node = Node("head", 1, 0)
        clean = contrast.clean_run.writers[contrast.model.graph.writer_index[node]]
        for how in ("resample", "mean"):
            change = ablated_output(contrast, node, how, ["END"]) - clean
            changed = change.abs().amax(-1) > 1e-5
            rows, places = changed.nonzero().T
            assert (places == contrast.clean.end[rows]).all()
            assert len(rows)

    def test_a_node_stands_in_for_itself(self, small_model, family):
        contrast = self.make(small_model, family)
        one, other = Node("head", 0, 1), Node("head", 1, 1)
        assert standing_in(contrast, one, one).abs().max() < 1e-5
        found = standing_in(contrast, one, other)
        assert ((found > 1e-6) & (found <= 0.6932)).all()  # at most ln 2

    def test_top_logits(self, small_model, family):
        contrast = self.make(small_model, family)
        promoted, suppressed = top_logits(contrast, [Node("mlp", 1)], 4)[Node("mlp", 1)]
        assert len(promoted) == len(suppressed) == 4
        assert not set(promoted) & set(suppressed)

    def test_effective_embedding_is_the_stream_after_block_0(self, small_model, family):
        model = small_model(family)
        words = [model.single(word) for word in (" cat", " dog", " fish")]
        found = effective_embedding(model, words, contexts=1)
        # the context of each word is drawn with a fixed seed: find it by trying all
        rows = {}
        for word in words:
            for before in words:
                batch = model.batch_ids([[before, word]])
                with torch.no_grad():
                    streams = model.hf_model(batch.tokens, output_hidden_states=True).hidden_states
                rows[word, before] = streams[1][0, -1]
        for place, word in enumerate(words):
            distances = [(found[place] - rows[word, before]).abs().max() for before in words]
            assert min(distances) < 1e-4


def test_copying_by_construction(tmp_path):
    """A head that writes what it reads copies; one that writes its negative suppresses."""
    from acdc_explain import load_model

    hf_model = make_hf_model("gpt2")
    width, size = 32, 8
    with torch.no_grad():
        hf_model.transformer.h[0].attn.c_proj.weight.zero_()
        hf_model.transformer.h[0].attn.c_proj.bias.zero_()
        hf_model.transformer.h[0].mlp.c_proj.weight.zero_()
        hf_model.transformer.h[0].mlp.c_proj.bias.zero_()
        attention = hf_model.transformer.h[1].attn
        some = torch.linalg.qr(torch.randn(width, size))[0]  # an orthonormal part of the stream
        for head, sign in ((1, 1.0), (2, -1.0)):
            columns = slice(head * size, (head + 1) * size)
            attention.c_attn.weight[:, 2 * width :][:, columns] = some
            attention.c_attn.bias[2 * width :][columns] = 0.0
            attention.c_proj.weight[columns] = sign * some.T
    hf_model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    task = word_task(12)
    contrast = Contrast(load_model(str(tmp_path)), task, task.discover)
    copies, opposes = Node("head", 1, 1), Node("head", 1, 2)
    copied, negative, strength = (
        measure(name, contrast) for name in ("copying", "negative_copying", "copying_strength")
    )
    assert copied.value(copies) > 0.6 > 0.2 > negative.value(copies)
    assert negative.value(opposes) > 0.6 > 0.2 > copied.value(opposes)
    assert strength.value(copies) == pytest.approx(-strength.value(opposes), abs=0.5)
    assert strength.value(copies) > 1.5


@pytest.mark.parametrize("name", ["copying", "negative_copying", "copying_strength"])
def test_the_logits_of_a_few_words_at_a_time(contrast, name, monkeypatch):
    whole = measure(name, contrast)
    monkeypatch.setattr(copying, "LOGIT_BYTES", 1)
    pieces = measure(name, Contrast(contrast.model, contrast.task, contrast.examples))
    assert whole.samples.shape[1] > 5
    torch.testing.assert_close(pieces.samples, whole.samples, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pieces.control, whole.control, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampled", [1, 3, 1000])
@pytest.mark.parametrize(("most", "top"), [(None, 1), (3, 10), (None, 30)])
def test_hits_against_sorted_logits(contrast, most, top, sampled, monkeypatch):
    """The control are the second words of the pairs half a list further on."""
    monkeypatch.setattr(relations, "LOGIT_BYTES", 1)
    monkeypatch.setattr(relations, "SAMPLED", sampled)
    model = contrast.model
    pairs = [(3, 4), (5, 6), (7, 8), (9, 10), (11, 12)]
    hits, control = relations._hits(model, pairs, top, most)
    stream = effective_embedding(model, [first for first, _ in pairs])
    for layer in range(model.graph.n_layers):
        order = model.unembed(ov_outputs(model, layer, stream)).argsort(-1, descending=True)
        for head, pair in product(range(model.graph.n_heads), range(most or len(pairs))):
            ordered = order[head, pair].tolist()
            assert hits[layer, head, pair] == (ordered.index(pairs[pair][1]) < top)
            assert control[layer, head, pair] == (ordered.index(pairs[(pair + 2) % 5][1]) < top)
    assert hits.shape[-1] == (most or len(pairs))
    assert hits.mean() < 1
    assert hits.any() or top == 1


def test_graph_of_heads_is_the_order_of_samples(contrast):
    found = measure("previous_token_attention", contrast)
    assert found.nodes == Graph(2, 4).heads
    patterns = contrast.model.patterns(random_repeats(contrast.model))
    layer, head = 1, 2
    start = len(contrast.model.prefix)
    rows = range(max(1, start), start + _repeated_length(contrast.model))
    expected = torch.stack([patterns[layer, :, head, q, q - 1] for q in rows]).mean()
    assert found.value(Node("head", layer, head)) == pytest.approx(float(expected), abs=1e-6)


class TestQueriesAndKeys:
    def test_affinity_is_the_score_before_the_softmax(self, small_model):
        model = small_model("llama")
        words = [model.single(word) for word in (" cat", " dog", " fish")]
        found = qk_affinity(model, 1, 2, words, words)
        stream = effective_embedding(model, words)
        attention = Layers.of(model).attention[1]
        q, k = (attention.project(port, 2, stream, None) for port in "qk")
        assert torch.allclose(found, q @ k.T * attention.form.scaling, atol=1e-4)


def constructed(tmp_path, pairs):
    """A model whose head 1.1 writes, for the first word of each pair, the embedding of the second."""
    from acdc_explain import load_model

    hf_model = make_hf_model("gpt2")
    tokenizer = make_tokenizer()
    with torch.no_grad():
        for part in (hf_model.transformer.h[0].attn.c_proj, hf_model.transformer.h[0].mlp.c_proj):
            part.weight.zero_()
            part.bias.zero_()
        hf_model.transformer.wpe.weight.zero_()
        words = [tokenizer(word).input_ids[-1] for pair in pairs for word in pair]
        embedding = hf_model.transformer.wte.weight
        embedding.zero_()
        embedding[:, :] = 0.01 * torch.randn(embedding.shape)
        for number, word in enumerate(dict.fromkeys(words)):
            embedding[word, number] = 4.0
        attention, size = hf_model.transformer.h[1].attn, 8
        columns = slice(size, 2 * size)
        attention.c_attn.weight[:, 64:][:, columns] = 0.0
        attention.c_proj.weight[columns] = 0.0
        for number in range(len(set(words))):
            attention.c_attn.weight[number, 64 + size + number] = 1.0
        ids = list(dict.fromkeys(words))
        for one, other in pairs:
            a, b = (ids.index(tokenizer(word).input_ids[-1]) for word in (one, other))
            attention.c_proj.weight[size + a, b] = 1.0
    hf_model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    task = word_task(12)
    return Contrast(load_model(str(tmp_path)), task, task.discover)


def test_a_head_that_counts_on(tmp_path, monkeypatch):
    """ " one" -> " two" ... by construction, against a head of random weights."""
    monkeypatch.setattr(relations, "ORDERED", ("one two three four five six",))
    monkeypatch.setattr(relations, "FEWEST_ORDERED", 5)
    words = [f" {word}" for word in "one two three four five six".split()]
    contrast = constructed(tmp_path, list(pairwise(words)))
    found = measure("successor_score", contrast)
    assert found.n == 5
    assert found.value(Node("head", 1, 1)) == 1.0
    assert found.value(Node("head", 1, 2)) < 0.5


def test_too_few_words_are_no_order(contrast):
    with pytest.raises(NotMeasurable, match="pairs of ordinal words"):
        measure("successor_score", contrast)


class TestMlps:
    def test_an_mlp_that_sees_its_token_alone(self, small_model):
        """The first MLP of a parallel block reads the embedding, which depends on the token alone."""
        task = word_task(12)
        contrast = Contrast(small_model("neox_parallel"), task, task.discover)
        found = measure("token_share", contrast)
        assert found.value(Node("mlp", 0)) == pytest.approx(1.0, abs=1e-4)
        assert 0 < found.value(Node("mlp", 1)) < 0.9

    @pytest.mark.parametrize("family", FAMILIES)
    def test_neurons_add_up_to_the_direct_effect(self, family, small_model):
        task = word_task(5)
        contrast = Contrast(small_model(family), task, task.discover)
        for node in (Node("mlp", 0), Node("mlp", 1)):
            direct = measure("direct_effect", contrast)
            whole = direct.samples[direct.nodes.index(node)]
            bias = Layers.of(contrast.model).mlp[node.layer].out_bias
            rest = 0.0 if bias is None else final_direction(contrast) @ bias
            assert torch.allclose(neuron_effects(contrast, node).sum(1) + rest, whole, atol=1e-3)


def test_staircase(small_model):
    """1 where all answers are above all foils and 0 the other way, whatever the differences."""
    model, words = small_model("gpt2"), [f" {word}" for word in WORDS]
    examples = [
        Example(
            f"{words[i]}{words[i + 1]}",
            f"{words[i + 2]}{words[i]}",
            tuple(words[:4]),
            tuple(words[5:9]),
        )
        for i in range(4)
    ]
    task = Task("t", "", "logit_diff", tuple(examples), ())
    contrast = Contrast(model, task, examples)
    found = measure("staircase", contrast)
    node = Node("mlp", 1)
    at_end = contrast.clean.at_end(contrast.clean_run.writers[model.graph.writer_index[node]])
    logits = (at_end * norm_weight(contrast)) @ model.unembedding
    right, wrong = ([model.single(w) for w in part] for part in (words[:4], words[5:9]))
    expected = (logits[:, right][:, :, None] > logits[:, wrong][:, None]).double().mean((1, 2))
    assert found.samples[found.nodes.index(node)].tolist() == pytest.approx(expected.tolist())
    other = word_task(4)
    with pytest.raises(NotMeasurable, match="three right"):
        measure("staircase", Contrast(model, other, other.discover))


class TestCorpus:
    def test_the_token_that_a_head_reads_is_marked(self, contrast):
        batch = random_repeats(contrast.model)
        head = Node("head", 0, 1)
        places = strongest_places(contrast.model, batch, [head, Node("mlp", 0)], 3)
        for place in places[head]:
            marked = f"«{place['attends_to']}»" in place["text"]
            assert marked == (place["attends_to"] != "<bos>")  # which is not part of the text
        assert not any("«" in place["text"] for place in places[Node("mlp", 0)])
        seen = [(place["token"], place["attends_to"]) for place in places[head]]
        assert len(set(seen)) == len(seen) == 3

    def test_a_folder_as_a_data_set(self, small_model, tmp_path):
        lines = ["the cat saw a big red dog", "one two three four five six", "dog bird fish ate"]
        rows = "".join(f'{{"number": {n}, "text": "{line}"}}\n' for n, line in enumerate(lines))
        (tmp_path / "train.jsonl").write_text(rows)
        batch = corpus_batch(small_model("gpt2"), f"datasets:{tmp_path}")
        assert len(batch.tokens) == 2  # a line of four words is too short

    def test_a_data_set_that_is_none(self, small_model, tmp_path):
        with pytest.raises(UserError, match="cannot be read"):
            corpus_batch(small_model("gpt2"), f"datasets:{tmp_path / 'nowhere'}")


class TestGeneratedText:
    """Text from models whose vocabulary has none of the words that texts begin with."""

    def folder(self, tmp_path, letters: str, special: str = "<bos>"):
        from tokenizers import Tokenizer, decoders, models, processors
        from transformers import PreTrainedTokenizerFast

        words = Tokenizer(models.BPE({special: 0, **{x: n + 1 for n, x in enumerate(letters)}}, []))
        words.decoder = decoders.Fuse()
        words.post_processor = processors.TemplateProcessing(
            single=f"{special} $A", special_tokens=[(special, 0)]
        )
        make_hf_model("gpt2").save_pretrained(tmp_path)
        PreTrainedTokenizerFast(tokenizer_object=words, bos_token=special).save_pretrained(tmp_path)
        return load_model(str(tmp_path))

    def test_begins_with_any_token(self, tmp_path):
        from acdc_explain_plugins.collectors.top_examples import top_examples

        from acdc_explain.evidence.top_examples import generated_text

        model = self.folder(tmp_path, "pqrs")
        assert model.token_ids(" a") == []
        assert model.prefix == (0,)
        batch = generated_text(model)
        assert batch is not None
        assert len(batch.tokens) > 1
        assert (batch.tokens < 5).all()
        assert (batch.tokens[:, 0] == 0).all()
        assert batch.tokens.equal(generated_text(model).tokens)
        examples = tuple(Example(x, y, ("p",), ("q",)) for x, y in (("pq", "rq"), ("ps", "rs")))
        contrast = Contrast(model, Task("letters", "", "logit_diff", examples, ()), examples)
        ((_, facts),) = top_examples(contrast, [Node.parse("a0.h0")])
        assert facts["top"]

    def test_a_model_that_never_writes_an_ordinary_token(self, tmp_path, monkeypatch):
        from acdc_explain.evidence.top_examples import generated_text

        model = self.folder(tmp_path, "pqrs")
        forward = model.forward

        def only_beyond(batch, hooks=()):
            logits = forward(batch, hooks)
            return torch.full_like(logits, -torch.inf).index_fill(1, torch.tensor([9]), 0.0)

        monkeypatch.setattr(model, "forward", only_beyond)
        assert (generated_text(model).tokens < 5).all()

    def test_without_ordinary_tokens_it_is_said(self, tmp_path, monkeypatch, small_model):
        from acdc_explain_plugins.collectors.top_examples import top_examples

        monkeypatch.setattr(
            "acdc_explain.evidence.top_examples._ordinary", lambda model: torch.tensor([])
        )
        contrast = Contrast(small_model("gpt2"), word_task(2), word_task(2).discover)
        ((_, facts),) = top_examples(contrast, [Node.parse("a0.h0")])
        assert facts == {
            "corpus": "none: the model's vocabulary has no ordinary token",
            "top": [],
        }
