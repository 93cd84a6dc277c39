"""The network that is trained as `mini`, before training, and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Regex, decoders, pre_tokenizers, processors
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

from . import corpus

BOS, UNK, PAD = "<bos>", "<unk>", "<pad>"


@dataclass(frozen=True)
class Recipe:
    """Sizes of the model and settings of the training; the corpus is in `corpus.py`."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    mlp: int = 256
    longest: int = 128  # tokens of a text
    rotary_base: float = 1000.0  # low, as texts are short: slower rotations would hardly move
    weights: float = 0.06  # standard deviation of the initial weights
    embeddings: float = 0.5  # of the initial embeddings: larger than what the blocks add at first
    biases: float = 1.0  # of the initial biases of queries and keys
    steps: int = 2600
    lessons: float = 0.6  # share of the steps in which the lessons fade out
    texts: int = 24  # per step
    questions: int = 32  # per step
    sequences: int = 32  # per step, of random words
    length: int = 48  # of those sequences
    first_words: int = 32  # different words in the first questions and sequences
    doubling: float = 0.1  # share of the steps after which their number doubles
    learning_rate: float = 2e-3
    warmup: int = 100
    weight_decay: float = 0.05


def build_tokenizer() -> PreTrainedTokenizerFast:
    """A tokenizer of whole words, with the space before them, and of single digits."""
    tokens = [BOS, UNK, PAD, *corpus.vocabulary()]
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Backend(WordLevel(vocab, unk_token=UNK))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(corpus.PIECES), behavior="isolated")
    backend.decoder = decoders.Fuse()
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, vocab[BOS])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=BOS,
        eos_token=BOS,  # a text ends where the next one would begin
        unk_token=UNK,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
        model_max_length=Recipe.longest,
    )


def build_model(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXForCausalLM:
    """A small GPT-NeoX decoder without parallel residual blocks.

    The initial weights are chosen so that heads form early. Biases of queries and keys make each
    head prefer some distance, from which a previous-token head can develop. The unembedding
    starts as the embedding (they are not tied), and heads after the first block start by writing
    back what they read, so that copying is easy to learn.
    """
    model = GPTNeoXForCausalLM(_config(recipe, tokenizer))
    model.set_attn_implementation("eager")  # returns the attention, which lessons need
    embedding, unembedding = model.get_input_embeddings(), model.get_output_embeddings()
    with torch.no_grad():
        embedding.weight.normal_(std=recipe.embeddings)
        unembedding.weight.copy_(0.1 * embedding.weight)
        for i, layer in enumerate(model.gpt_neox.layers):
            attention = layer.attention
            attention.query_key_value.bias.view(recipe.heads, 3, -1)[:, :2].normal_(
                std=recipe.biases
            )
            values = attention.query_key_value.weight.view(recipe.heads, 3, -1, recipe.width)[:, 2]
            if i == 0:
                attention.dense.weight.mul_(0.3)
            else:
                attention.dense.weight.copy_(values.flatten(0, 1).T)
            layer.mlp.dense_4h_to_h.weight.mul_(0.3)
    return model


def _config(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> GPTNeoXConfig:
    return GPTNeoXConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        intermediate_size=recipe.mlp,
        max_position_embeddings=recipe.longest,
        rope_parameters={
            "rope_type": "default",
            "rope_theta": recipe.rotary_base,
            "partial_rotary_factor": 1.0,
        },
        use_parallel_residual=False,
        initializer_range=recipe.weights,
        attention_dropout=0.0,
        hidden_dropout=0.0,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
