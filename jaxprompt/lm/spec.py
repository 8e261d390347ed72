"""What tells one family of causal decoders from another, as data."""

import dataclasses
from typing import NamedTuple


class Names(NamedTuple):
  """What a family calls its parts, in PyTorch and in Flax; the defaults are Llama's.

  A part whose name is None is not there.
  """

  root: str = 'model'
  embedding: str = 'embed_tokens'
  positions: str | None = None  # the table of learned positions
  blocks: str = 'layers'
  attention_norm: str = 'input_layernorm'
  attention: str = 'self_attn'
  projections: tuple[str, ...] = ('q_proj', 'k_proj', 'v_proj')  # one: all in one
  query_norm: str | None = None  # of each head, before it is turned
  key_norm: str | None = None
  attention_out: str = 'o_proj'
  attention_out_norm: str | None = None  # of what attention adds
  mlp_norm: str = 'post_attention_layernorm'
  mlp: str = 'mlp'
  gate: str | None = 'gate_proj'
  up: str = 'up_proj'  # the gate's own name: both in one, the gate first
  down: str = 'down_proj'
  mlp_out_norm: str | None = None  # of what the MLP adds
  final_norm: str = 'norm'
  head: str = 'lm_head'


class Biases(NamedTuple):
  """Which linear layers add a bias."""

  projections: bool = False  # query, key and value
  attention_out: bool = False
  mlp: bool = False


_LLAMAS = Names()
Frequencies = tuple[float, ...]  # of a rotary embedding, see `rotary.angles`


@dataclasses.dataclass(frozen=True)
class Spec:
  """A decoder's sizes and choices; its weights come apart."""

  vocab_size: int  # rows of the embedding table
  width: int  # H
  blocks: int
  heads: int
  kv_heads: int  # G; each serves heads / G heads that follow each other
  head_dim: int  # D
  mlp_width: int
  max_positions: int
  norm: str  # a key of `modules.NORMS`
  epsilon: float  # of the norms
  activation: str  # a key of `modules.ACTIVATIONS`
  rotary: tuple[Frequencies | None, ...]  # of each block
  windows: tuple[int | None, ...]  # of each block, see `attention.Rule`
  bias: Biases  # of linear layers; the head has none
  tied: bool  # the head is the embedding table
  kernel_by_outputs: bool = False  # kernels are stored [out, in], else [in, out]
  by_head: bool = False  # a projection in one goes head by head, else by what it gives
  parallel: bool = False  # the MLP reads what attention does, not what it gives
  embedding_scale: float | None = None
  query_divisor: float | None = None  # of the scores; None = the root of D
  score_cap: float | None = None  # cap * tanh(score / cap)
  logit_cap: float | None = None
  names: Names = _LLAMAS
