"""The scraper's settings follow the configuration in force."""

from pointsman.cli.control.scrape_settings import scrape_settings
from pointsman.cli.supervising.config_file import parse_text
from pointsman.core.config.parse import DEFAULT_CONFIG, EffectiveConfig, PickingFlags
from pointsman.core.parsers.metrics.engines import ENGINES, PageSeries

CONFIG = """\
apiVersion: llm-d.ai/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: queue-scorer
- type: utilization-detector
  parameters: {metricsStalenessThreshold: 3s}
- type: metrics-data-source
  parameters: {scheme: https, path: /m, insecureSkipVerify: false, interval: 200ms}
- type: core-metrics-extractor
  parameters:
    defaultEngine: own
    engineLabelKey: example.com/engine
    engineConfigs:
    - name: own
      queuedRequestsSpec: own_waiting{kind="all"}
      runningRequestsSpec: own_running
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: queue-scorer
dataLayer:
  sources:
  - pluginRef: metrics-data-source
    extractors:
    - pluginRef: core-metrics-extractor
"""


def config() -> EffectiveConfig:
    return parse_text(CONFIG, PickingFlags())


def test_the_default_reads_vllms_page_as_often_as_the_flag_says() -> None:
    settings = scrape_settings(DEFAULT_CONFIG, 0.1)

    assert (settings.scheme, settings.path, settings.interval, settings.threshold) == ("http", "/metrics", 0.1, 0.2)
    assert settings.engines is ENGINES


def test_pages_and_staleness_are_those_of_the_configuration() -> None:
    settings = scrape_settings(config(), 0.05)

    assert (settings.scheme, settings.path, settings.interval, settings.threshold) == ("https", "/m", 0.2, 3.0)
    assert settings.verify_certificate
    assert (settings.default_engine, settings.engine_label) == ("own", "example.com/engine")


def test_an_engine_of_the_operators_reads_the_families_it_names() -> None:
    engine = scrape_settings(config(), 0.05).engines["own"]

    assert engine.waiting == (PageSeries("own_waiting", (("kind", "all"),)),)
    assert engine.running == (PageSeries("own_running"),)
    assert engine.lora is None
