"""Options of a Ray cluster: where it is, and what each worker gets of it.

In: nothing. Out: `ClusterConfig`.
"""

from dataclasses import dataclass
from typing import Annotated

from .options import Options, require


@dataclass(frozen=True)
class ClusterConfig(Options):
    """Workers on a Ray cluster, each with a model of its own."""

    SECTIONS = {"cluster": "Several machines (Ray)"}

    cluster: Annotated[str, "Address of a Ray cluster; auto: this machine's, or one that is started here."] = ""
    workers: Annotated[int, "Workers; 0 for as many as the cluster has room for."] = 0
    worker_cpus: Annotated[float, "CPUs of each worker."] = 1.0
    worker_gpus: Annotated[float, "GPUs of each worker; a fraction lets several share one."] = 0.0

    def __post_init__(self) -> None:
        """Checks ranges."""
        super().__post_init__()
        require(self.workers >= 0, f"workers is {self.workers}; expected 1 or more, or 0")
        require(self.worker_cpus > 0, f"worker_cpus is {self.worker_cpus}; expected a number above 0")
        require(self.worker_gpus >= 0, f"worker_gpus is {self.worker_gpus}; expected 0 or more")
        for name in ("workers", "worker_cpus", "worker_gpus"):
            given = getattr(self, name) != type(self).__dataclass_fields__[name].default
            option = name.replace("_", "-")
            require(bool(self.cluster) or not given, f"--{option} is of a cluster's workers; add --cluster")
