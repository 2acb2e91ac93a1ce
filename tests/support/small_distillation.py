"""A distillation of a network with all kinds of layers, compiled in little time."""

import optax

from diffjax.evaluation import sampling
from diffjax.models import denoiser
from diffjax.models.generator import DenoiserGenerator
from diffjax.runs import experiment, inputs
from tests.support import distilling

# The blocks of an encoder are those of a decoder.
INIT_KWARGS = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "label_dim": 2,
    "model_channels": 8,
    "channel_mult": (1,),
    "num_blocks": 0,
    "attn_resolutions": (),
    "dropout": 0.1,
}


def build(
    optimizer: optax.GradientTransformation, batch_size: int, **changes
) -> experiment.Experiment:
    """SiD with an optimiser for both networks; `changes` are of the update."""
    model = denoiser.from_edm_kwargs(INIT_KWARGS)
    return experiment.Experiment(
        update=distilling.build(
            "sid",
            teacher=model,
            fake_score=model,
            generator=DenoiserGenerator(model, 2.5),
            fake_score_optimizer=optimizer,
            generator_optimizer=optimizer,
            batch_size=batch_size,
            shape=model.image_shape,
            label_dim=2,
            unroll=True,
            **{"max_skipped_in_a_row": 10, **changes},
        ),
        inputs={"teacher": inputs.TeacherInput("", model)},
        init_kwargs=INIT_KWARGS,
        denoiser=model,
        heun=sampling.HeunSettings(),
        init_sigma=2.5,
    )
