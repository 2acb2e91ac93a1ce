"""An EDM teacher on scikit-learn's 8x8 digits: remakes the one that is shipped.

    python -m diffjax.main --config=configs/teacher_digits.py

The network is written to `runs/teacher_digits/network`, whose path a config can name as teacher.
Hardware: a CPU, or any accelerator (there with --config.updates_per_call=100).
Time: 93 s on an H100, where the shipped one was trained; a run of the same size took 14 minutes on
two cores that other jobs shared.
Result, measured in pixel space on 1,797 samples of 35 evaluations: precision 0.95, recall 0.92,
Frechet distance 0.10.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """A class-conditional DDPM++ of 0.19M parameters."""
    return ConfigDict(
        {
            "task": "pretrain",
            "seed": 0,
            "deterministic": False,
            "distributed": False,
            "compilation_cache": "",  # a folder, or "" for none
            # Seconds: an update is reported that takes slow_factor medians and slow_seconds; a run
            # ends where nothing is done for hang_seconds (0: never), or a process is silent.
            "watchdog": {
                "slow_factor": 10.0,
                "slow_seconds": 10.0,
                "hang_seconds": 3600.0,
                "peer_seconds": 60.0,
            },
            "dataset": "digits",
            "conditional": True,
            "x_flip": False,
            "network": {
                "class_name": "EDMPrecond",
                "model_type": "SongUNet",
                "augment_dim": 0,
                "model_channels": 16,
                "channel_mult": (1, 2),
                "num_blocks": 1,
                "attn_resolutions": (4,),
                "dropout": 0.0,
            },
            "augment_probability": 0.0,
            "dtype": "float32",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "batch_size": 128,
            "duration_kimg": 1024.0,
            "optimizer": {
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "rampup_kimg": 10.0,
            },
            "ema_halflife_kimg": 50.0,
            "ema_rampup": 0.05,  # 0 for none
            "updates_per_call": 1,
            "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
            "mesh": {"data": -1, "fsdp": 1},
            "log_kimg": 12.8,
            "grid_kimg": 256.0,
            "grid": {"rows": 10, "columns": 10, "seed": 0},
            "checkpoint_kimg": 256.0,
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
                "reference": "digits",
                "features": "pixels",
                "features_weights": "",
                "metrics": ("fd", "precision", "recall"),
                "count": 1797,
                "batch_size": 600,
                "seed": 1,
                "seeds": 1,
                "every_kimg": 256.0,
                "best": "fd",
            },
            "sample": {
                "source": "student",
                "label": -1,
                "count": 0,
                "batch_size": 128,
                "seed": 0,
                "format": "png",
            },
        }
    )
