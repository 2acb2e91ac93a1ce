import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import signal

from diffjax.convert import stylegan2 as convert
from diffjax.networks import stylegan2, stylegan2_layers, stylegan2_synthesis
from tests.support import golden_cases, stylegan2_cases

# Largest error over largest number of styles, images and gradients; what is stored in float32 can
# only be so near.
BOUNDS = {
    "float32": {"w": 3e-6, "i": 1e-5, "g": 2e-5},
    "float64": {"w": 1e-12, "i": 1e-11, "g": 1e-9},
}
STORED_IN_FLOAT32 = 1e-6
IMAGES = BOUNDS["float32"]["i"]


def error(actual, expected):
    actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
    assert actual.shape == expected.shape
    return np.abs(actual - expected).max() / np.abs(expected).max()


# Against the published code.


def everything(net, variables, case, noise):
    """All that a case records, as one function of its inputs."""
    psi, cutoff = case.meta["truncation"]["psi"], case.meta["truncation"]["cutoff"]
    c = case["c"] if net.c_dim else None
    probe = jnp.moveaxis(case["probe"], 1, -1)

    def styles(z, **kwargs):
        return net.apply(variables, z, c, method=lambda net, *args: net.mapping(*args, **kwargs))

    def images(v, ws, mode="const", given=None):
        def ask(net, ws):
            return net.synthesis(ws, noise_mode=mode, noise=given)

        return net.apply(v, ws, method=ask)

    def of_latents(v, z):
        image = net.apply(v, z, c, noise_mode="const")
        return jnp.sum(image * probe), image

    def of_styles(ws):
        image = images(variables, ws)
        return jnp.sum(image * probe), image

    def run(z, wsd):
        found = {"ws": styles(z), "ws_psi07": styles(z, truncation_psi=psi)}
        cut = styles(z, truncation_psi=psi, truncation_cutoff=cutoff)
        found["ws_psi07_cut"] = cut
        # One program for all kinds of images.
        found["img_none"] = images(variables, found["ws"], "none")
        found["img_random"] = images(variables, found["ws"], "random", noise)
        if "img_const_psi07_cut" in case:
            found["img_const_psi07_cut"] = images(variables, cut)
            found["img_none_psi07_cut"] = images(variables, cut, "none")
        of = jax.value_and_grad(of_latents, argnums=(0, 1), has_aux=True)
        (_, found["img_const"]), (d_variables, found["grad_z"]) = of(variables, z)
        of = jax.value_and_grad(of_styles, has_aux=True)
        (_, found["img_wsd"]), found["grad_wsd"] = of(wsd)
        for i, name in enumerate(case.meta["grad_param_names"]):
            found[f"grad_p{i}"] = in_torchs_layout(d_variables["params"], name)
        _, updated = net.apply(
            variables,
            z,
            c,
            method=lambda net, *args: net.mapping(*args, update_w_avg=True),
            mutable=["buffers"],
        )
        found["w_avg_after_train_step"] = updated["buffers"]["mapping"]["w_avg"]
        return found

    return jax.jit(run)(case["z"], case["wsd"])


def in_torchs_layout(tree, name):
    *path, _ = name.split(".")
    for part in path:
        tree = tree[part]
    return golden_cases.to_torch(tree["kernel"])


class Case(golden_cases.Case):
    dtype = "float32"

    def _nhwc(self, array):
        return array.astype(self.dtype)


def check(name, dtype, *, fused=False):
    case = Case(name)
    case.dtype = dtype
    net = convert.build(case.meta["config"], fused=fused)
    variables = convert.to_variables(net, stylegan2_cases.arrays(case.meta))
    variables = jax.tree.map(lambda leaf: leaf.astype(dtype), variables)
    noise = {
        layer.removeprefix("synthesis.").replace(".", "_"): case[f"noise_{i}"][:, 0]
        for i, layer in enumerate(case.meta["noise_layers"])
    }
    with jax.default_matmul_precision("highest"):
        found = everything(net, variables, case, noise)
    compared = [key for key in found if key in case]
    assert len(compared) >= 10
    for key in compared:
        assert found[key].dtype == dtype
        image = np.moveaxis(found[key], -1, 1) if key.startswith("img") else found[key]
        expected, bound = case.exact(key), BOUNDS[dtype][key[0]]
        if expected.dtype == np.float32:
            bound = max(bound, STORED_IN_FLOAT32)
        assert error(image, expected) < bound, key


@pytest.mark.parametrize("name", golden_cases.cases("stylegan2_generator"))
def test_styles_images_and_gradients_are_the_published_codes(name):
    check(name, "float32")


@pytest.mark.slow
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("name", golden_cases.cases("stylegan2_generator"))
def test_they_are_so_in_float64(name, fused):
    with jax.enable_x64(True):
        check(name, "float64", fused=fused)


# Against a reference of its own, channel by channel, since the recorded cases are of "skip" alone.


