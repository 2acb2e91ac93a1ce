"""Every loss as a function of x, teacher's and fake score's denoised arrays [B, H, W, C]."""

from diffjax import losses

SIGMA = 0.5


def logits(d_fake):
    """[B, H, W], as a discriminator's on features would be; exact in half precision."""
    return d_fake[..., 0]


def log_ratio(d_fake):
    """[B], small enough for its exponential."""
    return d_fake[:, 0, 0, 0] / 64


# In these one mean over the batch is in each value.
COUPLED = {
    "sida": lambda x, t, f: losses.sida(x, t, f, logits(f)),
    "sida_gan_generator": lambda x, t, f: losses.sida_gan_generator(logits(x), weight=2.0),
    "sida_gan_discriminator": lambda x, t, f: losses.sida_gan_discriminator(
        logits(x), logits(f), weight=2.0
    ),
    "uni_instruct_released": lambda x, t, f: losses.uni_instruct_released(x, t, f, logits(f)),
}
SEPARATE = {
    "approximate_r1": lambda x, t, f: losses.approximate_r1(logits(x), logits(f)),
    "denoising": lambda x, t, f: losses.denoising(x, f, weight=2.0),
    "diff_instruct": losses.diff_instruct,
    "dmd": losses.dmd,
    "f_distill": lambda x, t, f: losses.f_distill(
        x, t, f, abs(log_ratio(f)), divergence="jensen_shannon"
    ),
    "fgm": losses.fgm,
    "gan_discriminator": lambda x, t, f: losses.gan_discriminator(logits(x), logits(f)),
    "gan_generator": lambda x, t, f: losses.gan_generator(logits(x)),
    "moment_matching": losses.moment_matching,
    "moment_matching_auxiliary": losses.moment_matching_auxiliary,
    "normalizing_weight": lambda x, t, f: losses.normalizing_weight(x, t),
    "r1": lambda x, t, f: losses.r1(x),
    "sid": lambda x, t, f: losses.sid(x, t, f, alpha=1.2),
    "sim": lambda x, t, f: losses.sim(x, t, f, SIGMA),
    "smd": lambda x, t, f: losses.smd(x, t, f, logits(f), skew=0.75),
    "smd_critic": lambda x, t, f: losses.smd_critic(t, f, logits(x), skew=0.75, real=True),
    "uni_instruct": lambda x, t, f: losses.uni_instruct(
        x, t, f, log_ratio(f), 128 * SIGMA, divergence="forward_kl"
    ),
}
CALLS = SEPARATE | COUPLED
