import jax
import jax.numpy as jnp

from scratchpatch.bench.subject import nothing_cached


def test_inside_nothing_is_read_from_the_cache(tmp_path):
    """A program that the cache holds is compiled anew, and not stored."""
    folder = jax.config.jax_compilation_cache_dir
    files = lambda: sorted(p.name for p in tmp_path.iterdir())  # noqa: E731
    from jax.experimental.compilation_cache import compilation_cache as jax_cache

    jax_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with nothing_cached():
            jax.jit(lambda x: x * 3.25).lower(jnp.ones(3)).compile()
        assert not files()
        jax.jit(lambda x: x * 4.25).lower(jnp.ones(3)).compile()
        assert files()
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax_cache.reset_cache()
