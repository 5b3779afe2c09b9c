"""The section `monitor` of a run's configuration."""

from pydantic import Field

from engine.config import Section
from engine.monitor.sinks import SinksConfig


class CostsConfig(Section):
    device_watts: float | None = Field(None, gt=0)
    """What one device of the layout draws in the mean, for an estimate of the energy."""
    device_hour_price: float | None = Field(None, gt=0)
    """What an hour of one costs, in any currency."""


class MonitorConfig(Section):
    dashboard: bool = True
    """Serve the page, the metrics and the control while the run goes on."""
    host: str = "127.0.0.1"
    """Address to listen at. One that is not loopback asks everybody for the token, which lies in
    the run's folder."""
    port: int = Field(8620, ge=0, le=65535)
    """Where it is taken, one of the next ports is; 0: any free one."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which browsers reach it, beside localhost and addresses: others are refused, so
    that no web page can rebind its own name to it."""
    control: bool = False
    """Let whoever has the token pause admission, save, change the log level, drain and stop."""
    costs: CostsConfig = CostsConfig()
    sinks: SinksConfig = SinksConfig()
