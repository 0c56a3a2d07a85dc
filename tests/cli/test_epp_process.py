"""`pointsman epp` does what its command line asks for."""

from pathlib import Path

import pytest
from worlds.epp_process import EppProcess


@pytest.mark.parametrize("text", [None, "endpoints: 5\n"])
def test_nothing_is_ready_before_the_endpoints_file_was_right_once(tmp_path: Path, text: str | None) -> None:
    epp = EppProcess(tmp_path)
    if text is not None:
        epp.endpoints.write_text(text)
    with epp.running("--secure-serving=false"):
        epp.until("endpoints.yaml" + (", line 1: " if text else ": cannot be read"))
        epp.until("still waiting for control")
        assert "epp: ready" not in epp.said()
        epp.put("127.0.0.1:1")
        epp.until("epp: ready")
