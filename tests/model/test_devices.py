from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine.model.devices import Device, GpuFacts, explain_missing, list_devices, read_driver

SEEN = GpuFacts(
    num_seen=1,
    visible="0",
    version="2.21.0",
    is_cuda_build=True,
    cuda="12.5.1",
    cudnn="9",
    has_driver=True,
    driver="535.104.05",
)


def facts(**changes: Any) -> GpuFacts:
    kept = {name: getattr(SEEN, name) for name in GpuFacts.__slots__}
    return GpuFacts(**{**kept, "num_seen": 0, **changes})


@pytest.mark.parametrize(
    ("gpu_share", "num_seen"), [(0.0, 0), (0.1, 1), (0.5, 1), (1.0, 1), (1.0, 4), (2.0, 2), (4.0, 8)]
)
def test_nothing_is_missing_where_the_share_is_seen(gpu_share: float, num_seen: int) -> None:
    assert explain_missing(gpu_share, facts(num_seen=num_seen)) == ""


INSTALL = "install requirements-gpu.lock (tensorflow[and-cuda]) on the nodes"


@pytest.mark.parametrize(
    ("found", "reason", "cure"),
    [
        (facts(is_cuda_build=False), "it was built without CUDA", INSTALL),
        (facts(is_cuda_build=False, has_driver=False), "it was built without CUDA", INSTALL),
        (facts(has_driver=False, driver=""), "no NVIDIA driver (/proc/driver/nvidia/version, /dev/nvidia*)", INSTALL),
        (facts(), "driver 535.104.05 or the CUDA libraries do not fit it (it needs CUDA 12.5.1 and cuDNN 9)", INSTALL),
        (facts(driver="", cudnn=""), "the driver or the CUDA libraries do not fit it (it needs CUDA 12.5.1)", INSTALL),
        (facts(cuda="", cudnn=""), "(it needs those it was built with)", INSTALL),
        (facts(visible=""), "CUDA_VISIBLE_DEVICES is ''", "RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES unset"),
        (facts(visible="-1"), "that hides every GPU", "let Ray set the variable"),
    ],
)
def test_why_no_gpu_is_seen_and_what_to_type(found: GpuFacts, reason: str, cure: str) -> None:
    message = explain_missing(0.5, found)
    assert message.startswith("the actor was given 0.5 GPU (CUDA_VISIBLE_DEVICES is ")
    assert "but TensorFlow 2.21.0 sees no GPU: " in message
    assert reason in message
    assert cure in message
    assert "--allow-cpu" in message
    assert "--gpus-per-actor 0 " in message


@pytest.mark.parametrize(("visible", "shown"), [(None, "not set"), ("0", "'0'"), ("GPU-1f,GPU-2e", "'GPU-1f,GPU-2e'")])
def test_the_variable_is_shown_as_it_is(visible: str | None, shown: str) -> None:
    assert f"1 GPU (CUDA_VISIBLE_DEVICES is {shown})" in explain_missing(1.0, facts(visible=visible))


@pytest.mark.parametrize(("num_seen", "seen"), [(0, "sees no GPU: "), (1, "sees 1 GPU: "), (3, "sees 3 GPUs: ")])
def test_fewer_gpus_than_the_share_are_missing_too(num_seen: int, seen: str) -> None:
    message = explain_missing(4.0, facts(num_seen=num_seen, visible="0,1,2,3"))
    assert message.startswith("the actor was given 4 GPUs (CUDA_VISIBLE_DEVICES is '0,1,2,3'), but TensorFlow 2.21.0 ")
    assert seen in message
    assert ("give Ray no more GPUs than each node has" in message) == (num_seen > 0)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n", "535.104.05"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.124.06  Release Build\n", "570.124.06"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65  x\nGCC version:  gcc version 12.3.0\n", "580.65"),
        ("something else\n", ""),
    ],
)
def test_the_version_of_the_driver(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    assert read_driver(tmp_path / "version") == version


def test_no_driver_has_no_version(tmp_path: Path) -> None:
    assert read_driver(tmp_path / "version") == ""


def session_on(*kinds: str) -> Any:
    """What of a session tells its devices, in TensorFlow's words."""
    told = [SimpleNamespace(device_type=kind, memory_limit_bytes=1000 + i) for i, kind in enumerate(kinds)]
    return SimpleNamespace(list_devices=lambda: told)


def tensorflow_that_tells(*details: Any) -> Any:
    """What of TensorFlow tells names; details that are an error are raised."""

    def tell(number: int) -> dict[str, str]:
        if isinstance(details[number], Exception):
            raise details[number]
        found: dict[str, str] = details[number]
        return found

    config = SimpleNamespace(
        list_physical_devices=lambda kind: list(range(len(details))),
        experimental=SimpleNamespace(get_device_details=tell),
    )
    return SimpleNamespace(config=config, errors=SimpleNamespace(OpError=KeyError))


NAME = "NVIDIA H100 80GB HBM3"
H100 = {"device_name": NAME, "compute_capability": "9.0"}


@pytest.mark.parametrize(
    ("kinds", "details", "expected"),
    [
        (["CPU"], [H100], [Device("CPU")]),
        (["CPU", "GPU"], [H100], [Device("GPU", NAME, 1001)]),
        (["CPU", "GPU", "XLA_GPU", "GPU"], [H100, {}], [Device("GPU", NAME, 1001), Device("GPU", "", 1003)]),
        (["CPU", "GPU"], [ValueError("no details")], [Device("GPU", "", 1001)]),
        (["CPU", "GPU"], [KeyError("an error of TensorFlow")], [Device("GPU", "", 1001)]),
        (["CPU", "GPU"], [], [Device("GPU", "", 1001)]),
    ],
)
def test_devices_of_a_session(kinds: list[str], details: list[Any], expected: list[Device]) -> None:
    assert list_devices(tensorflow_that_tells(*details), session_on(*kinds)) == tuple(expected)
