"""Attention in XLA, which runs anywhere and is what every other backend is tested against.

The staircase is dense for rows of few slots, and tiled for longer ones. The window is computed in blocks, never as
[L x L].

Legend: B rows, N slots, P commits, n chunks of C slots, T commits of a block, G key-value heads, R query heads per
key-value head, K head width. Of windows: L byte positions, H heads, C bytes of a block, n = L / C blocks.
"""

import jax
import jax.numpy as jnp

from scratchpatch import precision

# Rows of more slots than this are computed in equal chunks of at most so many,
# so that memory per byte does not grow with the window.
CHUNK = 512
# Commits that a chunk meets at a time; blocks that none of it sees are left out.
BLOCK = 128
# Blocks of fewer bytes waste more time on their number than they save.
_SMALLEST_BLOCK = 16


def staircase(q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN) -> jax.Array:
    """`attention.staircase`, with keys and values of the commits, and those of each slot that serve it alone.

    H = G * R heads. Returns [B, N, H, K] in the dtype of v; softmax in float32.
    """
    (rows, slots, heads, width), commits = q_BNHK.shape, k_BPGK.shape[1]
    if slots <= CHUNK:
        return dense(q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN)
    q_BNGRK = q_BNHK.reshape(rows, slots, k_BPGK.shape[2], -1, width)
    chunks = -(-slots // CHUNK)

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, -slots % chunks)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(rows, chunks, -1, *x.shape[2:]).swapaxes(0, 1)

    def blocks(x_BPGK):
        return jnp.pad(x_BPGK, ((0, 0), (0, -commits % BLOCK), (0, 0), (0, 0))).transpose(0, 2, 1, 3)

    begin_nBC, end_nBC = split(begin_BN), split(end_BN)
    # Blocks [from, to) that some slot of the chunk sees, in any row.
    sees_nBC = end_nBC > begin_nBC
    to_n = -(-jnp.where(sees_nBC, end_nBC, 0).max(axis=(1, 2)) // BLOCK)
    from_n = jnp.minimum(jnp.where(sees_nBC, begin_nBC, commits).min(axis=(1, 2)) // BLOCK, to_n)
    out_nBGRCK = _tiled(
        split(q_BNGRK).transpose(0, 1, 3, 4, 2, 5),
        blocks(k_BPGK),
        blocks(v_BPGK),
        split(own_k_BNGK).transpose(0, 1, 3, 2, 4),
        split(own_v_BNGK).transpose(0, 1, 3, 2, 4),
        (begin_nBC, end_nBC, from_n, to_n),
    )
    return out_nBGRCK.transpose(1, 0, 4, 2, 3, 5).reshape(rows, -1, heads, width)[:, :slots]


def dense(q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN) -> jax.Array:
    """`staircase` with all logits [N, P] at once."""
    q_BNGRK = q_BNHK.reshape(*q_BNHK.shape[:2], k_BPGK.shape[2], -1, q_BNHK.shape[3])
    scale = q_BNGRK.shape[-1] ** -0.5
    j_P = jnp.arange(k_BPGK.shape[1], dtype=jnp.int32)
    logits = jnp.einsum("bngrk,bpgk->bgrnp", q_BNGRK, k_BPGK, preferred_element_type=jnp.float32) * scale
    own = jnp.einsum("bngrk,bngk->bgrn", q_BNGRK, own_k_BNGK, preferred_element_type=jnp.float32) * scale
    see_BNP = (j_P >= begin_BN[..., None]) & (j_P < end_BN[..., None])
    logits = jnp.where(see_BNP[:, None, None], logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.maximum(logits.max(axis=-1), own))
    weights, own = jnp.exp(logits - top[..., None]), jnp.exp(own - top)
    total = weights.sum(axis=-1) + own
    # Rounded for the product alone; what is added up and divided stays float32, as in blocks.
    out = jnp.einsum("bgrnp,bpgk->bngrk", weights.astype(v_BPGK.dtype), v_BPGK, preferred_element_type=jnp.float32)
    out += jnp.einsum("bgrn,bngk->bngrk", own, own_v_BNGK.astype(jnp.float32))
    # Divided last: [N, K] is narrower than [N, P].
    out = out / jnp.einsum("bgrn->bngr", total)[..., None]
    return out.astype(v_BPGK.dtype).reshape(q_BNHK.shape)


def block_size(window: int, length: int) -> int:
    """Bytes of a block: with its predecessor it holds every window of its bytes."""
    return min(max(window, _SMALLEST_BLOCK), length)


def window(q_BLHK, k_BLHK, v_BLHK, start_BL, size: int) -> jax.Array:
    """`attention.window`, computed in blocks. Returns [B, L, H, K] in the dtype of v; softmax in float32."""
    rows, length, heads, width = q_BLHK.shape
    block = block_size(size, length)
    pad = -length % block
    blocks = (length + pad) // block

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(rows, blocks, block, *x.shape[2:])

    def with_previous(x):
        if blocks == 1:
            return x
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)) + ((0, 0),) * (x.ndim - 2))
        return jnp.concatenate([before, x], axis=2)

    q_BnCHK, k_BnTHK, v_BnTHK = split(q_BLHK), with_previous(split(k_BLHK)), with_previous(split(v_BLHK))
    n_nC1 = jnp.arange(length + pad, dtype=jnp.int32).reshape(blocks, block, 1)
    m_n1T = jnp.arange(k_BnTHK.shape[2], dtype=jnp.int32) + (jnp.arange(blocks) * block)[:, None, None]
    m_n1T -= k_BnTHK.shape[2] - block
    near_nCT = (m_n1T <= n_nC1) & (m_n1T > n_nC1 - size)
    see_BnCT = near_nCT & (m_n1T >= split(start_BL)[..., None])

    logits = jnp.einsum("bnchk,bnthk->bnhct", q_BnCHK, k_BnTHK, preferred_element_type=jnp.float32)
    logits = jnp.where(see_BnCT[:, :, None], logits * width**-0.5, -jnp.inf)
    # Every position sees itself, so no row of logits is empty; padding sees padding.
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BLHK.dtype)
    out = jnp.einsum("bnhct,bnthk->bnchk", weights, v_BnTHK)
    return out.reshape(rows, length + pad, heads, width)[:, :length]


