"""Both servers: the fake always, the real one where its programs are."""

from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from kube.api_client import ApiClient
from kube.crds import CRDS, crd
from kube.fake_api import fake_api
from kube.kube_world import KubeWorld
from kube.real_api import RealApi, real_api, real_api_programs
from worlds.waiting import wait_for

SERVERS = ["fake", *(["real"] if real_api_programs() is not None else [])]


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealApi]:
    """One real server for all tests of a process; each test has a namespace of its own."""
    programs = real_api_programs()
    assert programs is not None
    with real_api(programs, tmp_path_factory.mktemp("real-api")) as api:
        for group, plural, kind, versions in CRDS:
            path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
            api.call("POST", path, crd(group, plural, kind, versions))
        for group, plural, _, versions in CRDS:
            path = f"/apis/{group}/{versions[0]}/{plural}"
            wait_for(lambda path=path: _served(api, path), 30, path)  # type: ignore[misc]
        yield api


def _served(api: RealApi, path: str) -> bool:
    try:
        api.call("GET", path)
    except HTTPError:
        return False
    return True


@pytest.fixture(params=SERVERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KubeWorld]:
    """A namespace of each server in turn."""
    if request.param == "real":
        api: ApiClient = request.getfixturevalue("real_server")
        found = KubeWorld(api)
        found.begin()
        yield found
        return
    with fake_api(tmp_path) as fake:
        found = KubeWorld(fake)
        found.begin()
        yield found
