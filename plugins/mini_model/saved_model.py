"""`mini` read with plain Hugging Face, independently of the package that it tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


class Mini:
    """A saved model, with interventions on its heads; also a `Tokenizer` for the tasks.

    Args:
        folder: Where `train.py` saved it.
    """

    def __init__(self, folder: Path) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        self.unembedding = self.model.get_output_embeddings()
        config = self.model.config
        self.layers, self.heads = config.num_hidden_layers, config.num_attention_heads
        self.head_size = config.hidden_size // self.heads

    @property
    def unknown(self) -> str:
        return str(self.tokenizer.unk_token)

    def pieces(self, text: str) -> list[str]:
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        return [self.piece(i) for i in ids]

    def piece(self, token_id: int) -> str:
        return str(self.tokenizer.decode([token_id]))

    def id(self, piece: str) -> int:
        (token_id,) = self.tokenizer(piece, add_special_tokens=False).input_ids
        return int(token_id)

    def ids(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token ids [prompt pos], padded at the end, and the index of each prompt's last token."""
        rows = [torch.tensor(row) for row in self.tokenizer(list(prompts)).input_ids]
        ends = torch.tensor([len(row) - 1 for row in rows])
        pad = self.tokenizer.pad_token_id
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad), ends

    def attention(self, ids: torch.Tensor) -> torch.Tensor:
        """Attention probabilities [layer prompt head query key]."""
        return torch.stack(self.model(ids, output_attentions=True, use_cache=False).attentions)

    @contextmanager
    def mixed_values(self) -> Iterator[list[torch.Tensor]]:
        """Collect, layer by layer, the heads' outputs before the output weights are applied.

        Each is [prompt pos head*head_size].
        """
        values: list[torch.Tensor] = []
        hooks = [
            layer.attention.dense.register_forward_pre_hook(lambda _, args: values.append(args[0]))
            for layer in self.model.gpt_neox.layers
        ]
        try:
            yield values
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def without(self, layer: int, head: int) -> Iterator[None]:
        """The model with the output of one head set to zero."""

        def zero(_: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor]:
            values = args[0].clone()
            values[..., head * self.head_size : (head + 1) * self.head_size] = 0
            return (values,)

        dense = self.model.gpt_neox.layers[layer].attention.dense
        hook = dense.register_forward_pre_hook(zero)
        try:
            yield
        finally:
            hook.remove()

    def output_weights(self, layer: int) -> torch.Tensor:
        """[head head_size width]"""
        weight: torch.Tensor = self.model.gpt_neox.layers[layer].attention.dense.weight
        return weight.T.reshape(self.heads, self.head_size, -1)
