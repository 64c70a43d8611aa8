from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def cluster() -> dict[str, Any]:
    import yaml

    return dict(yaml.safe_load((ROOT / "cluster.yaml").read_text()))


def test_it_passes_the_validation_of_ray(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(cluster))


def test_a_broken_one_would_not_pass(cluster: dict[str, Any]) -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster["head_node_type"] = "nobody"
    with pytest.raises(ValueError, match="head_node_type"):
        validate_config(prepare_config(cluster))


def test_the_head_does_no_work_and_workers_come_and_go(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head, worker = types[cluster["head_node_type"]], types["gpu_worker"]
    assert head["resources"] == {"CPU": 0, "GPU": 0}
    assert (worker["min_workers"], worker["max_workers"]) == (0, cluster["max_workers"])
    assert worker["resources"]["GPU"] >= 1
    assert cluster["idle_timeout_minutes"] > 0


def test_it_pins_the_ray_of_the_lock(cluster: dict[str, Any]) -> None:
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    version = next(line.split("==")[1].split()[0] for line in lock if line.startswith("ray=="))
    assert f":{version}-" in cluster["docker"]["image"]
    commands = " ".join(cluster["head_setup_commands"] + cluster["worker_setup_commands"])
    for name in ("requirements.lock", "requirements-gpu.lock"):
        assert name in commands
        assert (ROOT / name).exists()


def test_nobody_without_the_token_runs_anything_there(cluster: dict[str, Any]) -> None:
    assert "/home/ray/.ray/auth_token" in cluster["file_mounts"]
    starts = [cluster[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker")]
    assert all("RAY_AUTH_MODE=token ray start" in start for start in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]


def test_the_object_store_has_room_in_shared_memory(cluster: dict[str, Any]) -> None:
    shm = next(option for option in cluster["docker"]["run_options"] if option.startswith("--shm-size="))
    room = int(shm.removeprefix("--shm-size=").removesuffix("g")) * 2**30
    for kind in ("head", "worker"):
        words = cluster[f"{kind}_start_ray_commands"][-1].split()
        (store,) = [int(word.partition("=")[2]) for word in words if word.startswith("--object-store-memory=")]
        assert store <= room
