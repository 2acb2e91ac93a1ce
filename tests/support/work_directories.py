"""Work directories as runs leave them, made without training."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diffjax.files import images
from diffjax.runs import bases, saved_config

# What a page must show as it is.
HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=2>"


def training(count: int, *, kimg: float = 1.28) -> list[dict[str, Any]]:
    """Lines of training and, at every fifth, of measurements whose distance is an exact power."""
    rows: list[dict[str, Any]] = []
    for step in range(1, count + 1):
        losses = {"fake_loss": 30.0 - step / count, "generator_loss": -0.5}
        row = {"step": step, "kimg": step * kimg, "delta": 0.03, **losses, "skipped": step % 7 == 0}
        rows.append({**row, "skipped": int(row["skipped"])})
        if step % 5 == 0:
            fd = 40 * (step / 5) ** -0.5
            rows.append(
                {"step": step, "kimg": step * kimg, "fd_pixels_1797": fd, "recall_pixels_1797": 0.5}
            )
    return rows


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def grid(folder: Path, name: str, value: int, step: int, *, size: int = 24) -> None:
    """A picture of one gray, with the step in it."""
    picture = np.full((size, size, 1), value, np.uint8)
    images.save_png(folder / "samples" / f"{name}.png", picture, text={"step": str(step)})


def make(folder: Path, *, updates: int = 20, grids: int = 3, **changes: Any) -> Path:
    """A finished run of SiD, with pictures, measures, an evaluation and all records."""
    folder.mkdir(parents=True)
    config = bases.distillation("sid")
    config.teacher, config.duration_kimg = "digits", 1.28 * updates
    for name, value in changes.items():
        config[name] = value
    saved_config.save(folder, config)
    write_lines(folder / "metrics.jsonl", training(updates))
    write_lines(
        folder / "timing.jsonl",
        [{"step": s, "kimg": s * 1.28, "images_per_second": 400.0 + s} for s in range(1, updates)],
    )
    for index in range(grids):
        step = index * updates // max(1, grids - 1)
        grid(folder, f"samples_{int(step * 1.28):06d}", 60 * index, step)
    grid(folder, f"teacher_{int(updates * 1.28):06d}", 255, updates)
    grid(folder, f"comparison_{int(updates * 1.28):06d}", 90, updates, size=48)
    sha = "86a2d549756c10179227af43c8e51ea93316d3a1d551ea748e5ed2db496b38df"
    records = {
        "inputs.json": {"network": {}, "inputs": {"teacher": {"source": "digits", "sha256": sha}}},
        "numerics.json": {"diffjax": "0.1.0", "jax": "0.10.2", "devices": "1 x cpu"},
        "measured.json": [{"from_step": 5, "measured": {"features": {"name": "pixels"}}}],
        "evaluation_student.json": {
            **{"source": "student, 1 evaluation", "evaluations": 1, "images": 1797, "seeds": 3},
            **{"fd_pixels_1797": 0.25, "standard_deviation": {"fd_pixels_1797": 0.03}},
            "measured": {"reference": {"name": "digits", "count": 1797}, "seeds": 3},
        },
        "starts.jsonl": {
            **{"time": "2026-01-02 03:04:05 +0000", "step": 0, "versions": {"jax": "0.10.2"}},
            **{"config": "configs/sid_digits.py", "overridden": ["duration_kimg"]},
            "command": "python -m diffjax.main --config=configs/sid_digits.py",
        },
    }
    for name, values in records.items():
        (folder / name).write_text(json.dumps(values) + "\n")
    (folder / "network").mkdir()
    trained = {"step": updates, "kimg": 1.28 * updates}
    (folder / "network" / "trained.json").write_text(json.dumps(trained))
    return folder
