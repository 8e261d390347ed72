"""The least floating-point operations of a training step with a prefix prompt."""


def least(lm, rows, tokens, targets, prompt):
  """Returns how many operations the matrix products of one step are.

  What depends on no trained value is not differentiated, and no product is computed
  whose result nobody needs: the prompt is run once for all rows, the last block's
  output and the head are for the tokens that predict a target, and of the first block's
  own inputs only the prompt has a gradient.

  Args:
    lm: `lm.model.LanguageModel` of GPT-2's family, whose MLP is four widths wide.
    rows: B.
    tokens: T, source and target, no padding.
    targets: N.
    prompt: P.
  """
  square = 2 * lm.spec.width**2  # a product of one token with a [H, H] matrix
  keys_values, rest = 2 * square, (1 + 1 + 8) * square  # rest: query, output, MLP
  every = rows * tokens
  predicting = rows * targets
  pairs = rows * (prompt * tokens + tokens * (tokens + 1) // 2)  # query sees key
  pairs += prompt * (prompt + 1) // 2
  last_pairs = predicting * (prompt + tokens)
  attention = 4 * lm.spec.width  # of a pair: a score, and a value weighed by it
  head = 2 * lm.spec.width * lm.spec.vocab_size * predicting

  whole_blocks = lm.spec.blocks - 1
  forward = whole_blocks * ((every + prompt) * (keys_values + rest) + pairs * attention)
  forward += (every + prompt) * keys_values + predicting * rest
  forward += last_pairs * attention + head
  # Backward, a product's input gradient costs as much as the product, attention twice.
  # In the first block the tokens' own queries, keys and values lead to nothing trained.
  spared = every * (keys_values + square)
  backward = forward + (whole_blocks * pairs + last_pairs) * attention - spared
  return forward + backward
