"""Whether a function's result can depend on an argument, read from its trace."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.extend import core

# Their arguments are those of the computation that they hold, one by one.
_CALLS = {"jit", "pjit", "closed_call", "checkpoint", "remat2", "custom_jvp_call"}


def on_first(function: Callable[..., Any], first: Any, *rest: Any) -> bool:
    """Tell whether a function's result can depend on its first argument; nothing is computed.

    A loop's result counts as one of all that goes into it, so that only False is certain.

    Args:
      function: of arrays, as `jax.jit` takes it.
      first: pytree of arrays or `jax.ShapeDtypeStruct`s.
      *rest: further such arguments.
    """
    traced = jax.make_jaxpr(function)(first, *rest)
    count = len(jax.tree.leaves(first))
    inputs = [index < count for index in range(len(traced.jaxpr.invars))]
    return any(_outputs(traced.jaxpr, inputs))


def _outputs(jaxpr: core.Jaxpr, inputs: Sequence[bool]) -> list[bool]:
    """Tell which results depend on some of the arguments."""
    known = {var for var, depends in zip(jaxpr.invars, inputs, strict=True) if depends}

    def depends(var: Any) -> bool:
        return not isinstance(var, core.Literal) and var in known

    for each in jaxpr.eqns:
        given = [depends(var) for var in each.invars]
        inner: Any = each.params.get("jaxpr", each.params.get("call_jaxpr"))
        inner = getattr(inner, "jaxpr", inner)
        if each.primitive.name in _CALLS and len(inner.invars) == len(given):
            found = _outputs(inner, given)
        else:
            found = [any(given)] * len(each.outvars)
        known |= {var for var, it_does in zip(each.outvars, found, strict=True) if it_does}
    return [depends(var) for var in jaxpr.outvars]
