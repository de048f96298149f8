"""What checks annotations in tests; jaxtyping's import hook names it as a string."""

from beartype import BeartypeConf, beartype

# PEP 484's numeric tower: an int may stand where a float is asked for, as for pyright.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
