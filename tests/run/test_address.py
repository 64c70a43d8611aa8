import socket
from collections.abc import Iterator

import pytest

from engine.errors import ClusterError
from engine.run.address import check_address


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port on loopback that is open and says nothing."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_what_answers_but_is_no_ray_is_told_within_seconds(silent_port: int) -> None:
    with pytest.raises(ClusterError, match="what answers there is no Ray cluster"):
        check_address(f"127.0.0.1:{silent_port}", "--address x")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ray://head:10001", "use ray job submit"),
        ("nonsense", "expected HOST:PORT"),
        ("127.0.0.1:1", "no Ray cluster answers there"),
        ("127.0.0.1:99999", "no Ray cluster answers there"),
        ("10.0.0..5:6379", "no Ray cluster answers there"),
    ],
)
def test_wrong_addresses(address: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message) as caught:
        check_address(address, "--address x")
    assert str(caught.value).startswith("--address x: ")
