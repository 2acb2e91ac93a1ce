"""How far diffjax is from the published PyTorch code: the parity table of README.

    python -m benchmarks.parity

Relative L2 differences of denoiser outputs and gradients from numbers recorded in float64 by EDM's
code, at the same weights and inputs; diffjax runs in float32.
"""

import functools
from collections.abc import Iterator

import jax
import jax.numpy as jnp

from tests.networks.test_against_pytorch import FULL, SMALL
from tests.support import golden_cases


def output(case: golden_cases.Case, model, params, x):
    """The denoiser at a recorded input."""
    optional = {
        name: case[key]
        for name, key in (("labels", "class_labels"), ("augment_labels", "augment_labels"))
        if key in case
    }
    return model(params, x, case["sigma"], **optional)


def rows() -> Iterator[tuple[str, str, float, str]]:
    """Case, parameters, output's difference, gradients' largest difference."""
    for name in [*SMALL, *FULL]:
        case = golden_cases.Case(name)
        model = case.denoiser()
        params = golden_cases.weights(model)
        size = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
        apply = functools.partial(output, case, model)
        error = golden_cases.relative_l2(jax.jit(apply)(params, case["x"]), case["D"])
        gradient_error = "-"
        if "probe" in case:

            def probe(params, x, apply=apply, case=case):
                return jnp.sum(apply(params, x) * case["probe"])

            grad_params, grad_x = jax.jit(jax.grad(probe, argnums=(0, 1)))(params, case["x"])
            by_name = golden_cases.by_torch_name(grad_params)
            errors = [golden_cases.relative_l2(grad_x, case["grad_x"])] + [
                golden_cases.relative_l2(by_name[parameter], case.raw(f"grad_p{i}"))
                for i, parameter in enumerate(case.meta["grad_param_names"])
            ]
            gradient_error = f"{max(errors):.1e}"
        yield name, f"{size / 1e6:.1f}M", error, gradient_error


def main() -> None:
    """Prints the table in Markdown."""
    print("| network | parameters | output | gradients |")
    print("|-|-|-|-|")
    for name, size, error, gradient_error in rows():
        print(f"| `{name}` | {size} | {error:.1e} | {gradient_error} |", flush=True)


if __name__ == "__main__":
    main()
