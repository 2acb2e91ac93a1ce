"""Rehearsal of a run, before it is begun: what it takes, and what its first updates give.

Nothing of it is kept but two pictures. Each part says what it found; what needs mending is listed
at the end.
"""

import math
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from clu import parameter_overview
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import numerics, runtime, sharding
from diffjax.evaluation import sampling
from diffjax.files import images
from diffjax.interfaces import Params, PRNGKey
from diffjax.models import guidance
from diffjax.runs import building
from diffjax.runs.experiment import Experiment
from diffjax.runs.pictures import Pictures, PreviewError
from diffjax.training import draws as drawing
from diffjax.training import failures, metric_sums
from diffjax.training.state import TrainState

# Parameters times places of an example, and times a batch, over which a CPU takes minutes.
_CPU_SAMPLES, _CPU_UPDATE = 5e9, 3e11
_TIMED_SECONDS = 3.0
_LEVELS, _EXAMPLES = 5, 16
_GIB = 2**30
Say = Callable[[str], None]


def rehearse(config: ConfigDict, exp: Experiment, mesh: Mesh, folder: Path, say: Say) -> list[str]:
    """Try a run's parts one by one, as far as this machine can in about a minute.

    On a CPU what would take minutes is left out, and named.

    Args:
      config: of any method.
      exp: built from it.
      mesh: the devices.
      folder: for pictures; it is made when there are some.
      say: takes each line, as it is known.

    Returns:
      A line for each thing to change; [] if there is none.
    """
    problems = list(_room(config, exp, folder, say))
    for line in _networks(config, exp, mesh):
        say(line)
    work = _work(exp)
    draws = not (_is_cpu() and work > _CPU_SAMPLES)
    updates = not (_is_cpu() and work * exp.batch_size > _CPU_UPDATE)
    left_out = ["samples"] * (not draws) + ["an update: losses, memory, time"] * (not updates)
    if left_out:
        say(f"not tried, since it would take a CPU minutes: {', '.join(left_out)}")
    if not draws and not updates:
        return problems
    inputs = exp.load_inputs()
    inputs = sharding.put(inputs, sharding.state(inputs, mesh))
    state = exp.first_state(inputs, exp.load_initial(), mesh)
    inputs = exp.narrowed(inputs)
    if draws:
        problems += _draw(config, exp, mesh, state, inputs, folder, say)
    if updates:
        problems += _update(config, exp, mesh, state, inputs, say)
    return problems


def _is_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _work(exp: Experiment) -> float:
    """Parameters times places of an example, by which networks' costs go."""
    params = int(parameter_overview.count_parameters(exp.denoiser.abstract_params()))
    return float(params * math.prod(exp.denoiser.shape[:-1]))


def _networks(config: ConfigDict, exp: Experiment, mesh: Mesh) -> Iterator[str]:
    """Describe devices and networks."""
    rounds = config.get("accumulation", 1)
    share = exp.batch_size // mesh.size // rounds
    yield (
        f"devices: {mesh.size} x {jax.devices()[0].device_kind}, {share} examples each, "
        f"{exp.batch_size} an update" + (f" in {rounds} rounds" if rounds > 1 else "")
    )
    denoiser = exp.denoiser
    classes = f"{denoiser.label_dim} classes" if denoiser.label_dim else "no classes"
    if denoiser.cond is not None and not denoiser.label_dim:
        classes = "conditions of its own"
    known = f"sigma {denoiser.sigma_min:g} to {denoiser.sigma_max:g}"
    if not denoiser.sigma_min and math.isinf(denoiser.sigma_max):
        known = "any sigma"
    yield (
        f"{'teacher ' + exp.teacher if exp.teacher else 'network'}: examples {denoiser.shape}, "
        f"{classes}, sigma_data {denoiser.sigma_data:g}, {known}, {_count(denoiser)} parameters"
    )
    if exp.decoder is not None:
        yield f"decoder {exp.decoder.source}: images {exp.decoder.shape}"
    for learner in exp.method.learners:
        network = exp.networks.get(learner.name)
        if network is not None:
            yield f"{learner.name}: {network.source}, {_count(network.model)} parameters"
    yield from exp.remarks


def _count(model: Any) -> str:
    return f"{int(parameter_overview.count_parameters(model.abstract_params())):,}"


def _room(config: ConfigDict, exp: Experiment, folder: Path, say: Say) -> Iterator[str]:
    """Compare checkpoints with the room on the disk."""
    leaves = jax.tree.leaves(exp.abstract_state())
    one = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    needed = one * (config.keep_checkpoints + 1)  # one is written before the oldest goes
    there = next(each for each in (folder, *folder.resolve().parents) if each.is_dir())
    free = shutil.disk_usage(there).free
    say(
        f"checkpoints: {one / _GIB:.3g} GiB each, {needed / _GIB:.3g} in all; {free / _GIB:.3g} "
        "GiB are free"
    )
    if needed > free:
        yield (
            f"config.keep_checkpoints={config.keep_checkpoints}: checkpoints need "
            f"{needed / _GIB:.3g} GiB and {there} has {free / _GIB:.3g} free; name another "
            "--workdir, or keep fewer"
        )


