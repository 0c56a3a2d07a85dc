"""Where an endpoint's metrics page is."""

import msgspec

from pointsman.core.plugin.shapes import metrics_source
from pointsman.core.values.quantities import Duration


@metrics_source("metrics-data-source", version=1)
class MetricsDataSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The scraper reads the parameters (`EffectiveConfig.metrics_source`)."""

    scheme: str = "http"
    path: str = "/metrics"
    port: int | None = None
    """Port of the page; None for the endpoint's own."""
    insecure_skip_verify: bool = True
    ca_cert_path: str = ""
    client_cert_path: str = ""
    client_key_path: str = ""
    interval: Duration | None = None

    def __post_init__(self) -> None:
        if self.scheme not in ("http", "https"):
            raise ValueError(f"scheme is {self.scheme!r}, wanted http or https")
        if not self.path.startswith("/"):
            raise ValueError(f"path is {self.path!r}, wanted one that starts with /")
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port is {self.port}, wanted 1 to 65535")
        if self.interval is not None and self.interval < 0:
            raise ValueError(f"interval is {self.interval:g} s, wanted 0 or above")
