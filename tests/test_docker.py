"""The files that put a sweep on a cluster: linters, schemas, and the scripts with stubs for Slurm and Ray."""

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from waiting import run_process, wait_until

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "docker"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
CLAIM, JOB = yaml.safe_load_all((DOCKER / "rayjob.yaml").read_text())
FIELDS = json.loads((ROOT / "tests" / "fixtures" / "rayjob_fields.json").read_text())


def tool(name: str) -> str:
    """Return the path of a program that the dev group installs."""
    path = shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert path is not None, f"expected {name} of the dev group; run the tests with `uv run pytest`"
    return path


# --- linters and schemas


def test_the_dockerfile_passes_hadolint():
    done = run_process([tool("hadolint"), "--no-color", DOCKER / "Dockerfile"])
    assert (done.returncode, done.stdout) == (0, "")


def test_the_scripts_pass_shellcheck():
    done = run_process([tool("shellcheck"), DOCKER / "sweep.sbatch", DOCKER / "sweep-with-retries.sh"])
    assert (done.returncode, done.stdout) == (0, "")


def test_compose_file_matches_the_compose_specification():
    done = run_process(
        [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", DOCKER / "compose.yaml"]
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_rayjob_has_only_fields_that_kuberay_knows():
    jsonschema.Draft202012Validator.check_schema(FIELDS)
    jsonschema.Draft202012Validator(FIELDS).validate(JOB)


def test_a_slip_in_a_field_of_the_rayjob_is_found():
    slips = ("shutdownAfterJobFinished", "authOptions", "backoffLimits")
    broken = JOB | {"spec": JOB["spec"] | dict.fromkeys(slips, 0)}
    errors = list(jsonschema.Draft202012Validator(FIELDS).iter_errors(broken))
    assert [slip for slip in slips if slip in errors[0].message] == list(slips)


# --- what the files promise


def images() -> list[str]:
    cluster = JOB["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [
        *re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.MULTILINE),
        *(service["image"] for service in COMPOSE["services"].values()),
        *(one["image"] for pod in pods for one in pod["template"]["spec"]["containers"]),
    ]


def test_images_have_versions_and_name_no_registry():
    for image in images():
        name, _, tag = image.partition(":")
        assert tag
        assert tag != "latest"
        assert "." not in name, f"{image} names a registry"
    text = DOCKERFILE + (DOCKER / "compose.yaml").read_text()
    assert set(re.findall(r"https?://([^:/]+)", text)) <= {"localhost", "head"}


def test_the_image_runs_as_a_user_under_tini_with_rays_version():
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.findall(r"^USER (.+)$", last, flags=re.MULTILINE) == ["${USER_ID}"]
    assert 'ENTRYPOINT ["tini", "--"]' in last
    assert f'"ray=={JOB["spec"]["rayClusterSpec"]["rayVersion"]}"' in (ROOT / "pyproject.toml").read_text()


def test_all_that_the_dockerfile_copies_is_let_in():
    ignored = (DOCKER / "Dockerfile.dockerignore").read_text()
    allowed = set(re.findall(r"^!(.+)$", ignored, flags=re.MULTILINE))
    assert "\n*\n" in ignored
    copied = re.findall(r"^COPY (?!--from)(?:--\S+ )*(.+) \S+$", DOCKERFILE, flags=re.MULTILINE)
    sources = set(" ".join(copied).split())
    assert sources == allowed
    assert all((ROOT / source).exists() for source in sources)


def test_head_and_workers_of_compose_share_volume_token_and_checks():
    head, worker, submit = (COMPOSE["services"][name] for name in ("head", "worker", "submit"))
    assert worker["deploy"]["replicas"] == 2
    assert "--num-cpus=0" in head["command"]
    for service in (head, worker, submit):
        assert "runs:/runs" in service["volumes"]
        assert service["secrets"] == ["ray_token"]
        assert service["environment"]["RAY_AUTH_MODE"] == "token"
        assert "AWS_SECRET_ACCESS_KEY" in service["environment"]
    services = COMPOSE["services"]
    assert all("healthcheck" in service for name, service in services.items() if name != "submit")
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert {name for name, service in services.items() if "profiles" not in service} == {"head", "worker"}


def test_ray_knows_every_option_that_is_given_to_it():
    from ray.scripts.scripts import start

    known = {name for option in start.params for name in option.opts}
    batch = (
        (DOCKER / "sweep.sbatch")
        .read_text()
        .partition('bash -c "$on_every_machine"')[2]
        .partition("-- bash")[0]
    )
    given = set(re.findall(r"(--[a-z-]+)", batch)) - {"--min-nodes"}
    for name in ("head", "worker"):
        given |= {word.partition("=")[0] for word in COMPOSE["services"][name]["command"] if word[:2] == "--"}
    assert len(given) > 10
    assert given <= known


def test_head_and_workers_of_the_rayjob_reach_the_same_storage():
    spec = JOB["spec"]
    cluster = spec["rayClusterSpec"]
    head, (worker,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert CLAIM["spec"]["accessModes"] == ["ReadWriteMany"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert spec["shutdownAfterJobFinishes"]
    assert spec["backoffLimit"] == 0
    pods = [pod["template"]["spec"] for pod in (head, worker)]
    for key in ("envFrom", "volumeMounts", "image"):
        assert pods[0]["containers"][0][key] == pods[1]["containers"][0][key]
    assert pods[0]["volumes"] == pods[1]["volumes"]
    assert pods[0]["volumes"][0]["persistentVolumeClaim"]["claimName"] == CLAIM["metadata"]["name"]


def test_the_dashboard_shows_every_gauge_of_a_sweep_and_no_other():
    from pareto_unlearn.sweep.gauges import OF_SWEEPS, OF_TRIALS  # imports Ray

    dashboard = json.loads((DOCKER / "grafana" / "pareto-unlearn.json").read_text())
    (source,) = yaml.safe_load((DOCKER / "grafana" / "datasource.yaml").read_text())["datasources"]
    queries = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    assert {name for query in queries for name in re.findall(r"ray_pareto_unlearn_(\w+)", query)} == {
        *OF_TRIALS,
        *OF_SWEEPS,
    }
    assert {panel["datasource"]["uid"] for panel in dashboard["panels"]} == {source["uid"]}
    (scrape,) = yaml.safe_load((DOCKER / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    (discovery,) = scrape["dns_sd_configs"]
    for name in discovery["names"]:
        assert f"--metrics-export-port={discovery['port']}" in COMPOSE["services"][name]["command"]


def test_the_readme_names_only_files_that_are_there():
    readme = (DOCKER / "README.md").read_text()
    named = set(re.findall(r"\bdocker/[\w.-]+[\w]", readme)) - {"docker/ray_token", "docker/grafana_password"}
    assert {ROOT / name for name in named if not (ROOT / name).exists()} == set()
    assert {f"docker/{path.name}" for path in DOCKER.iterdir() if path.name.startswith(("c", "r", "s"))} - {
        "docker/ray_token"
    } <= named


# --- the scripts, with stubs on PATH


@pytest.fixture
def stubs(tmp_path):
    """An environment that finds stand-ins first, which write down how they were called."""
    folder = tmp_path / "stubs"
    folder.mkdir()
    for name, text in {
        # The code of call N is line N of the file `codes`; `wait` ends with 143 when it is told to.
        "pareto-unlearn": """
            printf '%s\\n' "$*" >>"$CALLS/sweeps"
            printf '%s\\n' "${RAY_ADDRESS:-}" >"$CALLS/address"
            code=$(sed -n "$(wc -l <"$CALLS/sweeps")p" "$CALLS/codes")
            if [[ $code == wait* ]]; then
                [[ $code == wait-9 ]] && end=9 || end=143
                trap 'exit $end' TERM; touch "$CALLS/waiting"; while true; do sleep 0.05; done
            fi
            exit "$code" """,
        "srun": """
            printf '%s\\n' "$*" >"$CALLS/srun"
            while [[ $1 == -* ]]; do shift; done
            "$@"; code=$?
            [[ ! -e $CALLS/slow-worker ]] || exec sleep 600
            exit "$code" """,
        "ray": """
            [[ ! -e $CALLS/no-ray ]] || exit 0
            printf '%s\\n' "$*" >"$CALLS/ray"
            stat -c %a "$RAY_AUTH_TOKEN_PATH" >"$CALLS/mode"; wc -c <"$RAY_AUTH_TOKEN_PATH" >"$CALLS/length"
            cp "$RAY_AUTH_TOKEN_PATH" "$CALLS/token"
            echo "$RAY_AUTH_MODE $RAY_TMPDIR" >"$CALLS/environment"
            while [[ $1 != -- ]]; do shift; done
            shift; "$@" """,
        "scontrol": """
            [[ $1 != requeue ]] || exec printf '%s\\n' "$*" >>"$CALLS/requeue"
            printf 'node1\\nnode2\\n' """,
    }.items():
        path = folder / name
        path.write_text("#!/usr/bin/env bash\n" + text)
        path.chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(tmp_path),
        "SWEEP_PAUSE_SECONDS": "0",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_PER_TASK": "8",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "RAY_SHORT_TMPDIR": str(tmp_path),
    }


def run_script(name, stubs, codes, *, terminated=False, arguments=("sweep.yaml", "--smoke")):
    """Run a script to its end, telling it to end while the sweep runs; return its process and its stderr."""
    calls = Path(stubs["CALLS"])
    (calls / "codes").write_text("\n".join(map(str, codes)) + "\n")
    process = subprocess.Popen(
        ["bash", str(DOCKER / name), *arguments],
        env=stubs,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        if terminated:
            wait_until((calls / "waiting").exists, process)
            process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # a stub that does not end lives on otherwise
    return process.returncode, stderr


def lines(stubs, name):
    path = Path(stubs["CALLS"]) / name
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize(
    ("codes", "expected"),
    [([0], 0), ([3, 0], 3), ([9, 0], 0), ([9, 3, 0], 3), ([9, 9, 9, 0], 9), ([4, 0], 4)],
)
def test_only_a_fault_of_the_machine_is_tried_again(stubs, codes, expected):
    code, _ = run_script("sweep-with-retries.sh", stubs, codes)
    final = next((place for place, one in enumerate(codes) if one != 9), 3)
    assert code == expected
    assert lines(stubs, "sweeps") == ["sweep sweep.yaml --smoke"] * min(final + 1, 3)


@pytest.mark.parametrize(("answer", "expected"), [("wait", 143), ("wait-9", 9)])
def test_a_sweep_that_is_told_to_end_is_not_tried_again(stubs, answer, expected):
    code, _ = run_script("sweep-with-retries.sh", stubs, [answer, 0], terminated=True)
    assert code == expected
    assert len(lines(stubs, "sweeps")) == 1


def test_the_batch_script_starts_one_ray_with_a_secret_token(stubs, tmp_path):
    code, stderr = run_script("sweep.sbatch", stubs, [0])
    assert (code, stderr) == (0, "")
    assert lines(stubs, "srun")[0].startswith(
        "--nodes=2 --ntasks=2 --ntasks-per-node=1 --kill-on-bad-exit=0 bash -c"
    )
    assert lines(stubs, "ray")[0].startswith(
        "symmetric-run --address node1:24711 --min-nodes 2 --num-cpus 8 --object-store-memory 134217728"
        " --disable-usage-stats -- bash -c"
    )
    assert lines(stubs, "sweeps") == [f"sweep sweep.yaml --smoke --override run.storage={tmp_path}/runs"]
    assert lines(stubs, "address") == ["node1:24711"]
    assert lines(stubs, "environment") == [f"token {tmp_path}/pu-4711"]
    assert [*lines(stubs, "mode"), *lines(stubs, "length")] == ["600", "64"]
    (token,) = lines(stubs, "token")
    assert token not in "".join(lines(stubs, "srun") + lines(stubs, "ray"))
    assert not lines(stubs, "requeue")
    assert not list(tmp_path.glob("runs/.*"))
    assert not (tmp_path / "pu-4711").exists()


def test_the_batch_script_requeues_a_sweep_that_was_told_to_end(stubs, tmp_path):
    code, _ = run_script("sweep.sbatch", stubs, ["wait"], terminated=True)
    assert code == 143
    assert lines(stubs, "requeue") == ["requeue 4711"]
    assert not list(tmp_path.glob("runs/.*"))


def test_a_batch_script_with_a_bucket_keeps_the_token_beside_the_job(stubs, tmp_path):
    code, _ = run_script("sweep.sbatch", stubs | {"RUNS": "s3://bucket/runs"}, [0])
    assert code == 0
    assert lines(stubs, "sweeps") == ["sweep sweep.yaml --smoke --override run.storage=s3://bucket/runs"]
    assert lines(stubs, "mode") == ["600"]
    assert not list(tmp_path.glob("**/.ray-token*"))


def test_the_batch_script_requeues_in_time_though_a_worker_does_not_end(stubs, tmp_path):
    (tmp_path / "slow-worker").touch()
    code, _ = run_script("sweep.sbatch", stubs | {"PU_STOP_SECONDS": "1"}, ["wait"], terminated=True)
    assert code == 143
    assert lines(stubs, "requeue") == ["requeue 4711"]


@pytest.mark.parametrize("expected", [3, 9, 137])
def test_the_batch_script_does_not_requeue_anything_else(stubs, expected):
    code, _ = run_script("sweep.sbatch", stubs, [expected])
    assert code == expected
    assert not lines(stubs, "requeue")


def test_a_ray_that_does_not_start_is_no_success(stubs, tmp_path):
    (tmp_path / "no-ray").touch()
    code, stderr = run_script("sweep.sbatch", stubs, [0])
    assert code == 1
    assert "Ray did not start, so no sweep ran" in stderr
    assert not lines(stubs, "requeue")


def test_the_batch_script_wants_a_sweep_file_and_a_signal_before_the_limit(stubs):
    code, stderr = run_script("sweep.sbatch", stubs, [0], arguments=())
    assert code == 3
    assert "expected a sweep file" in stderr
    script = (DOCKER / "sweep.sbatch").read_text()
    for option in ("--signal=B:TERM@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"):
        assert f"\n#SBATCH {option}\n" in script


def test_scripts_may_be_executed():
    for name in ("sweep.sbatch", "sweep-with-retries.sh"):
        assert (DOCKER / name).stat().st_mode & stat.S_IXUSR


# --- the Dockerfile's own steps


def steps(stage: str) -> list[tuple[str, str]]:
    """Return instruction and text of each step of a stage, lines joined and comments left out."""
    text = re.sub(r"^\s*#.*\n", "", stage, flags=re.MULTILINE).replace("\\\n", " ")
    words = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(instruction, rest.strip()) for instruction, _, rest in words]


@pytest.mark.nightly
def test_the_steps_of_the_dockerfile_make_an_environment_in_which_a_sweep_runs(tmp_path):
    """The build stage, run below tmp_path; cuda is the build that needs no second package index."""
    base = tmp_path / "python"
    run_process([sys.executable, "-m", "venv", base], check=True)
    (tmp_path / "src").mkdir()
    environment = os.environ | {"PATH": f"{base / 'bin'}{os.pathsep}{os.environ['PATH']}", "VARIANT": "cuda"}
    environment.pop("PYTHONPATH", None)
    for instruction, text in steps(DOCKERFILE.split("\nFROM ")[1]):
        if instruction == "RUN":
            command = text.replace("/opt/pareto-unlearn", str(tmp_path / "opt"))
            run_process(
                ["bash", "-euo", "pipefail", "-c", command], cwd=tmp_path / "src", env=environment, check=True
            )
        elif instruction == "COPY":
            sources = [ROOT / source for source in text.split()[:-1]]
            run_process(["cp", "-r", *sources, tmp_path / "src"], check=True)
    program = tmp_path / "opt" / "bin" / "pareto-unlearn"
    sweep = [program, "sweep", ROOT / "sweeps" / "quickstart.yaml", "--smoke", "-o", "run.executor=local"]
    done = run_process(sweep, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
