"""How busy this machine is, whoever makes it so."""

import os
from pathlib import Path


def machine_busy_s() -> float | None:
    """Seconds that its cores have worked since it was started; None where the system does not say
    (it is Linux that does)."""
    try:
        user, nice, system, _, _, irq, soft = Path("/proc/stat").read_text().split()[1:8]
    except (OSError, ValueError):
        return None
    return sum(map(int, (user, nice, system, irq, soft))) / os.sysconf("SC_CLK_TCK")
