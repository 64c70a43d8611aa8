"""Finds out within seconds whether a Ray cluster answers at an address. Start at `check_address`."""

import os
import socket
from dataclasses import dataclass
from typing import Self

import grpc

from engine.errors import ClusterError

CONNECT_SECONDS = 2.0
LOCAL = "local"
LOGS = "/tmp/ray/session_latest/logs"
CURRENT_CLUSTER_FILE = "/tmp/ray/ray_current_cluster"
# The first thing that Ray itself asks for: which cluster this is. An empty message is a whole request.
WHICH_CLUSTER = "/ray.rpc.NodeInfoGcsService/GetClusterId"


@dataclass(frozen=True, slots=True)
class ClusterAddress:
    """Where a Ray cluster is: given, else RAY_ADDRESS, else a new one on this machine."""

    uri: str
    """HOST:PORT, auto or local."""
    where: str
    """What the user typed, for messages."""

    @classmethod
    def find(cls, given: str | None) -> Self:
        """Return the address that `given` and the environment name."""
        uri = given or os.environ.get("RAY_ADDRESS") or LOCAL
        where = f"--address {given}" if given else f"RAY_ADDRESS={uri}"
        return cls(uri, "Ray on this machine" if uri == LOCAL else where)

    def refusal(self, error: Exception) -> ClusterError:
        """Return what to say where Ray could not be started or joined because of `error`."""
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if self.is_local:
            return ClusterError(
                f"{self.where} does not start: {reason}; its logs are in {LOGS}. A full disk, limits of this shell "
                "(ulimit -a) and a very busy machine are the usual causes; mend that, and type the same command again"
            )
        if self.uri == "auto" and "Could not find any running Ray instance" in reason:
            return ClusterError(
                f"{self.where}: no Ray runs on this machine; name the cluster's head (--address HOST:6379), or leave "
                "it out for a Ray of its own"
            )
        return ClusterError(f"{self.where}: cannot use this Ray cluster: {reason}")

    @property
    def is_local(self) -> bool:
        """Whether the cluster is this one machine's own, to which no node will be added."""
        return self.uri == LOCAL


def check_address(address: str, where: str) -> None:
    """Check that something which speaks gRPC, as Ray's control store does, listens at `address`.

    Args:
        address: HOST:PORT, or auto for the cluster that this machine is a node of.
        where: what the user typed, for messages.

    Raises:
        ClusterError: if the address is none, nothing answers, what answers is no Ray cluster, or it asks for a
            token while this process would send none (Ray tries for 20 s and then says nothing of tokens).
    """
    if "://" in address:
        raise ClusterError(
            f"{where}: expected HOST:PORT of the cluster's head (or auto on one of its nodes); "
            "from outside a cluster use ray job submit"
        )
    if address == "auto" and os.path.exists(CURRENT_CLUSTER_FILE):
        with open(CURRENT_CLUSTER_FILE) as file:
            address = file.read().strip()
    if address == "auto":
        return  # Ray looks for it among this machine's processes, and says at once if there is none
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ClusterError(f"{where}: expected HOST:PORT, as in 10.0.0.5:6379")
    other = "leave --address out" if where.startswith("--") else "unset RAY_ADDRESS"
    hint = f"start one with ray start --head, or {other} for one on this machine"
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
        if os.environ.get("RAY_USE_TLS") != "1":  # a TLS handshake is Ray's own affair
            with grpc.insecure_channel(address) as channel:
                grpc.channel_ready_future(channel).result(CONNECT_SECONDS)
                if os.environ.get("RAY_AUTH_MODE") != "token" and _asks_for_token(channel):
                    raise ClusterError(
                        f"{where}: the cluster asks for a token: set RAY_AUTH_MODE=token, and have the cluster's token "
                        "in ~/.ray/auth_token, or in RAY_AUTH_TOKEN"
                    )
    except grpc.FutureTimeoutError as error:
        raise ClusterError(f"{where}: what answers there is no Ray cluster; {hint}") from error
    except (OSError, OverflowError, ValueError) as error:
        raise ClusterError(f"{where}: no Ray cluster answers there ({error}); {hint}") from error


def _asks_for_token(channel: grpc.Channel) -> bool:
    try:
        channel.unary_unary(WHICH_CLUSTER)(b"", timeout=CONNECT_SECONDS)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False
