"""Actors on Ray, without Ray: what a cluster has room for. With it: test_processes.py."""

import socket
from types import SimpleNamespace

import pytest

from moee_hf.bulk import on_ray
from moee_hf.bulk.on_ray import OnRay


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster with some processors and GPUs; the list has what was asked of it."""
    calls = []
    monkeypatch.delenv("RAY_ADDRESS", raising=False)

    def make(cpus, gpus):
        context = SimpleNamespace(enable_progress_bars=True)
        fake = SimpleNamespace(
            data=SimpleNamespace(DataContext=SimpleNamespace(get_current=lambda: context)),
            init=lambda address, **options: calls.append(address),
            cluster_resources=lambda: {"CPU": float(cpus), "GPU": float(gpus)} if gpus else {"CPU": float(cpus)},
            shutdown=lambda: calls.append("shutdown"),
        )
        monkeypatch.setattr(on_ray, "import_ray", lambda: fake)
        return calls

    return make


@pytest.mark.parametrize(
    ("cpus", "gpus", "wanted", "actors", "device"),
    [
        (8, 4, (None, 1, None), 4, "cuda"),
        (2, 4, (None, 1, None), 2, "cuda"),
        (8, 0, (None, 3, None), 2, "cpu"),
        (8, 4, (None, 2, "cpu"), 4, "cpu"),
        (8, 4, (3, 1, None), 3, "cuda"),
    ],
)
def test_as_many_actors_as_there_is_room_for(cluster, cpus, gpus, wanted, actors, device):
    calls = cluster(cpus, gpus)
    with OnRay(None, "auto", *wanted) as runner:
        assert (runner._actors, runner._room, runner._device) == (actors, actors, device)
        assert calls == ["auto"]
    assert calls == ["auto", "shutdown"]


@pytest.mark.parametrize(
    ("cpus", "gpus", "wanted"), [(8, 4, (5, 1, None)), (8, 0, (2, 5, None)), (2, 1, (None, 4, None))]
)
def test_more_actors_than_there_is_room_for(cluster, cpus, gpus, wanted):
    calls = cluster(cpus, gpus)
    with pytest.raises(ValueError, match=f"actors: expected .* at most, as the cluster has {cpus} processors"):
        OnRay(None, None, *wanted).__enter__()
    assert calls == ["local", "shutdown"]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_does_not_answer(cluster, scheme):
    calls = cluster(1, 0)
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        address = f"{scheme}127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            ConnectionError, match=r"ray: expected a cluster .* refused. Check the address, and the token"
        ):
            OnRay(None, address, None, 1, None).__enter__()
    assert calls == []


def test_a_cluster_of_others_may_grow(cluster):
    cluster(8, 0)
    with OnRay(None, "auto", 3, 1, "cuda") as runner:
        assert (runner._actors, runner._room, runner._device) == (3, 1, "cuda")
