"""What a session computes on, and why TensorFlow sees less than its actor was given.

Imports no TensorFlow: it is handed in. `explain_missing` is pure. Start at `check_gpus`, which runs before a graph is
imported, and `list_devices`, which describes an open session.
"""

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.errors import ConfigError

DRIVER_VERSION = Path("/proc/driver/nvidia/version")
DEVICE_FOLDER = Path("/dev")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that a session computes on."""

    kind: str
    """CPU or GPU."""
    name: str = ""
    """What its maker calls it, as in NVIDIA H100 80GB HBM3; empty on CPU and where TensorFlow does not tell."""
    memory_bytes: int = 0
    """Bytes that TensorFlow may use there; 0 on CPU, where nothing bounds it."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What a process can tell of its GPUs once it has imported TensorFlow."""

    num_seen: int
    """GPUs that TensorFlow sees."""
    visible: str | None
    """CUDA_VISIBLE_DEVICES as it is; None where it is not set."""
    version: str
    """TensorFlow's version."""
    is_cuda_build: bool
    """Whether this TensorFlow was built with CUDA."""
    cuda: str
    """Version of CUDA that it was built with; empty where it does not tell."""
    cudnn: str
    """Version of cuDNN that it was built with; empty where it does not tell."""
    has_driver: bool
    """Whether the node shows an NVIDIA driver or device."""
    driver: str
    """Version of that driver; empty where the node does not tell."""


def shows_gpu() -> bool:
    """Whether this node shows an NVIDIA driver or device."""
    return DRIVER_VERSION.exists() or any(DEVICE_FOLDER.glob("nvidia*"))


def check_gpus(tf: Any, gpu_share: float) -> None:
    """Check that TensorFlow sees the GPUs that its actor was given; allocates no memory there.

    Raises:
        ConfigError: saying what was given and seen, why as far as that can be known, and what to type.
    """
    if not gpu_share:
        return
    message = explain_missing(gpu_share, read_facts(tf))
    if message:
        raise ConfigError(message)


def explain_missing(gpu_share: float, facts: GpuFacts) -> str:
    """Say what is missing of `gpu_share`, why, and what to type; empty where nothing is."""
    if facts.num_seen >= math.ceil(gpu_share):
        return ""
    plural = "" if gpu_share <= 1 else "s"
    shown = "not set" if facts.visible is None else repr(facts.visible)
    seen = f"sees {facts.num_seen or 'no'} GPU{'' if facts.num_seen == 1 else 's' if facts.num_seen else ''}"
    reason, cure = _reason(facts)
    return (
        f"the actor was given {gpu_share:g} GPU{plural} (CUDA_VISIBLE_DEVICES is {shown}), but TensorFlow "
        f"{facts.version} {seen}: {reason}; {cure}, or type --allow-cpu to go on with what is seen, or "
        "--gpus-per-actor 0 to ask for none"
    )


def _reason(facts: GpuFacts) -> tuple[str, str]:
    """Return why GPUs are not seen, most certain first, and what would mend it."""
    install = "install requirements-gpu.lock (tensorflow[and-cuda]) on the nodes"
    if not facts.is_cuda_build:
        return "it was built without CUDA", install
    if facts.visible is not None and facts.visible.strip() in ("", "-1", "NoDevFiles"):
        return "that hides every GPU", "let Ray set the variable (RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES unset)"
    if not facts.has_driver:
        missing = f"the node shows no NVIDIA driver ({DRIVER_VERSION}, {DEVICE_FOLDER}/nvidia*)"
        return missing, f"install the driver, or start the container with its GPUs, and {install}"
    if facts.num_seen:
        return "the others are not there, or not named there", "give Ray no more GPUs than each node has"
    found = f"driver {facts.driver}" if facts.driver else "the driver"
    needed = " and ".join(f"{name} {of}" for name, of in (("CUDA", facts.cuda), ("cuDNN", facts.cudnn)) if of)
    missing = f"{found} or the CUDA libraries do not fit it (it needs {needed or 'those it was built with'})"
    return missing, install


def read_facts(tf: Any) -> GpuFacts:
    """Ask TensorFlow and the node; listing devices allocates no memory on them."""
    build = tf.sysconfig.get_build_info()
    return GpuFacts(
        num_seen=len(tf.config.list_physical_devices("GPU")),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
        version=str(tf.__version__),
        is_cuda_build=bool(tf.test.is_built_with_cuda()),
        cuda=str(build.get("cuda_version", "")),
        cudnn=str(build.get("cudnn_version", "")),
        has_driver=shows_gpu(),
        driver=read_driver(DRIVER_VERSION),
    )


def read_driver(path: Path) -> str:
    """Return the version that the driver's file tells; empty where there is none."""
    try:
        found = re.search(r"\b\d{3,}\.\d+(\.\d+)*", path.read_text())
    except OSError:
        return ""
    return found.group() if found else ""


def list_devices(tf: Any, session: Any) -> tuple[Device, ...]:
    """Return the GPUs that `session` computes on, in TensorFlow's order, or one CPU where it has none."""
    gpus = [device for device in session.list_devices() if device.device_type == "GPU"]
    names = _gpu_names(tf) if gpus else []
    names += [""] * (len(gpus) - len(names))
    found = zip(gpus, names, strict=False)
    return tuple(Device("GPU", name, int(gpu.memory_limit_bytes)) for gpu, name in found) or (Device("CPU"),)


def _gpu_names(tf: Any) -> list[str]:
    try:
        gpus = tf.config.list_physical_devices("GPU")
        return [str(tf.config.experimental.get_device_details(gpu).get("device_name", "")) for gpu in gpus]
    except (AttributeError, ValueError, RuntimeError, tf.errors.OpError):  # a name is not worth a failed load
        return []
