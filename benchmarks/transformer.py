"""Speed of SiT's network, and of diffusers' DiT of the same architecture, which torch compiles.

    python -m benchmarks.transformer --side=jax --batch_size=64 --attention=cudnn --json=speed.jsonl
    python -m benchmarks.transformer --side=torch --batch_size=64 --json=speed.jsonl

Forward, and with the gradient by the parameters, in bfloat16 with float32 parameters, on random
weights and latents; each side in a process of its own. FLOPs are each side's own count of matrix
products, `flops_of_forward`, which agree to a thousandth: diffusers embeds time and class again in
every block. A share of the peak is of one side's own large matrix product. A whole update is
`python -m benchmarks.step --config=configs/sid_sit_imagenet256.py`. The side of torch needs torch
and diffusers.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

from benchmarks import turns
from diffjax.convert import dit

SIZES = tuple(dit.SIZES)
BACKWARD = 3  # a backward pass by the parameters counts as two


def of_jax(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time the network here."""
    import jax
    import jax.numpy as jnp

    from benchmarks import measuring
    from diffjax.distributed import sharding
    from diffjax.models.denoiser import from_edm_kwargs

    kwargs = dit.init_kwargs("DiT", arguments.size, arguments.resolution)
    model = from_edm_kwargs(kwargs, dtype=jnp.bfloat16, attention=arguments.attention)
    params = measuring.random_params(model, sharding.make_mesh(data=1))
    batch = arguments.batch_size
    x = jax.random.normal(jax.random.key(0), (batch, *model.shape))
    t = jnp.linspace(0.0, 999.0, batch)
    labels = jax.nn.one_hot(jnp.arange(batch) % model.label_dim, model.label_dim)

    def forward(params: Any, x: Any) -> Any:
        return model.network.apply(params, x, t, labels)

    def loss(params: Any, x: Any) -> Any:
        return jnp.mean(jnp.square(forward(params, x).astype(jnp.float32)))

    programs = {
        "forward": jax.jit(forward).lower(params, x).compile(),
        "with_gradient": jax.jit(jax.grad(loss)).lower(params, x).compile(),
    }
    with turns.turn():
        times = {
            name: seconds(
                lambda program=program: jax.block_until_ready(program(params, x)), arguments.repeats
            )
            for name, program in programs.items()
        }
        peak = measuring.matrix_peak(jnp.bfloat16)
    return {
        "device": str(jax.devices()[0].device_kind),
        "version": f"jax {jax.__version__}, attention {arguments.attention}",
        "flops_of_forward": measuring.forward_flops(model),
        "peak": peak,
        **times,
    }


def of_torch(arguments: argparse.Namespace) -> dict[str, Any]:
    """Time diffusers' network."""
    import diffusers
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    width, depth, heads = dit.SIZES[arguments.size]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    network = diffusers.DiTTransformer2DModel(
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        in_channels=4,
        out_channels=8,
        num_layers=depth,
        sample_size=arguments.resolution,
        patch_size=2,
        num_embeds_ada_norm=1000,
    ).to(device)
    network.train()  # its dropout is 0
    batch, side = arguments.batch_size, arguments.resolution
    x = torch.randn(batch, 4, side, side, device=device)
    t = torch.linspace(0, 999, batch, device=device)
    labels = torch.arange(batch, device=device) % 1000

    def count() -> int:
        # Of fused attention the counter knows nothing on a CPU.
        plain = sdpa_kernel(SDPBackend.MATH)
        with torch.no_grad(), plain, FlopCounterMode(display=False) as counter:
            network(x[:1], timestep=t[:1], class_labels=labels[:1])
        return counter.get_total_flops()

    flops = count()
    compiled: Any = network if arguments.eager else torch.compile(network)

    def run(differentiate: bool) -> None:
        with (
            torch.set_grad_enabled(differentiate),
            torch.autocast(device.type, torch.bfloat16),
        ):
            out = compiled(x, timestep=t, class_labels=labels).sample
        if differentiate:
            network.zero_grad(set_to_none=True)
            out.float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()

    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))

    def products(count: int) -> None:
        for _ in range(count):
            a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()

    for differentiate in (False, True):  # compiles
        run(differentiate)
    with turns.turn():
        times = {
            "forward": seconds(lambda: run(False), arguments.repeats),
            "with_gradient": seconds(lambda: run(True), arguments.repeats),
        }
        peak = 2 * size**3 / product_seconds(products)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "version": f"torch {torch.__version__}, diffusers {diffusers.__version__}",
        "flops_of_forward": float(flops),
        "peak": peak,
        **times,
    }


def seconds(call: Callable[[], Any], repeats: int) -> float:
    """Measure seconds of a call, the median of so many after three."""
    times = []
    for _ in range(repeats + 3):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return sorted(times[3:])[repeats // 2]


def product_seconds(products: Callable[[int], Any]) -> float:
    """Measure seconds of a product, by the rule of `measuring.matrix_peak`, so that they compare.

    Args:
      products: does so many, and waits for the last.

    Returns:
      The best of five, ten at a time.
    """
    products(1)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        products(10)
        times.append((time.perf_counter() - start) / 10)
    return min(times)


def rates(found: dict[str, Any], batch: int) -> dict[str, Any]:
    """Work out rates and shares of the peak from seconds.

    Args:
      found: of a side.
      batch: images of a call.
    """
    rated = {}
    for name, passes in (("forward", 1), ("with_gradient", BACKWARD)):
        flops = found["flops_of_forward"] * passes * batch / found[name]
        rated |= {
            f"{name}_images_per_second": batch / found[name],
            f"{name}_tflops_per_second": flops / 1e12,
            f"{name}_share_of_peak": flops / found["peak"],
        }
    return rated


def main() -> None:
    """Print a table, and JSON on request."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--side", choices=("jax", "torch"), required=True)
    parser.add_argument("--size", choices=SIZES, default="XL")
    parser.add_argument("--resolution", type=int, default=32, help="of the latents")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla")
    parser.add_argument("--eager", action="store_true", help="of torch: don't compile")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--json", help="file to add one JSON line to")
    arguments = parser.parse_args()
    found = {"jax": of_jax, "torch": of_torch}[arguments.side](arguments)
    found = {"side": arguments.side, "size": arguments.size, **found}
    found |= {"batch_size": arguments.batch_size, **rates(found, arguments.batch_size)}
    from benchmarks import measuring

    measuring.report(found, arguments.json)


if __name__ == "__main__":
    main()
