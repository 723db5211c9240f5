"""AdamW with warm-up, cosine decay and clipping."""

import jax
import optax


def schedule(config) -> optax.Schedule:
    """Learning rate by step: linear warm-up to the peak, cosine to `final_ratio` of it."""
    o, steps = config.optimizer, config.training.steps
    warmup = min(o.warmup_steps, steps)
    return optax.warmup_cosine_decay_schedule(
        init_value=o.learning_rate / max(warmup, 1),
        peak_value=o.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=o.learning_rate * o.final_ratio,
    )


def decayed(params):
    """True for the matrices of projections: norms, embeddings and the null context have no decay."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def make(config) -> optax.GradientTransformation:
    """AdamW (arXiv 1711.05101) after clipping by the global norm."""
    o = config.optimizer
    return optax.chain(
        optax.clip_by_global_norm(o.clip_norm) if o.clip_norm else optax.identity(),
        optax.adamw(schedule(config), o.b1, o.b2, o.eps, weight_decay=o.weight_decay, mask=decayed),
    )
