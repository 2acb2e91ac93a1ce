"""Parts that benchmarks of speed share: arguments, weights, the device's peak, the report."""

import argparse
import ast
import dataclasses
import fcntl
import gzip
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import jaxprs_in_params
from jax.sharding import Mesh
from ml_collections import ConfigDict

from benchmarks import synthetic
from diffjax import methods
from diffjax.data import DataSource
from diffjax.distributed import runtime, sharding
from diffjax.files import writing
from diffjax.interfaces import Params
from diffjax.models.denoiser import NetworkDenoiser
from diffjax.models.records import RecordGenerator
from diffjax.runs import building, checks, config_file, networks, roles, user_function
from diffjax.runs.experiment import Experiment
from diffjax.tools import aot
from diffjax.training import compilation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name what is measured."""
    parser.add_argument("--config", required=True, help="a config of any method")
    parser.add_argument("--dtype", help="instead of the config's")
    parser.add_argument("--batch_size", type=int, help="instead of the config's")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="any other field of the config, such as fake_score.every=2",
    )
    parser.add_argument("--devices", type=int, help="devices to use; all by default")
    parser.add_argument("--json", help="file to add one JSON line to")


def load_config(path: str) -> ConfigDict:
    """Read the config of a file; end the program in one line if there is none."""
    try:
        user_function.look_in(config_file.find(path).parent)
        return checks.upgraded(config_file.load(path))
    except (config_file.ConfigFileError, ValueError) as error:
        raise SystemExit(f"error: --config={path}: {error}") from None


def config_of(arguments: argparse.Namespace) -> ConfigDict:
    """Read the config that the arguments name and change it; end in one line if that's wrong."""
    config = load_config(arguments.config)
    for name in ("dtype", "batch_size"):
        if getattr(arguments, name):
            config[name] = getattr(arguments, name)
    for change in arguments.set:
        field, _, value = change.partition("=")
        try:
            kind = type(checks.get(config, field))
            parsed = value if kind is str else ast.literal_eval(value)
            config.update_from_flattened_dict({field: parsed})
        except (SyntaxError, TypeError, ValueError) as error:
            raise SystemExit(f"error: --set {change}: {error}") from None
    if arguments.devices:
        config.mesh.data = arguments.devices
    try:
        checks.check(config)
    except ValueError as error:
        raise SystemExit(f"error: {error}") from None
    return config


def set_rounds(config: ConfigDict, rounds: int | None) -> int:
    """Set the rounds of gradient accumulation; end in one line where updates have none.

    Args:
      config: of any method.
      rounds: instead of the config's; None keeps those.

    Returns:
      What holds then.
    """
    if "accumulation" in config:
        config.accumulation = rounds or config.accumulation
    elif rounds:
        raise SystemExit("error: --accumulation: the update of a teacher has no rounds")
    return int(config.get("accumulation", 1))


def build(config: ConfigDict, rounds: int = 1) -> tuple[Experiment, Mesh]:
    """Build an experiment and the devices' mesh; end in one line if that can't be had.

    Real images are random ones, and latents too, so that no data set is needed.

    Args:
      config: of any method.
      rounds: of gradient accumulation, which the batch must divide into too.
    """
    try:
        mesh = sharding.make_mesh(**config.mesh)
        sharding.check_batch(config.batch_size, rounds, mesh)
        return building.build(config, source=random_source(config)), mesh
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


def random_source(config: ConfigDict) -> DataSource | None:
    """Make random images, or latents, for a config that reads real ones; None for one that doesn't.

    Args:
      config: of any method.
    """
    method = methods.get(config.method)
    if "data" not in method.reads:
        return None
    if "teacher" in method.reads:
        return synthetic.like_examples_of(networks.teacher(config.teacher).model)
    return synthetic.images_like(config.dataset, conditional=config.conditional)


def random_params(denoiser: Any, mesh: Mesh) -> Params:
    """Draw weights of about the usual size by NumPy, compiling nothing, placed as a run's."""
    rng = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        fan_in = max(1, math.prod(leaf.shape[:-1]))
        return (rng.standard_normal(leaf.shape) / math.sqrt(fan_in)).astype(leaf.dtype)

    abstract = denoiser.abstract_params()
    return jax.device_put(jax.tree.map(draw, abstract), sharding.state(abstract, mesh))


def describe(arguments: argparse.Namespace, config: ConfigDict, mesh: Mesh) -> dict[str, Any]:
    """Describe what is measured, and where."""
    return {
        "config": Path(arguments.config).stem,
        **dict(each.split("=", 1) for each in arguments.set),
        "device": f"{mesh.size} x {jax.devices()[0].device_kind}",
        "jax": jax.__version__,
        "dtype": config.dtype,
        "batch_size": config.batch_size,
    }


def speed(images: int, seconds: float, flops: float | None, peak: float) -> dict[str, float | None]:
    """Work out rates from seconds for so many images.

    Args:
      images: in that time.
      seconds: of it.
      flops: model FLOPs an image; None if unknown.
      peak: FLOP/s of the devices together.
    """
    rate = None if flops is None else flops * images / seconds
    return {
        "images_per_second": images / seconds,
        "model_tflops_per_second": None if rate is None else rate / 1e12,
        "share_of_peak": None if rate is None else rate / peak,
    }


def of_devices(config: ConfigDict, mesh: Mesh) -> tuple[float, dict[str, float | None]]:
    """Measure their peak in FLOP/s; report it, and the most memory of the first so far.

    That is None where nobody counts.
    """
    memory = runtime.peak_memory_gib()  # before the matrices that are timed take theirs
    peak = matrix_peak(roles.DTYPES[config.dtype]) * mesh.size
    return peak, {"matrix_peak_tflops_per_second": peak / 1e12, "peak_memory_gib": memory}


