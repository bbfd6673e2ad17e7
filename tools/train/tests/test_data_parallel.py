import jax
import numpy as np

from mace_jax.artifacts.batch_plan import Caps
from mace_jax.batching.graph_batch import pad_batch
from mace_jax_train.data_parallel import ONE_DEVICE


def test_a_step_on_the_cpu_reads_the_arrays_of_the_loader():
    batch = pad_batch([], Caps.enclosing(8, 16, 2), "float32")
    taken = jax.tree.leaves(ONE_DEVICE.put([batch]))
    assert all(
        np.shares_memory(one, own) for one, own in zip(taken, jax.tree.leaves(batch), strict=True)
    )
