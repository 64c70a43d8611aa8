"""What of deploy/ can be checked without a Kubernetes and without docker."""

import shlex
from pathlib import Path
from typing import Any

import pytest

from engine.config import JobConfig
from jobs.command_line import run, with_job_options
from jobs.help import new_app

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def job() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    return dict(yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text()))


def pods(job: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def pinned(lock: str, name: str) -> str:
    lines = (ROOT / lock).read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{name}=="))


def entrypoint(job: dict[str, Any]) -> JobConfig:
    words = shlex.split(job["spec"]["entrypoint"])
    assert words[:3] == ["python", "-m", "jobs.score"]
    taken: list[JobConfig] = []
    app = new_app()

    def verb(config: JobConfig) -> None:
        """Keep the call."""
        taken.append(config)

    app.default(with_job_options(verb))
    assert run(app, words[3:]) == 0
    return taken[0]


def test_it_is_a_ray_job(job: dict[str, Any]) -> None:
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    assert job["spec"]["suspend"] is False


def test_the_command_is_one_of_ours_and_resumes_on_a_new_cluster(job: dict[str, Any]) -> None:
    config = entrypoint(job)
    assert all(Path(path).is_absolute() for path in (config.model, *config.input, config.output))
    assert not config.overwrite
    assert config.address is None
    assert job["spec"]["backoffLimit"] >= 1
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["ttlSecondsAfterFinished"] > 0
    assert job["spec"]["activeDeadlineSeconds"] > 0


def test_the_actors_asked_for_fit_the_workers(job: dict[str, Any]) -> None:
    config = entrypoint(job)
    (group,) = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    gpus = float(group["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
    assert config.gpus_per_actor is not None
    _, _, most = str(config.actors).partition(":")
    assert int(most) * config.gpus_per_actor <= group["maxReplicas"] * gpus


def test_the_head_does_no_work_and_workers_come_and_go(job: dict[str, Any]) -> None:
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "entrypointNumCpus" not in job["spec"]  # it would move the driver to a GPU pod
    assert cluster["enableInTreeAutoscaling"] is True
    for group in cluster["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"] == 0
        assert group["maxReplicas"] >= 1


def test_it_pins_the_ray_of_the_lock(job: dict[str, Any]) -> None:
    version = pinned("requirements.lock", "ray")
    assert version == pinned("requirements-gpu.lock", "ray")
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == version
    assert f"FROM rayproject/ray:{version}-py311-gpu\n" in (ROOT / "deploy/Dockerfile").read_text()


def test_one_image_with_a_version_is_on_every_pod(job: dict[str, Any]) -> None:
    (image,) = {pod["containers"][0]["image"] for pod in pods(job)}
    name, _, tag = image.rpartition(":")
    assert name
    assert tag
    for file in ("rayjob.yaml", "Dockerfile"):
        assert ":latest" not in (ROOT / "deploy" / file).read_text()


def test_no_pod_runs_as_root_and_every_pod_has_shared_memory(job: dict[str, Any]) -> None:
    for pod in pods(job):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] > 0
        assert pod["terminationGracePeriodSeconds"] > 0
        (container,) = pod["containers"]
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        (shm,) = [volume["name"] for volume in pod["volumes"] if volume.get("emptyDir", {}).get("medium") == "Memory"]
        assert {"name": shm, "mountPath": "/dev/shm"} in container["volumeMounts"]
        limits, requests = container["resources"]["limits"], container["resources"]["requests"]
        assert (limits["cpu"], limits["memory"]) == (requests["cpu"], requests["memory"])


def test_the_dockerfile_installs_from_the_lock_alone() -> None:
    text = (ROOT / "deploy/Dockerfile").read_text()
    assert "--require-hashes -r requirements-gpu.lock" in text
    assert "--no-deps --no-build-isolation ." in text
    copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    for name in ("setuptools", "wheel"):
        assert pinned("requirements-gpu.lock", name)
