"""The loader against structures read one by one, for plans and workers of every kind."""

import multiprocessing
import pickle
import threading
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mace_jax.artifacts.batch_plan import BatchPlan, Caps, PlannedDataset, PlanReport
from mace_jax.artifacts.batches import Batches
from mace_jax.artifacts.dataset import Dataset, DatasetWriter
from mace_jax.artifacts.model_bundle import EmbeddingSpec
from mace_jax.batching.cursor import Cursor
from mace_jax.batching.graph import GraphBuilder
from mace_jax.batching.graph_batch import batch_bytes, pad_batch
from mace_jax.batching.graph_source import DatasetGraphs
from mace_jax.batching.loader import PlannedLoader
from mace_jax.errors import ArtifactError, DataError, IncompatibleError
from mace_jax.structures.neighbor_list import neighbor_list, pair_list
from mace_jax.structures.structure import Structure

R_MAX = 3.0
BUILDER = GraphBuilder(R_MAX, (1, 8), ("Default",), {"Default": {1: -1.0, 8: -2.0}})
N = 200
N_WORKERS = (0, 1, 2, 4)


def structure(index):
    """A molecule or crystal whose energy says which one it is."""
    rng = np.random.default_rng(index)
    n = int(rng.integers(1, 6))
    numbers = rng.choice([1, 8], n)
    cell = np.diag([3.0 * n, 4.0, 4.0]) + rng.uniform(-0.3, 0.3, (3, 3))
    positions = np.arange(n)[:, None] * [1.3, 0.2, 0.0] + rng.uniform(-0.3, 0.3, (n, 3))
    labels = {"energy": np.array(float(index))}
    if index % 3:
        labels["forces"] = rng.normal(size=(n, 3))
    return Structure(numbers, positions, cell, rng.random(3) < 0.3, labels)


STRUCTURES = [structure(index) for index in range(N)]
GRAPHS = BUILDER.build_all(STRUCTURES)
N_NODE = np.array([len(graph.structure) for graph in GRAPHS])
N_EDGE = np.array([graph.n_neighbors.sum() for graph in GRAPHS])


