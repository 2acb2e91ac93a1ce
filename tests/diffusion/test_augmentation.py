import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import augmentation
from tests.support import golden_cases
from tests.support.augmenting import golden_draws, no_draws

apply = jax.jit(augmentation.apply)


def random_images(*shape: int) -> jax.Array:
    return jax.random.uniform(jax.random.key(1), shape, minval=-1, maxval=1)


@pytest.mark.parametrize("name", golden_cases.cases("augment"))
def test_matches_the_published_code(name):
    case = golden_cases.Case(name)
    draws, columns = golden_draws(case, case.meta["kwargs"])
    result, labels = apply(np.moveaxis(case.raw("images"), 1, 3), draws)
    np.testing.assert_allclose(labels[:, columns], case.exact("labels"), atol=1e-6)
    np.testing.assert_array_equal(np.delete(labels, columns, axis=1), 0)
    np.testing.assert_allclose(result, np.moveaxis(case.exact("out"), 1, 3), atol=5e-5)
    assert result.dtype == labels.dtype == jnp.float32


@pytest.mark.parametrize("shape", [(2, 16, 16, 3), (3, 8, 12, 1), (1, 7, 7, 4)])
def test_no_draws_change_nothing(shape):
    images = random_images(*shape)
    result, labels = apply(images, no_draws(shape[0]))
    np.testing.assert_allclose(result, images, atol=2e-6)
    np.testing.assert_array_equal(labels, np.zeros((shape[0], 9)))


def test_flips():
    images = random_images(3, 8, 12, 3)
    draws = no_draws(3).replace(xflip=np.float32([1, 0, 1]), yflip=np.float32([0, 1, 1]))
    result, labels = apply(images, draws)
    expected = [images[0, :, ::-1], images[1, ::-1], images[2, ::-1, ::-1]]
    np.testing.assert_allclose(result, np.stack(expected), atol=2e-6)
    np.testing.assert_array_equal(labels[:, :2], [[1, 0], [0, 1], [1, 1]])
    np.testing.assert_array_equal(labels[:, 2:], 0)


def test_translation_by_whole_pixels_reflects_at_the_border():
    # An eighth of 16 by 24 pixels is 2 by 3: 2 pixels down, 6 pixels left.
    images = random_images(1, 16, 24, 3)
    draws = no_draws(1).replace(translation=np.float32([[-2, 1]]))
    result, labels = apply(images, draws)
    extended = np.pad(images[0], ((2, 0), (0, 6), (0, 0)), "reflect")
    np.testing.assert_allclose(result[0], extended[:16, 6:], atol=1e-5)
    np.testing.assert_array_equal(labels[0], [0, 0, 0, 0, 0, 0, 0, -2, 1])


