"""What a scratchpad saves, measured: nats of the bytes that would read it, without any scratchpad minus with it.

Scratchpads never enter the cache and do not see each other, so one pass with a scratchpad at every H-th byte measures
all of them together, each over the H bytes until the next. (The decoder's windows let a byte notice scratchpads before
its own; that is not taken out.) The measurement reads the bytes that follow: it teaches causal triggers, and is itself
the `oracle`.

Legend: B rows, R measured rows, L byte positions, H bytes that a benefit is counted over, d byte width, M ages.
"""

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.model import predictors
from scratchpatch.model.heads import nats
from scratchpatch.patching import layout as layout_lib, scores
from scratchpatch.patching.layout import Layout

# The running sums of predictors forget so much in a step: they are of about the last thousand steps.
FORGOTTEN = 1e-3
# What predicts a benefit: the entropy itself, the head, the table with the entropy.
PREDICTORS = ("entropy", "learned", "score")


def measure(model, h_BLd, base: Layout, targets_BL, phase_B) -> tuple[jax.Array, jax.Array]:
    """The benefit of a scratchpad at every H-th byte of each row, in two passes.

    Args:
      model: a ByteLM; its pooling, trunk and decoder run.
      h_BLd: the encoder's states.
      base: any layout of the rows; its commits stay.
      targets_BL: int32, the token after each position; PAD where it is not known.
      phase_B: int32, scratchpads stand at positions n of a row with n mod H = phase.
    Returns:
      benefit_BL float32, nats; known_BL bool, where it was measured: nowhere at PAD and at commits.
    """
    stale_BL = _nats(model, h_BLd, layout_lib.with_scratchpads(model.config, base, None), targets_BL)
    return _against(model, h_BLd, base, targets_BL, phase_B, stale_BL)


def measure_all(model, h_BLd, base: Layout, targets_BL) -> jax.Array:
    """float32 [B, L], nats: the benefit of a scratchpad at every byte, in H + 1 passes; 0 at PAD and at commits."""
    stale_BL = _nats(model, h_BLd, layout_lib.with_scratchpads(model.config, base, None), targets_BL)

    def of_phase(phase):
        phase_B = jnp.full(h_BLd.shape[:1], phase, jnp.int32)
        benefit_BL, known_BL = _against(model, h_BLd, base, targets_BL, phase_B, stale_BL)
        return jnp.where(known_BL, benefit_BL, 0.0)

    return sum(of_phase(phase) for phase in range(model.config.model.benefit.horizon))


def _against(model, h_BLd, base: Layout, targets_BL, phase_B, stale_BL):
    horizon, length = model.config.model.benefit.horizon, targets_BL.shape[1]
    n_L = jnp.arange(length, dtype=jnp.int32)
    known_BL = (n_L % horizon == phase_B[:, None]) & base.rows.valid_BL & ~base.commit_BL
    fresh_BL = _nats(model, h_BLd, layout_lib.with_scratchpads(model.config, base, known_BL), targets_BL)
    # A byte that commits reads its commit, whatever came before it.
    saved_BL = jnp.where(base.commit_BL, 0.0, stale_BL - fresh_BL)

    def later(x_BL, places: int, fill):
        return jnp.pad(x_BL[:, places:], ((0, 0), (0, places)), constant_values=fill)

    benefit_BL = jnp.zeros_like(saved_BL)
    for places in range(min(horizon, length)):
        in_patch_BL = later(base.patch_start_BL, places, -1) == base.patch_start_BL
        benefit_BL += jnp.where(in_patch_BL, later(saved_BL, places, 0.0), 0.0)
    return benefit_BL, known_BL


def _nats(model, h_BLd, layout: Layout, targets_BL) -> jax.Array:
    z_BND = model.trunk(model.pooling(h_BLd, layout), layout)
    return nats(model.decoder(h_BLd, z_BND, layout), targets_BL, layout.rows.vocabulary)


