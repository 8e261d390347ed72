"""Devices: where arrays live, and how one device's program runs on all of them.

Every device runs the same program on its own rows of a batch, and what the rows have
in common is summed or gathered by name, over the axis `DATA`. `jit` over a mesh and
`pmap` are two ways to run it; nothing above this file knows which one is in use.
"""

import abc
import collections
import dataclasses
import functools

import jax
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec

from jaxprompt import errors
from jaxprompt.lm import partition

DATA = 'data'  # the axis of devices that share a batch
MODEL = 'model'  # the axis of devices that share the weights

# XLA's default schedule for CPUs runs independent operations side by side, which keeps
# half again as many arrays alive and makes the train step no faster. And CSE undoes
# `jax.checkpoint` there: it drops the barriers, and then keeps the attention weights of
# all blocks for the backward pass.
_COMPILER_OPTIONS = {
  'cpu': {
    'xla_cpu_scheduler_type': 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED',
    'xla_disable_hlo_passes': 'cse',
  }
}


# So many tokens keep a CPU's cores busy; more at a time take memory and are no faster.
_TOKENS_AT_A_TIME = {'cpu': 320}

# Batches of an epoch that make a padded shape worth its compilation. What a CPU runs in
# a second takes a GPU some hundredths, and compiling it takes longer there.
_BATCHES_PER_SHAPE = {'cpu': 4}
_ON_ACCELERATORS = 400


@dataclasses.dataclass(frozen=True)
class Layout(abc.ABC):
  """A way to use the devices; see `layout` for how one is chosen.

  Attributes:
    mesh: all devices, `DATA` x `MODEL`.
  """

  mesh: jax.sharding.Mesh

  @property
  def platform(self):
    """The kind of the devices: 'cpu', 'gpu' or 'tpu'."""
    return self.mesh.devices.flat[0].platform

  @property
  def tokens_at_a_time(self):
    """How many tokens a step best runs at a time here; None is all there are."""
    return _TOKENS_AT_A_TIME.get(self.platform)

  @property
  def batches_per_shape(self):
    """How many batches make a shape of their own worth compiling here."""
    return _BATCHES_PER_SHAPE.get(self.platform, _ON_ACCELERATORS)

  @property
  @abc.abstractmethod
  def home(self):
    """The mesh that this process puts its arrays on."""

  @abc.abstractmethod
  def own(self, batch_size):
    """Returns which rows of a global batch this process loads, ascending indices."""

  @abc.abstractmethod
  def place_rows(self, rows):
    """Puts a tree of this process's rows, each [`own`, ...], on the devices."""

  @abc.abstractmethod
  def spread(self, function, donate_argnums=()):
    """Compiles a function to run on every device with the device's rows.

    Args:
      function: (a, b, rows) -> a tree that is the same on every device, since it is
        summed or gathered over `DATA`. The trees `a` and `b` are whole everywhere,
        but for weights that are shared over `MODEL`.
      donate_argnums: see `jax.jit`.

    Returns:
      The function of `a`, `b` and rows from `place_rows`.
    """

  @abc.abstractmethod
  def map_rows(self, function):
    """Compiles (a, rows) -> rows to run on every device; the rows stay where they are.

    As with `spread`, the tree `a` is whole everywhere but for shared weights.
    """

  @abc.abstractmethod
  def fetch_rows(self, rows):
    """Returns this process's rows of what `map_rows` gave, on the host."""

  def gather(self, function):
    """Like `spread`, but of a function of rows: gives those of the whole batch."""

    def gathered(a, b, rows):
      found = function(a, b, rows)
      return jax.tree.map(lambda x: jax.lax.all_gather(x, DATA, tiled=True), found)

    return self.spread(gathered)

  def whole(self, function):
    """Compiles a function of whole arrays and weights; its result is whole."""
    return jax.jit(function, out_shardings=NamedSharding(self.home, PartitionSpec()))

  def replicate(self, tree):
    """Puts a tree of arrays, the same in every process, on every device."""
    return jax.tree.map(lambda x: self._place(x, PartitionSpec()), tree)

  def place_params(self, lm, params):
    """Puts weights on the devices, shard by shard; arguments as `partition`."""
    return jax.tree.map(lambda put, x: put(x), self.placements(lm, params), params)

  def placements(self, lm, shapes):
    """Returns a tree of functions that put each weight there; see `partition`."""
    return jax.tree.map(
      lambda spec: functools.partial(self._place, spec=spec), self.partition(lm, shapes)
    )

  def partition(self, lm, params):
    """Returns a tree of `PartitionSpec`s for a model's weights.

    Args:
      lm: `lm.model.LanguageModel`.
      params: its weights, in the host's memory, or their shapes.

    Raises:
      UserError: if the model cannot be shared by so many devices.
    """
    size = self.mesh.shape[MODEL]
    if size == 1:
      return jax.tree.map(lambda _: PartitionSpec(), params)
    if lm.spec.width % size:
      raise errors.UserError(
        f'parallel.model is {size}, which does not divide the width of the model, '
        f'{lm.spec.width}; use a divisor of it, best one of its {lm.spec.heads} heads '
        'too'
      )
    return partition.partition(lm.spec, params, MODEL, size)

  def share(self, indices, batch_size):
    """Returns those of a batch's row indices whose rows this process loads.

    Args:
      indices: at most `batch_size`; the batch's last rows are padding if it is short.
      batch_size: B.
    """
    return [indices[i] for i in self.own(batch_size) if i < len(indices)]

  def round_up(self, batch_size):
    """Returns the batch size that is the next multiple of the axis `DATA`."""
    size = self.mesh.shape[DATA]
    return -(-batch_size // size) * size

  def check_divides(self, batch_size):
    """Raises `UserError` if the devices cannot have the same number of rows."""
    if self.round_up(batch_size) != batch_size:
      raise errors.UserError(
        f'train.batch_size is {batch_size}, which the {self.mesh.shape[DATA]} devices '
        'that share a batch (parallel.data) cannot share evenly; use a multiple'
      )

  def _place(self, x, spec):
    x = np.asarray(x)
    sharding = NamedSharding(self.home, spec)
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])


