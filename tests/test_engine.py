import subprocess
import sys

import pytest

import engine
import engine.config
import engine.errors
import engine.job


@pytest.mark.parametrize(
    ("name", "home"),
    [
        ("EngineError", engine.errors.EngineError),
        ("JobConfig", engine.config.JobConfig),
        ("score", engine.job.score),
    ],
)
def test_public_names(name: str, home: object) -> None:
    assert name in engine.__all__
    assert getattr(engine, name) is home


def test_every_public_name_is_there() -> None:
    assert all(hasattr(engine, name) for name in engine.__all__)


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match=r"module 'engine' has no attribute 'scor'"):
        _ = engine.scor


def test_version_is_the_distribution_s() -> None:
    import importlib.metadata

    assert importlib.metadata.version("icefloe") == engine.__version__


def test_importing_the_package_and_its_config_is_light() -> None:
    code = "import sys; from engine import JobConfig; print({'ray', 'tensorflow', 'pyarrow'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "set()"), done.stderr