def _draw(
    config: ConfigDict,
    exp: Experiment,
    mesh: Mesh,
    state: TrainState,
    inputs: dict[str, Any],
    folder: Path,
    say: Say,
) -> Iterator[str]:
    """Write samples of the teacher, and of the generator before it has learnt."""
    pictures = Pictures(exp.examples, config.grid.rows, config.grid.columns)
    seed = config.grid.seed
    own = (exp.caption, exp.sampler(seed=seed, mesh=mesh), exp.averaged(state))
    panels = []
    for caption, sampler, params in (*exp.comparisons(inputs, seed=seed, mesh=mesh), own):
        try:
            drawn = _samples(exp, mesh, sampler, params, pictures.count, seed)
        except FloatingPointError as error:
            yield f"samples of the {caption}: {error}"
            continue
        panels.append((caption, drawn))
        values = drawn / 127.5 - 1 if drawn.dtype == np.uint8 else drawn
        say(f"samples of the {caption}: mean {values.mean():.3g}, std {values.std():.3g}")
    try:
        picture = pictures.panels(panels) if panels and pictures.exist else None
    except PreviewError as error:
        yield str(error)
        return
    if picture is not None and jax.process_index() == 0:
        path = folder / "check.png"
        images.save_png(path, picture)
        say(f"picture: {path}; a generator that starts as its teacher gives blurred samples of it")


def _samples(
    exp: Experiment,
    mesh: Mesh,
    sampler: sampling.SampleBatch,
    params: Params,
    count: int,
    seed: int,
) -> np.ndarray:
    return sampling.first_images(
        sampler,
        params,
        count,
        label_dim=exp.denoiser.label_dim,
        mesh=mesh,
        among=exp.classes,
        cond=exp.denoiser.cond,
        seed=seed,
        quantise=exp.examples.holds_images,
    )


def _update(
    config: ConfigDict,
    exp: Experiment,
    mesh: Mesh,
    state: TrainState,
    inputs: dict[str, Any],
    say: Say,
) -> Iterator[str]:
    """Compile the update as a run would, make a few, and time them."""
    key = numerics.key(config.seed)
    stream = exp.stream(0, mesh)

    def read() -> dict[str, Any]:
        return inputs if stream is None else {**inputs, **next(stream)}

    first, begun = read(), time.monotonic()
    try:
        compiled = building.updates(config, exp, mesh).lower(state, first, key, 1).compile()
        say(f"update: compiled in {time.monotonic() - begun:.0f} s")
        state, totals = compiled(state, first, key, 1)
        losses = jax.device_get(totals)
        begun = time.monotonic()
        state, totals = compiled(state, read(), key, 1)
        jax.block_until_ready(totals)
        # The main process's, so that all make equally many.
        once = float(multihost_utils.broadcast_one_to_all(np.float32(time.monotonic() - begun)))
        count = min(config.updates_per_call, max(1, int(_TIMED_SECONDS / once)))
        data, begun = read(), time.monotonic()
        state, totals = compiled(state, data, key, count)
        jax.block_until_ready(totals)
        seconds = (time.monotonic() - begun) / count
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        yield (
            f"config.batch_size={config.batch_size}: an update doesn't fit into a device's memory; "
            "set config.accumulation to 2 or more, config.rematerialize to True, or use more "
            "devices (docs/guides/memory-and-speed.md)"
        )
        return
    if losses.kept:
        means = metric_sums.means(losses.sums, int(losses.kept), exp.update.counted_by)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in sorted(means.items()))
        say(f"first update: {shown}")
    for each in (losses, jax.device_get(totals)):
        if each.skipped:
            yield failures.describe(each, config.max_skipped_in_a_row)
            break
    if line := _deltas(exp, mesh, state, inputs, key):
        say(line)
    memory = _memory(compiled)
    say(f"memory a device: {'not counted here' if memory is None else f'{memory:.3g} GiB'}")
    rate = exp.batch_size / seconds
    hours = building.schedule(config).total * seconds / 3600
    say(
        f"time: {seconds:.3g} s an update, {rate:.4g} images/s, {1e6 / rate / 3600:.3g} h a "
        f"million images, {hours:.3g} h in all, without pictures and measurements"
    )


def _memory(compiled: Any) -> float | None:
    """Most memory of a device, in GiB: as it was counted, or as XLA planned one program."""
    counted = runtime.peak_memory_gib()
    if counted is not None:
        return counted
    plan = getattr(compiled, "memory_analysis", lambda: None)()
    if plan is None:
        return None
    parts = ("argument_size_in_bytes", "output_size_in_bytes", "temp_size_in_bytes")
    total = sum(getattr(plan, part) for part in parts) - plan.alias_size_in_bytes
    return float(total / _GIB)


def _deltas(
    exp: Experiment, mesh: Mesh, state: TrainState, inputs: dict[str, Any], key: PRNGKey
) -> str:
    """Mean difference of teacher and fake score by noise level; "" without either."""
    networks = drawing.on_mesh(exp.update, mesh).method.networks
    if "teacher" not in networks or "fake_score" not in networks:
        return ""
    drawn = exp.method.draw(key, inputs.get(drawing.DATA))["generator"]
    z, noise, labels = jax.tree.map(
        lambda leaf: leaf[0, 0, :_EXAMPLES], (drawn.z, drawn.noise, drawn.labels)
    )
    low = max(exp.denoiser.sigma_min, 0.1 * exp.denoiser.sigma_data)
    levels = np.geomspace(low, min(exp.denoiser.sigma_max, 40 * exp.denoiser.sigma_data), _LEVELS)

    @jax.jit
    def by_level(params: Any, teacher: Params) -> jax.Array:
        x = networks["generator"](params["generator"], z, labels=labels)

        def at(level: float) -> jax.Array:
            sigma = jnp.full((len(x),), level, jnp.float32)
            y = x + level * noise
            real = networks["teacher"](teacher, y, sigma, labels=labels)
            fake = networks["fake_score"](params["fake_score"], y, sigma, labels=labels)
            return jnp.mean(jnp.abs(real - fake))

        return jnp.stack([at(float(level)) for level in levels])

    values = by_level(state.params, guidance.paired(inputs)["teacher"])
    pairs = zip(levels, np.asarray(values), strict=True)
    return "|Δ| by noise level: " + ", ".join(f"{value:.3g} at {s:.3g}" for s, value in pairs)
