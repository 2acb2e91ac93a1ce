"""The launch scripts, with programs of the same name in place of Python and gcloud."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
# Arguments that an unquoted $@ or a remote shell would take apart.
ARGUMENTS = ["--config=configs/sid_cifar.py", "--workdir=/mnt/my runs/$HOME;x", "--config.alpha=1"]

# Shows what it was called with, a line an argument; `venv` makes another of itself.
PYTHON = """#!/usr/bin/env bash
if [[ "$2" == venv ]]; then
  mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
elif [[ "$2" == pip ]]; then
  [[ -f pyproject.toml && -d diffjax ]] && printf '%s\\n' "$@" > "$HOME/pip.txt"
else
  echo "${XLA_FLAGS-}" > "$HOME/xla_flags.txt"
  { pwd; echo "JAX_PLATFORMS=${JAX_PLATFORMS-}"; env | grep -E "^JAX_(COORD|NUM|PROC)" | sort
    printf '%s\\n' "$@"; } > "$HOME/main.txt"
  exit "${MAIN_STATUS:-0}"
fi
"""
# Two hosts, which are folders; `scp FILE NAME:PATH` copies and `ssh --command=C` runs.
GCLOUD = """#!/usr/bin/env bash
set -eu
[[ "$1 $2 $3" == "compute tpus tpu-vm" ]]
[[ "$*" == *--zone=us-central2-b* && "$*" == *--worker=all* ]]
for host in host0 host1; do
  export HOME="$HOSTS/$host"
  mkdir -p "$HOME"
  case "$4" in
    scp) [[ "$6" == my-slice:* ]]; cp "$5" "$HOME/${6#my-slice:}" ;;
    ssh) [[ "$5" == my-slice ]]
         for argument; do
           [[ "$argument" == --command=* ]] && command="${argument#--command=}"
         done
         (cd "$HOME" && bash -c "$command") ;;
  esac
