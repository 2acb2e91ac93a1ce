"""Other layouts of a checkpoint's state: of earlier versions, and of other optimiser settings.

Arrays are told by names. Those of an optimiser say where in its chain each transformation stood,
which the settings decide; their canonical names say only what they are.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array
from diffjax.training import ema
from diffjax.training.state import TrainState
from diffjax.training.stored_trees import Layout

_COUNTERS = frozenset(("step", "images", "skipped", "skipped_in_a_row"))
_MOMENTS = ("mu", "nu")
_ROUNDINGS = "steps"  # that moments in bfloat16 count


def adapted(stored: Any, like: TrainState) -> list[Layout]:
    """List the layout of what is stored, if the state can be made of it.

    Moments move over where a setting of the optimiser changed. First moments that weren't kept
    start at 0. `images`, which earlier versions didn't count, is 0: see `images_of`.

    Args:
      stored: shapes of the stored arrays.
      like: shapes of the state of today, with shardings.

    Raises:
      ValueError: if it lacks power-function averages, which weigh all of a run.
    """
    wanted = canonical(_leaves(like))
    found = canonical(_leaves(stored))
    missing = wanted.keys() - found.keys()
    _check_powers(missing)
    if not all(name == "images" or _starts_afresh(name) for name in missing):
        return []
    leaves = _leaves(like)
    here = {name: leaves[path] for name, path in wanted.items()}
    place = here["step"].sharding

    def abstract(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
        name = _name(path)
        as_now = here.get(names.get(name, ""))
        if as_now is None or as_now.shape != leaf.shape:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)
        return as_now

    names = {path: name for name, path in found.items()}

    def convert(arrays: Any) -> TrainState:
        by_name = {names.get(path): array for path, array in _leaves(arrays).items()}
        by_path = {path: name for name, path in wanted.items()}

        def pick(path: Any, leaf: Any) -> Array:
            array = by_name.get(by_path[_name(path)])
            if array is None:
                array = jnp.zeros(leaf.shape, leaf.dtype, device=leaf.sharding)
            return array

        return jax.tree_util.tree_map_with_path(pick, like)

    return [(jax.tree_util.tree_map_with_path(abstract, stored), convert)]


def _check_powers(missing: Iterable[str]) -> None:
    names = {name.split("/")[1] for name in missing if name.startswith("averages/")}
    lacking = sorted(std for name in names if (std := ema.parted(name)[1]) is not None)
    if lacking:
        refuse_powers(lacking)


def refuse_powers(stds: Sequence[float]) -> NoReturn:
    """Refuse to go on from a checkpoint without some power-function averages.

    Args:
      stds: their σ_rel.

    Raises:
      ValueError: always.
    """
    raise ValueError(
        f"the checkpoint has no power-function averages of {', '.join(map(str, stds))}, which "
        "weigh all of a run from its first update on: leave them out (edm2.power_stds), or start "
        "another --workdir."
    )


def fresh_moments(stored: Any, like: TrainState) -> set[str]:
    """Name the learners whose first moments start at 0, since they weren't kept.

    Args:
      stored: shapes of the stored arrays.
      like: shapes of the state of today.
    """
    missing = canonical(_leaves(like)).keys() - canonical(_leaves(stored)).keys()
    return {name.split("/")[1] for name in missing if name.split("/")[2:3] == ["mu"]}


def places_of_average(learner: str) -> tuple[tuple[str, ...], ...]:
    """Names under which a learner's average lies in a state, and in one of diffjax 0.1."""
    return ("averages", learner), (f"{learner}_ema",)


def images_of(meta: Mapping[str, Any]) -> int:
    """Read how many images a checkpoint saw, from what is kept beside its state."""
    return round(meta["kimg"] * 1000)


def canonical(names: Iterable[str]) -> dict[str, str]:
    """Map what each array is, as canonical name, to its name; what nothing needs is left out.

    `params/L/...`, `averages/L/...`, and of a learner's optimiser `opt/L/count`, `opt/L/mu/...`,
    `opt/L/nu/...` and `opt/L/steps`, which moments in bfloat16 count. diffjax 0.1 had the trees
    `L`, `L_ema` and `L_opt` side by side, and a single learner's optimiser was `opt`.
    """
    names = list(names)
    if not any(name.startswith("params/") for name in names):
        renamed = {_of_today(name, _learners(names)): name for name in names}
    else:
        renamed = {name: name for name in names}
    counts = {prefix for name in renamed for prefix in [_before_moment(name)] if prefix is not None}
    result = {}
    for now, name in renamed.items():
        what = _canonical(now, counts)
        if what is not None:
            result[what] = name
    return result


def _canonical(name: str, counts: set[str]) -> str | None:
    group, *rest = name.split("/")
    if group != "opt":
        return name
    learner, *rest = rest
    for index, part in enumerate(rest):
        if part in _MOMENTS:
            return "/".join([group, learner, *rest[index:]])
    before, _, last = name.rpartition("/")
    if last == _ROUNDINGS or before in counts:
        return f"{group}/{learner}/{last}"
    return None  # a schedule's own count of updates, which images seen stand in for


def _before_moment(name: str) -> str | None:
    parts = name.split("/")
    if parts[0] != "opt":
        return None
    return next(("/".join(parts[:i]) for i, part in enumerate(parts) if part in _MOMENTS), None)


def _of_today(name: str, learners: list[str]) -> str:
    group, _, rest = name.partition("/")
    if group in _COUNTERS:
        return name
    if group == "opt":
        (single,) = learners
        return f"opt/{single}/{rest}"
    for suffix, place in (("_ema", "averages"), ("_opt", "opt")):
        if group.endswith(suffix):
            return f"{place}/{group.removesuffix(suffix)}/{rest}"
    return f"params/{group}/{rest}"


def _learners(names: Iterable[str]) -> list[str]:
    groups = {name.partition("/")[0] for name in names} - _COUNTERS - {"opt"}
    return sorted(group for group in groups if not group.endswith(("_ema", "_opt")))


def _starts_afresh(name: str) -> bool:
    group, *rest = name.split("/")
    return group == "opt" and len(rest) > 1 and rest[1] in ("mu", _ROUNDINGS)


def _leaves(tree: Any) -> dict[str, Any]:
    return {_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _name(path: Any) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
