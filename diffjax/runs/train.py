"""The train mode: build, compile, then loop."""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict

from diffjax.distributed import agreement, numerics, peers, preemption, sharding, watchdog
from diffjax.files import writing
from diffjax.interfaces import Params, PRNGKey
from diffjax.runs import (
    building,
    checks,
    decays,
    idle,
    joining,
    metric_writer,
    ownership,
    power_averages,
    provenance,
    report,
    reporting,
    saved_config,
    starts,
)
from diffjax.runs.experiment import Experiment
from diffjax.runs.logger import RunLogger
from diffjax.runs.loop import Loop
from diffjax.training import checkpointing, compilation, failures, layouts
from diffjax.training.background_compilation import BackgroundCompiled

_CHECKPOINTS = "checkpoints"


class _Before(NamedTuple):
    """Traces of an earlier start: images seen, None if there was none, and lines to tell."""

    images: int | None
    remarks: list[str]
    allow_changes: bool


def train(config: ConfigDict, workdir: str, *, allow_changed_config: bool = False) -> None:
    """Run a config to its end, going on from the newest checkpoint in `workdir` if there is one.

    Args:
      config: one of `configs/`.
      workdir: the run's folder; see `diffjax.runs.logger` for what is written there, besides
        `checkpoints/`, the best network by `config.evaluate.best` in `best/` and, at the end,
        the trained one in `network/` and `report.html`; and the config, in `config.json`.
      allow_changed_config: goes on where a run with another config was.

    Raises:
      ValueError: a config that can't be run or isn't that of the run in `workdir`, before anything
        is computed or written; or a run that is under way in `workdir`.
      OSError: a work directory that can't be written to, before anything is computed, or a full
        disk, the newest checkpoint being left whole.
      FloatingPointError: `config.max_skipped_in_a_row` updates in a row that were not finite. What
        they met is in the newest checkpoint and in `failed_update.json`, for
        `python -m diffjax.tools.replay`.
    """
    config = checks.upgraded(config)
    with joining.joined(config, "train") as others:
        mesh = sharding.make_mesh(**config.mesh)
        sharding.check_batch(config.batch_size, config.get("accumulation", 1), mesh)
        exp = building.build(config)
        exp.check_records()
        building.check_reporting(config, exp)
        idle.check(config, exp, Path(workdir))
        images = _images_seen(Path(workdir) / _CHECKPOINTS)
        remarks = _check_changes(config, Path(workdir), images, allowed=allow_changed_config)
        with preemption.Preemption() as stop, contextlib.ExitStack() as stack:
            before = _Before(images, remarks, allow_changed_config)
            _run(config, workdir, exp, mesh, stop, others, stack, before)


def _run(
    config: ConfigDict,
    folder: str,
    exp: Experiment,
    mesh: Mesh,
    stop: preemption.Preemption,
    others: peers.Peers,
    stack: contextlib.ExitStack,
    before: _Before,
) -> None:
    """Go from the newest checkpoint, or the start, to the end; `stack` holds the directory."""
    # First, so that one that can't be had, or doesn't fit, is refused before anything is written.
    # A run that goes on doesn't need them, nor look for them.
    initial = exp.load_initial() if before.images is None else {}
    workdir = writing.make_writable(folder)
    stack.enter_context(ownership.owned(workdir, is_writer=jax.process_index() == 0))
    agreement.check_shared(workdir)
    inputs_now, notes = provenance.check(
        config,
        exp,
        workdir,
        has_begun=saved_config.has_begun(workdir),
        allow_changed=before.allow_changes,
    )
    is_main = jax.process_index() == 0
    # Before anything is compiled: it may have to log in somewhere.
    writer = metric_writer.make(config.metric_writer, folder, config.to_dict()) if is_main else None
    key = numerics.key(config.seed)
    schedule = building.schedule(config)
    updates = _compile(config, exp, mesh, key, is_needed=not schedule.is_over(before.images or 0))
    measure = building.make_evaluator(config, exp, mesh) if config.evaluate.every_kimg else None
    inputs = exp.load_inputs()
    inputs = sharding.put(inputs, sharding.state(inputs, mesh))
    if jax.process_index() == 0:
        saved_config.save(workdir, config)
        provenance.save(workdir, inputs_now)
        numerics.record(workdir, failures.versions())
    with checkpointing.Checkpointer(
        workdir / _CHECKPOINTS, keep=config.keep_checkpoints
    ) as checkpointer:
        state, meta = _start(exp, inputs, initial, mesh, checkpointer)
        del initial  # so that its memory is free while the run lasts
        inputs = exp.narrowed(inputs)  # now that the networks that start as they are are there
        step = int(state.step)
        if jax.process_index() == 0:
            starts.record(workdir, step, failures.versions())
        logger = RunLogger(
            workdir,
            total_kimg=schedule.images_at_end(int(state.images)) / 1000,
            is_main=is_main,
            resume_step=step if meta else None,
            writer=writer,
        )
        checkpointer.report = logger.note
        for note in (*before.remarks, *notes, *exp.remarks):
            logger.note(note)
        dog = watchdog.Watchdog(
            slow_factor=config.watchdog.slow_factor,
            slow_seconds=config.watchdog.slow_seconds,
            hang_seconds=config.watchdog.hang_seconds,
            peers=others,
            report=logger.note,
        )
        with logger, dog:
            reporter = reporting.Reporter(
                workdir,
                exp,
                mesh,
                rows=config.grid.rows,
                columns=config.grid.columns,
                seed=config.grid.seed,
                evaluator=measure,
                best=config.evaluate.best,
                reference=config.evaluate.reference,
                logger=logger,
            )
            reporter.open_best(step)
            loop = Loop(
                workdir,
                exp,
                mesh,
                schedule=schedule,
                updates_per_call=config.updates_per_call,
                suspects=building.suspects(config),
                origin=failures.Origin(config.seed, config.to_dict()),
                checkpointer=checkpointer,
                logger=logger,
                reporter=reporter,
                snapshots=power_averages.Snapshots(workdir, exp, mesh, logger.note),
                stop=stop,
                dog=dog,
            )
            loop.begin(state, meta)
            if schedule.is_over(loop.images) and reporter.is_finished(loop.step):
                logger.note(f"{workdir} is complete; a larger duration_kimg would go on.")
                _show_picture(workdir, loop.step, logger)
            elif loop.run(updates, inputs, key):
                with dog.paused("writing the last pictures and the network"):
                    reporter.finish(loop.state, inputs, loop.step, loop.images / 1000)
                    _tell_results(workdir, logger)
                    _show_picture(workdir, loop.step, logger)


