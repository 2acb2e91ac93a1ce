"""Comparison of networks with recorded trajectories of published training loops."""

import numpy as np

from tests.support import golden_cases


def assert_parameters(case, iteration, start, now, rates=None):
    """Compare networks after an iteration, by how far they moved, with the recorded ones.

    Args:
      case: the trajectory.
      iteration: from 0.
      start: parameters before the first iteration, by the names "gen", "ema", "fake".
      now: those after this one.
      rates: learning rates by these names, where the case doesn't call them "lr" and "glr".
    """
    options = case.meta["options"]
    for which, params in now.items():
        if rates is not None:
            learning_rate = rates[which]
        else:
            learning_rate = options["lr" if which == "fake" else "glr"]
        after, before = map(golden_cases.by_torch_name, (params, start[which]))
        for i, parameter in enumerate(case.meta["param_names"]):
            delta = after[parameter].astype(np.float64) - before[parameter]
            off = np.abs(delta - case.exact(f"{which}_p{i}_delta")[iteration])
            if parameter.endswith("qkv.bias"):
                off = off[np.arange(len(off)) % 3 != 1]  # keys, whose true gradient is zero
            far = off >= 0.1 * learning_rate
            assert far.mean() <= 1e-3, (iteration, which, parameter)
        for j, parameter in enumerate(case.meta["all_param_names"]):
            if parameter.endswith("qkv.bias"):
                continue
            norm = np.linalg.norm(after[parameter].astype(np.float64) - before[parameter])
            expected = case.exact(f"{which}_delta_norm")[iteration][j]
            np.testing.assert_allclose(norm, expected, rtol=2e-2, atol=1e-6, err_msg=parameter)
