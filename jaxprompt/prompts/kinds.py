"""A trained prompt: its arrays by name, which say what kind it is.

`{'embeddings': [P, H]}`: virtual tokens.
"""

from jaxprompt.prompts import placement


def length(prompt):
  """Returns P, the number of virtual tokens."""
  return prompt['embeddings'].shape[0]


def place(prompt, position):
  """Returns the `placement.Placement` of a prompt's arrays for all rows."""
  return placement.place(prompt['embeddings'], position)
