"""A CIFAR-10 teacher small enough to ship and to distil on a CPU.

    python -m diffjax.main --config=configs/teacher_cifar_tiny.py

Its data set, cifar10-32x32.zip, is what EDM's dataset_tool.py makes; --config.dataset=tfds:cifar10
does as well.
Most of its parameters are at 8x8 and 4x4, where they cost a CPU little. It is too small to overfit,
so there is no dropout and no augmentation but mirroring.
Hardware: one GPU. The network that is shipped as cifar_tiny was trained so, on an H100.
Time: under 7 minutes.
Result: fd_efficientnet_lite0_50k 21.82 in 35 evaluations; see its model card.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """2.8M parameters, class-conditional, 0.32 GFLOP an evaluation."""
    return ConfigDict(
        {
            "task": "pretrain",
            "seed": 0,
            "deterministic": False,
            "distributed": False,
            "compilation_cache": "",  # a folder, or "" for none
            "dataset": "cifar10-32x32.zip",
            "conditional": True,
            "x_flip": True,
            "network": {
                "class_name": "EDMPrecond",
                "model_type": "SongUNet",
                "augment_dim": 0,
                "model_channels": 16,
                "channel_mult": (1, 2, 4, 8),
                "num_blocks": 1,
                "attn_resolutions": (8,),
                "dropout": 0.0,
            },
            "augment_probability": 0.0,
            "dtype": "bfloat16",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "batch_size": 512,
            "duration_kimg": 12_800.0,
            "optimizer": {
                "learning_rate": 1e-3,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "rampup_kimg": 100.0,
            },
            "ema_halflife_kimg": 500.0,
            "ema_rampup": 0.05,  # 0 for none
            "updates_per_call": 50,
            "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
            "mesh": {"data": -1, "fsdp": 1},
            "watchdog": {
                "slow_factor": 10.0,
                "slow_seconds": 10.0,
                "hang_seconds": 3600.0,
                "peer_seconds": 60.0,
            },
            "log_kimg": 102.4,
            "grid_kimg": 2048.0,
            "grid": {"rows": 10, "columns": 10, "seed": 0},
            "checkpoint_kimg": 4096.0,
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