def write_profile(folder: Path, call: Callable[[], Any], compiled: Any = None) -> None:
    """Write a trace of a call, and XLA's text if the call is one compiled program."""
    with jax.profiler.trace(str(folder)):
        jax.block_until_ready(call())
    if compiled is not None:
        text = gzip.compress(compiled.as_text().encode())
        (folder / "module.txt.gz").write_bytes(text)


def report(result: dict[str, Any], json_file: str | None) -> None:
    """Print a table, and add a line of JSON to a file if one is named."""
    for name, value in result.items():
        shown = f"{value:.4g}" if isinstance(value, float) else value
        shown = "unknown" if value is None else shown
        print(f"{name:32s} {shown}", flush=True)
    add_line(result, json_file)


def add_line(result: dict[str, Any], json_file: str | None) -> None:
    """Add a line of JSON to a file if one is named, whole, whoever else adds to it.

    What a process that died left of a line is taken away.
    """
    if not json_file:
        return
    with Path(json_file).open("a+b", buffering=0) as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # closing the file ends it
        file.seek(0)
        text = file.read()
        if not text.endswith(b"\n"):
            file.truncate(text.rfind(b"\n") + 1)
        writing.append(file, json.dumps(result).encode() + b"\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the lines that `add_line` wrote; what is left of one that wasn't finished is none.

    Args:
      path: of the file, which may be missing.
    """
    text = path.read_bytes() if path.exists() else b""
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def matrix_peak(dtype: Any, size: int = 8192) -> float:
    """Measure FLOP/s of a large matrix product on random data, the best of five."""
    if jax.default_backend() == "cpu":
        size = 1024
    a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in (0, 1))
    product = jax.jit(lambda a, b: a @ b)
    product(a, b).block_until_ready()
    best = float("inf")
    for _ in range(5):
        start = time.perf_counter()
        for _ in range(10):
            c = product(a, b)
        c.block_until_ready()
        best = min(best, (time.perf_counter() - start) / 10)
    return 2 * size**3 / best


def forward_flops(denoiser: NetworkDenoiser) -> float:
    """Count FLOPs of convolutions and matrix products of one forward pass on one image.

    Attention's are among them, whichever implementation the denoiser has.
    """
    # cuDNN's attention is one call, whose matrix products a jaxpr doesn't show.
    by_products = denoiser.network.clone(attention="xla")
    denoiser = dataclasses.replace(denoiser, network=by_products)
    x = jax.ShapeDtypeStruct((1, *denoiser.image_shape), jnp.float32)
    sigma = jax.ShapeDtypeStruct((1,), jnp.float32)
    return matrix_flops(jax.make_jaxpr(denoiser)(denoiser.abstract_params(), x, sigma).jaxpr)


def generator_flops(generator: Any, denoiser: Any) -> float:
    """Count those of a generator of any architecture, making one sample.

    Args:
      generator: the student; a denoiser is asked once.
      denoiser: whose conditions it takes.
    """
    if not isinstance(generator, RecordGenerator):
        return forward_flops(generator)

    def generate(params: Params, key: Any) -> Any:
        cond = None if denoiser.cond is None else denoiser.cond(key, 1)
        return generator(params, generator.latent(key, 1), labels=cond)

    key = jax.eval_shape(lambda: jax.random.key(0))
    return matrix_flops(jax.make_jaxpr(generate)(generator.abstract_params(), key).jaxpr)


def update_flops(config: ConfigDict, source: DataSource | None = None) -> float:
    """Count those of an update, on average: a turn that comes every n-th time counts as 1/n.

    Attention's are among them as above, and what `rematerialize` computes again isn't.

    Args:
      config: of any method.
      source: real images instead of those that the config names.
    """
    config = config.copy_and_resolve_references()
    config.update({"attention": "xla", "rematerialize": False})
    exp = building.build(config, source=source)
    mesh = sharding.make_mesh(data=1, devices=jax.devices()[:1])
    # On a CPU, unrolled, it would compute what isn't due as well.
    update = dataclasses.replace(exp.update, unroll=False)
    one = compilation.compile_updates(update, exp.abstract_state(), mesh, updates_per_call=1)
    share = min(1 / turn.every for turn in exp.update.turns)
    return matrix_flops(jax.make_jaxpr(one)(*aot.abstract_arguments(exp, mesh)).jaxpr, share)


def matrix_flops(jaxpr: Any, share: float = 1.0) -> float:
    """Count FLOPs of convolutions and matrix products, of a loop those of all its rounds.

    Of a choice, such as that between platforms, those of its dearest branch count.

    Args:
      jaxpr: of a program.
      share: of a choice between something and nothing, how often it is something.

    Raises:
      ValueError: if they are in a loop of unknown length.
    """
    total = 0.0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        if name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = params["dimension_numbers"].rhs_spec[0]
            # Between the inputs of a transposed convolution there are zeros, which aren't counted.
            output = equation.outvars[0].aval.size / math.prod(params["lhs_dilation"])
            total += 2 * output * math.prod(kernel) / kernel[features]
        elif name == "dot_general":
            (contracted, _), _ = params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            output = equation.outvars[0].aval.size
            total += 2 * output * math.prod(shape[axis] for axis in contracted)
        inner = [matrix_flops(jaxpr, share) for jaxpr in jaxprs_in_params(params)]
        if name == "cond":
            total += max(inner) * (1 if all(inner) else share)
        elif name == "while" and any(inner):
            raise ValueError("a loop of unknown length has matrix products: it can't be counted")
        else:
            total += sum(inner) * (params["length"] if name == "scan" else 1)
    return total