@functools.cache  # asked for every batch
def _own_rows(mesh, batch_size):
  rows = NamedSharding(mesh, PartitionSpec(DATA))
  slices = rows.addressable_devices_indices_map((batch_size,)).values()
  return np.unique([np.arange(batch_size)[index] for index in slices])


class _Mesh(Layout):
  """`jit` over the mesh: explicit over `DATA`, the compiler's work over `MODEL`."""

  @classmethod
  def build(cls, data, model, devices):
    # In the order in which those that share the weights are near each other.
    automatic = (jax.sharding.AxisType.Auto,) * 2
    sizes, names = (data, model), (DATA, MODEL)
    return cls(jax.make_mesh(sizes, names, automatic, devices=devices))

  @property
  def home(self):
    return self.mesh

  def own(self, batch_size):
    return _own_rows(self.mesh, batch_size)

  def place_rows(self, rows):
    sharding = NamedSharding(self.mesh, PartitionSpec(DATA))
    return jax.tree.map(
      lambda x: jax.make_array_from_process_local_data(sharding, x), rows
    )

  def spread(self, function, donate_argnums=()):
    everywhere, rows = PartitionSpec(), PartitionSpec(DATA)
    mapped = self._map(function, (everywhere, everywhere, rows), everywhere)
    return self._jit(mapped, everywhere, donate_argnums)

  def map_rows(self, function):
    everywhere, rows = PartitionSpec(), PartitionSpec(DATA)
    return self._jit(self._map(function, (everywhere, rows), rows), rows)

  def fetch_rows(self, rows):
    def fetch(x):
      shards = {shard.index[0].start or 0: shard.data for shard in x.addressable_shards}
      parts = [np.asarray(shards[start]) for start in sorted(shards)]
      return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return jax.tree.map(fetch, rows)

  def _map(self, function, in_specs, out_specs):
    shared = self.mesh.shape[MODEL] > 1
    if shared and self.mesh.shape[DATA] == 1:
      return _named_alone(function, in_specs, out_specs)
    return jax.shard_map(
      function,
      mesh=self.mesh,
      in_specs=in_specs,
      out_specs=out_specs,
      # Weights that are not shared leave the compiler nothing: the program is pmap's.
      axis_names={DATA} if shared else {DATA, MODEL},
      check_vma=False,  # which would sum a gradient by itself, and `pmap` does not
    )

  def _jit(self, function, out_spec, donate_argnums=()):
    return jax.jit(
      function,
      out_shardings=NamedSharding(self.mesh, out_spec),
      donate_argnums=donate_argnums,
      compiler_options=_COMPILER_OPTIONS.get(self.platform),
    )


