"""Distance of diffjax from the published PyTorch code: the table of docs/results.

    python -m benchmarks.parity

Relative L2 differences of denoiser outputs and gradients from numbers recorded in float64 by EDM's
code, at the same weights and inputs; diffjax runs in float32. Needs pip install 'diffjax[test]'.
"""

import argparse
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from diffjax.interfaces import Array, Params
from diffjax.models.denoiser import NetworkDenoiser
from tests.support import golden_cases


def output(case: golden_cases.Case, model: NetworkDenoiser, params: Params, x: Array) -> Array:
    """Ask the denoiser at a recorded noise level."""
    return model(params, x, case["sigma"], labels=case.labels, augment_labels=case.augment_labels)


def rows() -> Iterator[tuple[str, str, float, str]]:
    """Give case, parameters, output's difference, gradients' largest difference."""
    networks = golden_cases.cases("network", precond=golden_cases.PRECONDS)
    names = sorted(param.values[0] for param in networks)
    for name in sorted(names, key=lambda name: golden_cases.is_large(golden_cases.known()[name])):
        case = golden_cases.Case(name)
        model = case.denoiser()
        params = golden_cases.weights(model, case.prefix)
        size = sum(leaf.size for leaf in jax.tree.leaves(params["params"]))
        apply = functools.partial(output, case, model)
        error = golden_cases.relative_l2(jax.jit(apply)(params, case["x"]), case.expected("D"))
        gradient_error = "-"
        if "probe" in case:

            def probe(params: Params, x: Array, apply: Any = apply, case: Any = case) -> Array:
                return jnp.sum(apply(params, x) * case["probe"])

            grad_params, grad_x = jax.jit(jax.grad(probe, argnums=(0, 1)))(params, case["x"])
            by_name = golden_cases.by_torch_name(grad_params)
            errors = [golden_cases.relative_l2(grad_x, case.expected("grad_x"))] + [
                golden_cases.relative_l2(by_name[parameter], case.exact(f"grad_p{i}"))
                for i, parameter in enumerate(case.meta["grad_param_names"])
            ]
            gradient_error = f"{max(errors):.1e}"
        yield name, f"{size / 1e6:.1f}M", error, gradient_error


def main() -> None:
    """Print the table in Markdown."""
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| network | parameters | output | gradients |")
    print("|-|-|-|-|")
    for name, size, error, gradient_error in rows():
        print(f"| `{name}` | {size} | {error:.1e} | {gradient_error} |", flush=True)


if __name__ == "__main__":
    main()
