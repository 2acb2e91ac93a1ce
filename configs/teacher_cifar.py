"""EDM's CIFAR-10 teacher, DDPM++ at its published setting (Karras et al. 2022, Table 7).

    python -m diffjax.main --config=configs/teacher_cifar.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well.
Hardware: 8 GPUs in EDM's own runs; any number that divides the batch.
Time: not measured; it was not run here.
Result: FID 1.97 unconditional in 35 evaluations, the paper's figure, not measured.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """55.7M parameters, unconditional, 200 million images."""
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
                "model_channels": 128,
                "channel_mult": (2, 2, 2),
                "num_blocks": 4,
                "attn_resolutions": (16,),
                "dropout": 0.13,
            },
            "augment_probability": 0.12,
            "dtype": "bfloat16",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "batch_size": 512,
            "duration_kimg": 200_000.0,
            "optimizer": {
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "rampup_kimg": 10_000.0,
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
            "grid_kimg": 2048.0,
            "grid": {"rows": 10, "columns": 10, "seed": 0},
            "checkpoint_kimg": 5120.0,
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
