"""The Ray cluster of a sweep: how it is reached, and how many trials its nodes hold now."""

import logging
import math
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pareto_unlearn.config import RunSection
from pareto_unlearn.errors import ConfigError, MachineError
from pareto_unlearn.foreign_text import without_secrets

OBJECT_STORE_BYTES = 128 * 2**20
"""Trials exchange a few kilobytes; targets are shared through memory-mapped files."""
CONNECT_SECONDS = 5.0
COUNT_EVERY_SECONDS = 1.0
SAY_EVERY_SECONDS = 60.0
GAVE_UP = "timed out during startup"
"""What a bare Exception of Ray says 30 s after the start of a node that did not come up."""

Say = Callable[[str], None]
Demand = Callable[[Mapping[str, float]], Callable[[], None]]
"""Asks the cluster for a node that holds these resources; what it returns takes the demand back."""
Resources = Mapping[str, float]


def cluster_address(section: RunSection) -> str | None:
    """Return the address of the cluster to use; None if a local Ray is to be started on this machine."""
    return section.address or os.environ.get("RAY_ADDRESS")


def open_cluster(section: RunSection) -> str | None:
    """Return the address of a cluster on another machine that is used without a token; None for any other."""
    address = cluster_address(section)
    host = "" if address is None else address.rpartition("://")[2].rpartition("@")[2]
    if address is None or host in ("local", "auto") or host.startswith(("127.", "localhost", "[::1]")):
        return None
    kept = os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token"
    has_token = bool(os.environ.get("RAY_AUTH_TOKEN")) or Path(kept).expanduser().is_file()
    is_off = os.environ.get("RAY_AUTH_MODE", "token").lower() != "token"
    return without_secrets(address) if is_off or not has_token else None