def write(path, structures, layout):
    provenance = {"tool": "tests", "tool_version": "0", "command": [], "seed": 0, "inputs": []}
    stored = layout == "flat"
    pairs = [pair_list(neighbor_list(s, R_MAX)) for s in structures] if stored else None
    with DatasetWriter(path, provenance, layout=layout, r_max=R_MAX if stored else None) as writer:
        writer.write(structures, pairs)
    return path


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The same structures in both layouts, and in two files of different layouts."""
    folder = tmp_path_factory.mktemp("data")
    return {
        "mace": [write(folder / "mace.h5", STRUCTURES, "mace")],
        "flat": [write(folder / "flat.h5", STRUCTURES, "flat")],
        "two": [
            write(folder / "first.h5", STRUCTURES[:7], "mace"),
            write(folder / "second.h5", STRUCTURES[7:], "flat"),
        ],
    }


@pytest.fixture(scope="module", params=["mace", "flat", "two"])
def source(request, paths):
    datasets = [Dataset(path) for path in paths[request.param]]
    yield DatasetGraphs(datasets, BUILDER)
    for dataset in datasets:
        dataset.close()


def make_plan(batches, shape_counts=None, processes=1, skipped=()):
    shape_counts = shape_counts or (len(batches),)
    shapes, start = [], 0
    for count in shape_counts:
        of_shape = [np.array(batch, int) for batch in batches[start : start + count]]
        start += count
        shapes.append(
            Caps.enclosing(
                max(int(N_NODE[batch].sum()) for batch in of_shape) + 1,
                max(int(N_EDGE[batch].sum()) for batch in of_shape) + 2,
                max(map(len, of_shape)) + 1,
            )
        )
    report = PlanReport(N, len(batches), len(batches), 0.0, 0.0, 0.0, 1, {}, ())
    return BatchPlan(
        datasets=(PlannedDataset("data", "0" * 64, N),),
        r_max=R_MAX,
        seed=0,
        processes=processes,
        shapes=tuple(shapes),
        shape_counts=tuple(shape_counts),
        batches=Batches.from_lists(batches),
        skipped=tuple(skipped),
        report=report,
    )


@st.composite
def plans(draw):
    """Plans of several shapes and processes, with graphs that are skipped and empty batches."""
    order = draw(st.permutations(range(N)))
    n_skipped = draw(st.integers(0, 5))
    processes = draw(st.integers(1, 3))
    n_batches = processes * draw(st.integers(1, 5))
    cuts = sorted(
        draw(
            st.lists(st.integers(0, N - n_skipped), min_size=n_batches - 1, max_size=n_batches - 1)
        )
    )
    batches = [order[a:b] for a, b in zip([0, *cuts], [*cuts, N - n_skipped], strict=True)]
    if processes == 1:
        batches = [batch for batch in batches if batch]
    first = processes * draw(st.integers(0, len(batches) // processes - 1))
    counts = (first, len(batches) - first) if first else (len(batches),)
    return make_plan(batches, counts, processes, order[N - n_skipped :])


def some_plan():
    """Return a plan of two shapes, of more graphs than a worker reads at once."""
    rng = np.random.default_rng(1)
    order, cuts = rng.permutation(N), np.cumsum(rng.integers(1, 8, N))
    batches = [batch for batch in np.split(order, cuts[cuts < N]) if len(batch)]
    return make_plan(batches, (len(batches) // 2, len(batches) - len(batches) // 2))


PLAN = some_plan()
N_BATCHES = len(PLAN.batches)


def content(batch):
    return pickle.dumps(batch)


def expected(plan, index):
    """Return batch ``index`` of a plan from graphs in memory."""
    caps = plan.shapes[plan.shape[index]]
    return pad_batch([GRAPHS[graph] for graph in plan.batches[index]], caps, "float32")


def taken(batches):
    return [(index, content(batch)) for index, batch in batches]


def read_everywhere(ids):
    return [GRAPHS[index] for index in ids]


@settings(max_examples=25, deadline=None)
@given(plans(), st.integers(0, 9), st.integers(1, 9))
def test_a_process_with_several_devices_has_the_batches_of_each_in_turn(plan, seed, epoch):
    places = list(range(plan.processes))[::2]
    together = PlannedLoader(read_everywhere, plan, "float64", process=places)
    each = [PlannedLoader(read_everywhere, plan, "float64", process=place) for place in places]
    for found, expected in (
        (together.epoch(seed, epoch), [loader.epoch(seed, epoch) for loader in each]),
        (together.in_order(), [loader.in_order() for loader in each]),
    ):
        steps = zip(*expected, strict=True)
        assert [i for i, _ in found] == [i for step in steps for i, _ in step]
    assert len(together) == sum(len(loader) for loader in each)


@settings(max_examples=40, deadline=None)
@given(plans(), st.integers(0, 3), st.integers(0, 3))
def test_every_graph_once_an_epoch_for_all_shapes_and_processes(plan, seed, epoch):
    whole = PlannedLoader(read_everywhere, plan, "float64")
    parts = [
        PlannedLoader(read_everywhere, plan, "float64", process=process)
        for process in range(plan.processes)
    ]
    planned = sorted(set(range(N)) - set(plan.skipped))
    for loaders in ([whole], parts):
        epochs = [list(loader.epoch(seed, epoch)) for loader in loaders]
        assert [len(batches) for batches in epochs] == [len(loader) for loader in loaders]
        batches = [batch for batches in epochs for _, batch in batches]
        energies = np.concatenate([batch.energy[batch.graph_mask] for batch in batches])
        atoms = sum(int(batch.node_mask.sum()) for batch in batches)
        assert sorted(energies.tolist()) == sorted(GRAPHS[g].interaction_energy for g in planned)
        assert atoms == N_NODE[planned].sum()
    for step in zip(*[part.epoch(seed, epoch) for part in parts], strict=True):
        assert len({batch.positions.shape for _, batch in step}) == 1


@settings(max_examples=20, deadline=None)
@given(plans())
def test_a_batch_has_its_own_shape_and_the_graphs_of_the_plan(plan):
    for index, batch in PlannedLoader(read_everywhere, plan, "float32").in_order():
        assert content(batch) == content(expected(plan, index))
        caps = plan.shapes[plan.shape[index]]
        assert batch.positions.shape == (caps.n_node, 3)
        assert batch.pair_senders.shape == (caps.n_pair,)
        assert batch.table.slot_pair.shape == (caps.n_row, caps.n_neighbor)
        assert batch.graph_mask.shape == (caps.n_graph,)
        assert not batch.graph_mask[-1]
        assert not batch.node_mask[-1]


def test_stored_pairs_and_searched_ones_give_the_same_bits(source):
    loader = PlannedLoader(source, PLAN, "float32")
    assert [index for index, _ in loader.in_order()] == list(range(len(PLAN.batches)))
    for index, batch in loader.in_order():
        assert content(batch) == content(expected(PLAN, index))


def test_one_covering_shape_for_all(source):
    loader = PlannedLoader(source, PLAN, "float32", PLAN.caps)
    assert len(PLAN.shapes) == 2
    assert loader.shapes == (PLAN.caps,)
    assert {batch.positions.shape for _, batch in loader.in_order()} == {(PLAN.caps.n_node, 3)}
    assert len(list(loader.one_of_each_shape())) == 1


def test_one_batch_of_each_shape():
    loader = PlannedLoader(read_everywhere, PLAN, "float32")
    shapes = [batch.positions.shape[0] for batch in loader.one_of_each_shape()]
    assert shapes == [caps.n_node for caps in PLAN.shapes]


@pytest.mark.parametrize("n_workers", N_WORKERS)
def test_any_number_of_workers_gives_the_same_batches(source, n_workers):
    alone = PlannedLoader(source, PLAN, "float32")
    with PlannedLoader(source, PLAN, "float32", n_workers=n_workers) as loader:
        for epoch in range(2):
            assert taken(loader.epoch(1, epoch)) == taken(alone.epoch(1, epoch))
        assert taken(loader.in_order()) == taken(alone.in_order())


@pytest.mark.parametrize("cache_bytes", [0, 10_000, 1 << 30])
@pytest.mark.parametrize("n_workers", [0, 2])
def test_batches_that_are_kept_are_the_same(source, n_workers, cache_bytes):
    alone = PlannedLoader(source, PLAN, "float32")
    settings = {"n_workers": n_workers, "cache_bytes": cache_bytes}
    with PlannedLoader(source, PLAN, "float32", **settings) as loader:
        for epoch in range(3):
            assert taken(loader.epoch(1, epoch)) == taken(alone.epoch(1, epoch))


def test_the_memory_of_a_batch_is_that_of_its_arrays():
    batch = expected(PLAN, 0)
    told = batch._replace(inputs={"charge": np.zeros(99)})
    assert batch_bytes(told) == batch_bytes(batch) + 8 * 99
    assert len(content(batch)) - 5000 < batch_bytes(batch) < len(content(batch))


def test_no_more_is_kept_than_there_is_room_for():
    read = []

    def reading(ids):
        read.extend(ids)
        return read_everywhere(ids)

    sizes = [batch_bytes(expected(PLAN, index)) for index in range(len(PLAN.batches))]
    ids = [list(PLAN.batches[index]) for index in range(len(PLAN.batches))]
    for room, again in ((0, ids), (sizes[0] + sizes[1], ids[2:]), (sum(sizes), [])):
        loader = PlannedLoader(reading, PLAN, "float32", cache_bytes=room)
        list(loader.in_order())
        read.clear()
        list(loader.in_order())
        assert read == list(chain.from_iterable(again))


def test_graphs_of_several_batches_are_read_at_once():
    sizes = []

    def reading(ids):
        sizes.append(len(ids))
        return read_everywhere(ids)

    list(PlannedLoader(reading, PLAN, "float32").epoch(seed=0, epoch=1))
    largest = int(PLAN.batches.n_graph.max())
    assert len(sizes) > 1
    assert all(64 <= size < 64 + largest for size in sizes[:-1])


def test_the_order_is_a_function_of_seed_and_epoch_only():
    loader = PlannedLoader(read_everywhere, PLAN, "float32")

    def order(seed, epoch):
        return tuple(index for index, _ in loader.epoch(seed, epoch))

    assert order(3, 7) == order(3, 7)
    assert len({order(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize(("n_workers", "step"), [(0, 1), (2, 9)])
def test_an_epoch_goes_on_from_every_place(paths, n_workers, step):
    with (
        Dataset(paths["flat"][0]) as dataset,
        PlannedLoader(
            DatasetGraphs([dataset], BUILDER), PLAN, "float32", n_workers=n_workers
        ) as loader,
    ):
        whole = taken(loader.epoch(5, 2))
        for done in range(0, N_BATCHES + 1, step):
            cursor = Cursor(*pickle.loads(pickle.dumps(tuple(loader.cursor(2, done)))))
            assert taken(loader.resume(5, cursor)) == whole[done:]
        assert taken(loader.resume(5, loader.cursor(2, N_BATCHES))) == []


@pytest.mark.parametrize(
    "other",
    [
        {"batches": PLAN.batches.select(np.roll(np.arange(N_BATCHES), 1))},
        {"shape_counts": PLAN.shape_counts[::-1]},
        {"r_max": 2.9},
        {"datasets": (PlannedDataset("data", "1" * 64, N),)},
    ],
)
def test_a_cursor_of_another_plan_is_refused(other):
    loader = PlannedLoader(read_everywhere, PLAN, "float32")
    cursor = PlannedLoader(read_everywhere, replace(PLAN, **other), "float32").cursor(1, 2)
    with pytest.raises(IncompatibleError, match=r"^cursor: of the plan .* continue with"):
        loader.resume(0, cursor)
    renamed = replace(PLAN, datasets=(PlannedDataset("renamed", "0" * 64, N),), seed=8)
    same = PlannedLoader(read_everywhere, renamed, "float32").cursor(1, 2)
    assert len(list(loader.resume(0, same))) == len(loader) - 2


@pytest.mark.parametrize("done", [-1, N_BATCHES + 1])
def test_a_cursor_beyond_the_epoch_is_refused(done):
    loader = PlannedLoader(read_everywhere, PLAN, "float32")
    with pytest.raises(
        IncompatibleError, match=rf"^cursor: {done} batches done, expected 0 to {N_BATCHES}"
    ):
        loader.resume(0, loader.cursor(0, done))


def test_the_order_of_the_dataset(source):
    loader = PlannedLoader(source, PLAN, "float64")
    in_plan = np.concatenate([b.energy[b.graph_mask] for _, b in loader.in_order()])
    energies = [graph.interaction_energy for graph in GRAPHS]
    assert in_plan.tolist() != energies
    assert in_plan[loader.dataset_order()].tolist() == energies
    few = make_plan([[9, 3], [20, 1]], skipped=set(range(N)) - {9, 3, 20, 1})
    loader = PlannedLoader(source, few, "float64")
    in_plan = np.concatenate([b.energy[b.graph_mask] for _, b in loader.in_order()])
    expected = [energies[graph] for graph in (1, 3, 9, 20)]
    assert in_plan[loader.dataset_order()].tolist() == expected


@pytest.mark.parametrize("n_workers", [0, 1, 2])
def test_a_structure_that_does_not_fit_is_named(source, n_workers):
    strict = DatasetGraphs(source.datasets, BUILDER._replace(elements=(8,)))
    with (
        PlannedLoader(strict, PLAN, "float32", n_workers=n_workers) as loader,
        pytest.raises(DataError, match=r"\.h5: .*: unknown element H \(1\), expected one of"),
    ):
        list(loader.epoch(0, 0))


def test_files_may_say_which_head_their_structures_are_of(tmp_path):
    """Also where the source is opened in another process; config types weigh what the head says."""
    paths = [write(tmp_path / f"{head}.h5", STRUCTURES[:2], "flat") for head in ("a", "b")]
    energies = {"a": BUILDER.atomic_energies["Default"], "b": dict.fromkeys(BUILDER.elements, 1.0)}
    builder = BUILDER._replace(
        heads=("a", "b"),
        atomic_energies=energies,
        config_type_weights_of_heads={"b": {STRUCTURES[0].config_type: 3.0}},
    )
    with Dataset(paths[0]) as first, Dataset(paths[1]) as second:
        source = DatasetGraphs([first, second], builder, heads=["a", "b"])
        for graphs in (source(range(4)), pickle.loads(pickle.dumps(source))(range(4))):
            assert [graph.head for graph in graphs] == [0, 0, 1, 1]
            assert graphs[2].structure.weight == 3 * graphs[0].structure.weight
        with pytest.raises(DataError, match=r"head 'Default', expected one of \['a', 'b'\]"):
            DatasetGraphs([first], builder)([0])


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_file_that_is_gone_is_named(tmp_path, n_workers):
    path = write(tmp_path / "train.h5", STRUCTURES, "flat")
    with Dataset(path) as dataset:
        source = DatasetGraphs([dataset], BUILDER)
        moved = DatasetGraphs([dataset], BUILDER, [tmp_path / "moved.h5"])
        path.rename(tmp_path / "moved.h5")
        with (
            PlannedLoader(source, PLAN, "float32", n_workers=n_workers) as loader,
            pytest.raises(ArtifactError, match=r"train\.h5: no HDF5 file there"),
        ):
            list(loader.epoch(0, 0))
        with PlannedLoader(moved, PLAN, "float32", n_workers=n_workers) as loader:
            assert len(list(loader.epoch(0, 0))) == len(PLAN.batches)


def test_nothing_is_left_running(source):
    processes, threads = multiprocessing.active_children(), threading.active_count()
    with PlannedLoader(source, PLAN, "float32", n_workers=2) as loader:
        for _ in loader.epoch(0, 0):
            break
        assert len(multiprocessing.active_children()) > len(processes)
        assert len(list(loader.epoch(0, 1))) == len(PLAN.batches)
    assert multiprocessing.active_children() == processes
    assert threading.active_count() == threads


def test_pairs_of_another_cutoff_are_not_used(paths):
    wider = BUILDER._replace(r_max=4.0)
    with Dataset(paths["flat"][0]) as dataset:
        assert dataset.r_max == R_MAX
        found = DatasetGraphs([dataset], wider)(range(N))
    for graph, expected in zip(found, wider.build_all(STRUCTURES), strict=True):
        for one, other in zip(graph.pairs, expected.pairs, strict=True):
            np.testing.assert_array_equal(one, other)


def test_graphs_come_in_the_order_they_are_asked_for(source):
    wanted = [9, 3, 22, 0, 3]
    for index, graph in zip(wanted, source(wanted), strict=True):
        assert graph.interaction_energy == GRAPHS[index].interaction_energy
        np.testing.assert_array_equal(graph.species, GRAPHS[index].species)
    assert source([]) == []


@settings(max_examples=30, deadline=None)
@given(plans(), st.integers(1, 12), st.booleans(), st.integers(0, 2))
def test_short_epochs_are_pieces_of_passes_over_everything(plan, most, shuffle, seed):
    """End to end they visit what the whole epochs do, and go on in the middle of one, too."""
    process = 0 if plan.processes > 1 else None
    whole = PlannedLoader(read_everywhere, plan, "float32", process=process, shuffle=shuffle)
    short = PlannedLoader(
        read_everywhere, plan, "float32", process=process, shuffle=shuffle, max_batches=most
    )
    n_epochs = 5
    pieces = [[index for index, _ in short.epoch(seed, e)] for e in range(1, n_epochs + 1)]
    assert {len(piece) for piece in pieces} == {len(short)} == {min(most, len(whole))}
    found = [index for piece in pieces for index in piece]
    passes = [index for e in range(1, n_epochs + 1) for index, _ in whole.epoch(seed, e)]
    assert found == passes[: len(found)]
    done = len(short) // 2
    rest = short.resume(seed, short.cursor(3, done))
    assert [index for index, _ in rest] == pieces[2][done:]


def test_without_shuffling_every_epoch_has_the_order_of_the_plan():
    loader = PlannedLoader(read_everywhere, PLAN, "float32", shuffle=False)
    for epoch in (1, 2):
        assert [index for index, _ in loader.epoch(7, epoch)] == list(range(N_BATCHES))


def test_where_the_structures_of_batches_stand_is_said_by_their_source():
    plan = make_plan([[5, 0, 9], list(range(1, 5)), [*range(6, 9), *range(10, N)]])
    loader = PlannedLoader(read_everywhere, plan, "float32", places=lambda ids: f"{ids.tolist()}")
    assert loader.structures(0) == "[5, 0, 9]"
    assert loader.structures(1, 0) == "[1, 2, 3, 4, 5, 0, 9]"


@pytest.mark.parametrize("n_workers", [0, 1])
def test_a_batch_without_graphs_has_the_inputs_of_the_others(paths, n_workers):
    told = (EmbeddingSpec("total_charge", "continuous", "graph", 1),)
    plan = make_plan([[0], [1], [2], []], processes=2)
    with Dataset(paths["flat"][0]) as dataset:
        source = DatasetGraphs([dataset], BUILDER._replace(inputs=told))
        options = {"process": 1, "n_workers": n_workers, "told": told}
        with PlannedLoader(source, plan, "float32", **options) as loader:
            batches = [batch for _, batch in loader.in_order()]
    *full, empty = [
        {name: (rows.shape, rows.dtype) for name, rows in batch.inputs.items()} for batch in batches
    ]
    assert list(full[0]) == ["total_charge"]
    assert not batches[-1].graph_mask.any()
    assert all(inputs == empty for inputs in full)
