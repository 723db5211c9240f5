"""How arrays lie on disk: in chunks, so that a reader of a slice need not hold the whole, and by process."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore
from hypothesis import given, strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch.checkpoints import arrays


def test_an_array_lies_in_chunks(tmp_path, monkeypatch):
    """Although one device wrote it: it lies in as many chunks as it has times the size of one."""
    array = jnp.asarray(np.random.default_rng(0).standard_normal((4, 512, 512), np.float32))
    monkeypatch.setattr(arrays, "_CHUNK_BYTES", 1 << 18)
    arrays.save(tmp_path / "state", {"params.x": array}).result()
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{tmp_path}/state/params/"}).result()
    chunks = [key for key in store.list().result() if b"/c/" in key]
    assert len(chunks) == array.nbytes // (1 << 18), chunks
    mesh = jax.make_mesh((4,), ("fsdp",), devices=jax.devices()[:4], axis_types=(jax.sharding.AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec(None, "fsdp"))
    target = {"params.x": jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)}
    (loaded,) = arrays.load(tmp_path / "state", target)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.sharding == sharding


@pytest.mark.parametrize(
    "shape, cut",
    [
        ((32, 4096, 14336), True),
        ((500002, 1024), True),
        ((7,), True),
        ((), True),
        ((500009, 1024), False),
        ((7, 8388617), False),
    ],
)
def test_an_axis_that_would_fall_into_crumbs_stays_whole(shape, cut):
    """Hash tables like a prime number of rows: a chunk of each would be a file system's nightmare."""
    storage = arrays._storage(None, jax.ShapeDtypeStruct(shape, jnp.float32))
    assert (storage and storage.chunk_byte_size) == (arrays._CHUNK_BYTES if cut else None)


@given(st.integers(2, 10**4))
def test_the_largest_prime_factor(number):
    largest = arrays._largest_prime(number)
    assert number % largest == 0 and all(largest % factor for factor in range(2, int(largest**0.5) + 1))
    rest = number
    for factor in range(2, largest + 1):
        while rest % factor == 0:
            rest //= factor
    assert rest == 1


def test_who_wrote_a_file():
    names = {
        "params/ocdbt.process_0/d/068d": 0,
        "params/ocdbt.process_12/manifest.ocdbt": 12,
        "params/array_metadatas/process_3": 3,
        "params/manifest.ocdbt": 0,
        "params/d/6de9": 0,
        "params/process_3x/file": 0,
    }
    assert {name: arrays.writing_process(name) for name in names} == names
