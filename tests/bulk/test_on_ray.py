"""Actors on Ray, without Ray: what a cluster has room for. With it: test_processes.py."""

from types import SimpleNamespace

import pytest

from moee_hf.bulk import on_ray
from moee_hf.bulk.on_ray import OnRay


@pytest.fixture
def cluster(monkeypatch):
    """Makes a cluster with some processors and GPUs; the list has what was asked of it."""
    calls = []

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
    with OnRay(None, "ray://there", *wanted) as runner:
        assert (runner._actors, runner._room, runner._device) == (actors, actors, device)
        assert calls == ["ray://there"]
    assert calls == ["ray://there", "shutdown"]


@pytest.mark.parametrize(
    ("cpus", "gpus", "wanted"), [(8, 4, (5, 1, None)), (8, 0, (2, 5, None)), (2, 1, (None, 4, None))]
)
def test_more_actors_than_there_is_room_for(cluster, cpus, gpus, wanted):
    calls = cluster(cpus, gpus)
    with pytest.raises(ValueError, match=f"actors: expected .* at most, as the cluster has {cpus} processors"):
        OnRay(None, None, *wanted).__enter__()
    assert calls == [None, "shutdown"]


def test_a_cluster_that_does_not_answer(cluster, monkeypatch):
    cluster(1, 0)

    def fail(address, **options):
        raise ConnectionError("Failed to connect to Ray cluster at nowhere:1")

    monkeypatch.setattr(on_ray.import_ray(), "init", fail)
    with pytest.raises(
        ConnectionError, match=r"ray: expected a cluster .*nowhere:1. Check the address, and the token"
    ):
        OnRay(None, "nowhere:1", None, 1, None).__enter__()


def test_a_cluster_of_others_may_grow(cluster):
    cluster(8, 0)
    with OnRay(None, "there:6379", 3, 1, "cuda") as runner:
        assert (runner._actors, runner._room, runner._device) == (3, 1, "cuda")