def test_quarter_turn_is_counterclockwise():
    # Smooth, because the filter isn't symmetric and turns with the image.
    image = np.cos(np.arange(16) / 5)[:, None, None] * np.sin(np.arange(16) / 6)[:, None]
    draws = no_draws(1).replace(rotation=np.float32([np.pi / 2]))
    result, labels = apply(image[None], draws)
    np.testing.assert_allclose(result[0], np.rot90(image), atol=0.03)
    np.testing.assert_allclose(labels[0], [0, 0, 0, -1, 1, 0, 0, 0, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("draws", "factor_x", "factor_y"),
    [
        ({"scale": 5.0}, 2.0, 2.0),
        ({"scale": -2.0}, 2**-0.4, 2**-0.4),
        ({"aniso": 2.5}, 2**0.5, 2**-0.5),
        ({"aniso": 2.5, "aniso_rotation": np.pi / 2}, 2**-0.5, 2**0.5),
    ],
)
def test_scaling_enlarges_about_the_centre(draws, factor_x, factor_y):
    x, y = np.meshgrid(np.arange(32) - 15.5, np.arange(32) - 15.5)

    def hill(x, y):
        return np.exp(-((x / 5) ** 2) - ((y - 1) / 4) ** 2)[None, :, :, None]

    draws = no_draws(1).replace(**{name: np.float32([value]) for name, value in draws.items()})
    result, _ = apply(hill(x, y), draws)
    expected = hill(x / factor_x, y / factor_y)
    centre = np.s_[:, 6:26, 6:26]  # outside, a shrunk image shows its reflection
    np.testing.assert_allclose(result[centre], expected[centre], atol=0.01)


def test_labels():
    draws = augmentation.Draws(
        *np.float32([[1], [0], [0.3], [2], [-1.5], [0.5]]), np.float32([[4, 5]])
    )
    _, labels = apply(random_images(1, 8, 8, 3), draws)
    expected = [1, 0, 0.3, np.cos(2) - 1, np.sin(2), -1.5 * np.cos(0.5), -1.5 * np.sin(0.5), 4, 5]
    np.testing.assert_allclose(labels, [expected], rtol=1e-6)


def test_images_dont_depend_on_their_batch():
    images, draws = random_images(6, 16, 16, 3), augmentation.draw(jax.random.key(0), 6, p=1)
    together, _ = apply(images, draws)
    alone, _ = apply(images[2:3], jax.tree.map(lambda x: x[2:3], draws))
    np.testing.assert_allclose(together[2:3], alone, atol=1e-6)


def test_gradient():
    # The warp is linear in the images, so its gradient gives back its value.
    images, draws = random_images(4, 16, 16, 3), augmentation.draw(jax.random.key(0), 4, p=1)
    probe = jax.random.normal(jax.random.key(2), images.shape)
    value, gradient = jax.jit(
        jax.value_and_grad(lambda images: jnp.sum(apply(images, draws)[0] * probe))
    )(images)
    assert abs(value) > 1
    assert float(jnp.sum(gradient * images)) == pytest.approx(float(value), rel=1e-4)


def test_draws_have_the_published_rates_and_spreads():
    batch, p = 100_000, 0.12
    draws = jax.tree.map(np.asarray, augmentation.draw(jax.random.key(0), batch, p=p))
    assert draws.translation.shape == (batch, 2)
    assert draws.xflip.mean() == pytest.approx(0.5, abs=0.01)
    assert draws.yflip.mean() == pytest.approx(p / 2, abs=0.005)
    for values in (draws.scale, draws.rotation, draws.aniso, *draws.translation.T):
        assert (values != 0).mean() == pytest.approx(p, abs=0.005)
    assert (draws.aniso_rotation != 0).mean() == pytest.approx(0.5, abs=0.01)
    for values in (draws.scale, draws.aniso, *draws.translation.T):
        drawn = values[values != 0]
        assert drawn.mean() == pytest.approx(0, abs=0.04)
        assert drawn.std() == pytest.approx(1, abs=0.03)
    for values in (draws.rotation, draws.aniso_rotation):
        drawn = values[values != 0]
        assert -np.pi <= drawn.min() < -3.1
        assert 3.1 < drawn.max() <= np.pi
        assert drawn.std() == pytest.approx(np.pi / np.sqrt(3), abs=0.03)


def test_operations_are_drawn_independently_but_a_shift_as_one():
    draws = jax.tree.map(np.asarray, augmentation.draw(jax.random.key(3), 50_000, p=0.5))
    is_on = np.stack([draws.xflip, draws.scale, draws.rotation, draws.aniso]) != 0
    is_on = np.concatenate([is_on, draws.translation.T[:1] != 0])
    np.testing.assert_allclose(np.corrcoef(is_on), np.eye(5), atol=0.02)
    np.testing.assert_array_equal(draws.translation[:, 0] != 0, draws.translation[:, 1] != 0)
    shifts = draws.translation[draws.translation[:, 0] != 0]
    assert abs(np.corrcoef(shifts.T)[0, 1]) < 0.03


@pytest.mark.parametrize("name", ["xflip", "yflip", "scale", "rotate_frac", "aniso"])
def test_a_multiplier_of_zero_switches_one_operation_off(name):
    draws = augmentation.draw(jax.random.key(0), 64, p=1, **{name: 0.0})
    field = "rotation" if name == "rotate_frac" else name
    for other in ("xflip", "yflip", "scale", "rotation", "aniso", "translation"):
        assert np.any(getattr(draws, other)) == (other != field)


def test_equal_keys_give_equal_draws_and_others_dont():
    first, again, other = (augmentation.draw(jax.random.key(i), 8, p=1) for i in (0, 0, 1))
    for a, b, c in zip(*map(jax.tree.leaves, (first, again, other)), strict=True):
        np.testing.assert_array_equal(a, b)
        assert np.any(a != c)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"p": 1.5}, r"p must lie in \[0, 1\], got 1.5"), ({"aniso": -1}, "aniso .* can't be -1")],
)
def test_draw_refuses(settings, message):
    with pytest.raises(ValueError, match=message):
        augmentation.draw(jax.random.key(0), 2, **settings)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((8, 8, 3), r"must be \[B, H, W, C\]"),
        ((2, 6, 8, 3), "H, W >= 7"),
        ((3, 8, 8, 3), "3 images but draws for 2"),
    ],
)
def test_apply_refuses(shape, message):
    with pytest.raises(ValueError, match=message):
        apply(np.zeros(shape), no_draws(2))
