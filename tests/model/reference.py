"""The whole model again, in NumPy and float64, one document and one slot at a time.

It takes the parameters and the masks and shares no code with the package: no
padding, no blocks, no scan, no static slots; attention is a dense softmax over
what DESIGN 2 and 3 say a position sees.
"""

import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.vocabulary import BOS


def _kernel(tree):
    return np.asarray(tree["kernel"], np.float64)


def norm(x, tree):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * np.asarray(tree["scale"], np.float64)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def rope(x_THK, position_T, theta):
    half = x_THK.shape[-1] // 2
    turn = np.exp(1j * np.asarray(position_T)[:, None, None] * theta ** (-np.arange(half) / half))
    z = (x_THK[..., :half] + 1j * x_THK[..., half:]) * turn
    return np.concatenate([z.real, z.imag], axis=-1)


def layer(stack, i):
    """Parameters of layer i of a stack."""
    return {k: layer(v, i) if isinstance(v, dict) else np.asarray(v)[i] for k, v in stack.items()}


def depth(stack) -> int:
    """Layers of a stack; one without layers has no parameters."""
    while isinstance(stack, dict):
        stack = next(iter(stack.values()), np.zeros(0))
    return len(stack)


def block(x, tree, position_T, see_TT, heads, theta):
    """Pre-norm transformer block over the positions that `see_TT` allows."""
    y, a = norm(x, tree["attention_norm"]), tree["attention"]
    width = x.shape[-1] // heads
    q = rope((y @ _kernel(a["q"])).reshape(len(x), heads, width), position_T, theta)
    k = rope((y @ _kernel(a["k"])).reshape(len(x), -1, width), position_T, theta)
    v = (y @ _kernel(a["v"])).reshape(len(x), -1, width)
    out = np.zeros_like(q)
    for h in range(heads):
        g = h * k.shape[1] // heads
        logits = np.where(see_TT, q[:, h] @ k[:, g].T * width**-0.5, -np.inf)
        out[:, h] = softmax(logits) @ v[:, g]
    x = x + out.reshape(x.shape) @ _kernel(a["o"])
    y, f = norm(x, tree["ffn_norm"]), tree["ffn"]
    gate = y @ _kernel(f["gate"])
    return x + (gate / (1 + np.exp(-gate)) * (y @ _kernel(f["up"]))) @ _kernel(f["down"])


def _window(length, window):
    n = np.arange(length)
    return (n <= n[:, None]) & (n > n[:, None] - window)


class Reference:
    """Logits of one document given its masks; see the class docstrings of the model for the rules."""

    def __init__(self, config, params):
        self.config, self.params, self.m = config, params, config.model

    def local(self, x, stack, heads, window, before=lambda x, tree: x):
        """Window layers; `before` runs ahead of each."""
        for i in range(depth(stack)):
            tree = layer(next(iter(stack.values())), i)
            x = before(x, tree)
            tree = tree.get("block", tree)
            x = block(x, tree, np.arange(len(x)), _window(len(x), window), heads, self.m.rope_theta)
        return x

    def logits(self, x, tree):
        out = norm(x, tree["norm"]) @ _kernel(tree["projection"])
        return np.where(np.arange(out.shape[-1]) <= BOS, out, -1e30)

    def pool(self, h, start, end):
        """The vector of a slot that stands at `end` in the patch that began at `start`."""
        p, tree = self.m.pooling, self.params["pooling"]
        h = norm(h, tree["norm"])
        # Of a patch that the budget let grow beyond the limit, its last bytes are read.
        inside = h[max(start, end + 1 - config_lib.patch_limit(self.config)) : end + 1]
        query = pooled = inside.mean(0)
        if p.kind == "last" or self.config.patching.kind == "byte":
            pooled = h[end]
        elif p.kind == "cross_attention":
            split = lambda x: x.reshape(*x.shape[:-1], p.heads, -1)  # noqa: E731
            q, k, v = (split(x @ _kernel(tree[n])) for x, n in ((query, "q"), (inside, "k"), (inside, "v")))
            weights = softmax(np.einsum("hk,mhk->hm", q, k) * q.shape[-1] ** -0.5)
            pooled = query + np.einsum("hm,mhk->hk", weights, v).reshape(-1) @ _kernel(tree["o"])
        x = pooled @ _kernel(tree["projection"])
        return x + h[end] @ _kernel(tree["last"]) if p.last_state else x

    def trunk(self, x, is_commit):
        """Slots in byte order: each sees the commits before it, and itself."""
        t, tree = self.m.trunk, self.params["trunk"]
        before = np.cumsum(is_commit) - is_commit
        i = np.arange(len(x))
        see = (is_commit[None, :] & (i[None, :] < i[:, None])) | np.eye(len(x), dtype=bool)
        for n in range(t.layers):
            x = block(x, layer(tree["stack"]["block"], n), before, see, t.heads, self.m.rope_theta)
        return norm(x, tree["norm"])

    def cross(self, x, tree, context):
        """Each byte reads the vectors of its context slot, context [L, k, d]."""
        split = lambda y: y.reshape(*y.shape[:-1], self.m.decoder.heads, -1)  # noqa: E731
        c = norm(context, tree["context_norm"])
        q, k, v = (
            split(norm(x, tree["norm"]) @ _kernel(tree["q"])),
            split(c @ _kernel(tree["k"])),
            split(c @ _kernel(tree["v"])),
        )
        weights = softmax(np.einsum("lhk,lchk->lhc", q, k) * q.shape[-1] ** -0.5)
        return x + np.einsum("lhc,lchk->lhk", weights, v).reshape(x.shape) @ _kernel(tree["o"])

    def document(self, tokens, commit, scratchpad):
        """(logits, entropy head's logits or None), float64 [length, V]."""
        m, p = self.m, self.params
        x = np.asarray(p["encoder"]["embedding"]["embedding"], np.float64)[tokens]
        h = self.local(x, p["encoder"].get("layers", {}).get("stack", {}), m.encoder.heads, m.encoder.window)
        head = None
        if "entropy_head" in p:
            tree = p["entropy_head"]
            stack = tree.get("layers", {}).get("stack", {})
            head = self.logits(self.local(h, stack, m.encoder.heads, m.encoder.window), tree["logits"])

        ends = np.flatnonzero(commit | scratchpad)
        starts = [max((c + 1 for c in np.flatnonzero(commit) if c < end), default=0) for end in ends]
        null = np.asarray(p["decoder"]["null"], np.float64)
        z = np.zeros((0, len(null)))
        if len(ends):
            z = self.trunk(np.stack([self.pool(h, a, b) for a, b in zip(starts, ends, strict=True)]), commit[ends])
        latest = [(ends <= n).sum() - 1 for n in range(len(tokens))]
        context = np.stack([z[i] if i >= 0 else null for i in latest]) @ _kernel(p["decoder"]["context"])

        d = p["decoder"]
        stack = d.get("stack", {})
        if m.decoder.injection == "add":
            x = self.local(h + context, stack.get("stack", {}), m.decoder.heads, m.decoder.window)
        else:
            context = context.reshape(len(tokens), m.decoder.context_vectors, -1)
            before = lambda x, tree: self.cross(x, tree["cross"], context)  # noqa: E731
            x = self.local(h, stack, m.decoder.heads, m.decoder.window, before)
        return self.logits(x, d["logits"]), head