class Reference:
    """StyleGAN2's definition in float64: a kernel an example, and sums over explicit zeros."""

    def __init__(self, arrays, kwargs):
        self.arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
        self.kwargs = kwargs

    def affine(self, name, w):
        weight = self.arrays[f"{name}.affine.weight"]
        return weight @ w / np.sqrt(len(w)) + self.arrays[f"{name}.affine.bias"]

    @staticmethod
    def filtered(x, size):
        """x with zeros between, filtered, of `size` pixels: gain 4."""
        taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 16
        whole = np.stack([signal.convolve2d(one, taps) for one in x])
        start = (whole.shape[1] - size) // 2
        return whole[:, start : start + size, start : start + size]

    @staticmethod
    def stuffed(x):
        zeros = np.zeros((x.shape[0], 2 * x.shape[1], 2 * x.shape[2]))
        zeros[:, ::2, ::2] = x
        return zeros[:, :-1, :-1]

    @staticmethod
    def summed(function, x, kernel, mode):
        """Over the input's channels, for each of the output's."""
        channels = range(len(x))
        return np.stack([sum(function(x[i], own[i], mode) for i in channels) for own in kernel])

    def upsampled(self, x):
        return self.filtered(self.stuffed(x), 2 * x.shape[1])

    def conv(self, name, x, w, noise, *, up=False, gain=1.0):
        kernel = self.arrays[f"{name}.weight"] * self.affine(name, w)[None, :, None, None]
        kernel = kernel / np.sqrt((kernel**2).sum(axis=(1, 2, 3), keepdims=True) + 1e-8)
        if up:
            whole = self.summed(signal.convolve2d, self.stuffed(x), kernel, "full")
            x = self.filtered(whole, 2 * x.shape[1])
        else:
            x = self.summed(signal.correlate2d, x, kernel, "same")
        x = x + self.arrays[f"{name}.noise_strength"] * noise
        x = x + self.arrays[f"{name}.bias"][:, None, None]
        x = np.maximum(x, 0.2 * x) * np.sqrt(2) * gain
        clamp = self.kwargs["conv_clamp"] * gain
        return np.clip(x, -clamp, clamp)

    def rgb(self, name, x, w):
        kernel = self.arrays[f"{name}.weight"][:, :, 0, 0] * self.affine(name, w) / np.sqrt(len(x))
        x = np.einsum("oi,ihw->ohw", kernel, x) + self.arrays[f"{name}.bias"][:, None, None]
        return np.clip(x, -self.kwargs["conv_clamp"], self.kwargs["conv_clamp"])

    def image(self, ws, noise, architecture):
        name = "synthesis.b4"
        x = self.conv(f"{name}.conv1", self.arrays[f"{name}.const"], ws[0], noise["b4_conv1"])
        image = self.rgb(f"{name}.torgb", x, ws[1]) if architecture == "skip" else None
        name, half = "synthesis.b8", np.sqrt(0.5) if architecture == "resnet" else 1.0
        y = self.conv(f"{name}.conv0", x, ws[1], noise["b8_conv0"], up=True)
        y = self.conv(f"{name}.conv1", y, ws[2], noise["b8_conv1"], gain=half)
        if architecture == "resnet":
            kernel = self.arrays[f"{name}.skip.weight"][:, :, 0, 0] / np.sqrt(len(x))
            y = y + half * self.upsampled(np.einsum("oi,ihw->ohw", kernel, x))
        out = self.rgb(f"{name}.torgb", y, ws[3])
        return out if image is None else out + self.upsampled(image)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("architecture", stylegan2_synthesis.ARCHITECTURES)
def test_each_architecture_is_its_definition(architecture, fused):
    settings = stylegan2_cases.KWARGS["synthesis_kwargs"] | {"architecture": architecture}
    kwargs = stylegan2_cases.KWARGS | {"synthesis_kwargs": settings}
    net, variables, arrays = stylegan2_cases.network(kwargs, fused=fused)
    rng = np.random.default_rng(0)
    ws = rng.standard_normal((2, 4, 5)).astype(np.float32)
    noise = jax.tree.map(np.asarray, stylegan2_synthesis.draw_noise(jax.random.key(1), 2, 8))

    @jax.jit
    def images(ws, noise):
        return net.apply(variables, ws, method=lambda net, ws: net.synthesis(ws, noise=noise))

    found = np.moveaxis(np.asarray(images(ws, noise)), -1, 1)
    reference = Reference(arrays, settings)
    for i in range(2):
        given = {name: array[i] for name, array in noise.items()}
        assert error(found[i], reference.image(ws[i], given, architecture)) < IMAGES


# Noise, truncation, buffers.


def small(**settings):
    net, variables, _ = stylegan2_cases.network(stylegan2_cases.KWARGS, **settings)
    z = jax.random.normal(jax.random.key(0), (3, 6))
    return net, variables, z, jnp.eye(3)


