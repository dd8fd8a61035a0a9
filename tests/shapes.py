"""The type checker behind jaxtyping's import hook: beartype, with protocols that it can look into."""

import sys
import typing

from beartype import BeartypeConf, beartype

PROTOCOLS = {"popgd.data": "Law", "popgd.objectives": "Objective"}
TOWER = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float


def checked(function):
    """beartype(function); isinstance works on a protocol only once it is marked."""
    for module, name in PROTOCOLS.items():
        protocol = getattr(sys.modules.get(module), name, None)
        if protocol is not None:
            typing.runtime_checkable(protocol)
    return TOWER(function)
