"""What a sweep makes of a Ray cluster's nodes: places, waiting, and addresses where nothing answers."""

import socket
from collections.abc import Callable

import pytest
import ray
from small_sweep import QUICKSTART

from pareto_unlearn.config import RunSection, load_config
from pareto_unlearn.errors import ConfigError
from pareto_unlearn.sweep.cluster import (
    GAVE_UP,
    Cluster,
    check_address,
    check_memory,
    count_slots,
    start_ray,
)

GB = 10**9


def section(*overrides: str) -> RunSection:
    return load_config(QUICKSTART, [f"run.{override}" for override in overrides]).run


def node(cpus: float = 0, gpus: float = 0, memory: float = 8 * GB) -> dict[str, float]:
    return {"CPU": cpus, "GPU": gpus, "memory": memory}


class Nodes:
    """A cluster that tests change; time passes only while somebody waits."""

    def __init__(self, *nodes: dict[str, float]) -> None:
        self.now, self.said, self.nodes = 0.0, [], list(nodes)
        self.demands, self.while_waiting = [], lambda: None

    def cluster(self, run: RunSection, is_local: bool = False) -> Cluster:
        return Cluster(
            run, self.said.append, is_local, self._listed, self._demand, lambda: self.now, self._sleep
        )

    def _listed(self) -> list[dict]:
        return [{"Alive": True, "NodeID": str(i), "Resources": one} for i, one in enumerate(self.nodes)]

    def _demand(self, resources) -> Callable[[], None]:
        self.demands.append(dict(resources))
        return self.demands.clear

    def _sleep(self, seconds: float) -> None:
        self.now += seconds
        self.while_waiting()


@pytest.mark.parametrize(
    ("overrides", "nodes", "slots"),
    [
        (("cpus_per_trial=2",), [node(1), node(1)], 0),
        (("cpus_per_trial=2",), [node(5), node(3), node(1)], 3),
        (("gpus_per_trial=0.6",), [node(64, 5)], 5),
        (("gpus_per_trial=0.5",), [node(64, 5)], 10),
        (("gpus_per_trial=0.25",), [node(64, 2)], 8),
        (("gpus_per_trial=0.1",), [node(64, 1)], 10),
        (("gpus_per_trial=2",), [node(64, 3), node(64, 1)], 1),
        (("gpus_per_trial=1",), [node(2, 8), node(64, 2)], 4),
        (("memory_bytes=3000000000",), [node(8), node(8, memory=2 * GB)], 2),
    ],
)
def test_a_trial_needs_its_place_on_one_node(overrides, nodes, slots):
    assert count_slots(section(*overrides), nodes) == slots


def test_nodes_that_join_later_are_used_and_lost_ones_are_not():
    nodes = Nodes(node(1))
    cluster = nodes.cluster(section())
    assert cluster.slots() == 1
    nodes.nodes.append(node(3))
    nodes.now += 2
    assert cluster.slots() == 4
    del nodes.nodes[1]
    nodes.now += 2
    assert cluster.slots() == 1
    assert nodes.said == [
        "places for trials on the cluster: 4 now, 1 before",
        "places for trials on the cluster: 1 now, 4 before",
    ]


def test_where_more_is_wanted_than_the_nodes_hold_one_trial_waits_for_an_autoscaler_to_see():
    assert Nodes(node(2)).cluster(section("max_concurrent=8")).slots() == 3
    assert Nodes(node(2)).cluster(section("max_concurrent=8"), is_local=True).slots() == 2
    assert Nodes(node(8)).cluster(section("max_concurrent=4")).slots() == 4


def test_a_pool_that_starts_at_nothing_is_waited_for_and_its_need_is_told_every_minute():
    nodes = Nodes(node(4))
    asked = []

    def join() -> None:
        asked.extend(nodes.demands)
        if nodes.now > 130:
            nodes.nodes.append(node(8, 1))

    nodes.while_waiting = join
    nodes.cluster(section("gpus_per_trial=1")).wait()
    assert [line.split(";")[0] for line in nodes.said] == [
        f"waiting for 1 CPU and 1 GPU on one node since {since} s, at most 300 s" for since in (0, 60, 120)
    ]
    assert all(line.endswith("the cluster has 1 node of 4 CPU and 0 GPU") for line in nodes.said)
    assert asked[0] == {"CPU": 1, "GPU": 1.0}
    assert not nodes.demands


def test_two_cpus_on_two_nodes_of_one_end_in_a_sentence_and_exit_3():
    nodes = Nodes(node(1), node(1))
    with pytest.raises(ConfigError, match=r"2 CPU on one node, but after 90 s .* 2 nodes of 1 CPU") as raised:
        nodes.cluster(section("cpus_per_trial=2", "wait_for_resources=90")).wait()
    assert raised.value.exit_code == 3
    with pytest.raises(ConfigError, match="on one node, but the cluster has"):
        nodes.cluster(section("cpus_per_trial=2"), is_local=True).wait()


def test_memory_that_no_node_has_is_refused_at_once_but_not_that_of_nodes_to_come():
    nodes = Nodes(node(4))
    with pytest.raises(ConfigError, match=r"9,000,000,000 bytes, but the largest node has 8,000,000,000"):
        nodes.cluster(section("memory_bytes=9000000000")).wait()
    assert nodes.now == 0
    check_memory(section("memory_bytes=9000000000", "gpus_per_trial=1"), [node(4)])  # a GPU node may join


def test_a_dead_address_is_refused_by_its_socket():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        check_address(section(f"address=127.0.0.1:{port}"))
    for address in (f"127.0.0.1:{port}", f"ray://127.0.0.1:{port}"):
        with pytest.raises(ConfigError, match="no Ray cluster answers") as raised:
            start_ray(section(f"address={address}"), print, dashboard=False)
        assert raised.value.exit_code == 3


def test_a_local_ray_that_does_not_come_up_is_tried_once_more_and_then_named(monkeypatch):
    said, tried = [], []

    def give_up(**options):
        tried.append(options["address"])
        raise Exception(f"The current node {GAVE_UP}. This could happen because")

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray, "init", give_up)
    with pytest.raises(ConfigError, match=r"did not come up .*-o run\.executor=local"):
        start_ray(section(), said.append, dashboard=False)
    assert tried == ["local", "local"]
    assert said == ["the local Ray did not come up in 30 s: trying once more"]


def test_a_cluster_that_asks_for_a_token_is_explained(monkeypatch):
    def refuse(**_):
        raise ConnectionError("Failed to connect to Ray cluster")

    monkeypatch.setattr(ray, "init", refuse)
    with socket.create_server(("127.0.0.1", 0)) as server:
        there = section(f"address=127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        with pytest.raises(ConfigError, match="set RAY_AUTH_MODE=token here too"):
            start_ray(there, print, dashboard=False)
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        with pytest.raises(ConfigError, match=r"Failed to connect to Ray cluster$"):
            start_ray(there, print, dashboard=False)
