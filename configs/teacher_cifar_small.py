"""A quarter of EDM's CIFAR-10 teacher: DDPM++ with 64 base channels.

    python -m diffjax.main --config=configs/teacher_cifar_small.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well.
The rates are for a run of minutes: a shorter ramp-up and a faster average.
Hardware: one GPU, 12.3 GiB, or several.
Time: two H100s make 13,300 images/s, so 8.4 minutes for 6.66 million besides compiling. One makes
8,040, after a first call of 81 s: tracing, compiling and 50 updates (--config.updates_per_call=50).
Both measured with jax 0.11.2.
Result: fd_efficientnet_lite0_50k 5.79 in 35 evaluations, after 6.66 million images
(--config.duration_kimg=6656). The 20 million below were not run.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """14.0M parameters, unconditional."""
    return ConfigDict(
        {
            "task": "pretrain",
            "seed": 0,
            "deterministic": False,
            "distributed": False,
            "compilation_cache": "",  # a folder, or "" for none
            "dataset": "cifar10-32x32.zip",
            "conditional": False,
            "x_flip": False,
            "network": {
                "class_name": "EDMPrecond",
                "model_type": "SongUNet",
                "augment_dim": 9,
                "model_channels": 64,
                "channel_mult": (2, 2, 2),
                "num_blocks": 4,
                "attn_resolutions": (16,),
                "dropout": 0.1,
            },
            "augment_probability": 0.12,
            "dtype": "bfloat16",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "batch_size": 512,
            "duration_kimg": 20_000.0,
            "optimizer": {
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "rampup_kimg": 500.0,
            },
            "ema_halflife_kimg": 500.0,
            "ema_rampup": 0.05,  # 0 for none
            "updates_per_call": 16,
            "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
            "mesh": {"data": -1, "fsdp": 1},
            "watchdog": {
                "slow_factor": 10.0,
                "slow_seconds": 10.0,
                "hang_seconds": 3600.0,
                "peer_seconds": 60.0,
            },
            "log_kimg": 51.2,
            "grid_kimg": 1024.0,
            "grid": {"rows": 10, "columns": 10, "seed": 0},
            "checkpoint_kimg": 2048.0,
            "keep_checkpoints": 3,
            "heun": {
                "steps": 18,
                "sigma_min": 0.002,
                "sigma_max": 80.0,
                "rho": 7.0,
                "s_churn": 0.0,
                "s_min": 0.0,
                "s_max": float("inf"),
                "s_noise": 1.0,
            },
            "evaluate": {
                "source": "student",
                "reference": "cifar10-32x32",
                "features": "inception",
                "features_weights": "",
                "metrics": ("fid",),
                "count": 50_000,
                "batch_size": 500,
                "seed": 1,
                "seeds": 1,
                "every_kimg": 0.0,
                "best": "fid",
            },
            "sample": {
                "source": "student",
                "label": -1,
                "count": 0,
                "batch_size": 500,
                "seed": 0,
                "format": "png",
            },
        }
    )
