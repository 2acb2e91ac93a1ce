"""The launch scripts, with programs of the same name in place of Python and gcloud."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from diffjax.runs import bases
from tests.support.processes import free_port

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(path.name for path in LAUNCH.glob("*.sh"))
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
if [[ "$3" == queued-resources ]]; then
  printf '%s\\n' "$*" >> "$HOSTS/queued.txt"
  case "$4" in
    create) echo ACTIVE > "$HOSTS/state" ;;
    delete) rm "$HOSTS/state" ;;
    describe) [[ -f "$HOSTS/state" ]] || exit 1; cat "$HOSTS/state" ;;
  esac
  exit 0
fi
[[ "$1 $2 $3" == "compute tpus tpu-vm" ]]
# A slice that is taken away amid the first run.
if [[ "$4" == ssh && -n "${TAKEN-}" && ! -f "$HOSTS/taken" ]]; then
  touch "$HOSTS/taken"; echo "$TAKEN" > "$HOSTS/state"; exit 1
fi
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


@pytest.mark.parametrize("script", SCRIPTS)
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


# What comes before the script's name, and what a run of it needs.
NEEDED = {
    "gke.sh": {"IMAGE": "i", "CLAIM": "c", "ACCELERATOR": "a"},
    "hosts.sh": {"HOSTS": "node1 node2"},
    "tpu_pod.sh": {"TPU_NAME": "t", "ZONE": "z"},
}
PROOFS = ("quickstart.sh", "tpu_smoke.sh")  # which take no flags of diffjax
WITH_FLAGS = [name for name in SCRIPTS if name not in ("common.sh", "stoppable.sh")]


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck isn't installed")
def test_shellcheck_finds_nothing():
    command = ["shellcheck", "-x", *(f"launch/{name}" for name in SCRIPTS)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("script", [name for name in SCRIPTS if name != "common.sh"])
def test_help_is_the_comment_at_the_top(run, script):
    """It names every variable that the script takes, and needs none of them."""
    text = (LAUNCH / script).read_text()
    result = run(script, "--help", HOSTS="")
    assert result.returncode == 0, result.stderr
    comment = text.split("\n", 1)[1].partition("\nset -euo")[0].partition("\n#SBATCH")[0]
    assert result.stdout.rstrip() == "\n".join(
        line.removeprefix("#").removeprefix(" ") for line in comment.splitlines()
    )
    declared = [line for line in text.splitlines() if line.startswith(': "${')]
    for name in re.findall(r"\$\{(\w+):[=?]", "\n".join(declared)):
        assert name in result.stdout, name


@pytest.mark.parametrize("script", [name for name in WITH_FLAGS if name not in PROOFS])
def test_a_dry_run_prints_what_would_run_and_runs_nothing(run, tmp_path, script):
    if script == "tpu_pod.sh" and not (ROOT / ".git").exists():
        pytest.skip("sends the last commit of a checkout")
    result = run(script, *ARGUMENTS, "--dry_run", **NEEDED.get(script, {}))
    assert result.returncode == 0, result.stderr
    assert "--config=configs/sid_cifar.py" in result.stdout
    assert "--config.alpha=1" in result.stdout
    assert "dry_run" not in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_the_smoke_test_s_dry_run_has_each_step(run, tmp_path):
    result = run("tpu_smoke.sh", "--dry_run", REPORT="report.txt")
    assert result.returncode == 0, result.stderr
    steps = [line.partition(":")[0] for line in result.stdout.splitlines()]
    assert steps == [*["environment", "install", "devices", "stop", "resume", "sample", "evaluate"]]
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]
    assert run("tpu_smoke.sh", "--kimg=3").returncode == 2


def test_the_smoke_test_says_what_failed(run, tmp_path):
    result = run("tpu_smoke.sh", REPORT="report.txt", INSTALL="no", PYTHON="false", PLATFORM="cpu")
    assert result.returncode == 1
    assert "FAILED at: devices" in (tmp_path / "report.txt").read_text()
    assert "OK" not in result.stdout


@pytest.mark.parametrize("script", [name for name in WITH_FLAGS if name not in PROOFS])
@pytest.mark.parametrize("workdir", [["--workdir=gs://b/x"], ["--workdir", "s3:/b/x"]])
def test_a_work_directory_that_is_a_url_is_refused_before_hosts_are_asked_for(
    run, tmp_path, script, workdir
):
    result = run(script, "--config=configs/sid_cifar.py", *workdir, **NEEDED.get(script, {}))
    assert (result.returncode, result.stdout) == (2, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: --workdir={workdir[-1].removeprefix('--workdir=')} is a URL: m")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize(
    ("script", "variables", "said"),
    [
        ("gke.sh", {"NODES": "0"}, "NODES=0: a whole number of at least 1"),
        ("gke.sh", {"NODES": "2\n  x: 1"}, "a whole number"),
        ("gke.sh", {"DEVICES": "eight"}, "DEVICES=eight: a whole number"),
        ("gke.sh", {"SPOT": "true"}, "SPOT=true: yes or no"),
        ("gke.sh", {"TOPOLOGY": "4y4"}, "TOPOLOGY=4y4: chips each way"),
        ("tpu_pod.sh", {"SPOT": "maybe"}, "SPOT=maybe: yes or no"),
        ("tpu_pod.sh", {"POLL": "-1"}, "POLL=-1: a whole number of at least 0"),
        ("hosts.sh", {"HOSTS": "a b a"}, "HOSTS names a twice"),
        ("hosts.sh", {"PORT": "http"}, "PORT=http: a whole number"),
        ("local.sh", {"PROCESSES": "2.5"}, "PROCESSES=2.5: a whole number"),
        ("local.sh", {"PROCESSES": "08"}, "PROCESSES=08: a whole number"),
    ],
)
def test_variables_that_are_not_what_they_must_be(run, tmp_path, script, variables, said):
    environment = {**NEEDED.get(script, {}), **variables}
    result = run(script, *ARGUMENTS, **environment)
    assert (result.returncode, result.stdout) == (2, "")
    assert said in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


@pytest.mark.parametrize("answer", ["yes", "no", ""])
def test_spot_is_asked_for_with_yes_alone(run, answer):
    """SPOT=no asked for it too."""
    arguments = ["--config=sid_cifar", "--workdir=/runs/x", "--dry_run"]
    made = run("gke.sh", *arguments, **NEEDED["gke.sh"], SPOT=answer)
    assert (made.returncode, made.stderr) == (0, "")
    assert ("gke-spot" in made.stdout) == (answer == "yes")
    lost = run("gke.sh", *ARGUMENTS, "--dry_run", **NEEDED["gke.sh"])
    assert "warning: the workdir isn't in /runs" in lost.stderr


QUICK = ["environment", "install", "check", "distil", "report", "export", "jax alone"]


def test_the_newcomer_s_path_has_each_step(run, tmp_path):
    result = run("quickstart.sh", "--dry_run")
    assert result.returncode == 0, result.stderr
    steps = [line.partition(": ") for line in result.stdout.split("\n") if ": " in line]
    assert [name for name, _, _ in steps] == [*QUICK, "install jax", "sample"]
    folder = tmp_path / "quickstart"
    assert {name: command for name, _, command in steps} | {"sample": ""} == {
        "environment": f"python3 -m venv {folder}/venv",
        "install": f"{folder}/venv/bin/pip install --quiet {ROOT}",
        "check": f"{folder}/venv/bin/diffjax --config=sid_digits --mode=check",
        "distil": f"{folder}/venv/bin/diffjax --config=sid_digits",
        "report": f"{folder}/venv/bin/diffjax --workdir=runs/sid_digits --mode=report",
        "export": f"{folder}/venv/bin/python -m diffjax.export --source=runs/sid_digits "
        "--format=stablehlo --output=student.stablehlo",
        "jax alone": f"python3 -m venv {folder}/jax_alone",
        "install jax": f"{folder}/jax_alone/bin/pip install --quiet jax flatbuffers",
        "sample": "",
    }
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_the_newcomer_s_path_takes_a_new_folder_and_says_what_failed(run, tmp_path):
    assert run("quickstart.sh", "--config=mine.py").returncode == 2
    (tmp_path / "quickstart").mkdir()
    result = run("quickstart.sh")
    assert result.returncode == 2
    assert "is there already" in result.stderr
    result = run("quickstart.sh", FOLDER="other", PYTHON="false")
    assert result.returncode == 1
    assert "FAILED at: environment" in (tmp_path / "other" / "times.txt").read_text()
    assert "OK" not in result.stdout


@pytest.mark.parametrize(
    ("command", "code"),
    [("exit 0", 0), ("exit 1", 1), ("exit 75", 75), ("kill -KILL $$", 137), ("kill -TERM $$", 143)],
)
def test_stoppable_returns_the_exit_code(command, code):
    done = subprocess.run([LAUNCH / "stoppable.sh", "bash", "-c", command], check=False)
    assert done.returncode == code


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("trap 'sleep 0.3; exit 0' TERM", 75),  # saves and ends, as a run does
        ("trap 'sleep 0.3; exit 1' TERM", 1),  # can't save
        ("true", 75),  # is still compiling
    ],
)
def test_stoppable_tells_of_sigterm(command, code):
    command = f"{command}; echo ready; for i in {{1..600}}; do sleep 0.1; done"
    process = subprocess.Popen(
        [LAUNCH / "stoppable.sh", "bash", "-c", command], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    assert process.wait(60) == code


def test_local_starts_so_many_processes(run, tmp_path):
    result = run("local.sh", *ARGUMENTS, PROCESSES="3", GPUS_EACH="2", PORT="77", PYTHON="echo")
    assert result.returncode == 0, result.stderr
    lines = sorted(result.stdout.splitlines())
    assert lines == [
        f"{index}: -m diffjax.main {' '.join(ARGUMENTS)} --config.distributed=True"
        for index in range(3)
    ]
    result = run("local.sh", *ARGUMENTS, "--dry_run", PROCESSES="2", GPUS_EACH="2", PORT="77")
    for index, line in enumerate(result.stdout.splitlines()):
        words = shlex.split(line)
        assert words[:6] == [
            "env",
            "JAX_COORDINATOR_ADDRESS=127.0.0.1:77",
            "JAX_NUM_PROCESSES=2",
            f"JAX_PROCESS_ID={index}",
            "JAX_PLATFORMS=cuda",
            f"CUDA_VISIBLE_DEVICES={2 * index},{2 * index + 1}",
        ]
        assert words[-4:] == [*ARGUMENTS, "--config.distributed=True"]


JOINED = """
from diffjax.distributed import runtime
runtime.prepare(deterministic=False, distributed=True)
import jax
print(jax.process_index(), "of", jax.process_count(), [d.platform for d in jax.devices()])
"""


def test_processes_of_local_find_each_other(run, tmp_path):
    python = tmp_path / "joining"
    python.write_text(
        f'#!/usr/bin/env bash\n[[ $1 == -c ]] && exec {sys.executable} "$@"\n'
        f"exec {sys.executable} -c {shlex.quote(JOINED)}\n"
    )
    python.chmod(0o755)
    result = run("local.sh", "--config=x", PYTHON=str(python), XLA_FLAGS="", PYTHONPATH=str(ROOT))
    assert result.returncode == 0, result.stdout
    lines = {line for line in result.stdout.splitlines() if " of 2 ['" in line}
    assert lines == {f"{index}: {index} of 2 ['cpu', 'cpu']" for index in range(2)}


def test_local_tells_if_one_fails_and_what_is_wrong(run):
    assert run("local.sh", *ARGUMENTS, PYTHON="false", PORT=str(free_port())).returncode == 1
    assert run("local.sh", *ARGUMENTS, PROCESSES="two").returncode == 2
    assert "usage: PROCESSES=2 launch/local.sh --config=" in run("local.sh").stderr


def test_local_passes_sigterm_on(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        "#!/usr/bin/env bash\ntrap 'echo saved; exit 0' TERM\necho ready\n"
        "for i in {1..600}; do sleep 0.1; done\n"
    )
    python.chmod(0o755)
    process = subprocess.Popen(
        [LAUNCH / "local.sh", "--config=x"],
        env={**os.environ, "PYTHON": str(python), "PORT": "77"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert sorted(process.stdout.readline() for _ in range(2)) == ["0: ready\n", "1: ready\n"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert sorted(process.stdout.read().splitlines()) == ["0: saved", "1: saved"]


# A slice that is asked for.
ASKED = {"TPU_NAME": "my-slice", "ZONE": "us-central2-b", "ACCELERATOR": "v5litepod-16"}
of_a_checkout = pytest.mark.skipif(
    not (ROOT / ".git").exists(), reason="sends the last commit of a checkout"
)


@of_a_checkout
def test_a_slice_is_asked_for_and_run_on(run, tmp_path):
    result = run("tpu_pod.sh", *ARGUMENTS, **ASKED, SPOT="yes", POLL="0")
    assert result.returncode == 0, result.stderr
    asked = (tmp_path / "queued.txt").read_text().splitlines()
    assert [line.split()[3] for line in asked] == ["describe", "create", "describe"]
    assert asked[1].endswith(
        "create my-slice --node-id=my-slice --zone=us-central2-b "
        "--accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite --spot"
    )
    assert ARGUMENTS[0] in (tmp_path / "host1" / "main.txt").read_text()


@of_a_checkout
@pytest.mark.parametrize("state", ["SUSPENDED", "FAILED"])
def test_a_slice_that_is_taken_away_is_asked_for_again(run, tmp_path, state):
    result = run("tpu_pod.sh", *ARGUMENTS, **ASKED, POLL="0", TAKEN=state)
    assert result.returncode == 0, result.stderr
    asked = [line.split()[3] for line in (tmp_path / "queued.txt").read_text().splitlines()]
    assert asked == [
        *["describe", "create", "describe"],  # the first
        *["describe", "describe", "delete", "describe", "create", "describe"],  # another
    ]
    assert "--spot" not in (tmp_path / "queued.txt").read_text()
    assert (tmp_path / "host0" / "main.txt").exists()


@of_a_checkout
def test_a_run_that_fails_by_itself_is_not_started_again(run, tmp_path):
    result = run("tpu_pod.sh", *ARGUMENTS, **ASKED, POLL="0", MAIN_STATUS="2")
    assert result.returncode == 1
    assert "exit code 2 on a slice that is there" in result.stderr
    assert (tmp_path / "queued.txt").read_text().count(" create ") == 1


@of_a_checkout
def test_a_slice_is_given_up_at_last(run):
    result = run("tpu_pod.sh", *ARGUMENTS, **ASKED, POLL="0", MAIN_STATUS="75", RESTARTS="1")
    assert result.returncode == 1
    assert result.stderr.endswith("given up after RESTARTS=1\n")


@pytest.mark.parametrize(("status", "code"), [(0, 0), (1, 1), (75, 0)])
def test_slurm_queues_again_what_was_stopped(run, tmp_path, status, code):
    """srun ends with the highest exit code of its processes."""
    bin_dir = tmp_path / "bin"
    for name, text in {
        "srun": '[[ "$2 $3" == "bash -c" ]] && "${@:2}"',
        "scontrol": 'echo "$@" > "$HOME/scontrol.txt"',
    }.items():
        (bin_dir / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (bin_dir / name).chmod(0o755)
    result = run(
        "slurm.sh",
        *ARGUMENTS,
        SLURM_JOB_ID="5",
        SLURM_SUBMIT_DIR=str(ROOT),
        MAIN_STATUS=str(status),
    )
    assert result.returncode == code, result.stderr
    assert (tmp_path / "main.txt").read_text().splitlines() == [
        *[str(ROOT), "JAX_PLATFORMS=", "-m", "diffjax.main", *ARGUMENTS],
        "--config.distributed=True",
    ]
    queued = tmp_path / "scontrol.txt"
    assert queued.exists() == (status == 75)
    assert status != 75 or queued.read_text() == "requeue 5\n"


def test_slurm_saves_before_its_time_ends(run, tmp_path):
    """The batch script is signalled alone, and passes it to the processes of its step."""
    bin_dir = tmp_path / "bin"
    srun = 'trap "exit 75" TERM; echo $$ > "$HOME/srun.txt"; for i in {1..600}; do sleep 0.1; done'
    for name, text in {
        "srun": srun,
        "scancel": '[[ "$*" == "--signal=TERM 5.0" ]] && kill -TERM "$(cat "$HOME/srun.txt")"',
        "scontrol": 'echo "$@" > "$HOME/scontrol.txt"',
    }.items():
        (bin_dir / name).write_text(f"#!/usr/bin/env bash\n{text}\n")
        (bin_dir / name).chmod(0o755)
    process = subprocess.Popen(
        [LAUNCH / "slurm.sh", *ARGUMENTS],
        env={
            **os.environ,
            "PATH": f"{bin_dir}:{os.environ['PATH']}",
            "HOME": str(tmp_path),
            "SLURM_JOB_ID": "5",
            "SLURM_SUBMIT_DIR": str(ROOT),
        },
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "srun.txt").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 0
    assert (tmp_path / "scontrol.txt").read_text() == "requeue 5\n"


def test_slurm_outside_of_sbatch_says_how_to_call_it(run):
    result = run("slurm.sh", *ARGUMENTS)
    assert result.returncode == 2
    assert result.stderr.startswith("this is for sbatch: sbatch launch/slurm.sh --config=")


ODD = '--config.teacher=a "b" \\c: {d} # e'


def manifest(run, **environment):
    yaml = pytest.importorskip("yaml")
    needed = {**NEEDED["gke.sh"], "NODES": "4", "DEVICES": "8", **environment}
    result = run("gke.sh", *ARGUMENTS, ODD, "--dry_run", **needed)
    assert result.returncode == 0, result.stderr
    found = yaml.safe_load(result.stdout)
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    (job,) = found["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    assert (spec["parallelism"], spec["completions"]) == (4, 4)
    assert (spec["completionMode"], spec["backoffLimit"]) == ("Indexed", 0)
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert container["args"] == [*ARGUMENTS, ODD, "--config.distributed=True"]
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
    return found, pod, container


def test_a_jobset_of_gpus(run):
    found, pod, container = manifest(run, NAME="mine", RESTARTS="7", SPOT="yes")
    assert found["metadata"] == {"name": "mine"}
    assert found["spec"]["failurePolicy"] == {"maxRestarts": 7}
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-accelerator": "a",
        "cloud.google.com/gke-spot": "true",
    }
    assert container["resources"]["limits"] == {"nvidia.com/gpu": 8}
    variables = {each["name"]: each for each in container["env"]}
    # <JobSet>-<job>-<its index>-<pod>.<JobSet>, which the controller makes known to all pods.
    assert variables["JAX_COORDINATOR_ADDRESS"]["value"] == "mine-hosts-0-0.mine:12355"
    assert variables["JAX_NUM_PROCESSES"]["value"] == "4"
    field = variables["JAX_PROCESS_ID"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert field == "metadata.annotations['batch.kubernetes.io/job-completion-index']"


def test_a_jobset_of_a_tpu_slice(run):
    found, pod, container = manifest(run, TOPOLOGY="4x4")
    assert list(found["metadata"]["annotations"].values()) == ["cloud.google.com/gke-nodepool"]
    assert pod["nodeSelector"] == {
        "cloud.google.com/gke-tpu-accelerator": "a",
        "cloud.google.com/gke-tpu-topology": "4x4",
    }
    assert "tolerations" not in pod
    assert container["resources"]["limits"] == {"google.com/tpu": 8}
    assert "env" not in container  # GKE's own, of which JAX reads the hosts


def test_the_manifest_is_applied(run, tmp_path):
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text(
        '#!/usr/bin/env bash\n[[ "$*" == "apply -f -" ]] && cat > "$HOME/got.yaml"\n'
    )
    kubectl.chmod(0o755)
    printed = run("gke.sh", *ARGUMENTS, "--dry_run", **NEEDED["gke.sh"])
    assert run("gke.sh", *ARGUMENTS, **NEEDED["gke.sh"]).returncode == 0
    assert (tmp_path / "got.yaml").read_text() == printed.stdout


def test_sky_yaml(tmp_path):
    yaml = pytest.importorskip("yaml")
    task = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    assert set(task) <= {
        *["name", "envs", "resources", "num_nodes", "workdir", "file_mounts", "setup", "run"]
    }
    assert set(task["envs"]) == {"CONFIG", "BUCKET", "EXTRA", "FLAGS"}
    # Its commands, with the interpreter's stand-in; nodes as SkyPilot tells of them.
    python = tmp_path / "diffjax-venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {
        **os.environ,
        **{"HOME": str(tmp_path), "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"},
        **{"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "CONFIG": "sid_cifar"},
        **{"FLAGS": "--config.seed=3 --config.alpha=1", "EXTRA": "cuda13"},
    }
    subprocess.run(["bash", "-c", task["run"]], cwd=ROOT, env=environment, check=True)
    assert (tmp_path / "main.txt").read_text().splitlines()[2:] == [
        "JAX_COORDINATOR_ADDRESS=10.0.0.1:12355",
        "JAX_NUM_PROCESSES=2",
        "JAX_PROCESS_ID=1",
        *["-m", "diffjax.main", "--config=sid_cifar", "--workdir=/runs/sid_cifar"],
        *["--config.distributed=True", "--config.seed=3", "--config.alpha=1"],
    ]
    assert "distributed" in bases.fields("sid")


def test_the_dockerfile_takes_what_there_is():
    """Building it takes a network and a Docker daemon; what it copies is checked."""
    ignored = (LAUNCH / "Dockerfile.dockerignore").read_text().splitlines()
    copied = []
    for line in (LAUNCH / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY "):
            copied += line.split()[1:-1]
    assert sorted(copied) == sorted(line[1:] for line in ignored if line.startswith("!"))
    for path in copied:
        assert (ROOT / path).exists(), path
