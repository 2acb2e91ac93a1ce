"""A GAN of CIFAR-10 with classes: a small StyleGAN2, and the discriminator that it learns against.

    python examples/cifar_gan.py --data=cifar10-32x32.zip     # minutes on a GPU

`config.student = "cifar_gan:generator"` then has a teacher refine it, without data.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import serialization
from flax.core import FrozenDict

from diffjax import models
from diffjax.convert import stylegan2
from diffjax.data import opening
from diffjax.networks.stylegan2 import StyleGAN2

WEIGHTS = Path(__file__).with_suffix(".msgpack")
CLASSES, BATCH, STEPS_PER_CALL = 10, 128, 200
DECAY = 0.5 ** (BATCH / 20_000)  # of the average of the weights: it halves in 20,000 images
R1, R1_EVERY = 0.1, 16  # weight of the penalty, and updates between two
SHIFT = 4  # pixels that all images are moved by, so that few are learnt by heart


def network(channels: int = 128) -> StyleGAN2:
    """Make the generator, with so many channels at the full resolution, twice as many below."""
    synthesis = {"channel_base": 32 * channels, "channel_max": 2 * channels}
    return StyleGAN2(
        32,
        z_dim=128,
        c_dim=CLASSES,
        w_dim=2 * channels,
        mapping_kwargs=FrozenDict(num_layers=2),
        synthesis_kwargs=FrozenDict(synthesis, conv_clamp=256.0, dtype=jnp.bfloat16),
    )


class Discriminator(nn.Module):
    """Residual network with a projection of the class (Miyato and Koyama 2018)."""

    channels: int = 128

    @nn.compact
    def __call__(self, x: jax.Array, classes: jax.Array) -> jax.Array:
        """Judge images [B, 32, 32, 3] of one-hot classes [B, 10] by logits [B]."""

        def conv(x: jax.Array, features: int, size: int = 3) -> jax.Array:
            return nn.Conv(features, (size, size), dtype=jnp.bfloat16)(x)

        x = conv(x, self.channels, 1)
        for features in (self.channels, 2 * self.channels, 2 * self.channels):
            y = conv(nn.leaky_relu(x, 0.2), features)
            y = conv(nn.leaky_relu(y, 0.2), features)
            x = nn.avg_pool(y + conv(x, features, 1), (2, 2), (2, 2)) * 0.7
        x = nn.leaky_relu(x.astype(jnp.float32), 0.2).reshape(len(x), -1)
        # How alike images of a batch are: of dropped modes they are more so.
        variance = jnp.var(x.reshape(-1, 4, x.shape[1]), axis=1)
        alike = jnp.sqrt(variance + 1e-8).mean(axis=1).repeat(4)  # a root at 0 has no gradient
        x = jnp.concatenate([x, alike[:, None]], axis=1)
        x = nn.leaky_relu(nn.Dense(2 * self.channels)(x), 0.2)
        of_class = nn.Dense(x.shape[1], use_bias=False)(classes)
        return nn.Dense(1)(x)[:, 0] + jnp.mean(of_class * x, axis=1)


def moved(key: jax.Array, images: jax.Array) -> jax.Array:
    """Move each image by up to `SHIFT` pixels along both axes."""
    padded = jnp.pad(images, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)))
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * SHIFT + 1)

    def cut(x: jax.Array, at: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(x, (*at, 0), images.shape[1:])

    return jax.vmap(cut)(padded, corners)


def train(data: str, minutes: float, channels: int = 128) -> None:
    """Train with the non-saturating loss and R1 (Mescheder et al. 2018); write the average."""
    pictures, labels = map(jnp.asarray, opening.load_all(opening.open_source(data)))
    net, judge = network(channels), Discriminator(channels)
    some = jnp.zeros((4, CLASSES))
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((4, net.z_dim)), some)
    drawn = stylegan2.to_generator(net, variables)
    # StyleGAN2's weights are scaled where they are used, so that its rate is the larger one.
    adam = {"g": optax.adam(2.5e-3, 0.0, 0.99), "d": optax.adam(2e-4, 0.0, 0.99)}
    params: Any = {
        "g": variables["params"],
        "d": jax.jit(judge.init)(jax.random.key(1), jnp.zeros((4, 32, 32, 3)), some),
    }
    opt = {name: adam[name].init(params[name]) for name in adam}

    def fake(g: Any, key: jax.Array, c: jax.Array) -> jax.Array:
        of_z, of_shift = jax.random.split(key)
        whole = {**variables, "params": g}
        return moved(of_shift, drawn.generate(whole, drawn.latent(of_z, BATCH), c))

    def loss_of_g(g: Any, d: Any, key: jax.Array, c: jax.Array) -> jax.Array:
        return jnp.mean(nn.softplus(-judge.apply(d, fake(g, key, c), c)))

    def loss_of_d(d: Any, g: Any, key: jax.Array, c: jax.Array, x: Any, i: Any) -> jax.Array:
        def steepness() -> jax.Array:
            gradient = jax.grad(lambda x: jnp.sum(judge.apply(d, x, c)))(x)
            return jnp.mean(jnp.sum(gradient**2, axis=(1, 2, 3)))

        penalty = jax.lax.cond(i % R1_EVERY == 0, steepness, lambda: jnp.zeros(()))
        of_real, of_fake = judge.apply(d, x, c), judge.apply(d, fake(g, key, c), c)
        losses = nn.softplus(-of_real) + nn.softplus(of_fake)
        return jnp.mean(losses) + R1_EVERY * R1 / 2 * penalty

    def step(state: Any, i: jax.Array) -> tuple[Any, Any]:
        params, average, opt = state
        keys = jax.random.split(jax.random.fold_in(jax.random.key(2), i), 5)
        at = jax.random.randint(keys[0], (BATCH,), 0, len(pictures))
        x, c = pictures[at] / 127.5 - 1, jax.nn.one_hot(labels[at], CLASSES)
        flip = jax.random.bernoulli(keys[1], shape=(BATCH, 1, 1, 1))
        x = moved(keys[2], jnp.where(flip, x[:, :, ::-1], x))
        losses = {}
        for name, loss, given in (
            ("d", loss_of_d, ("g", keys[3], c, x, i)),
            ("g", loss_of_g, ("d", keys[4], c)),
        ):
            other, *rest = given
            losses[name], gradient = jax.value_and_grad(loss)(params[name], params[other], *rest)
            change, new = adam[name].update(gradient, opt[name])
            opt = {**opt, name: new}
            params = {**params, name: optax.apply_updates(params[name], change)}
        average = optax.incremental_update(params["g"], average, 1 - DECAY)
        return (params, average, opt), losses

    @jax.jit
    def steps(state: Any, start: jax.Array) -> tuple[Any, Any]:
        state, losses = jax.lax.scan(step, state, start + jnp.arange(STEPS_PER_CALL))
        return state, jax.tree.map(jnp.mean, losses)

    state, count, began = (params, params["g"], opt), 0, time.monotonic()
    while time.monotonic() - began < 60 * minutes:
        state, losses = steps(state, count)
        count += STEPS_PER_CALL
        shown = ", ".join(f"{name} {float(loss):.3f}" for name, loss in losses.items())
        print(f"{BATCH * count / 1000:.1f} kimg, {time.monotonic() - began:.0f} s, loss {shown}")
        if not all(map(jnp.isfinite, losses.values())):
            raise FloatingPointError("the losses aren't finite: nothing is written")
    average = jax.device_get({**variables, "params": state[1]})
    WEIGHTS.write_bytes(serialization.msgpack_serialize(average))


def generator(teacher: models.Teacher) -> models.Generator:
    """Read the trained generator, as diffjax takes a student."""
    del teacher
    if not WEIGHTS.exists():
        raise FileNotFoundError(f"{WEIGHTS} isn't there; make it: python {__file__} --data=...")
    variables = serialization.msgpack_restore(WEIGHTS.read_bytes())
    channels = variables["params"]["synthesis"]["b32"]["conv1"]["kernel"].shape[-1]
    return stylegan2.to_generator(network(channels), variables)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="cifar10-32x32.zip, of EDM's dataset_tool")
    parser.add_argument("--minutes", type=float, default=8.0, help="of training")
    arguments = parser.parse_args()
    train(arguments.data, arguments.minutes)
