"""Both servers: the fake always, the real one where its programs are."""

from collections.abc import Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from kube.fake_api import fake_api
from kube.kube_world import CRDS, Api, KubeWorld, crd
from kube.real_api import RealApi, real_api, real_api_programs

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
            _wait_served(api, f"/apis/{group}/{versions[0]}/{plural}")
        yield api


def _wait_served(api: RealApi, path: str) -> None:
    import time

    until = time.monotonic() + 30
    while True:
        try:
            api.call("GET", path)
            return
        except HTTPError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


@pytest.fixture(params=SERVERS)
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[KubeWorld]:
    """A namespace of each server in turn."""
    if request.param == "real":
        api: Api = request.getfixturevalue("real_server")
        found = KubeWorld(api)
        found.begin()
        yield found
        return
    with fake_api(tmp_path) as fake:
        for group, plural, kind, versions in CRDS:
            fake.objects.serve(group, plural, kind, *versions)
        found = KubeWorld(fake)
        found.begin()
        yield found