def _named_alone(function, in_specs, out_specs):
  """Gives a function the axis `DATA` by itself, of size one.

  XLA's partitioner refuses to sum over a mesh's axis of one while it cuts another.
  """
  in_axes = tuple(0 if spec == PartitionSpec(DATA) else None for spec in in_specs)
  out_axes = 0 if out_specs == PartitionSpec(DATA) else None
  mapped = jax.vmap(
    function, in_axes=in_axes, out_axes=out_axes, axis_name=DATA, axis_size=1
  )

  def alone(*args):
    args = [
      args[i] if axis is None else jax.tree.map(lambda x: x[None], args[i])
      for i, axis in enumerate(in_axes)
    ]
    found = mapped(*args)
    return found if out_axes is None else jax.tree.map(lambda x: x[0], found)

  return alone


class _Pmap(Layout):
  """`pmap` over the devices; no weights are shared."""

  @classmethod
  def build(cls, data, model, devices):
    if model != 1:
      raise errors.UserError(
        f'parallel.model is {model}, but parallel.mode pmap shares no weights; use jit'
      )
    return cls(jax.sharding.Mesh(np.reshape(devices, (data, 1)), (DATA, MODEL)))

  @property
  def home(self):
    # Not `local_mesh`, which wants them side by side.
    own = jax.process_index()
    local = [x for x in self._devices if x.process_index == own]
    return jax.sharding.Mesh(np.reshape(local, (-1, 1)), (DATA, MODEL))

  @property
  def _devices(self):
    # Process after process, as the rows are cut: a host of TPUs owns a tile.
    return sorted(self.mesh.devices.flat, key=lambda device: device.process_index)

  def own(self, batch_size):
    return np.split(np.arange(batch_size), jax.process_count())[jax.process_index()]

  def place_rows(self, rows):
    # What pmap takes: one more axis in front, of this process's devices.
    size = jax.local_device_count()
    return jax.tree.map(lambda x: x.reshape(size, len(x) // size, *x.shape[1:]), rows)

  def spread(self, function, donate_argnums=()):
    return jax.pmap(
      function,
      axis_name=DATA,
      in_axes=(None, None, 0),
      out_axes=None,
      devices=self._devices,
      donate_argnums=donate_argnums,
    )

  def map_rows(self, function):
    return jax.pmap(function, axis_name=DATA, in_axes=(None, 0), devices=self._devices)

  def fetch_rows(self, rows):
    return jax.tree.map(
      lambda x: np.asarray(x).reshape(-1, *x.shape[2:]), jax.device_get(rows)
    )


MODES = {'jit': _Mesh, 'pmap': _Pmap}


def layout(mode, data, model, devices=None):
  """Chooses how to use devices.

  Args:
    mode: a key of `MODES`.
    data: devices that share a batch, -1 for all that are left.
    model: devices that share the weights, -1 for all that are left.
    devices: a list; None = all of all processes. Programs can be compiled for devices
      that are not there, see `shapes`.

  Raises:
    UserError: if the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  count = len(devices)
  wanted = f'parallel.data ({data}) x parallel.model ({model})'
  if data == -1:
    data = count // model
  elif model == -1:
    model = count // data
  if min(data, model) < 1 or data * model != count:
    raise errors.UserError(
      f'{wanted} does not make {count}, the number of devices that JAX sees; choose '
      'sizes that do, or let one be -1 for all that are left'
    )
  found = MODES[mode].build(data, model, devices)
  _check_shares(found.mesh)
  return found


def _check_shares(mesh):
  """Raises `UserError` unless processes have equal shares of a batch, or the same.

  All that a process holds of a batch, and what it keeps, is then of one size.
  """
  owned = collections.defaultdict(set)
  for (rows, _), device in np.ndenumerate(mesh.devices):
    owned[device.process_index].add(rows)
  shares = set(map(frozenset, owned.values()))
  sizes = sorted(map(len, shares))
  if sizes[0] != sizes[-1] or sum(sizes) != mesh.shape[DATA]:
    raise errors.UserError(
      f'parallel.data ({mesh.shape[DATA]}) x parallel.model ({mesh.shape[MODEL]}) '
      f'gives {len(owned)} processes shares of a batch that differ in size or overlap; '
      "use a parallel.model that divides a process's devices, or is a multiple of them"
    )
