"""The benchmarks of speed, in miniature: what they count, and what they run on."""

import argparse
import gzip
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import cost, edm2_weights, measuring, sample, step, synthetic, transformer, work
from diffjax.models import network_folder
from diffjax.models.denoiser import from_edm_kwargs
from diffjax.runs import bases, building, config_file, networks
from tests.runs import test_edm2
from tests.runs.test_train import ROOT, load_config
from tests.support import golden_cases, image_files

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


SMALL_NETWORK = {
    "img_resolution": 32,
    "img_channels": 3,
    "augment_dim": 9,
    "model_channels": 8,
    "attn_resolutions": (),
}


def measured(benchmark, tmp_path, monkeypatch, capsys, *flags, config="teacher_cifar_small"):
    """What a benchmark writes as JSON and prints, of a small network in place of the config's."""
    file = tmp_path / "result.jsonl"
    path = f"--config={ROOT / 'configs' / config}.py"
    changes = ["--dtype=float32", "--devices=2", "--set=heun.steps=2"]
    if config.startswith("teacher_"):
        for name in ("model_channels", "channel_mult", "num_blocks", "attn_resolutions"):
            changes.append(f"--set=network.{name}={(NETWORK | SMALL_NETWORK)[name]}")
    monkeypatch.setattr(sys, "argv", ["", path, f"--json={file}", *changes, *flags])
    benchmark.main()
    (line,) = file.read_text().splitlines()
    return json.loads(line), capsys.readouterr().out


def forward_flops():
    return measuring.forward_flops(from_edm_kwargs({**NETWORK, **SMALL_NETWORK}))


def test_a_teachers_update_is_measured_without_its_data_set(tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=4", "--updates_per_call=1", "--repeats=2"]
    result, table = measured(step, tmp_path, monkeypatch, capsys, *flags)
    assert result["config"] == "teacher_cifar_small"
    assert result["device"].startswith("2 x ")
    assert (result["accumulation"], result["skipped"]) == (1, 0)
    assert result["images_per_second"] == pytest.approx(4 / result["seconds_per_update"])
    done = result["model_tflops_per_second"] * 1e12 * result["seconds_per_update"]
    assert done == pytest.approx(3 * 4 * forward_flops())
    peak = result["matrix_peak_tflops_per_second"]
    assert result["share_of_peak"] == pytest.approx(result["model_tflops_per_second"] / peak)
    assert {line.split()[0] for line in table.splitlines()} == result.keys()
    assert result["peak_memory_gib"] is None  # of a CPU
    assert "peak_memory_gib                  unknown" in table


@pytest.mark.parametrize(
    ("config", "changes", "passes"),
    [
        ("sid_digits", {}, 11),
        ("di_digits", {}, 9),
        ("sid_digits", {"fake_score.updates": 2}, 15),
        ("sid_digits", {"fake_score.every": 2}, 9),
        ("di_digits", {"share_samples": True}, 8),
        ("teacher_digits", {}, 3),
    ],
)
def test_passes_of_an_update(config, changes, passes):
    config = load_config(config)
    config.update_from_flattened_dict(changes)
    exp = building.build(config)
    assert step.forwards(config.method, exp.update.turns) == passes
    assert step.forwards("another", exp.update.turns) is None


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({"fake_score.updates": 4}, 23),  # a loop
        ({"fake_score.every": 2, "accumulation": 2}, 9),  # a choice, and a loop
        ({"generator.steps": 2}, 13),  # in each turn the sample of the first step, by no gradient
        ({"guidance.teacher": 1.5, "guidance.null": "zeros"}, 13),  # the teacher's twice
    ],
)
def test_passes_that_no_list_has_are_counted_in_the_update(changes, passes):
    config = load_config("sid_digits")
    config.batch_size = 4
    config.update_from_flattened_dict(changes)
    exp = building.build(config)
    forward = measuring.forward_flops(exp.denoiser)
    assert measuring.update_flops(config) / 4 / forward == pytest.approx(passes, abs=0.05)
    assert step.model_flops(config, exp) / forward == pytest.approx(passes, abs=0.05)