def learn(model, output, targets_BL) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Measure on a share of the rows, and compare what was predicted.

    Args:
      model: a ByteLM whose parameters have no gradient.
      output: of the rows [B, L]; the head's predictions have gradients.
    Returns:
      The squared errors of the head in nats², added up (0 without a head); and sums, see `loss.sums`:
      benefit_count, benefit, benefit_squares: of what was measured, nats;
      for PREDICTORS, those that the model has: NAME_sum, NAME_squares, and NAME_products with the
      measured;
      benefit_pairs: float32 [2, K], how many were measured after each pair of bytes, and their nats.
    """
    index_R, counts_R = _sampled(targets_BL.shape[0], model.config.model.benefit.share)

    def sampled(tree):
        return jax.tree.map(lambda x: x[index_R], tree)

    base, h_RLd = jax.lax.stop_gradient(sampled((output.layout, output.hidden_BLd)))
    rows, targets_RL = base.rows, sampled(targets_BL)
    # Any phase will do, if it is the same wherever the row is computed.
    phase_R = jnp.where(rows.valid_BL, rows.tokens_BL, 0).sum(axis=1) % model.config.model.benefit.horizon
    measured_RL, known_RL = jax.lax.stop_gradient(model.measure(h_RLd, base, targets_RL, phase_R))
    known_RL &= counts_R[:, None]
    total = {"benefit_count": known_RL.sum(dtype=jnp.float32)}

    def add(x_RL):
        return jnp.where(known_RL, x_RL, 0.0).sum()

    total |= {"benefit": add(measured_RL), "benefit_squares": add(measured_RL**2)}
    entropy_RL = jax.lax.stop_gradient(sampled(output.entropy_BL))
    predicted, error = {"entropy": entropy_RL}, jnp.float32(0)
    if model.benefit_head is not None:
        n_L = jnp.arange(targets_BL.shape[1], dtype=jnp.int32)
        age_RL = scores.age(n_L - base.patch_start_BL + 1)
        own_RL = jnp.take_along_axis(sampled(output.predicted_BLM), age_RL[..., None], axis=-1)[..., 0]
        error = add((own_RL - measured_RL) ** 2)
        predicted["learned"] = jax.lax.stop_gradient(own_RL)
    if model.dependence is not None:
        before_RL = rows.previous(rows.tokens_BL, rows.tokens_BL)
        weight = model.config.trigger.dependence
        predicted["score"] = model.dependence.score(weight, entropy_RL, rows.tokens_BL, before_RL)
        pair_RL = predictors.pair(rows.tokens_BL, before_RL)
        both_2RL = jnp.stack([known_RL.astype(jnp.float32), jnp.where(known_RL, measured_RL, 0.0)])
        zeros_2K = jnp.zeros((2, predictors.PAIRS), jnp.float32)
        total["benefit_pairs"] = zeros_2K.at[:, pair_RL].add(both_2RL)
    for name, x_RL in predicted.items():
        total |= {f"{name}_sum": add(x_RL), f"{name}_squares": add(x_RL**2)}
        total[f"{name}_products"] = add(x_RL * measured_RL)
    return error, total


def carried(statistics: dict, total: dict[str, jax.Array]) -> dict:
    """The predictors' running sums after a step with these sums."""

    def moments(name: str):
        return jnp.stack([total["benefit_count"], total[f"{name}_sum"], total[f"{name}_squares"]])

    new = {}
    if "benefit_head" in statistics:
        new["benefit_head"] = {"moments": moments("learned")}
    if "dependence" in statistics:
        count_K, nats_K = total["benefit_pairs"]
        new["dependence"] = {"count": count_K, "nats": nats_K, "entropy": moments("entropy")}
    return jax.tree.map(lambda old, x: (1 - FORGOTTEN) * old + x, statistics, new)


def correlation(sums: dict[str, float], name: str) -> float:
    """Of a predictor with what was measured, from the sums of `learn`; NaN where one of them does not vary."""
    count = sums["benefit_count"]
    if not count:
        return float("nan")
    x, y = sums[f"{name}_sum"] / count, sums["benefit"] / count
    covariance = sums[f"{name}_products"] / count - x * y
    variances = [sums[f"{name}_squares"] / count - x * x, sums["benefit_squares"] / count - y * y]
    return covariance / (variances[0] * variances[1]) ** 0.5 if min(variances) > 0 else float("nan")


def _sampled(rows: int, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Which rows are measured: every n-th, the same on every mesh; and, to fill up the devices, some that do not count.

    Returns:
      index int [R]; counts bool [R].
    """
    index = np.arange(0, rows, max(int(1 / share), 1))
    missing = -len(index) % mesh_lib.row_shares(sharding.spread_mesh())
    return np.pad(index, (0, missing)), np.arange(len(index) + missing) < len(index)
