"""Networks that learners start from, in place of the method's own start."""

from collections.abc import Mapping
from typing import Any

from diffjax.files import orbax_support
from diffjax.interfaces import Params
from diffjax.runs import networks as opening
from diffjax.runs.networks import Network


def load(
    initial: str,
    *,
    learner: str,
    sampled: Any,
    networks: Mapping[str, Network],
    init_sigma: float,
    teacher: str,
) -> dict[str, Params]:
    """Read the parameters that learners start from instead of the method's own start.

    Args:
      initial: network that the sampled learner starts from; "" for none.
      learner: that is sampled.
      sampled: its model.
      networks: learner -> its network, where that isn't the teacher's copy.
      init_sigma: noise level at which it is asked first.
      teacher: its name, for errors.

    Returns:
      Learner -> parameters.

    Raises:
      ValueError: if they are another network's than the teacher's.
      FileNotFoundError, ConnectionError: as for a teacher.
    """
    starts = {name: each.load() for name, each in networks.items()}
    if not initial:
        return starts
    field = f"config.{learner}.initial"
    network = opening.trained(initial, field=field)
    card, params = network.card, network.load()
    if card.init_sigma not in (None, init_sigma):
        raise ValueError(
            f"{field}={initial} is {card.title}, and config.init_sigma="
            f"{init_sigma:g} would ask it elsewhere: set config.init_sigma to "
            f"{card.init_sigma:g}."
        )
    differences = orbax_support.differing_arrays(params, sampled.abstract_params())
    what = "Its arrays"
    if not differences:  # arrays don't tell all
        what = "The teacher's settings and its own"
        differences = "; ".join(opening.differences(sampled, network.model))
    if differences:
        whose = "the student" if learner in networks else f"the teacher {teacher}"
        raise ValueError(
            f"{field}={initial} is another network than {whose}; "
            "name a student of this teacher, or '' for the teacher itself. "
            f"{what}: {differences}"
        )
    return {**starts, learner: params}
