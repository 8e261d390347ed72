"""What tells one family of causal decoders from another, as data."""

import dataclasses
from typing import NamedTuple


class Names(NamedTuple):
  """What a family calls its parts, in PyTorch and in Flax; the defaults are Llama's."""

  root: str = 'model'
  embedding: str = 'embed_tokens'
  positions: str | None = None  # the table of learned positions
  blocks: str = 'layers'
  attention_norm: str = 'input_layernorm'
  attention: str = 'self_attn'
  projections: tuple[str, ...] = ('q_proj', 'k_proj', 'v_proj')  # one: all in one
  attention_out: str = 'o_proj'
  mlp_norm: str = 'post_attention_layernorm'
  mlp: str = 'mlp'
  gate: str | None = 'gate_proj'
  up: str = 'up_proj'
  down: str = 'down_proj'
  final_norm: str = 'norm'
  head: str = 'lm_head'


_LLAMAS = Names()


@dataclasses.dataclass(frozen=True)
class Spec:
  """A decoder's sizes and choices; its weights come apart."""

  vocab_size: int
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
  rope_theta: float | None  # the base of the rotary embedding; None = learned positions
  bias: bool  # of every linear layer but the head
  tied: bool  # the head is the embedding table
  kernel_by_outputs: bool  # kernels are stored [out, in], else [in, out]
  names: Names = _LLAMAS
