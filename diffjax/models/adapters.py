"""Networks of any framework as a pure function `net(params, x, t, cond)` and its parameters.

A framework is imported when its adapter is called, not before. `x` is [B, ...], `t` [B], and `cond`
a pytree of [B, ...] or None; `Process.denoiser` makes a teacher's `denoise` of such a net, and a
net that has EDM's convention already is one.

The parameters that an adapter gives are nested dicts of arrays, `{"params": …, "frozen": …}`, so
that they can be stored, sharded and named by path. Below "params" is what is trained. Below
"frozen" is all else that the network reads: batch statistics, tables, integers, random keys. The
default `Teacher.trainable` says no to any path with "frozen" in it, and `trainable.split` keeps to
it whatever a `trainable` of your own says. Functions and settings stay within `net`.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interfaces import Array, Params
from diffjax.models import teacher as teacher_lib
from diffjax.models import trainable as trainable_lib
from diffjax.models.teacher import Cond, Denoise, Teacher

Net = Callable[[Params, Array, Array, Cond], Array]


def from_linen(
    module: Any,
    variables: Mapping[str, Any],
    *,
    mutable: Sequence[str] = (),
    call: Callable[..., Any] = lambda m, v, x, t, c: m.apply(v, x, t, c),
    batched: bool = True,
) -> tuple[Net, Params]:
    """Adapt a Flax Linen module.

    Args:
      module: the module, unbound.
      variables: as `module.init` gives them, with "params" among the collections. Only these are
        trained, all other collections are frozen.
      mutable: collections that the module writes when it is called, such as "batch_stats" of a
        batch norm in training. What it writes is dropped: a net is a pure function.
      call: (module, variables, x, t, cond) -> [B, ...]. With `mutable`, the module it is given
        returns from `apply` what it does without.
      batched: whether the module takes a batch; False: one example, and it is mapped.

    Returns:
      (net, `{"params": …, "frozen": {collection: …}}`).

    Raises:
      ValueError: if `variables` has no "params", or `mutable` names them.
    """
    from flax import core
    from flax.core import meta

    mutable = (mutable,) if isinstance(mutable, str) else tuple(mutable)
    if "params" in mutable:
        raise ValueError('from_linen: mutable names "params", which are trained, not written')
    if not isinstance(variables, Mapping) or "params" not in variables:
        found = ", ".join(map(str, variables)) if isinstance(variables, Mapping) else "no mapping"
        raise ValueError(
            f'from_linen: variables must hold "params", as module.init gives them ({found}); '
            'of bare parameters make {"params": parameters}'
        )
    frozen = dict(core.unfreeze(meta.unbox(dict(variables))))
    trained = frozen.pop("params")
    model = _Immutable(module, mutable) if mutable else module

    def net(params: Params, x: Array, t: Array, cond: Cond = None) -> Array:
        bound = {"params": params["params"], **params["frozen"]}
        return _mapped(lambda *one: call(model, bound, *one), batched)(x, t, cond)

    return net, {"params": trained, "frozen": frozen}


def from_nnx(
    model: Any,
    *,
    call: Callable[..., Any] = lambda m, x, t, c: m(x, t, c),
    train_only: Any = None,
    batched: bool = True,
) -> tuple[Net, Params]:
    """Adapt a Flax NNX model.

    Put it into evaluation first, `model.eval()`. What it writes when it is called, such as batch
    statistics and counts of random keys, is dropped: a net is a pure function.

    Args:
      model: the model; it isn't changed.
      call: (model, x, t, cond) -> [B, ...].
      train_only: filter of `nnx.split` for what is trained; None for `nnx.Param`.
      batched: whether the model takes a batch; False: one example, and it is mapped.

    Returns:
      (net, `{"params": …, "frozen": …}`), batch statistics and random keys being frozen.

    Raises:
      ValueError: if the filter finds nothing, or a class came in place of a model.
    """
    from flax import nnx

    if isinstance(model, type):
        raise ValueError(f"from_nnx: {model.__name__} is a class; give a model, made of it")

    train_only = nnx.Param if train_only is None else train_only
    graph, *states = nnx.split(model, train_only, ...)
    (params, unpack), (frozen, unpack_frozen) = map(_as_dicts, states)
    if not params:
        raise ValueError(f"from_nnx: the model holds nothing of train_only={train_only!r}")

    def net(params: Params, x: Array, t: Array, cond: Cond = None) -> Array:
        def one(*inputs: Any) -> Any:
            # Merged within the map: NNX forbids writing a variable from another trace.
            trained, rest = unpack(params["params"]), unpack_frozen(params["frozen"])
            return call(nnx.merge(graph, trained, rest), *inputs)

        return _mapped(one, batched)(x, t, cond)

    return net, {"params": params, "frozen": frozen}


def _without_condition(model: Any, x: Array, t: Array, cond: Cond) -> Array:
    if cond is not None:
        raise ValueError(
            "from_equinox: a condition came, and the model is called without one; give "
            "call=lambda m, x, t, c: m(x, t, c)"
        )
    return model(x, t)


def from_equinox(
    model: Any, *, call: Callable[..., Any] = _without_condition, batched: bool = False
) -> tuple[Net, Params]:
    """Adapt an Equinox model.

    Put it into inference first, `eqx.nn.inference_mode(model)`.

    Args:
      model: the model.
      call: (model, x, t, cond) -> one example; by default `model(x, t)`, and a condition is an
        error.
      batched: whether the model takes a batch; False, Equinox's habit: one example, and it is
        mapped.

    Returns:
      (net, `{"params": …, "frozen": …}`), arrays of integers and random keys being frozen.

    Raises:
      ValueError: if the model holds no array of floating-point numbers.
    """
    import equinox as eqx

    trained, rest = eqx.partition(model, eqx.is_inexact_array)
    arrays, static = eqx.partition(rest, eqx.is_array)
    if not jax.tree.leaves(trained):
        kind = type(model).__name__
        raise ValueError(f"from_equinox: {kind} holds no array of floating-point numbers")
    (params, unpack), (frozen, unpack_frozen) = _as_dicts(trained), _as_dicts(arrays)

    def net(params: Params, x: Array, t: Array, cond: Cond = None) -> Array:
        whole = eqx.combine(unpack(params["params"]), unpack_frozen(params["frozen"]), static)
        return _mapped(lambda *one: call(whole, *one), batched)(x, t, cond)

    return net, {"params": params, "frozen": frozen}


def from_function(
    fn: Callable[..., Array], params: Params, *, batched: bool = True
) -> tuple[Net, Params]:
    """Adapt a plain function.

    Args:
      fn: (params, x, t, cond) -> [B, ...].
      params: its parameters, any pytree; they stay as they are. What isn't to be trained lies
        below a key "frozen", or `Teacher.trainable` says so.
      batched: whether the function takes a batch; False: one example, and it is mapped.

    Returns:
      (net, params).

    Raises:
      ValueError: if `fn` is no function.
    """
    if not callable(fn):
        raise ValueError(f"from_function: fn is of type {type(fn).__name__}, not a function")

    def net(params: Params, x: Array, t: Array, cond: Cond = None) -> Array:
        return _mapped(lambda *one: fn(params, *one), batched)(x, t, cond)

    return net, params


def from_torch_export(ep: Any) -> tuple[Net, Params]:
    """Adapt a PyTorch network, exported, through torchax.

    Args:
      ep: `torch.export.ExportedProgram` of a network in evaluation that takes (x, t), or
        (x, t, cond) with one array as condition, and gives one array. Its batch must be dynamic
        if it is to be called with other batches than the one of the export.

    Returns:
      (net, `{"params": …, "frozen": …}`), nested by the names of the state dict; buffers and
      constants are frozen.

    Raises:
      ImportError: if torchax isn't installed.
      ValueError: if `ep` is no exported program.
    """
    try:
        from torchax import export
    except Exception as error:  # a torch that torchax doesn't fit is an AttributeError
        raise ImportError(
            "from_torch_export needs torchax, which can't be imported "
            f"({str(error).splitlines()[0]}): pip install torchax, and a torch that it works with"
        ) from error
    if not hasattr(ep, "graph_signature"):
        raise ValueError(
            f"from_torch_export: {type(ep).__name__} is no exported program; make one by "
            "torch.export.export(network.eval(), (x, t))"
        )
    ep = ep.run_decompositions()
    signature = ep.graph_signature
    states, program = export.exported_program_to_jax(ep)
    # torchax lists constants after buffers, and the program takes them as its signature has them.
    listed = [*signature.parameters, *signature.buffers, *signature.lifted_tensor_constants]
    trained = set(signature.parameters)
    place = {name: ("params" if name in trained else "frozen", *name.split(".")) for name in listed}
    params: dict[str, Any] = {"params": {}, "frozen": {}}
    for name, value in zip(listed, states, strict=True):
        _put(params, place[name], jnp.asarray(value))
    taken = [place[each.target] for each in signature.input_specs if each.target is not None]

    def net(params: Params, x: Array, t: Array, cond: Cond = None) -> Array:
        inputs = (x, t) if cond is None else (x, t, cond)
        out = program([_get(params, each) for each in taken], inputs)
        return out[0] if isinstance(out, tuple | list) else out

    return net, params


def channels_first(denoise: Denoise) -> Denoise:
    """Let a function on [B, C, ...] take and give [B, ..., C].

    Args:
      denoise: (params, y, sigma, cond) -> array of y's shape, as a teacher's `denoise` or a net.

    Returns:
      The same function for arrays whose channels come last.
    """

    def channels_last(params: Params, y: Array, sigma: Array, cond: Cond = None) -> Array:
        return jnp.moveaxis(denoise(params, jnp.moveaxis(y, -1, 1), sigma, cond), 1, -1)

    if (gain := getattr(denoise, "gain", None)) is not None:
        channels_last.gain = gain  # type: ignore[attr-defined]
    return channels_last


def scaled(teacher: Teacher, mean: Any = 0.0, std: float = 1.0) -> Teacher:
    """Give a teacher other units: its data x become (x - mean) / std.

    Args:
      teacher: in units of its own.
      mean: of the data in these units, a number or an array that broadcasts to `teacher.shape`.
      std: one positive number, since noise is as strong in all axes.

    Returns:
      Teacher of the data in the new units, its noise levels and sigma_data divided by `std`. It
      has no `process`, since the old one's units are others.

    Raises:
      ValueError: if `mean` doesn't broadcast, or `std` isn't one positive number.
    """
    teacher = teacher_lib.checked(teacher, "scaled")
    std = teacher_lib.positive(std, "scaled: std")
    mean = np.asarray(mean, np.float32)
    if not np.isfinite(mean).all():
        raise ValueError("scaled: mean must be finite")
    try:
        fits = np.broadcast_shapes(mean.shape, teacher.shape) == teacher.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"scaled: mean of shape {list(mean.shape)} doesn't broadcast to one example's "
            f"{list(teacher.shape)}"
        )

    def denoise(params: Params, y: Array, sigma: Array, cond: Cond = None) -> Array:
        return (teacher.denoise(params, y * std + mean, sigma * std, cond) - mean) / std

    gain, preview = teacher_lib.gain_of(teacher), teacher.preview
    return dataclasses.replace(
        teacher,
        denoise=denoise,
        sigma_data=teacher.sigma_data / std,
        sigma_min=teacher.sigma_min / std,
        sigma_max=teacher.sigma_max / std,
        process=None,
        gain=None if gain is None else lambda sigma: gain(sigma * std) / std,
        preview=None if preview is None else lambda x: preview(x * std + mean),
    )


@dataclasses.dataclass(frozen=True)
class _Immutable:
    """Linen module whose `apply` lets it write, and drops what it wrote."""

    module: Any
    mutable: tuple[str, ...]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    def apply(self, *args: Any, **kwargs: Any) -> Any:
        if "mutable" in kwargs:  # a call that sees to it itself
            return self.module.apply(*args, **kwargs)
        return self.module.apply(*args, **kwargs, mutable=list(self.mutable))[0]


def _mapped(fn: Callable[..., Any], batched: bool) -> Callable[..., Any]:
    return fn if batched else jax.vmap(fn)


def _as_dicts(tree: Any) -> tuple[dict[str, Any], Callable[[Any], Any]]:
    """Nested dicts by path of a tree's leaves, and the way back."""
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    places = [trainable_lib.names(path) for path, _ in leaves]
    # NNX's variables add a last key of their own.
    if places and all(len(place) > 1 and place[-1] == "value" for place in places):
        places = [place[:-1] for place in places]
    nested: dict[str, Any] = {}
    for place, (_, leaf) in zip(places, leaves, strict=True):
        _put(nested, place, leaf)

    def back(given: Any) -> Any:
        return jax.tree.unflatten(structure, [_get(given, place) for place in places])

    return nested, back


def _put(nested: dict[str, Any], place: Sequence[str], value: Any) -> None:
    for name in place[:-1]:
        nested = nested.setdefault(name, {})
    nested[place[-1]] = value


def _get(nested: Any, place: Sequence[str]) -> Any:
    for name in place:
        nested = nested[name]
    return nested
