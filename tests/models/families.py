"""Tiny random models of the causal language models that transformers has, family by family.

A name such as `llama-gqa` is a family with one of its options switched on. Every part of a model
has a weight that matters: nothing is left at zero, at one, or so small that heads look everywhere.
"""

from __future__ import annotations

import dataclasses
import math
from ast import literal_eval
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, models, processors
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.pytorch_utils import Conv1D

from ..conftest import make_tokenizer

WINDOW, CHUNK, FULL = "sliding_attention", "chunked_attention", "full_attention"
LINEAR, HYBRID = "linear_attention", "hybrid"
# fmt: off
SETTINGS = """
 0  bos_token_id eos_token_id cls_token_id sep_token_id
 1  pad_token_id n_shared_experts num_shared_experts moe_num_shared_experts n_group topk_group
 1  first_k_dense_replace num_dense_layers
 2  num_hidden_layers num_layers decoder_layers num_key_value_heads num_kv_heads expansion_ratio
 2  intermediate_multiple_size num_experts_per_tok moe_topk moe_k top_k_experts zero_expert_num
 2  n_groups linear_num_key_heads scale_emb
 4  num_attention_heads decoder_attention_heads num_heads attention_heads rotary_dim sliding_window
 4  attention_chunk_size window_size num_experts num_local_experts n_routed_experts moe_num_experts
 4  qk_rope_head_dim index_topk mamba_dt_rank time_step_rank linear_num_value_heads linear_num_heads
 4  adapter_rank laurel_rank block_size local_attn_chunk_length
 8  head_dim dim_head kv_channels local_attention qk_nope_head_dim index_head_dim mamba_d_state
 8  mamba_n_heads mamba_d_head mamba_chunk_size mamba_num_heads mamba_head_dim n_mamba_heads
 8  ssm_state_size chunk_size state_size linear_key_head_dim linear_value_head_dim linear_head_dim
 8  attention_head_size hidden_size_per_layer_input index_n_heads
12  q_lora_rank v_head_dim
16  kv_lora_rank dim_model_base
24  moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
24  moe_shared_expert_intermediate_size
32  hidden_size word_embed_proj_dim lru_width
40  vocab_size vocab_size_per_layer_input
48  intermediate_size intermediate_size_mlp n_inner ffn_dim decoder_ffn_dim ffn_hidden_size dff
48  dim_ff
 7  query_pre_attn_scalar
64  max_position_embeddings max_seq_len mamba_d_ssm
True is_decoder norm_topk_prob attention_bias mlp_bias
1.7 embedding_multiplier
0.7 residual_multiplier logit_scale
0.6 logits_scaling attention_multiplier
"""
"""A value and what has it. Each config takes those of these settings that it has."""
SHARED: Mapping[str, Any] = {
    name: literal_eval(value) for value, *names in map(str.split, SETTINGS.splitlines()[1:])
    for name in names
}
EMBEDDING, MATRIX, VECTOR = 0.5, 1.5, 0.3
"""The spread of an embedding, of a matrix's output for a normal input, and around what
transformers starts a vector with: one or zero for norms, zero for biases."""

EAGER = {"attn_implementation": "eager", "experts_implementation": "eager"}  # others: no float64
# fmt: on


@dataclass(frozen=True)
class Family:
    """A tiny model: `kind` is its config's model_type; `settings` are added to `SHARED`."""

    name: str
    kind: str
    settings: Mapping[str, Any]
    note: str = ""

    def config(self) -> Any:
        """The transformers config."""
        config_class: Any = CONFIG_MAPPING[self.kind]
        fields = {field.name for field in dataclasses.fields(config_class)}
        aliases = config_class.attribute_map
        names = {key: key if key in fields else aliases.get(key) for key in SHARED}
        shared = {names[key]: value for key, value in SHARED.items() if names[key] in fields}
        return AutoConfig.for_model(self.kind, **{**shared, **self.settings})


def _of(name: str, note: str = "", /, **settings: Any) -> Family:
    kind = name if name in CONFIG_MAPPING else name.partition("-")[0]
    return Family(name, kind, settings, note)


def _rope(kind: str = "default", **settings: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 100.0, **settings}