def _logits(q_BGRCK, k_BGTK):
    product = jnp.einsum("bgrck,bgtk->bgrct", q_BGRCK, k_BGTK, preferred_element_type=jnp.float32)
    return product * q_BGRCK.shape[-1] ** -0.5


def _own(q_BGRCK, k_BGCK):
    """Product of each slot's query with a vector of its own, float32 [B, G, R, C]."""
    return jnp.einsum("bgrck,bgck->bgrc", q_BGRCK, k_BGCK, preferred_element_type=jnp.float32)


def _block(x_BGPK, j):
    return jax.lax.dynamic_slice_in_dim(x_BGPK, j * BLOCK, BLOCK, 2)


def _seen(logits, begin_BC, end_BC, j):
    p_T = j * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    see_BCT = (p_T >= begin_BC[..., None]) & (p_T < end_BC[..., None])
    return jnp.where(see_BCT[:, None, None], logits, -jnp.inf)


@jax.custom_vjp
def _tiled(q, k, v, own_k, own_v, ranges):
    """Chunks of queries against blocks of commits, softmax carried along (arXiv 2205.14135).

    What is kept for the backward pass grows with N alone: the result and the log-sum-exp. A block that is left out, or
    masked for a slot, changes no bit of what the slot gets.

    Args:
      q: [n, B, G, R, C, K]. k, v: [B, G, P, K]. own_k, own_v: [n, B, G, C, K].
      ranges: begin and end, [n, B, C]; the blocks [from, to) that a chunk meets, [n].
    """
    return _forward(q, k, v, own_k, own_v, ranges)[0]