def start_ray(section: RunSection, say: Say, *, dashboard: bool) -> str | None:
    """Connect to the cluster of the sweep file or environment, or start a local Ray on loopback.

    Returns:
        The dashboard's address; None if no dashboard runs.

    Raises:
        ConfigError: no cluster answers at the address, or the local Ray does not come up.
        MachineError: Ray cannot write what it needs, such as its token.
    """
    address = cluster_address(section)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options |= {
            "address": "local",
            "include_dashboard": dashboard,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    else:
        check_address(section)
        options["address"] = address
    # Tune logs every loss with the whole traceback of its own loop; the sweep says in a line what was lost.
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
    for name in ("ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        return _start(options, say, is_local=address is None) or None
    except (ConnectionError, ValueError) as error:
        raise ConfigError(
            f"run.address: no Ray cluster answers at {without_secrets(address or '')}: {error}{_token_hint()}"
        ) from error
    except OSError as error:
        raise MachineError(
            f"Ray does not start: {error}. It keeps its token in ~/.ray and its files in /tmp/ray: name a "
            "HOME and a RAY_TMPDIR that can be written to, or set run.executor to local; then start the same "
            "command again"
        ) from error


def _token_hint() -> str:
    """Return what to do about a cluster that asks for a token: Ray offers none to a given address."""
    if "RAY_AUTH_MODE" in os.environ:
        return ""
    return (
        ". A head that finds ~/.ray/auth_token where it starts asks every driver for this token: set "
        "RAY_AUTH_MODE=token here too, or RAY_AUTH_MODE=disabled on all nodes"
    )


def _start(options: Mapping[str, Any], say: Say, *, is_local: bool) -> str:
    """Return the dashboard's address of a Ray that is reached now; a local one gets a second try."""
    import ray

    for may_try_again in (is_local, False):
        try:
            return str(ray.init(**options).dashboard_url or "")
        except Exception as error:
            # Ray has no class of its own for this; where its agent wrote no port file within 15 s, the next
            # start finds the files in memory.
            if type(error) is not Exception or GAVE_UP not in str(error):
                raise
            ray.shutdown()
            if not may_try_again:
                raise ConfigError(
                    "run.executor: the local Ray did not come up "
                    f"({str(error).split('.')[0]}). Start the same command again when the machine is less "
                    "busy, or run without Ray: `-o run.executor=local`"
                ) from error
            say("the local Ray did not come up in 30 s: trying once more")
    raise AssertionError("both tries return or raise")


def check_address(section: RunSection) -> None:
    """Try the socket of the cluster's address, if one is given: Ray retries a dead one for eleven minutes.

    Raises:
        ConfigError: nothing listens there.
    """
    address = cluster_address(section)
    if address is None:
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not port.isdigit():
        return  # "auto" and names that Ray resolves
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"run.address: no Ray cluster answers at {without_secrets(address)} ({error}); give the address "
            "of one that runs, or unset run.address and RAY_ADDRESS to start a local Ray"
        ) from error


def resources_of(section: RunSection) -> dict[str, float]:
    """Return what a trial reserves, by Ray's names."""
    resources: dict[str, float] = {"CPU": section.cpus_per_trial, "GPU": section.gpus_per_trial}
    if section.memory_bytes is not None:
        resources["memory"] = section.memory_bytes
    return resources


def fits_on(section: RunSection, node: Resources) -> int:
    """Return how many trials one node holds; a trial never spans nodes, nor a part of one GPU two of them."""
    counts = [node.get("CPU", 0.0) // section.cpus_per_trial]
    gpus, share = node.get("GPU", 0.0), section.gpus_per_trial
    if share >= 1:
        counts.append(gpus // share)
    elif share > 0:
        counts.append(math.floor(gpus) * math.floor(1 / share + 1e-9))
    if section.memory_bytes is not None:
        counts.append(node.get("memory", 0.0) // section.memory_bytes)
    return int(min(counts))


def count_slots(section: RunSection, nodes: Sequence[Resources]) -> int:
    """Return how many trials the nodes hold side by side."""
    return sum(fits_on(section, node) for node in nodes)


def check_memory(section: RunSection, nodes: Sequence[Resources]) -> None:
    """Refuse a reservation of memory that is larger than any node that has the rest.

    Raises:
        ConfigError: with what the largest has.
    """
    without = section.model_copy(update={"memory_bytes": None})
    fitting = [node.get("memory", 0.0) for node in nodes if fits_on(without, node)]
    if section.memory_bytes is not None and fitting and max(fitting) < section.memory_bytes:
        raise ConfigError(
            f"run.memory_bytes: a trial reserves {section.memory_bytes:,} bytes, but the largest node has "
            f"{max(fitting):,.0f} to give: lower it"
        )


def describe_need(section: RunSection) -> str:
    """Return in words what a trial needs on one node."""
    parts = [f"{section.cpus_per_trial} CPU"]
    if section.gpus_per_trial:
        parts.append(f"{section.gpus_per_trial:g} GPU")
    if section.memory_bytes is not None:
        parts.append(f"{section.memory_bytes / 1e9:.1f} GB")
    return " and ".join(parts)


def describe_nodes(nodes: Sequence[Resources]) -> str:
    """Return in words what the nodes have, those alike together."""
    shapes = [f"{node.get('CPU', 0.0):g} CPU and {node.get('GPU', 0.0):g} GPU" for node in nodes]
    counted = {shape: shapes.count(shape) for shape in shapes}
    told = [f"{count} node{'s' if count > 1 else ''} of {shape}" for shape, count in counted.items()]
    return ", ".join(told) or "no node"


@dataclass(slots=True)
class Cluster:
    """How many trials the nodes of the cluster hold now; nodes come and go while a sweep runs."""

    section: RunSection
    say: Say
    is_local: bool
    nodes: Callable[[], Sequence[Mapping[str, Any]]]
    demand: Demand
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _slots: int = field(default=0, init=False)
    _counted: float = field(default=-math.inf, init=False)

    def slots(self) -> int:
        """Return how many trials may be under way, as counted within the last second."""
        if self.now() - self._counted >= COUNT_EVERY_SECONDS:
            found = count_slots(self.section, self._alive())
            if self._counted > -math.inf and found != self._slots:
                self.say(f"places for trials on the cluster: {found} now, {self._slots} before")
            self._slots, self._counted = found, self.now()
        limit = self.section.max_concurrent
        if limit is None:
            return self._slots
        # One more than the nodes hold waits in Ray's queue: that is what makes an autoscaler add a node.
        return min(self._slots if self.is_local else self._slots + 1, limit)

    def dead(self) -> list[str]:
        """Return the ids of the nodes that were lost."""
        return [node["NodeID"] for node in self.nodes() if not node["Alive"]]

    def wait(self) -> None:
        """Wait until a trial fits on a node, and say so every minute.

        Raises:
            ConfigError: none did within ``run.wait_for_resources``, or none ever can.
        """
        if count_slots(self.section, self._alive()):
            return
        take_back = self.demand(resources_of(self.section))
        try:
            self._wait()
        finally:
            take_back()

    def _wait(self) -> None:
        started, said = self.now(), -math.inf
        patience = 0 if self.is_local else self.section.wait_for_resources
        while not count_slots(self.section, alive := self._alive()):
            check_memory(self.section, alive)
            waited = self.now() - started
            if waited >= patience:
                raise self._refusal(alive, waited)
            if waited - said >= SAY_EVERY_SECONDS:
                said = waited
                self.say(
                    f"waiting for {describe_need(self.section)} on one node since {waited:.0f} s, at most "
                    f"{patience} s; the cluster has {describe_nodes(alive)}"
                )
            self.sleep(COUNT_EVERY_SECONDS)

    def _alive(self) -> list[Resources]:
        return [node["Resources"] for node in self.nodes() if node["Alive"]]

    def _refusal(self, alive: Sequence[Resources], waited: float) -> ConfigError:
        since = f" after {waited:.0f} s" if waited else ""
        together = "; the ranks of a trial share one node, never several" if self.section.ranks > 1 else ""
        return ConfigError(
            f"run: a trial needs {describe_need(self.section)} on one node, but{since} the cluster has "
            f"{describe_nodes(alive)}{together}: lower run.cpus_per_trial or run.gpus_per_trial, give the "
            "address of a larger cluster as run.address, or wait longer for nodes that join "
            "(run.wait_for_resources)"
        )
