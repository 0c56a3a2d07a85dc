"""Both HTTP/2 engines: a test that asks for `engine` runs with each."""

import pytest

from pointsman.grpc.serving.grpc_server import ENGINES


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name = request.param
    assert isinstance(name, str)
    return name
