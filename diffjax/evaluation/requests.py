"""Checks of what an evaluation is asked for, before anything is downloaded or computed."""

from collections.abc import Iterable, Sequence

from diffjax.evaluation.features import OF_IMAGES, Features
from diffjax.evaluation.measures import METRICS


def check_request(
    names: Sequence[str], *, count: int, reference: str, holds_images: bool, prefix: str = ""
) -> None:
    """Check that metrics can be measured, before anything is downloaded or computed.

    Args:
      names: metrics, of `METRICS`.
      count: number of images to generate.
      reference: name of the reference that they are compared with; "" for none.
      holds_images: whether the reference holds images, not statistics alone.
      prefix: put before the name of a setting in an error.

    Raises:
      ValueError: naming the setting, its value and what would do.
    """
    if not names:
        raise ValueError(f"{prefix}metrics is empty; known are: {', '.join(METRICS)}.")
    for name in names:
        if name not in METRICS:
            raise ValueError(f"{prefix}metrics has {name!r}; known are: {', '.join(METRICS)}.")
        metric = METRICS[name]
        if count < metric.at_least:
            raise ValueError(
                f"{prefix}count={count}: {name!r} needs at least {metric.at_least} images."
            )
        if metric.needs and not reference:
            raise ValueError(
                f"{prefix}metrics has {name!r}, but {prefix}reference is empty: "
                "name real images, or their statistics, to compare with."
            )
        # Of moments a reference that is there must be one to compare samples with.
        if not holds_images and (metric.needs == "images" or (metric.on_samples and reference)):
            raise ValueError(
                f"{prefix}metrics has {name!r}, which needs real images, but "
                f"{prefix}reference={reference!r} holds their statistics only: name the "
                "images instead (a folder, a zip, a TFDS data set)."
            )


def check_examples(
    names: Sequence[str],
    features: str,
    shape: tuple[int, ...],
    *,
    reference: str,
    prefix: str = "",
) -> None:
    """Check that known metrics can be measured on examples that aren't images.

    Args:
      names: metrics, of `METRICS`.
      features: name of the features.
      shape: of an example.
      reference: name of what they are compared with; "" for none.
      prefix: put before the name of a setting in an error.

    Raises:
      ValueError: naming the setting, its value and what would do.
    """
    needs = f"needs images; shape is {shape}"
    known = [name for name in names if name in METRICS]
    for name in known:
        if METRICS[name].published_only:
            raise ValueError(
                f"{prefix}metrics=({name!r},) {needs}: use ('swd',), or "
                "features='module:function' with ('fd',)."
            )
        if METRICS[name].needs and not reference:
            raise ValueError(
                f"{prefix}metrics has {name!r}, but {prefix}reference is empty: name an .npz or "
                ".npy of data in the teacher's units, or 'module:function', which makes them of "
                "(count, seed); ('moments',) needs none."
            )
    if uses_features(known) and features in OF_IMAGES:
        raise ValueError(
            f"{prefix}features={features!r} {needs}: use 'values', or 'module:function', for "
            f"metrics={tuple(names)}; ('swd',) needs no features."
        )


def check_best(
    best: str, names: Sequence[str], *, field: str = "best", among: str = "metrics"
) -> None:
    """Check that the metric by which the best network is kept is measured.

    Args:
      best: the metric; "" keeps no network.
      names: metrics that are measured.
      field: name of the setting `best` in an error.
      among: name of the setting `names` in an error.

    Raises:
      ValueError: if the metric isn't measured.
    """
    if best and best not in names:
        raise ValueError(
            f"{field}={best!r} isn't among {among}={tuple(names)}; set it to "
            "one of them, or to '' to keep no best network."
        )


def check_features(names: Sequence[str], features: Features | None, *, prefix: str = "") -> None:
    """Check that metrics on these features may be called by their names.

    Args:
      names: metrics, of `METRICS`.
      features: features that the metrics are computed on; None where none is on features.
      prefix: put before the name of a setting in an error.

    Raises:
      ValueError: if a metric's name implies Inception, and the features are something else.
    """
    if features is None or features.is_published_inception:
        return
    instead = {"fid": "; ask for 'fd'", "kid": "; ask for 'kd'"}
    for name in names:
        if METRICS[name].published_only:
            raise ValueError(
                f"{prefix}metrics has {name!r}, which is defined on the published "
                f"Inception network, but the features are {features.name!r}{instead.get(name, '')}."
            )


def needs_rows(names: Iterable[str]) -> bool:
    """Whether any of these metrics compares features one by one."""
    return any(METRICS[n].needs == "images" and not METRICS[n].on_samples for n in names)


def uses_features(names: Iterable[str]) -> bool:
    """Whether any of these metrics is computed on features."""
    return any(not METRICS[name].on_samples for name in names)


def uses_samples(names: Iterable[str]) -> bool:
    """Whether any of these metrics is computed on samples as they are."""
    return any(METRICS[name].on_samples for name in names)
