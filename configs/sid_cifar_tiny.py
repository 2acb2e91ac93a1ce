"""SiD on CIFAR-10 from the tiny teacher that is shipped: photographs on a CPU, in minutes.

    python -m diffjax.main --config=configs/sid_cifar_tiny.py

The teacher is diffjax/assets/cifar_tiny, which configs/teacher_cifar_tiny.py trained. The rates are
for a few hundred updates; the published 1e-5 are for hundreds of thousands.
Hardware: two CPU cores, or a GPU (there with --config.batch_size=256 --config.dtype=bfloat16
--config.updates_per_call=50, and lower rates).
Time: 7 min 16 s on two cores, compiling included.
Result: fd_efficientnet_lite0_50k 45.65 in one evaluation (the teacher: 21.82 in 35).
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Class-conditional, 320 updates of 32 images."""
    return ConfigDict(
        {
            "task": "distill",
            "method": "sid",
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
            "teacher": "cifar_tiny",
            "image_shape": (32, 32, 3),
            "label_dim": 10,
            "dropout": 0.0,
            "augment_probability": 0.0,
            "dtype": "float32",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "alpha": 1.2,
            "t_max": 800.0,
            "init_sigma": 2.5,
            "batch_size": 32,
            "accumulation": 1,
            # Savings that the published loops don't make; each changes the result a little.
            "share_samples": False,  # both networks learn from the same generated samples
            "teacher_dtype": "",  # computed and kept in; "" computes in dtype, keeps float32
            "optimizer_state_dtype": "float32",  # or "bfloat16", of Adam's moments
            "duration_kimg": 10.24,
            "generator": {
                "learning_rate": 1e-4,
                "b1": 0.0,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "loss_scale": 100.0,
                "initial": "",  # a network to start from, such as a student; "" is the teacher
                "frozen_kimg": 0.0,  # at the start, in which the fake score alone learns
                "decay_kimg": 0.0,  # at the end, in which the rate falls to 0; 0 for none
            },
            "fake_score": {
                "learning_rate": 4e-4,
                "b1": 0.0,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "loss_scale": 1.0,
                "updates": 1,
                "every": 1,  # or updated in every n-th update alone
            },
            "ema_halflife_kimg": 0.5,
            "ema_rampup": 0.05,  # 0 for none
            "updates_per_call": 1,
            "compile_apart": "auto",  # in several programs; or "always", "never"
            "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
            "mesh": {"data": -1, "fsdp": 1},
            "log_kimg": 0.32,
            "grid_kimg": 1.28,
            "grid": {"rows": 10, "columns": 10, "seed": 0},
            "checkpoint_kimg": 2.56,
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
                "batch_size": 256,
                "seed": 1,
                "seeds": 1,
                "every_kimg": 0.0,
                "best": "fid",
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
