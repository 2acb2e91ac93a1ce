"""EDM2's averages and learning rate against numbers from its PyTorch code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.diffusion import learning_rate
from diffjax.training import ema, power_ema
from tests.support import edm2_cases, golden_cases

tables = pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_phema")))


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_lr_schedule")))
def test_learning_rate(name):
    case = golden_cases.Case(name).raw
    columns = ("cur_nimg", "ref_lr", "batch_size", "ref_batches", "rampup_Mimg", "lr")
    for seen, peak, batch_size, decay, rampup, expected in zip(*map(case, columns), strict=True):
        settings = {"peak": peak, "batch_size": int(batch_size), "decay_updates": decay}
        settings["rampup_images"] = rampup * 1e6
        rate = learning_rate.inverse_square_root(seen, **settings)
        np.testing.assert_allclose(rate, expected, rtol=1e-10)
        traced = jax.jit(lambda n, s=settings: learning_rate.inverse_square_root(n, **s))
        np.testing.assert_allclose(traced(jnp.float32(seen)), expected, rtol=1e-5)


@tables
def test_lengths_and_exponents(name):
    case = golden_cases.Case(name).raw
    np.testing.assert_allclose(power_ema.exponent(case("std")), case("exp_of_std"), rtol=1e-10)
    for exponents, stds in (("exp_of_std", "std_of_exp"), ("exp_in", "std_of_exp_in")):
        np.testing.assert_allclose(power_ema.relative_std(case(exponents)), case(stds), rtol=1e-10)


@tables
def test_decay(name):
    case = golden_cases.Case(name).raw
    seen, batch_size = case("beta_t_next"), float(case("beta_t_delta"))
    share = power_ema.new_share(seen, batch_size, case("std")[:, None])
    np.testing.assert_allclose(1 - share, case("beta"), rtol=1e-10, atol=1e-15)
    single = power_ema.new_share(jnp.asarray(seen, jnp.float32), batch_size, case("std")[:, None])
    np.testing.assert_allclose(single, share, rtol=1e-5)
    assert power_ema.new_share(2048, 2048, 0.05) == 1


@tables
def test_response(name):
    case = golden_cases.Case(name).raw
    expected = case("response")
    ends = np.argmax(expected, axis=-1)
    assert len(set(ends)) == 1
    found = power_ema.response(ends[0], case("std"), expected.shape[-1])
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@tables
def test_posthoc_weights(name):
    case = golden_cases.Case(name).raw
    ends, stds = case("in_ofs"), case("in_std")
    found = power_ema.correlation(ends, stds, ends, stds)
    np.testing.assert_allclose(found, case("correlation"), rtol=1e-9)
    expected = case("coefs")
    found = power_ema.posthoc_weights(ends, stds, float(case("out_ofs")), case("out_std"))
    assert np.abs(found - expected).max() < 1e-6 * np.abs(expected).max()
    with pytest.raises(ValueError, match="two snapshots"):
        power_ema.posthoc_weights([1, 1], [0.1, 0.1], 1, 0.1)


@tables
def test_a_run_of_updates(name):
    case, meta = golden_cases.Case(name), golden_cases.known()[name]
    batch_size, walk = meta["batch_size"], case.raw("trace_w").astype(np.float32)
    averages = power_ema.PowerAverages(tuple(meta["stds"]))
    kept, halving = averages.start(walk[0]), walk[0]
    for k, params in enumerate(walk[1:], 1):
        seen = jnp.float32(k * batch_size)
        kept = averages.follow(kept, params, images_seen=seen, batch_size=batch_size)
        np.testing.assert_allclose(np.stack(kept), case.exact("trace")[k - 1], rtol=2e-5, atol=2e-6)
        beta = ema.decay(seen, batch_size, halflife=4 * batch_size, rampup=0.09)
        halving = ema.update(halving, params, beta)
    # Of the average by half-life every row that was recorded is the last.
    expected = case.exact("trace_traditional")[-1]
    np.testing.assert_allclose(halving, expected, rtol=2e-5, atol=2e-6)
    first = averages.follow(
        averages.start(walk[0]), walk[1], images_seen=jnp.float32(8), batch_size=8
    )
    np.testing.assert_array_equal(np.stack(first), np.stack([walk[1], walk[1]]))


@pytest.mark.parametrize("name", edm2_cases.or_skip(golden_cases.cases("edm2_phema_reconstruct")))
def test_reconstruction(name):
    case, meta = golden_cases.Case(name), golden_cases.known()[name]
    ends, stds, snapshots = (case.raw(key) for key in ("ofs", "std", "snapshots"))
    weights = power_ema.posthoc_weights(ends, stds, meta["out_ofs"], meta["out_std"])
    expected = case.raw("coefs")
    assert np.abs(weights - expected).max() < 1e-6 * np.abs(expected).max()
    keys = zip(ends.tolist(), stds.tolist(), strict=True)
    trees = {key: {"w": row} for key, row in zip(keys, snapshots, strict=True)}
    found = power_ema.of_posthoc(trees, meta["out_ofs"], meta["out_std"])["w"]
    np.testing.assert_allclose(found, case.raw("reconstructed"), rtol=1e-6)
    # The method's own error, against the average that was kept during that walk.
    error = np.abs(found - case.raw("direct")).max()
    assert error < 1.01 * meta["reconstruction_error"]


def test_snapshots_are_told_apart_from_their_weights():
    with pytest.raises(ValueError, match="no snapshots"):
        power_ema.of_posthoc({}, 1.0, 0.1)
    with pytest.raises(ValueError, match="shorter"):
        power_ema.reconstruct([{"w": np.ones(2)}], [0.5, 0.5])
