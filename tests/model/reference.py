"""The whole model again, in NumPy and float64, one document and one slot at a time.

It takes the parameters and the masks and shares no code with the package: no
padding, no blocks, no scan, no static slots; attention is a dense softmax over
what the rule of slots (BUILD.md, One idea) says a position sees; an n-gram's hash is a whole number of
any size.
"""

import numpy as np

from scratchpatch import config as config_lib
from tests.tiny import BOS

# Bases of the n-grams' hash functions, by number (BLT's code).
PRIMES = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)


def ngram_row(tokens, at: int, n: int, prime: int, table: int) -> int:
    """The table row of the n-gram that ends at `at` of a document: its hash in 64-bit two's complement, floor modulus.

    Ids are BLT's: byte b is b + 4, BOS 1, PAD and what lies left of the document 0.
    """
    total = 0
    for power, n_th in enumerate(range(at - n + 1, at + 1)):
        token = tokens[n_th] if n_th >= 0 else None
        total += (0 if token is None or token > BOS else 1 if token == BOS else int(token) + 4) * prime**power
    total %= 2**64
    return (total - 2**64 if total >= 2**63 else total) % table


def _kernel(tree):
    return np.asarray(tree["kernel"], np.float64)


def norm(x, tree, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * np.asarray(tree["scale"], np.float64)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def entropy(logits):
    """Nats."""
    p = softmax(logits)
    return -(p * np.log(np.maximum(p, 1e-300))).sum(-1)


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


def block(x, tree, position_T, see_TT, heads, theta, eps):
    """Pre-norm transformer block over the positions that `see_TT` allows."""
    y, a = norm(x, tree["attention_norm"], eps), tree["attention"]
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
    y, f = norm(x, tree["ffn_norm"], eps), tree["ffn"]
    gate = y @ _kernel(f["gate"])
    return x + (gate / (1 + np.exp(-gate)) * (y @ _kernel(f["up"]))) @ _kernel(f["down"])


def _window(length, window):
    n = np.arange(length)
    return (n <= n[:, None]) & (n > n[:, None] - window)


def local(x, stack, heads, window, theta, eps, before=lambda x, tree: x, segment=None):
    """Window layers; `before` runs ahead of each; positions of other segments (numbers by position) are not seen."""
    segment = np.zeros(len(x)) if segment is None else segment
    see_TT = _window(len(x), window) & (segment[:, None] == segment)
    for i in range(depth(stack)):
        tree = layer(next(iter(stack.values())), i)
        x = before(x, tree)
        tree = tree.get("block", tree)
        x = block(x, tree, np.arange(len(x)), see_TT, heads, theta, eps)
    return x


def read(q, k, v, heads):
    """Attention of queries [..., c, d] over [..., m, d], without mask or position."""

    def split(x):
        return x.reshape(*x.shape[:-1], heads, -1)

    q, k, v = split(q), split(k), split(v)
    weights = softmax(np.einsum("...chk,...mhk->...hcm", q, k) * q.shape[-1] ** -0.5)
    out = np.einsum("...hcm,...mhk->...chk", weights, v)
    return out.reshape(*out.shape[:-2], -1)


class Reference:
    """Logits of one document given its masks; see the class docstrings of the model for the rules."""

    def __init__(self, config, weights):
        self.config, self.m, self.params = config, config.model, weights["params"]
        self.frozen = weights.get("frozen", {})

    def norm(self, x, tree):
        return norm(x, tree, self.m.norm_eps)

    def local(self, x, stack, tier, before=lambda x, tree: x, segment=None):
        return local(x, stack, tier.heads, tier.window, self.m.rope_theta, self.m.norm_eps, before, segment)

    def logits(self, x, tree, eps):
        out = norm(x, tree["norm"], eps) @ _kernel(tree["projection"])
        return np.where(np.arange(out.shape[-1]) < self.m.target_rows, out, -1e30)

    def embed(self, tokens):
        """Bytes and their n-grams: one table per hash function and size, one behind the other."""
        e, tree = self.m.encoder, self.params["encoder"]
        x = np.asarray(tree["embedding"]["embedding"], np.float64)[tokens]
        kinds = [(prime, n) for prime in PRIMES[: e.ngram_functions] for n in e.ngrams]
        for k, (prime, n) in enumerate(kinds):
            table = np.asarray(tree["ngrams"]["embedding"]["embedding"], np.float64)[k * e.ngram_rows :]
            x = x + table[[ngram_row(tokens, at, n, prime, e.ngram_rows) for at in range(len(tokens))]]
        return x

    def pool(self, h, start, end):
        """The vector of a slot that stands at `end` in the patch that began at `start`."""
        p, tree = self.m.pooling, self.params["pooling"]
        # Of a patch that the budget let grow beyond the limit, its last bytes are read.
        patch = slice(max(start, end + 1 - config_lib.patch_limit(self.config)), end + 1)
        raw, h = h, self.norm(h, tree["norm"])
        inside = h[patch]
        if p.kind == "max_query":
            query = (raw[patch].max(0) @ _kernel(tree["queries"])).reshape(p.queries, -1)
            normed = self.norm(query, tree["query_norm"])
            q, k, v = (x @ _kernel(tree[n]) for x, n in ((normed, "q"), (inside, "k"), (inside, "v")))
            pooled = (self.m.cross_residual * query + read(q, k, v, p.heads) @ _kernel(tree["o"])).reshape(-1)
        elif p.kind == "last" or self.config.patching.kind == "byte":
            pooled = h[end]
        elif p.kind == "concat":
            places = config_lib.patch_limit(self.config)
            pooled = np.concatenate([*inside[::-1], *np.zeros((places - len(inside), h.shape[-1]))], axis=None)
        elif p.kind == "gaussian":
            age = np.arange(len(inside))[::-1] - (len(inside) - 1) / 2 - np.asarray(tree["shift"])
            weight = np.exp(-0.5 * (age / np.exp(np.asarray(tree["log_width"]))) ** 2)
            pooled = weight @ inside / weight.sum()
        else:
            pooled = inside.mean(0)
            if p.kind == "cross_attention":
                q, k, v = (x @ _kernel(tree[n]) for x, n in ((pooled[None], "q"), (inside, "k"), (inside, "v")))
                pooled = pooled + read(q, k, v, p.heads)[0] @ _kernel(tree["o"])
        # Queries that fill the trunk's width go there as they are.
        fills = p.kind == "max_query" and len(pooled) == self.m.trunk.d_model
        x = pooled if fills else pooled @ _kernel(tree["projection"])
        return x + h[end] @ _kernel(tree["last"]) if p.last_state else x

    def trunk(self, x, is_commit):
        """Slots in byte order: each sees the commits before it, and itself."""
        t, tree = self.m.trunk, self.params["trunk"]
        before = np.cumsum(is_commit) - is_commit
        i = np.arange(len(x))
        see = (is_commit[None, :] & (i[None, :] < i[:, None])) | np.eye(len(x), dtype=bool)
        for n in range(t.layers):
            x = block(x, layer(tree["stack"]["block"], n), before, see, t.heads, self.m.rope_theta, self.m.norm_eps)
        return self.norm(x, tree["norm"]) if t.final_norm else x

    def boundaries(self, h):
        """H-Net's router: (1 - cos(Wq h_n, Wk h_n-1)) / 2, and 1 at the first byte."""
        q, k = (h @ _kernel(self.params["router"][name]) for name in ("q", "k"))
        p = [1.0]
        for n in range(1, len(h)):
            p.append((1 - q[n] @ k[n - 1] / np.sqrt(q[n] @ q[n]) / np.sqrt(k[n - 1] @ k[n - 1])) / 2)
        return np.clip(p, 0.0, 1.0)

    def cross(self, x, tree, context, trust):
        """Each byte reads the vectors of its context slot, context [L, k, d], their values times `trust`."""
        c = self.norm(context, tree["context_norm"])
        q = (self.norm(x, tree["norm"]) @ _kernel(tree["q"]))[:, None]
        values = c @ _kernel(tree["v"]) * trust[:, None, None]
        out = read(q, c @ _kernel(tree["k"]), values, self.m.decoder.heads)[:, 0]
        return self.m.cross_residual * x + out @ _kernel(tree["o"])

    def separate_entropy(self, tokens):
        """Nats, of the frozen byte model."""
        e, tree = self.m.entropy_model, self.frozen["entropy_model"]
        x = np.asarray(tree["encoder"]["embedding"]["embedding"], np.float64)[tokens]
        x = local(x, tree["encoder"]["layers"]["stack"], e.heads, e.window, e.rope_theta, e.norm_eps)
        return entropy(self.logits(x, tree["decoder"]["logits"], e.norm_eps))

    def context(self, h, commit, scratchpad, p):
        """What each byte reads of the trunk, projected; p: the boundaries' probabilities, if patches are learned."""
        at_slot = self.m.decoder.injection == "at_slot"
        null = np.zeros(self.m.trunk.d_model) if at_slot else np.asarray(self.params["decoder"]["null"], np.float64)
        ends = np.flatnonzero(commit | scratchpad)
        starts = [max((c + 1 for c in np.flatnonzero(commit) if c < end), default=0) for end in ends]
        z = np.zeros((0, len(null)))
        if len(ends):
            z = self.trunk(np.stack([self.pool(h, a, b) for a, b in zip(starts, ends, strict=True)]), commit[ends])
        latest = [(ends <= n).sum() - 1 if not at_slot or n in ends else -1 for n in range(len(h))]
        kernel = _kernel(self.params["decoder"]["context"])
        slots, null = list(z @ kernel), null @ kernel
        if self.m.smoothing:
            before = null
            for i in np.flatnonzero(commit[ends]):
                weight = min(max(p[ends[i]], 1e-4), 1 - 1e-4)
                slots[i] = before = weight * slots[i] + (1 - weight) * before
        return np.stack([slots[i] if i >= 0 else null for i in latest])

    def document(self, tokens, commit, scratchpad, trusted=None):
        """(logits, entropy head's logits or None, entropies that decisions read or None), float64 [length, ...].

        trusted: the confidences at which bytes of learned patches read their contexts as they are; None: those that are
        computed. What is linear in a confidence and 1 at this one has the straight-through gradient.
        """
        return self.of_states(self.states(tokens), tokens, commit, scratchpad, trusted)

    def states(self, tokens):
        """Of the encoder."""
        stack = self.params["encoder"].get("layers", {}).get("stack", {})
        return self.local(self.embed(tokens), stack, self.m.encoder)

    def confidence(self, boundaries, commit):
        """Of what was decided of each byte; 1 where no router decided."""
        return np.ones(len(commit)) if boundaries is None else np.where(commit, boundaries, 1 - boundaries)

    def of_states(self, h, tokens, commit, scratchpad, trusted):
        """See `document`."""
        m, p = self.m, self.params
        d, head, nats = p["decoder"], None, None
        stack = d.get("stack", {})
        if m.trunk.kind == "none":
            logits = self.logits(self.local(h, stack.get("stack", {}), m.decoder), d["logits"], m.norm_eps)
            return logits, None, entropy(logits)
        if "entropy_head" in p:
            tree = p["entropy_head"]
            x = self.local(h, tree.get("layers", {}).get("stack", {}), m.encoder)
            head = self.logits(x, tree["logits"], m.norm_eps)
            nats = entropy(head)
        if m.entropy_model.layers:
            nats = self.separate_entropy(tokens)

        boundaries = self.boundaries(h) if "router" in p else None
        confidence = self.confidence(boundaries, commit)
        trust = 1 + confidence - (confidence if trusted is None else trusted)
        context = self.context(h, commit, scratchpad, boundaries)
        # A segment begins with the byte that commits.
        segment = np.cumsum(commit) if m.decoder.scope == "patch" else None
        if m.decoder.injection == "cross_attention":
            context = context.reshape(len(tokens), m.decoder.context_vectors, -1)
            x = self.local(h, stack, m.decoder, lambda x, tree: self.cross(x, tree["cross"], context, trust), segment)
        else:
            own = h if m.decoder.residual == "identity" else h @ _kernel(d["residual"])
            x = self.local(own + context * trust[:, None], stack.get("stack", {}), m.decoder, segment=segment)
        return self.logits(x, d["logits"], m.norm_eps), head, nats