@precision.of_arguments
def _forward(q, k, v, own_k, own_v, ranges):
    # A column of ones adds up the weights in the order of the commits, as the
    # product does: where a document's commits stand in the row changes no bit.
    def with_one(x):
        return jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1)

    v_one = with_one(v)

    def chunk(xs):
        q, own_k, own_v, (begin_BC, end_BC, start, stop) = xs

        def body(j, carry):
            top, out = carry
            logits = _seen(_logits(q, _block(k, j)), begin_BC, end_BC, j)
            new = jnp.maximum(top, logits.max(axis=-1))
            weights, old = jnp.exp(logits - new[..., None]), jnp.exp(top - new)
            more = jnp.einsum(
                "bgrct,bgtk->bgrck", weights.astype(v.dtype), _block(v_one, j), preferred_element_type=jnp.float32
            )
            return new, out * old[..., None] + more

        # A slot always sees itself, so no maximum is -inf.
        top = _own(q, own_k) * q.shape[-1] ** -0.5
        out = jnp.broadcast_to(with_one(own_v)[:, :, None], (*top.shape, q.shape[-1] + 1)).astype(jnp.float32)
        top, out = jax.lax.fori_loop(start, stop, body, (top, out))
        total = out[..., -1]
        return (out[..., :-1] / total[..., None]).astype(v.dtype), top + jnp.log(total)

    out, normaliser = jax.lax.map(chunk, (q, own_k, own_v, ranges))
    return out, (q, k, v, own_k, own_v, ranges, out, normaliser)


@precision.of_arguments
def _backward(residuals, d_out):
    q, k, v, own_k, own_v, ranges, out, normaliser = residuals
    scale = q.shape[-1] ** -0.5

    def chunk(carry, xs):
        q, own_k, own_v, (begin_BC, end_BC, start, stop), out, normaliser, d_out = xs
        mean = jnp.einsum("bgrck,bgrck->bgrc", d_out, out, preferred_element_type=jnp.float32)
        own = jnp.exp(_own(q, own_k) * scale - normaliser)
        d_own = own * (_own(d_out, own_v) - mean) * scale
        # The narrow factor is turned around, never the [C, T] one.
        q_t, d_out_t = q.swapaxes(-1, -2), d_out.swapaxes(-1, -2)

        def body(j, carry):
            dq, dk, dv = carry
            weights = jnp.exp(_seen(_logits(q, _block(k, j)), begin_BC, end_BC, j) - normaliser[..., None])
            d_weights = jnp.einsum("bgrck,bgtk->bgrct", d_out, _block(v, j), preferred_element_type=jnp.float32)
            d_logits = (weights * (d_weights - mean[..., None]) * scale).astype(k.dtype)

            def add(total_BGKP, x_t, y):
                more = jnp.einsum("bgrkc,bgrct->bgkt", x_t, y.astype(x_t.dtype), preferred_element_type=jnp.float32)
                old = jax.lax.dynamic_slice_in_dim(total_BGKP, j * BLOCK, BLOCK, 3)
                return jax.lax.dynamic_update_slice_in_dim(total_BGKP, old + more, j * BLOCK, 3)

            dq += jnp.einsum("bgrct,bgtk->bgrck", d_logits, _block(k, j), preferred_element_type=jnp.float32)
            return dq, add(dk, q_t, d_logits), add(dv, d_out_t, weights)

        dq = d_own[..., None] * own_k[:, :, None]
        dq, *carry = jax.lax.fori_loop(start, stop, body, (dq, *carry))
        d_own_k = jnp.einsum("bgrc,bgrck->bgck", d_own, q)
        d_own_v = jnp.einsum("bgrc,bgrck->bgck", own, d_out)
        return tuple(carry), (dq.astype(q.dtype), d_own_k.astype(k.dtype), d_own_v.astype(v.dtype))

    zero_BGKP = jnp.zeros(k.swapaxes(-1, -2).shape, jnp.float32)
    (dk, dv), (dq, d_own_k, d_own_v) = jax.lax.scan(
        chunk, (zero_BGKP, zero_BGKP), (q, own_k, own_v, ranges, out, normaliser, d_out)
    )
    dk, dv = (d.swapaxes(-1, -2).astype(x.dtype) for d, x in ((dk, k), (dv, v)))
    return dq, dk, dv, d_own_k, d_own_v, None


_tiled.defvjp(_forward, _backward)
