"""The E0s of a training set: where each comes from, and whether they fit its energies.

Isolated atoms in the data win over what is asked for, as in Torch MACE; elements that have none are
then taken as given, or fitted to what the isolated atoms leave of the energies.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mace_jax.elements import symbol
from mace_jax.errors import DataError
from mace_jax.structures.atomic_energies import (
    AVERAGE,
    E0Choice,
    elements_in,
    parse_e0_choice,
    require_atomic_energies,
)
from mace_jax.structures.composition_rows import LeastSquares
from mace_jax.structures.head_sums import HeadSums
from mace_jax.structures.training_sums import TrainingSums

# eV per atom. Matter is bound by at most 9 eV per atom (W), 13 relative to atoms without spin.
_MOST_BINDING = 20.0
# Compressed matter and broken molecules may lie above their atoms, but no set does as a whole.
_MOST_REPULSION = 2.0
_ILL_CONDITIONED = 1e4


@dataclass(frozen=True)
class AtomicEnergy:
    """The E0 of one element in one head.

    Attributes:
        head: of the readout.
        number: atomic number.
        energy: E0, eV.
        source: ``isolated atom``, ``average``, ``given``, ``file``, ``model`` or ``estimated``.
        n_structures: training structures of the head that hold the element.
    """

    head: str
    number: int
    energy: float
    source: str
    n_structures: int


@dataclass(frozen=True)
class AtomicEnergyTable:
    """All E0s of a training set.

    Attributes:
        rows: by head, then atomic number.
        fits: head -> the least squares behind its averages or estimates, where there are any.
        warnings: what is doubtful, one line each.
        fitted: what the fits are of.
    """

    rows: tuple[AtomicEnergy, ...]
    fits: Mapping[str, LeastSquares]
    warnings: tuple[str, ...]
    fitted: str = AVERAGE

    def by_head(self) -> dict[str, dict[int, float]]:
        """Return head -> atomic number -> E0, eV."""
        energies: dict[str, dict[int, float]] = {}
        for row in self.rows:
            energies.setdefault(row.head, {})[row.number] = row.energy
        return energies

    def of_elements(self, elements: Sequence[int]) -> dict[int, float]:
        """Return the E0s of exactly these elements, eV, of the only head there is.

        Raises:
            DataError: an element has none.
        """
        ((head, energies),) = self.by_head().items()
        return require_atomic_energies(energies, elements, f"head {head!r}")

    def lines(self) -> list[str]:
        """Return the table and the figures of the fits for people, warnings left out."""
        width = max((len(row.head) for row in self.rows), default=0)
        width = max(width, len("head"))
        title = f"{'head':<{width}}  element           E0, eV  source         structures"
        return [title, *(_row_line(row, width) for row in self.rows), *self._fit_lines()]

    def _fit_lines(self) -> list[str]:
        fits = self.fits.items()
        return [line for head, fit in fits for line in _fit_lines(head, fit, self.fitted)]


def _fit_lines(head: str, fit: LeastSquares, fitted: str) -> list[str]:
    figures = (
        f"{head}: {fitted} over {fit.n_structures} structures: rank {fit.rank} of "
        f"{len(fit.energies)}, condition {fit.condition:.3g}, rms residual "
        f"{fit.residual_rms:.4g} eV"
    )
    coupled = [
        f"{head}: the compositions do not tell {', '.join(symbol(z) for z in group)} apart, only "
        "sums of their E0s are determined: those of least norm are taken"
        for group in fit.coupled
    ]
    return [figures, *coupled]


def _row_line(row: AtomicEnergy, width: int) -> str:
    return (
        f"{row.head:<{width}}  {symbol(row.number):<7}  {row.energy:>15.6f}  "
        f"{row.source:<13}  {row.n_structures:>10}"
    )


def atomic_energy_table(
    e0s: str | None,
    sums: TrainingSums,
    elements: Sequence[int] | None = None,
    first_in: Mapping[int, str] | None = None,
) -> AtomicEnergyTable:
    """Find the E0 of every element of every head.

    A head has the E0s of its own training structures' elements, and of further ones if known.

    Args:
        e0s: ``average``, a dict literal or a JSON file, for all heads or by head; None for isolated
            atoms alone.
        sums: over the training set, isolated atoms included.
        elements: atomic numbers of the model if there are more than in the training set; each needs
            an E0 in one head at least.
        first_in: atomic number -> the first structure that has it, for messages.

    Raises:
        ConfigError: ``e0s`` cannot be read.
        DataError: an element has no E0; it is never taken as zero.
    """
    choice = None if e0s is None else parse_e0_choice(e0s)
    rows: list[AtomicEnergy] = []
    fits: dict[str, LeastSquares] = {}
    warnings: list[str] = []
    for head, head_sums in sorted(sums.heads.items()):
        found, fit = _of_head(head, head_sums, choice, sums.isolated_atoms.of_head(head))
        if elements is not None:
            found = [row for row in found if row.number in {*elements, *head_sums.elements}]
        _require(head_sums.elements, found, f"head {head!r}", e0s, first_in or {})
        if fit:
            fits[head] = fit
            warnings += _fit_warnings(head, fit)
        if any(row.source != AVERAGE for row in found):
            warnings += scale_warnings(head, head_sums, found)
        rows += found
    _require(elements or (), rows, "all heads", e0s, first_in or {})
    return AtomicEnergyTable(tuple(rows), fits, tuple(warnings))


def _of_head(
    head: str, sums: HeadSums, choice: E0Choice | None, isolated: Mapping[int, float]
) -> tuple[list[AtomicEnergy], LeastSquares | None]:
    """Return the E0s known for a head, and the fit if one was asked for and needed."""
    fit = None
    chosen = choice.of_head(head) if choice else {}
    if isinstance(chosen, str):
        needed = not set(sums.elements) <= isolated.keys()
        fit = sums.average_energies(isolated, f"head {head!r}") if needed else None
        chosen = fit.energies if fit else {}
    source = AVERAGE if fit or choice is None else choice.source
    energies = {**chosen, **isolated}
    rows = [
        AtomicEnergy(
            head,
            number,
            energies[number],
            "isolated atom" if number in isolated else source,
            sums.n_structures_with(number),
        )
        for number in sorted(energies)
    ]
    return rows, fit


def _require(
    elements: Sequence[int],
    rows: Sequence[AtomicEnergy],
    place: str,
    e0s: str | None,
    first_in: Mapping[int, str],
) -> None:
    known = {row.number for row in rows}
    missing = [z for z in elements if z not in known]
    if missing:
        source = "E0s not given and no isolated atoms" if e0s is None else f"E0s {e0s!r}"
        message = (
            f"{source}: {place}: no E0 for {elements_in(missing, first_in)}; "
            "give it with --E0s, or an isolated atom in the data"
        )
        raise DataError(message)


def _fit_warnings(head: str, fit: LeastSquares) -> list[str]:
    if fit.condition <= _ILL_CONDITIONED:
        return []
    return [
        f"{head}: average E0s are uncertain, condition {fit.condition:.3g}: some elements "
        "occur in nearly the same proportion everywhere; give E0s or isolated atoms"
    ]


def scale_warnings(
    head: str, sums: HeadSums, rows: Sequence[AtomicEnergy], fitted: str = AVERAGE
) -> list[str]:
    """Compare mean and spread of a head's interaction energies with what matter can have.

    E0s of another code, basis or pseudopotential are wrong by tens to thousands of eV; those of
    another functional by less than energies can tell.
    """
    if not sums.n_energies:
        return []
    energies = {row.number: row.energy for row in rows}
    mean = float(sums.interaction_energy(energies) / sums.n_energies)
    spread = (sums.squared_deviations(energies, mean) / sums.n_energies) ** 0.5
    impossible = mean**2 + spread**2 > _MOST_BINDING**2
    unbound = mean > _MOST_REPULSION and mean > 2 * spread
    if not (impossible or unbound):
        return []
    return [
        f"{head}: E0s and energies cannot be from the same method, or some energies are wrong: "
        f"(E - ΣE0)/n is {mean:.4g} ± {spread:.3g} eV per atom, expected {-_MOST_BINDING:g} to 0; "
        f"compute the E0s with the settings of the data, or use --E0s {fitted}"
    ]
