"""Look for what is wrong with data, without writing any dataset."""

from mace_jax.cli.command import Result
from mace_jax_preprocess.options import Options


def check_sources(options: Options) -> Result:
    raise AssertionError