done
"""


# Runs what it is told to here, in a home of the host's own; `node2` fails if asked to.
SSH = """#!/usr/bin/env bash
[[ "$1" == -tt ]]
export HOME="$HOSTS_AT/$2" MAIN_STATUS="${MAIN_STATUS-}"
mkdir -p "$HOME"
[[ "$2" == node2 ]] || MAIN_STATUS=0
bash -c "$3"
"""


@pytest.fixture
def run(tmp_path):
    """Runs a script from another folder, with stand-ins first on PATH."""
    bin_dir = tmp_path / "bin"
    bin_dir.mkdir()
    for name, text in {"python": PYTHON, "python3": PYTHON, "gcloud": GCLOUD, "ssh": SSH}.items():
        (bin_dir / name).write_text(text)
        (bin_dir / name).chmod(0o755)
    inherited = {k: v for k, v in os.environ.items() if k not in ("JAX_PLATFORMS", "PYTHON")}

    def call(script, *arguments, **environment):
        return subprocess.run(
            [str(LAUNCH / script), *arguments],
            cwd=tmp_path,
            env={
                **inherited,
                "PATH": f"{bin_dir}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "HOSTS": str(tmp_path),
                "HOSTS_AT": str(tmp_path),
                **environment,
            },
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.mark.parametrize("script", sorted(path.name for path in LAUNCH.iterdir()))
def test_is_executable_bash_without_mistakes_of_syntax(script):
    path = LAUNCH / script
    assert path.read_text().startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -euo pipefail\n" in path.read_text()
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], check=True)


def test_gpu_host_passes_its_arguments_and_asks_for_gpus(run, tmp_path):
    result = run("gpu_host.sh", *ARGUMENTS)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "main.txt").read_text().splitlines() == [
        str(ROOT),
        "JAX_PLATFORMS=cuda",
        "-m",
        "diffjax.main",
        *ARGUMENTS,
    ]


def test_gpu_host_takes_another_platform_and_returns_the_exit_code(run, tmp_path):
    result = run("gpu_host.sh", *ARGUMENTS, JAX_PLATFORMS="rocm", MAIN_STATUS="7")
    assert result.returncode == 7
    assert "JAX_PLATFORMS=rocm" in (tmp_path / "main.txt").read_text()


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("", "--xla_gpu_autotune_level=2"),
        ("--xla_dump_to=D", "--xla_dump_to=D --xla_gpu_autotune_level=2"),
        ("--xla_gpu_autotune_level=4 --xla_dump_to=D",) * 2,
    ],
)
def test_gpu_host_asks_for_quicker_tuning_unless_told(run, tmp_path, given, passed):
    assert run("gpu_host.sh", *ARGUMENTS, XLA_FLAGS=given).returncode == 0
    assert (tmp_path / "xla_flags.txt").read_text().strip() == passed


def test_gpu_host_without_arguments_says_how_to_call_it(run, tmp_path):
    result = run("gpu_host.sh")
    assert result.returncode == 2
    assert result.stderr.startswith("usage: launch/gpu_host.sh --config=")
    assert not (tmp_path / "main.txt").exists()


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="sends the last commit of a checkout")
def test_tpu_pod_installs_and_runs_on_every_host(run, tmp_path):
    result = run("tpu_pod.sh", *ARGUMENTS, TPU_NAME="my-slice", ZONE="us-central2-b")
    assert result.returncode == 0, result.stderr
    for host in (tmp_path / "host0", tmp_path / "host1"):
        pip = (host / "pip.txt").read_text().splitlines()
        assert pip == ["-m", "pip", "install", "--quiet", "jax[tpu]", "."]
        assert (host / "main.txt").read_text().splitlines() == [
            str(host / "diffjax-checkout"),
            "JAX_PLATFORMS=",
            "-m",
            "diffjax.main",
            *ARGUMENTS,
            "--config.distributed=True",
        ]


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (ARGUMENTS, {"ZONE": "z"}, "TPU_NAME: is the name of the TPU VM"),
        (ARGUMENTS, {"TPU_NAME": "t"}, "ZONE: is the zone of the TPU VM"),
        (ARGUMENTS[:1], {"TPU_NAME": "t", "ZONE": "z"}, "--workdir=PATH_ON_ALL_HOSTS"),
        (ARGUMENTS[1:], {"TPU_NAME": "t", "ZONE": "z"}, "usage: launch/tpu_pod.sh --config="),
    ],
)
def test_tpu_pod_says_what_is_missing(run, tmp_path, arguments, environment, message):
    result = run("tpu_pod.sh", *arguments, **environment)
    assert result.returncode != 0
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert not (tmp_path / "host0").exists()


def test_hosts_starts_a_process_on_each(run, tmp_path):
    result = run("hosts.sh", *ARGUMENTS, HOSTS="me@node1 node2", PYTHON="python3", PORT="77")
    assert result.returncode == 0, result.stdout + result.stderr
    for index, host in enumerate(["me@node1", "node2"]):
        assert (tmp_path / host / "main.txt").read_text().splitlines() == [
            str(ROOT),
            "JAX_PLATFORMS=",
            "JAX_COORDINATOR_ADDRESS=node1:77",
            "JAX_NUM_PROCESSES=2",
            f"JAX_PROCESS_ID={index}",
            "-m",
            "diffjax.main",
            *ARGUMENTS,
            "--config.distributed=True",
        ]


def test_hosts_tells_if_one_of_them_fails(run):
    result = run("hosts.sh", *ARGUMENTS, HOSTS="node1 node2", MAIN_STATUS="7")
    assert result.returncode == 1


@pytest.mark.parametrize(
    ("arguments", "hosts", "message"),
    [
        (ARGUMENTS, "", "HOSTS: is the list of hosts"),
        (ARGUMENTS[:1], "a b", "--workdir=PATH_ON_ALL_HOSTS"),
        (ARGUMENTS[1:], "a b", "usage: HOSTS='A B' launch/hosts.sh --config="),
    ],
)
def test_hosts_says_what_is_missing(run, arguments, hosts, message):
    result = run("hosts.sh", *arguments, HOSTS=hosts)
    assert result.returncode != 0
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
