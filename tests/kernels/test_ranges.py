"""Kernels on a mesh of simulated devices: rows, the trunk's heads and positions are spread, nothing else changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention, blocked, pallas_gpu, splash
from tests.kernels.backends import using

B, N, H, G, K, P = 8, 20, 4, 2, 4, 12


def arrays():
    rng = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(rng.normal(size=(B, N, heads, K)), jnp.float32) for heads in (H, G, G, H))
    # A commit sees commits before it alone.
    end_BN = jnp.minimum(jnp.asarray(rng.integers(0, P + 1, (B, N)), jnp.int32), jnp.arange(N, dtype=jnp.int32))
    begin_BN = jnp.asarray(rng.integers(0, P, (B, N)), jnp.int32)
    return q, k, v, weight, begin_BN, end_BN


def gradients(attend, *qkv_weight):
    q, k, v, weight = qkv_weight
    return jax.value_and_grad(lambda *qkv: (attend(*qkv) * weight).sum(), argnums=(0, 1, 2))(q, k, v)


# On the second, a device has 10 positions, and is sent the 6 before them; it sees all commits.
@pytest.mark.parametrize(
    "sizes, trunk, local",
    [
        ({"data": 2, "fsdp": 2, "tensor": 2}, (2, N, H // 2, K), (1, N, H, K)),
        ({"data": 4, "sequence": 2}, (2, N // 2, H, K), (2, N // 2 + 6, H, K)),
    ],
    ids=["rows_and_heads", "positions"],
)
@pytest.mark.parametrize("backend", ["splash", "pallas", "blocked"])
def test_8_devices_give_what_one_gives(monkeypatch, backend, sizes, trunk, local):
    kernel, shapes = {"splash": splash, "pallas": pallas_gpu, "blocked": blocked}[backend].Kernel, []
    monkeypatch.setattr(blocked, "_BLOCK", 4)

    def forward(self, q, *args, original=kernel.forward):
        shapes.append(q.shape)
        return original(self, q, *args)

    monkeypatch.setattr(kernel, "forward", forward)
    q, k, v, weight, begin_BN, end_BN = arrays()
    k_BLHK, v_BLHK = jnp.repeat(k, H // G, axis=2), jnp.repeat(v, H // G, axis=2)
    start_BL = jnp.broadcast_to(jnp.where(jnp.arange(N) >= 7, 7, 0), (B, N))

    def both(backend):
        def slots(q, k, v):
            return attention.staircase(q, k, v, begin_BN, end_BN, P, backend)

        def local(q, k, v):
            return attention.window(q, k, v, start_BL, 6, backend)

        return gradients(slots, q, k, v, weight), gradients(local, q, k_BLHK, v_BLHK, weight)

    wanted = jax.jit(lambda: both("xla"))()
    config = config_lib.default()
    for axis, size in sizes.items():
        config.mesh[axis] = size
    with jax.set_mesh(mesh_lib.make(config)), using(backend):
        compiled = jax.jit(lambda: both(backend)).lower().compile()
        got = compiled()
    assert set(shapes) == {trunk, local}
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_a_device_with_less_than_a_window_is_refused():
    q, k, v, _, begin_BN, _ = arrays()
    config = config_lib.default()
    config.mesh.data = 1
    config.mesh.sequence = 4
    message = "leaves 5 bytes of a row to each device, less than a local window of 6"
    with jax.set_mesh(mesh_lib.make(config)), pytest.raises(UserError, match=message):
        jax.eval_shape(lambda q: attention.window(q, q, q, begin_BN, 6), q)
