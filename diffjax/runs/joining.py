"""The processes of a run, as its config describes them."""

from contextlib import AbstractContextManager

from ml_collections import ConfigDict

from diffjax.distributed import peers
from diffjax.runs import checks


def joined(config: ConfigDict, mode: str) -> AbstractContextManager[peers.Peers]:
    """Check a config, and join the other processes of its run."""
    checks.check(config)
    return peers.joined(
        {**config.to_dict(), "mode": mode},
        deterministic=config.deterministic,
        distributed=config.distributed,
        peer_seconds=config.watchdog.peer_seconds,
        compilation_cache=config.compilation_cache,
    )
