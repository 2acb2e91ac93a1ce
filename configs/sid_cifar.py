"""SiD on CIFAR-10 without classes (Zhou et al., Score identity Distillation, ICML 2024).

    python -m diffjax.main --config=configs/sid_cifar.py

The settings are those of the authors' released code.

Hardware: 4 GPUs of 80 GB or 4 TPU chips, 64 images each; on one, `--config.accumulation=4`.
Time: with `--config.dtype=bfloat16` one H100 makes 605 images/s of 64 an update (measured), so four
take 57 hours if they are 4 times as fast. In float32, as published, it was not measured. 100 Mimg
already come close to the result.
Result: FID 1.923 in one evaluation (the teacher: 1.97 in 35), the paper's figure, not measured
here.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """SiD's published settings, alpha 1.2."""
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
            "teacher": "edm-cifar10-32x32-uncond-vp",
            "image_shape": (32, 32, 3),
            "label_dim": 0,
            "dropout": 0.13,
            "augment_probability": 0.12,
            "dtype": "float32",
            "attention": "xla",  # or "cudnn", on NVIDIA GPUs, in bfloat16 or float16
            "rematerialize": False,  # blocks computed twice, for memory
            "alpha": 1.2,
            "t_max": 800.0,
            "init_sigma": 2.5,
            "batch_size": 256,
            "accumulation": 1,
            # Savings that the published loops don't make; each changes the result a little.
            "share_samples": False,  # both networks learn from the same generated samples
            "teacher_dtype": "",  # computed and kept in; "" computes in dtype, keeps float32
            "optimizer_state_dtype": "float32",  # or "bfloat16", of Adam's moments
            "duration_kimg": 500_000.0,
            "generator": {
                "learning_rate": 1e-5,
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
                "learning_rate": 1e-5,
                "b1": 0.0,
                "b2": 0.999,
                "eps": 1e-8,
                "max_grad_norm": 0.0,  # 0: gradients are not clipped
                "loss_scale": 1.0,
                "updates": 1,
                "every": 1,  # or updated in every n-th update alone
            },
            "ema_halflife_kimg": 500.0,
            "ema_rampup": 0.05,  # 0 for none
            "updates_per_call": 16,
            "compile_apart": "auto",  # in several programs; or "always", "never"
            "max_skipped_in_a_row": 10,  # updates that are not finite, before the run stops
            "mesh": {"data": -1, "fsdp": 1},
            "log_kimg": 40.96,
            "grid_kimg": 491.52,
            "grid": {"rows": 8, "columns": 8, "seed": 0},
            "checkpoint_kimg": 2457.6,
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
                "batch_size": 256,
                "seed": 0,
                "format": "png",
            },
        }
    )