def test_random_noise_is_drawn_from_a_key_or_given():
    net, variables, z, c = small()
    drawn = net.apply(variables, z, c, rngs={"noise": jax.random.key(1)})
    assert jnp.array_equal(drawn, net.apply(variables, z, c, rngs={"noise": jax.random.key(1)}))
    other = net.apply(variables, z, c, rngs={"noise": jax.random.key(2)})
    assert not jnp.array_equal(drawn, other)
    zeros = jax.tree.map(jnp.zeros_like, stylegan2_synthesis.draw_noise(jax.random.key(1), 3, 8))
    given = net.apply(variables, z, c, noise=zeros)
    np.testing.assert_allclose(given, net.apply(variables, z, c, noise_mode="none"), atol=1e-6)
    with pytest.raises(ValueError, match="noise has the shapes"):
        net.apply(variables, z, c, noise={"b4_conv1": jnp.zeros((3, 4, 4))})
    with pytest.raises(ValueError, match="noise_mode='some' is none of random, const, none"):
        net.apply(variables, z, c, noise_mode="some")


def test_buffers_get_no_gradient_and_change_only_when_asked():
    net, variables, z, c = small()

    def loss(variables):
        image = net.apply(variables, z, c, noise_mode="const", truncation_psi=0.5)
        return jnp.sum(image**2)

    gradient = jax.jit(jax.grad(loss))(variables)
    assert not any(leaf.any() for leaf in jax.tree.leaves(gradient["buffers"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(gradient["params"]))
    _, updated = net.apply(variables, z, c, noise_mode="const", mutable=["buffers"])
    assert jax.tree.all(jax.tree.map(np.array_equal, updated["buffers"], variables["buffers"]))


def test_bfloat16_is_near_float32_and_images_are_float32():
    net, variables, z, c = small()
    expected = net.apply(variables, z, c, noise_mode="const")
    for fused in (False, True):
        net, variables, z, c = small(dtype=jnp.bfloat16, fused=fused)
        image = net.apply(variables, z, c, noise_mode="const")
        assert image.dtype == jnp.float32
        assert 1e-4 < error(image, expected) < 0.05


def test_cifar10s_configuration():
    """512 channels at every resolution, two mapping layers: the size that its papers' code has."""
    net = stylegan2.cifar10(10)
    shapes = net.abstract_variables()["params"]
    assert shapes["synthesis"]["b32"]["conv1"]["kernel"].shape == (3, 3, 512, 512)
    assert set(shapes["mapping"]) == {"embed", "fc0", "fc1"}
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 20_215_315
    assert "embed" not in stylegan2.cifar10().abstract_variables()["params"]["mapping"]


def test_fresh_variables_are_drawn_as_published():
    net = convert.build(stylegan2_cases.KWARGS | {"w_dim": 64, "z_dim": 64})
    z, c = jnp.zeros((1, 64)), jnp.zeros((1, 3))
    variables = jax.jit(net.init)(jax.random.key(0), z, c)
    params, buffers = variables["params"], variables["buffers"]
    assert abs(params["mapping"]["fc1"]["kernel"].std() - 100) < 5  # 1 / lr_multiplier
    conv = params["synthesis"]["b8"]["conv1"]
    assert (conv["affine"]["bias"] == 1).all()
    assert conv["noise_strength"] == 0
    assert not buffers["mapping"]["w_avg"].any()
    assert buffers["synthesis"]["b8"]["conv1"]["noise_const"].std() > 0.5


def test_a_network_without_an_average_cant_truncate():
    kwargs = stylegan2_cases.KWARGS | {"mapping_kwargs": {"w_avg_beta": None, "num_layers": 1}}
    net, variables, _ = stylegan2_cases.network(kwargs)
    with pytest.raises(ValueError, match="no average of w"):
        net.apply(variables, jnp.ones((3, 6)), jnp.eye(3), truncation_psi=0.7, noise_mode="none")


@pytest.mark.parametrize("name", stylegan2_layers.ACTIVATIONS)
def test_activations_keep_their_gain(name):
    x = jnp.asarray([-2.0, 0.5])
    expected = {
        "relu": [0, 0.5 * 2**0.5],
        "lrelu": [-0.4 * 2**0.5, 0.5 * 2**0.5],
        "linear": [-2, 0.5],
        "tanh": np.tanh([-2, 0.5]),
        "sigmoid": 1 / (1 + np.exp([2, -0.5])),
        "elu": [np.exp(-2) - 1, 0.5],
        "selu": [1.7580993 * (np.exp(-2) - 1), 0.5 * 1.0507010],
        "softplus": np.log1p(np.exp([-2, 0.5])),
        "swish": 2**0.5 * np.array([-2, 0.5]) / (1 + np.exp([2, -0.5])),
    }
    np.testing.assert_allclose(stylegan2_layers.activate(x, name), expected[name], rtol=1e-5)