def _images_seen(checkpoints: Path) -> int | None:
    """Read how many images the newest checkpoint saw; None where there is none."""
    with checkpointing.Checkpointer(checkpoints, read_only=True) as checkpointer:
        steps = checkpointer.steps()
        for step in reversed(steps):
            with contextlib.suppress(OSError, ValueError, KeyError):  # told when it is restored
                return layouts.images_of(checkpointer.meta(step))
        return 0 if steps else None


def _check_changes(
    config: ConfigDict, workdir: Path, images: int | None, *, allowed: bool
) -> list[str]:
    """Compare a config with that of the run so far, and return what is to be told of it."""
    if not allowed:
        saved_config.check_unchanged(workdir, config)
    if images is None or not (workdir / saved_config.FILE).exists():
        return []
    before = saved_config.load(workdir)
    power_averages.check_kept(before, config)
    remarks = decays.moved(before, config, images)
    if remarks and not allowed:
        raise ValueError(
            f"{'; '.join(remarks)}: start a longer run in another --workdir, or let it be so with "
            "--allow_changed_config"
        )
    return remarks


def _tell_results(workdir: Path, logger: RunLogger) -> None:
    """Write the report, and say where everything is."""
    text = f"done: pictures in {workdir}/samples, the network in {workdir / reporting.NETWORK}"
    if jax.process_index() == 0 and (page := report.at_the_end(workdir, logger.note)):
        text += f", the report in {page}"
    logger.note(text)


def _show_picture(workdir: Path, step: int, logger: RunLogger) -> None:
    """Show where the last picture is, in the run's last line; without one there is no such line."""
    if jax.process_index() == 0 and (picture := reporting.comparison(workdir, step)):
        logger.path(picture)


def _compile(
    config: ConfigDict, exp: Experiment, mesh: Mesh, key: PRNGKey, *, is_needed: bool
) -> Callable[..., Any]:
    """Begin to compile the updates, while this thread reads, places and draws."""
    updates = building.updates(config, exp, mesh)
    abstract_inputs = exp.abstract_inputs()
    # The shapes of what is streamed come with it.
    if not is_needed or any(each is None for each in abstract_inputs.values()):
        return updates
    state, inputs = compilation.abstract_arguments(exp.abstract_state(), abstract_inputs, mesh)
    return BackgroundCompiled(updates, state, inputs, key, 1)


def _start(
    exp: Experiment,
    inputs: dict[str, Any],
    initial: dict[str, Params],
    mesh: Mesh,
    checkpointer: checkpointing.Checkpointer,
) -> tuple[Any, dict[str, Any]]:
    """Restore the newest checkpoint, or make the first state."""
    if checkpointer.latest_step() is not None:
        return exp.restore(checkpointer, mesh)
    return exp.first_state(inputs, initial, mesh), {}
