"""There is no command yet; the package is there and promises none."""

from importlib.metadata import distribution


def test_package_can_be_imported():
    import mace_jax_export_lammps

    assert "no command yet" in mace_jax_export_lammps.__doc__


def test_distribution_installs_no_command():
    scripts = distribution("mace-jax-export-lammps").entry_points
    assert [script.name for script in scripts] == []
