"""Distillations of any functions, as tests build them."""

from diffjax import methods
from diffjax.methods.draws import Batch
from diffjax.training import ema, state, update


def build(
    method,
    *,
    teacher,
    fake_score,
    generator,
    fake_score_optimizer,
    generator_optimizer,
    batch_size,
    rounds=1,
    shape=(),
    label_dim=0,
    sigma_range=(0.0, float("inf")),
    ema_halflife=500_000,
    ema_rampup=0.05,
    unroll=False,
    max_skipped_in_a_row=None,
    **settings,
):
    """An `Update` by a method's name; losses aren't scaled unless `settings` say so."""
    return update.Update(
        method=methods.get(method)(
            networks={"teacher": teacher, "fake_score": fake_score, "generator": generator},
            batch=Batch(shape, batch_size, rounds, label_dim),
            sigma_min=sigma_range[0],
            sigma_max=sigma_range[1],
            **{"generator_loss_scale": 1.0, **settings},
        ),
        optimizers={"fake_score": fake_score_optimizer, "generator": generator_optimizer},
        averages=ema.Averages(ema_halflife, ema_rampup),
        unroll=unroll,
        max_skipped_in_a_row=max_skipped_in_a_row,
    )


def start(setup, generator, fake_score):
    """The state before the first update."""
    params = {"generator": generator, "fake_score": fake_score}
    return state.create(params, setup.optimizers, setup.averaged)


def step(setup):
    """(state, teacher's parameters, draws) -> (state, metrics), the draws aligned as drawn ones."""

    def call(current, teacher, draws):
        return setup(current, {"teacher": teacher}, setup.method.aligned(draws))

    return call
