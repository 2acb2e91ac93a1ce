"""The benchmarks of speed, in miniature: what they count, and what they run on."""

import jax
import jax.numpy as jnp

from benchmarks import measuring
from diffjax.denoiser import from_edm_kwargs

NETWORK = {
    "class_name": "EDMPrecond",
    "model_type": "SongUNet",
    "img_resolution": 8,
    "img_channels": 1,
    "model_channels": 16,
    "channel_mult": (1,),
    "num_blocks": 1,
    "attn_resolutions": (8,),
}


class TestFlops:
    def test_attention_counts_whoever_computes_it(self, monkeypatch):
        """cuDNN's is a call that can't be looked into; here another such call stands for it."""

        def opaque(q, k, v, *, implementation):
            assert implementation == "cudnn"
            return jax.pure_callback(lambda q, *_: q, q, q, k, v)

        monkeypatch.setattr(jax.nn, "dot_product_attention", opaque)
        by_xla, by_cudnn = (
            from_edm_kwargs(NETWORK, dtype=jnp.bfloat16, attention=name)
            for name in ("xla", "cudnn")
        )
        assert measuring.forward_flops(by_cudnn) == measuring.forward_flops(by_xla)

    def test_a_block_with_attention_adds_what_the_definition_says(self):
        """On 64 pixels of 16 channels: two products of all pairs, and the layers around them."""
        with_it = from_edm_kwargs(NETWORK)
        without = from_edm_kwargs({**NETWORK, "attn_resolutions": ()})
        blocks = 2  # the encoder's, and the decoder's last
        pairs, layers = 2 * 64 * 64 * 16, 64 * 16 * (3 * 16 + 16)
        added = measuring.forward_flops(with_it) - measuring.forward_flops(without)
        assert added == blocks * 2 * (pairs + layers)
