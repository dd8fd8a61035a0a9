"""The type checker behind jaxtyping's import hook."""

from beartype import BeartypeConf, beartype

#: beartype, with an int allowed to stand for a float.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