def test_a_loop_of_unknown_length_is_not_counted():
    def loop(count, x):
        return jax.lax.fori_loop(0, count, lambda _, x: x @ x, x)

    with pytest.raises(ValueError, match="a loop of unknown length has matrix products"):
        measuring.matrix_flops(jax.make_jaxpr(loop)(3, jnp.ones((2, 2))).jaxpr)


@pytest.fixture
def small_teacher(tmp_path):
    """A folder with a network of CIFAR-10's shape."""
    kwargs = {**NETWORK, **SMALL_NETWORK}
    weights = golden_cases.weights(from_edm_kwargs(kwargs))
    network_folder.save_denoiser(tmp_path / "teacher", kwargs, weights)
    return tmp_path / "teacher"


def test_a_students_update_is_measured(teacher, tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=4", "--updates_per_call=1", "--repeats=1", f"--set=teacher={teacher}"]
    result, _ = measured(step, tmp_path, monkeypatch, capsys, *flags, config="di_digits")
    assert (result["accumulation"], result["skipped"]) == (1, 0)
    assert not result["compiled_apart"]
    done = result["model_tflops_per_second"] * 1e12 * result["seconds_per_update"]
    network = from_edm_kwargs(network_folder.load_denoiser_kwargs(teacher))
    assert done == pytest.approx(9 * 4 * measuring.forward_flops(network))


@pytest.mark.parametrize("channels", [1, 4])
def test_a_method_with_data_is_measured_without_any(channels, tmp_path):
    """SiDA on images and on latents of a small EDM2."""
    changes = {"img_resolution": 8, "img_channels": channels}
    teacher = test_edm2.make_teacher(tmp_path, **changes)
    config = bases.distillation("sida")
    config.teacher, config.data, config.dropout = str(teacher), "none.zip", 0.1
    config.batch_size, config.mesh.data = 4, 2
    exp, mesh = measuring.build(config)
    assert step.forwards("sida", exp.update.turns) is None  # real images pass a part alone
    # A real image goes through the encoder alone beside each of the generator's.
    passes = step.model_flops(config, exp) / measuring.forward_flops(exp.denoiser)
    assert 11.5 < passes < 13.5
    data = exp.inputs["data"].abstract()
    assert (data.images.shape[1:], data.std is None) == ((8, 8, channels), channels == 1)
    if channels == 4:
        compiled = step.compile_update(config, exp, mesh)
        running = step.Running(exp, mesh, compiled, config.updates_per_call)
        assert np.isfinite(float(running().sums["discriminator"]))


def test_edm2s_weights_are_timed_part_by_part(tmp_path, monkeypatch, capsys):
    result, _ = measured(edm2_weights, tmp_path, monkeypatch, capsys, config="teacher_cifar_edm2")
    parts = ("overwriting_ms", "weights_and_way_back_ms", "adding_ms")
    assert all(result[name] > 0 for name in parts)
    with pytest.raises(SystemExit, match="its network overwrites no weights"):
        measured(edm2_weights, tmp_path, monkeypatch, capsys, config="teacher_digits")


def counted(tmp_path, monkeypatch, capsys, *flags, config):
    """What `cost` counts; it is in the file and on the terminal."""
    result, printed = measured(cost, tmp_path, monkeypatch, capsys, *flags, config=config)
    assert json.loads(printed) == result
    (tmp_path / "result.jsonl").unlink()
    return result


@pytest.mark.parametrize(("config", "passes"), [("sid_cifar", 11), ("di_cifar", 9)])
def test_an_update_costs_its_passes(config, passes, small_teacher, tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=8", f"--set=teacher={small_teacher}"]
    whole = counted(tmp_path, monkeypatch, capsys, *flags, config=config)
    assert whole["device"] == "1 x cpu"
    assert 0.9 < whole["flops"] / (passes * 8 * forward_flops()) < 1.5
    in_rounds = counted(tmp_path, monkeypatch, capsys, *flags, "--accumulation=2", config=config)
    assert in_rounds["accumulation"] == 2
    assert in_rounds["flops"] == pytest.approx(whole["flops"], rel=0.01)
    assert in_rounds["bytes_accessed"] > whole["bytes_accessed"]


def test_each_repetition_of_a_turn_costs(teacher, tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=8", f"--set=teacher={teacher}"]
    of_two, of_four = (
        counted(
            tmp_path,
            monkeypatch,
            capsys,
            *flags,
            f"--set=fake_score.updates={count}",
            config="sid_digits",
        )["flops"]
        for count in (2, 4)
    )
    assert of_four / of_two == pytest.approx((7 + 4 * 4) / (7 + 4 * 2), rel=0.05)


def test_a_compiled_update_costs_a_device_its_part(tmp_path, monkeypatch, capsys):
    flags = ["--batch_size=4", "--compiled"]
    result = counted(tmp_path, monkeypatch, capsys, *flags, config="teacher_cifar_small")
    assert result["device"] == "2 x cpu"
    compiled = result["compiled"]
    assert compiled["flops"] == pytest.approx(result["flops"] / 2, rel=0.3)
    assert compiled["memory"]["temporaries"] > 0
    assert compiled["compile_seconds"] > 0


def check_sampler(name, evaluations, result):
    of_one = {
        key.removeprefix(f"{name}_"): value
        for key, value in result.items()
        if key.startswith(f"{name}_")
    }
    assert of_one["evaluations"] == evaluations
    assert of_one["images_per_second"] == pytest.approx(4 / of_one["seconds_per_batch"])
    done = of_one["model_tflops_per_second"] * 1e12 * of_one["seconds_per_batch"]
    assert done == pytest.approx(4 * evaluations * forward_flops())
    peak = result["matrix_peak_tflops_per_second"]
    assert of_one["share_of_peak"] == pytest.approx(of_one["model_tflops_per_second"] / peak)
    assert of_one["compile_seconds"] > 0


def test_a_teachers_sampling_is_measured_without_its_data_set(tmp_path, monkeypatch, capsys):
    trace = tmp_path / "trace"
    flags = ["--batch_size=4", "--repeats=2", f"--profile={trace}"]
    result, table = measured(sample, tmp_path, monkeypatch, capsys, *flags)
    check_sampler("heun", 3, result)
    assert not any(key.startswith("one_step_") for key in result)
    assert result["peak_memory_gib"] is None
    assert "peak_memory_gib                  unknown" in table
    assert list((trace / "heun").rglob("*.trace.json.gz"))
    assert not (trace / "heun/module.txt.gz").exists()  # it is several programs


def test_a_student_is_sampled_in_one_step_and_by_heun(small_teacher, tmp_path, monkeypatch, capsys):
    trace = tmp_path / "trace"
    flags = ["--batch_size=4", "--repeats=2", f"--profile={trace}"]
    flags.append(f"--set=teacher={small_teacher}")
    result, _ = measured(sample, tmp_path, monkeypatch, capsys, *flags, config="sid_cifar")
    check_sampler("one_step", 1, result)
    check_sampler("heun", 3, result)
    for name in ("one_step", "heun"):
        assert list((trace / name).rglob("*.trace.json.gz"))
    text = gzip.decompress((trace / "one_step/module.txt.gz").read_bytes()).decode()
    assert sum(kernel.flops for kernel in work.kernels(text, 1)) > 0


def test_a_student_of_its_own_architecture_is_sampled(tmp_path, monkeypatch, capsys):
    own = {"model_channels": 4, "channel_mult": (1,), "num_blocks": 1, "attn_resolutions": ()}
    (tmp_path / "small.py").write_text(f"""
from diffjax.runs import bases
def get_config():
    config = bases.distillation("sid")
    config.teacher = "digits"
    return bases.with_network(config, **{own})
""")
    flags = ["--batch_size=4", "--repeats=2", "--no-heun"]
    config = tmp_path / "small"
    result, _ = measured(sample, tmp_path, monkeypatch, capsys, *flags, config=str(config))
    done = result["one_step_model_tflops_per_second"] * 1e12 * result["one_step_seconds_per_batch"]
    whole = measuring.forward_flops(networks.teacher("digits").model)
    assert 0 < done / 4 < whole / 10
    # Of an update's 11 passes four are the student's.
    exp = building.build(config_file.load(f"{config}.py"))
    flops = step.model_flops(config_file.load(f"{config}.py"), exp)
    assert flops == pytest.approx(7 * whole + 4 * done / 4)


def test_a_teacher_without_heun_leaves_nothing_to_measure(tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=r"^error: --no-heun leaves nothing"):
        measured(sample, tmp_path, monkeypatch, capsys, "--no-heun")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--accumulation=2"], "--accumulation: the update of a teacher has no rounds"),
        (["--batch_size=5"], "batch_size=5 does not divide over 2 devices"),
        (["--set=dataset=mine.zip"], r"config\.dataset='mine\.zip': .* --set dataset=images-64x64"),
        (["--set=attention=cudnn"], r"config\.attention='cudnn' runs on NVIDIA GPUs"),
    ],
)
def test_what_cannot_be_measured_is_one_line(flags, message, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit, match=f"^error: {message}") as caught:
        measured(step, tmp_path, monkeypatch, capsys, *flags)
    assert "\n" not in str(caught.value)


class TestSyntheticImages:
    @pytest.mark.parametrize(
        ("dataset", "shape"),
        [("digits", (8, 8, 1)), ("x/imagenet-64x64.zip", (64, 64, 3)), ("a-8x8.zip", (8, 8, 3))],
    )
    def test_they_are_of_the_data_sets_size(self, dataset, shape):
        source = synthetic.images_like(dataset, conditional=True)
        assert source.image_shape == shape
        assert source.images.dtype == np.uint8
        assert source.images.std() > 70  # of even noise it is 74
        assert source.num_classes == 10
        assert set(source.classes) == set(range(10))

    def test_a_data_set_that_is_there_tells_size_and_classes(self, tmp_path):
        contents = image_files.files(image_files.pictures(3))
        contents["dataset.json"] = image_files.labels(list(contents), [0, 1, 2])
        path = image_files.write_zip(tmp_path / "set-32x32.zip", contents)
        source = synthetic.images_like(str(path), conditional=True)
        assert (source.image_shape, source.num_classes) == ((8, 8, 3), 3)

    def test_without_classes(self):
        source = synthetic.images_like("none-16x16.zip", conditional=False)
        assert source.num_classes == 0
        assert not source.classes.any()

    @pytest.mark.parametrize("name", ["a-32x64.zip", "a32.zip", "a-16x160.zip"])
    def test_a_name_without_a_size(self, name):
        with pytest.raises(FileNotFoundError, match=r"no such file .* --set dataset="):
            synthetic.images_like(name, conditional=False)


def test_a_transformer_is_timed_and_counted(monkeypatch):
    monkeypatch.setitem(transformer.dit.SIZES, "S", (8, 1, 2))
    arguments = argparse.Namespace(size="S", resolution=4, batch_size=2, attention="xla", repeats=1)
    found = transformer.of_jax(arguments)
    tokens, width = 4, 8
    block = tokens * width**2 * (3 + 1 + 8) + 2 * tokens**2 * width + 6 * width**2
    ends = tokens * width * (16 + 32) + 2 * width**2 + 256 * width + width**2 + 1001 * width
    assert found["flops_of_forward"] == 2 * (block + ends)
    rated = transformer.rates({**found, "forward": 2.0, "with_gradient": 4.0, "peak": 1e3}, 2)
    assert rated["forward_images_per_second"] == 1
    assert rated["with_gradient_share_of_peak"] == pytest.approx(
        1.5 * rated["forward_share_of_peak"]
    )


def test_the_peak_of_either_side_is_the_best_of_five_times_ten(monkeypatch):
    """Of torch it was the median of products that each waited for the one before."""
    clock, counts = [0.0], []

    def products(count):
        counts.append(count)
        clock[0] += 0.5 + count * (1.0 if len(counts) == 4 else 2.0)

    monkeypatch.setattr(transformer.time, "perf_counter", lambda: clock[0])
    assert transformer.product_seconds(products) == pytest.approx(1.05)
    assert counts == [1, *[10] * 5]
