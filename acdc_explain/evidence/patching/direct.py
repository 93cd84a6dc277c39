"""Direct effects on the logits of answers and of foils, split by the keys they come from.

What a head adds to the logits at the last token is a sum over the keys it attends to: attention
times what the value there adds. Elhage et al. 2021.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ...models.contrast import Contrast
from ...models.metrics import TokenSets
from ..measurement import NotMeasurable
from .passes import clean_pass

What = Literal["answers", "foils"]
WHATS: tuple[What, ...] = ("answers", "foils")


def logit_directions(
    contrast: Contrast, what: What
) -> tuple[Float[Tensor, "batch d_model"], Float[Tensor, "batch d_model"]]:
    """What raises the mean logit of these tokens, and of those of the other prompts.

    As directions of the stream before the final norm, with the scale of the clean run. Raises
    NotMeasurable where a prompt has no such tokens.
    """
    sets: TokenSets = contrast.answers if what == "answers" else contrast.foils
    if not bool(sets.present.any(1).all()):
        raise NotMeasurable(f"not every prompt has {what}")
    vectors = sets.mean_vector(contrast.model.unembedding.T)
    others = (vectors.sum(0) - vectors) / max(len(contrast) - 1, 1)
    final = contrast.clean.at_end(contrast.once_for_clean(clean_pass).streams[-1])
    factor = contrast.model.final_norm_factor(final)
    both = []
    for direction in (vectors, others):
        direction = direction * factor
        if contrast.model.norm_is_centred:
            direction = direction - direction.mean(-1, keepdim=True)
        both.append(direction)
    return both[0], both[1]


def direct_of_heads(
    contrast: Contrast, direction: Float[Tensor, "batch d_model"], keys: Tensor | None
) -> Float[Tensor, "head batch"]:
    """What each head adds along a direction at the last token, of some keys or of all."""
    clean, batch, effects = contrast.once_for_clean(clean_pass), contrast.clean, []
    for layer, attended in enumerate(clean.attended):
        attention, along = clean.runner.layers.attention[layer], direction
        if attention.post.scaled:
            scale = clean.scales[layer]
            assert scale is not None
            along = attention.post.pull_back(along, batch.at_end(scale))
        n = contrast.model.graph.n_heads
        matrices = attention.output.matrix.view(n, -1, along.shape[-1]).to(along.dtype)
        pulled = torch.einsum("bd,hed->bhe", along, matrices)
        pattern = attended.pattern[0, batch.rows, :, batch.end]  # [batch head key]
        if keys is not None:
            pattern = pattern * keys[:, None]
        effects.append(torch.einsum("bhk,bhke,bhe->hb", pattern, attended.v[0], pulled))
    return torch.cat(effects)


def direct_of_mlps(
    contrast: Contrast, direction: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "mlp batch"]:
    """What each MLP adds along a direction at the last token."""
    clean = contrast.once_for_clean(clean_pass)
    written = torch.stack([contrast.clean.at_end(output) for output in clean.mlps])
    return (written * direction).sum(-1)