def _stretched(kind: str, trained: int = 16, **settings: Any) -> dict[str, Any]:
    return _rope(kind, factor=4.0, original_max_position_embeddings=trained, **settings)


LLAMA3 = _stretched("llama3", low_freq_factor=1.0, high_freq_factor=4.0)
HALF = {"rope_parameters": _rope(partial_rotary_factor=0.5)}
MIXED, LATER_FULL = {"layer_types": [WINDOW, FULL]}, {"layer_types": [LINEAR, FULL]}
MAMBA_HYBRID = {"layers_block_type": [LINEAR, HYBRID, HYBRID], "num_hidden_layers": 3}
ALL_WINDOW, NO_WINDOW = {"num_hidden_layers": 3}, {"sliding_window": None}
CAPS = {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
OWN_KEYS, LATENT = {"num_key_value_heads": 4}, {"num_key_value_heads": 4, "head_dim": 4}
NO_BIAS, PLAIN_OUT = {"attention_bias": False, "mlp_bias": False}, {"attention_bias": False}

# fmt: off
_FAMILIES = (
    _of("gpt2", "q, k and v in one Conv1D"), _of("gpt2-untied", tie_word_embeddings=False),
    _of("gpt2-unscaled", "no division by sqrt(head_dim)", scale_attn_weights=False),
    _of("gpt2-inverse-layer", "layer i divides by i + 1", scale_attn_by_inverse_layer_idx=True),
    _of("gpt_neo", "scores not scaled", attention_types=[[["global", "local"], 1]]),
    _of("gptj", "parallel; rotates 4 of 8 dimensions; bias of the unembedding"),
    _of("codegen", "parallel; q, v and k fused in 4 blocks"),
    _of("gpt_neox", "parallel; q, k and v fused head by head", **HALF),
    _of("gpt_neox-sequential", "no biases", use_parallel_residual=False, attention_bias=False),
    _of("gpt_neox_japanese", "attention has an output bias in the last layer alone", **HALF),
    _of("gpt_bigcode", "one key and value"), _of("gpt_bigcode-heads", multi_query=False),
    _of("opt"), _of("opt-projected", "projections in and out", word_embed_proj_dim=16),
    _of("opt-350m", "norms after the sums", word_embed_proj_dim=16, do_layer_norm_before=False),
    _of("opt-bare", "no biases", enable_bias=False, layer_norm_elementwise_affine=False),
    _of("xglm", "sinusoids; embeddings scaled"), _of("bloom", "alibi; a norm after the embedding"),
    _of("bloom-post-residual", apply_residual_connection_post_layernorm=True),
    _of("bloom-6-heads", "alibi, and 6 is no power of 2", hidden_size=36, n_head=6),
    _of("mpt", "alibi; no biases"), _of("mpt-clipped", "q, k and v clipped; own scale",
        attn_config={"clip_qkv": 1.0, "softmax_scale": 0.5, "alibi_bias_max": 4}),
    _of("falcon", "as 7b: parallel, one norm, one key and value for all heads"),
    _of("falcon-40b", "two norms; grouped keys and values", new_decoder_architecture=True),
    _of("falcon-11b", new_decoder_architecture=True, num_ln_in_parallel_attn=1),
    _of("falcon-rw", "alibi, sequential, biases", alibi=True, bias=True, multi_query=False,
        num_kv_heads=4, parallel_attn=False),
    _of("llama", **OWN_KEYS, **NO_BIAS), _of("llama-gqa", rope_parameters=_rope(), **NO_BIAS),
    _of("llama-mqa", "heads wider than hidden / heads", num_key_value_heads=1, head_dim=12),
    _of("llama-bias", tie_word_embeddings=True), _of("llama-rope-llama3", rope_parameters=LLAMA3),
    _of("llama-rope-linear", rope_parameters=_rope("linear", factor=4.0)),
    _of("llama-rope-dynamic", rope_parameters=_stretched("dynamic")),
    _of("llama-rope-yarn", "cos and sin scaled", rope_parameters=_stretched("yarn")),
    _of("mistral", **ALL_WINDOW), _of("mistral-nemo", head_dim=12, **NO_WINDOW),
    _of("mixtral", **NO_WINDOW), _of("mixtral-window", **ALL_WINDOW), _of("qwen2", "qkv biases"),
    _of("qwen2-window", "one layer has a window", use_sliding_window=True, max_window_layers=1),
    _of("qwen2_moe", "a shared expert with a gate"), _of("qwen3", "norms of q and k", head_dim=12),
    _of("qwen3_moe", "one layer has experts", decoder_sparse_step=2),
    *(_of(kind, "linear attention in one layer", **LATER_FULL) for kind in (
        "qwen3_next qwen3_5_text qwen3_5_moe_text olmo_hybrid").split()),
    _of("gemma", "norms times 1 + weight; embeddings times sqrt(32)", head_dim=12),
    _of("gemma2", "norms before and after each block; soft caps", head_dim=12, **PLAIN_OUT, **CAPS,
        **MIXED), _of("gemma2-bias", "a bias before a norm after heads", **MIXED),
    _of("gemma3_text", "norms of q and k; two rotary bases", head_dim=12, **PLAIN_OUT, **MIXED,
        rope_parameters={WINDOW: _rope(), FULL: _rope("linear", factor=4.0)}),
    _of("vaultgemma", "as gemma2 without the norms after", **CAPS, **MIXED),
    _of("gemma3n_text", "four streams; later layers reuse keys and values", num_hidden_layers=4,
        layer_types=[WINDOW, FULL] * 2, num_kv_shared_layers=2,
        activation_sparsity_pattern=[0.5, 0.0, 0.0, 0.0]),
    _of("gemma4_text", "norm of v; layers scaled", global_head_dim=12, **PLAIN_OUT, **MIXED),
    _of("gemma4_text-experts", "global keys are values; MLP beside experts", global_head_dim=12,
        hidden_size_per_layer_input=0, attention_k_eq_v=True, num_global_key_value_heads=1,
        enable_moe_block=True, **MIXED),
    _of("phi", "parallel; rotates half", **OWN_KEYS), _of("phi-qk-norm", qk_layernorm=True),
    _of("phi3", "q, k and v fused; gate and up fused", **ALL_WINDOW),
    _of("phi3-longrope", "other frequencies for more than 6 tokens", **NO_WINDOW,
        original_max_position_embeddings=6, rope_parameters=_rope("longrope",
        short_factor=[1.0, 1.1, 1.2, 1.3], long_factor=[1.5, 2.0, 2.5, 3.0])),
    _of("phimoe", "layer norms; biases", lm_head_bias=True, **ALL_WINDOW),
    _of("stablelm", "rotates a quarter", use_qkv_bias=True), _of("stablelm-parallel",
        "a norm of q and k for each head", use_parallel_residual=True, qk_layernorm=True),
    _of("olmo", "norms without weights; q, k and v clipped", clip_qkv=1.0),
    _of("olmo2", "norms after each block; norms of all of q and k", **PLAIN_OUT),
    _of("flex_olmo", **PLAIN_OUT), _of("olmo3", "one of two has a window", **PLAIN_OUT, **MIXED),
    _of("olmoe", "norms of all of q and k; clipped", clip_qkv=1.0, attention_bias=False),
    _of("cohere", "parallel; logits scaled"), _of("cohere-qk-norm", use_qk_norm=True),
    *(_of(kind, "one layer of two has a window", **MIXED) for kind in (
        "cohere2 cohere2_moe granite_swa exaone4 exaone_moe dots1 cwm mellum ministral beam "
        "flint gpt_oss modernbert-decoder").split()),
    _of("granite", "four multipliers"), _of("granitemoe"), _of("granitemoeshared"),
    _of("granitemoehybrid", "Mamba and attention", position_embedding_type="rope", **LATER_FULL),
    _of("granitemoehybrid-dense", num_local_experts=0, layer_types=[FULL, FULL]),
    _of("glm", "rotates half, interleaved"), _of("glm4"), _of("glm4_moe", use_qk_norm=True),
    _of("starcoder2", "layer norms with a large epsilon", norm_epsilon=0.1, **ALL_WINDOW),
    _of("smollm3", "no positions in the second layer", no_rope_layers=[1, 0]),
    _of("smollm3-window", no_rope_layers=[1, 0], use_sliding_window=True, **MIXED),
    _of("nemotron", "norms times 1 + weight; squared relu", **HALF),
    _of("persimmon", "q, k and v fused head by head, with norms", qk_layernorm=True),
    *(_of(kind, "latent keys and values", **LATENT) for kind in (
        "deepseek_v2 deepseek_v3 deepseek_v32 glm4_moe_lite glm_moe_dsa axk1 axk2 minicpm3"
        ).split()),
    _of("deepseek_v2-lite", "queries not low-rank", q_lora_rank=None, **LATENT),
    _of("deepseek_v3-yarn", "scores scaled by mscale", rope_interleave=False, **LATENT,
        rope_parameters=_stretched("yarn", mscale_all_dim=1.0)),
    _of("deepseek_v4", "streams mixed by Sinkhorn; compressed keys", num_key_value_heads=1,
        o_groups=2, o_lora_rank=8, hc_mult=2, partial_rotary_factor=0.5, layer_types=[
        "heavily_compressed_attention", "compressed_sparse_attention"], mlp_layer_types=["moe"] * 2,
        compress_rates={"compressed_sparse_attention": 2, "heavily_compressed_attention": 4}),
    _of("youtu", pad_token_id=None, **LATENT), _of("kimi_linear", **LATENT, **LATER_FULL),
    _of("bailing_hybrid", **LATENT, **LATER_FULL),
    _of("longcat_flash", "two attentions a layer; experts that do nothing", num_layers=1, **LATENT),
    _of("llama4_text", "chunks of 4; no positions in one layer", num_hidden_layers=3, floor_scale=2,
        interleave_moe_layer_step=2, no_rope_layers=[1, 0, 1], layer_types=[CHUNK, FULL, CHUNK]),
    _of("hunyuan_v1_dense", "norms of q and k after the rotation"), _of("hunyuan_v1_moe"),
    _of("ernie4_5", "rotates interleaved", use_bias=True), _of("ernie4_5_moe"),
    _of("arcee", "squared relu without a gate"), _of("bitnet", "norms inside attention and MLP"),
    _of("apertus", "xIELU; norms of q and k", rope_parameters=LLAMA3),
    _of("seed_oss", attention_out_bias=True, head_dim=12),
    _of("diffllama", "differences of two softmaxes", **OWN_KEYS),
    _of("nanochat", "norms without weights; soft cap", final_logit_softcapping=3.0),
    _of("doge", "values decide what is masked", keep_window_size=4, **NO_WINDOW),
    _of("doge-experts", "routes a token by others, also later ones", is_moe=True, **NO_WINDOW),
    _of("dbrx", "q, k and v fused, clipped", attn_config={"kv_n_heads": 2, "clip_qkv": 1.0,
        "rope_theta": 100.0}, ffn_config={"hidden_size": 32, "ffn_hidden_size": 24}),
    _of("afmoe", "each head has a gate", mup_enabled=True, **PLAIN_OUT, **MIXED),
    _of("mimo_v2_flash", "sinks; values scaled and narrower than keys", v_head_dim=6, **MIXED,
        rope_parameters=dict.fromkeys([WINDOW, FULL], _rope(partial_rotary_factor=0.5))),
    _of("laguna", "gated heads, fewer in one layer", num_attention_heads_per_layer=[4, 2], **MIXED),
    _of("ministral3", "queries scaled by position", **NO_WINDOW,
        rope_parameters=_stretched("yarn", 4, llama_4_scaling_beta=0.1)),
    _of("minimax", "linear attention; adds to the normed stream", mlp_beta_factor=0.7, **NO_WINDOW),
    *map(_of, "minimax_m2 helium solar_open jais2 hy_v3 hy_v4 internlm3 aria_text jetmoe".split()),
    *map(_of, "hyperclovax falcon_mamba mamba biogpt ctrl openai-gpt hrm_text".split()),
    _of("lfm2", "convolutions", layer_types=["conv", FULL], block_auto_adjust_ff_dim=False),
    _of("lfm2_moe", layer_types=["conv", FULL]), _of("lfm3", layer_types=["conv", FULL]),
    _of("falcon_h1", "Mamba beside attention", key_multiplier=0.7, ssm_out_multiplier=1.3,
        attention_out_multiplier=0.6), _of("mamba2", num_heads=8),
    _of("jamba", attn_layer_period=2, attn_layer_offset=1), _of("bamba", attn_layer_indices=[1]),
    _of("nemotron_h", layers_block_type=[LINEAR, "moe", FULL, "mlp"], **NO_WINDOW),
    _of("zamba", "layers share one attention", attention_head_dim=16, attention_hidden_size=64,
        **MAMBA_HYBRID, **OWN_KEYS), _of("zamba2", use_mem_rope=True, **MAMBA_HYBRID, **OWN_KEYS),
    _of("recurrent_gemma", num_hidden_layers=3), _of("rwkv", attention_hidden_size=32),
    _of("xlstm", hidden_size=64, qk_dim_factor=1.0), _of("xlm", "norms last", causal=True),
    _of("cpmant", "sees later tokens", prompt_length=4), _of("xmod", default_language="en_XX"),
    _of("reformer", "reversible layers", axial_pos_embds_dim=[16, 16], axial_pos_shape=[8, 8],
        attn_layers=["local", "local"]),
    *(_of(kind, "an encoder as a decoder") for kind in (
        "bert roberta roberta-prelayernorm xlm-roberta xlm-roberta-xl camembert electra rembert "
        "roformer megatron-bert big_bird bert-generation data2vec-text ernie").split()),
    *(_of(kind, "the decoder of an encoder-decoder") for kind in (
        "bart mbart pegasus marian blenderbot blenderbot-small plbart mvp trocr").split()),
)
# fmt: on
FAMILIES: Mapping[str, Family] = {family.name: family for family in _FAMILIES}


def build(name: str, seed: int = 0, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of that name in eval mode. The same seed gives the same weights in any dtype."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        family = FAMILIES[name]
        drawn = AutoModelForCausalLM.from_config(family.config(), dtype=torch.float32, **EAGER)
        _draw(drawn)
        # Read as from a file, since a model has constants that are rounded as it is read.
        how = {"config": family.config(), "state_dict": drawn.state_dict(), "dtype": dtype, **EAGER}
        return type(drawn).from_pretrained(None, **how).eval()


def save(name: str, folder: str | Path, seed: int = 0) -> None:
    """Write the model and its tokenizer in the format of Hugging Face."""
    build(name, seed).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    """The other tests' tokenizer with its words as added tokens, all that Qwen's class keeps."""
    numbers = make_tokenizer().get_vocab()
    bos, unknown, *words = sorted(numbers, key=numbers.__getitem__)
    pieces = Tokenizer(models.BPE({bos: 0, unknown: 1}, [], unk_token=unknown))
    pieces.add_tokens([AddedToken(word, normalized=False) for word in words])
    first = processors.TemplateProcessing(single=f"{bos} $A", special_tokens=[(bos, 0)])
    pieces.post_processor = first
    special = {"bos_token": bos, "unk_token": unknown, "pad_token": bos}
    return PreTrainedTokenizerFast(tokenizer_object=pieces, **special)


@torch.no_grad()
def _draw(model: torch.nn.Module) -> None:
    """Give every parameter random values. A tensor that two modules share is drawn once."""
    drawn: set[torch.nn.Parameter] = set()
    for module in model.modules():
        for name, value in module.named_parameters(recurse=False):
            if value in drawn:
                continue
            drawn.add(value)
            noise = torch.randn(value.shape)
            if isinstance(module, torch.nn.Embedding):
                value.copy_(EMBEDDING * noise)
            elif _is_matrix(module, name, value):
                inputs = value.shape[0 if isinstance(module, Conv1D) else -1]
                value.copy_(MATRIX / math.sqrt(inputs) * noise)
            else:
                value.add_(VECTOR * noise)
        for name, buffer in module.named_buffers(recurse=False):  # what a router adds to scores
            if name.endswith(("correction_bias", "expert_bias", "scalar")):
                buffer.add_(VECTOR * torch.randn(buffer.shape))


def _is_matrix(module: torch.nn.Module, name: str, value: torch.Tensor) -> bool:
    norm = "norm" in type(module).__name__.lower()
    return value.ndim > 1 and not norm and name.endswith(("weight", "proj", "w1", "v1", "w2"))
