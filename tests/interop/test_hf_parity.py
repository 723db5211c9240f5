"""Our BLT against transformers' own, in float32."""

import importlib.util
import json

import jax
import numpy as np
import pytest

from scratchpatch.inference.loading import load_hf_blt
from scratchpatch.model import encoder, weights as weights_lib
from tests import tiny
from tests.interop import folders, theirs

missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
# By our row: the bytes, the document's end, and their other special ids.
IDS_V = np.array([*range(4, 260), 2, 0, 1, 3])


def ours(folder, threshold: float, seed: int, length: int = 100):
    """(tokens [B, L], Output) of the loaded checkpoint."""
    lm = load_hf_blt(folder, window=max(length, 128), max_patch_bytes=128).override({"patching.threshold": threshold})
    definition, _ = weights_lib.abstract(lm.config)
    tokens_BL = folders.documents(2, length, seed)
    return tokens_BL, jax.jit(lambda w, t: weights_lib.merge(definition, w)(t))(lm.weights, tokens_BL)


def compare(folder, config, seed: int, length: int = 100):
    """Check patches, entropies and logits of a checkpoint; returns the tokens [B, L] of the documents."""
    said = theirs.run(folder, config, seed, length)
    tokens_BL, output = ours(folder, said["threshold"], seed, length)
    # The angles of RoPE are rounded in proportion to the position.
    np.testing.assert_allclose(output.entropy_BL, said["entropy"], atol=2e-5 * max(length / 100, 1))
    same_BL = check_patches(config, said, output)
    np.testing.assert_allclose(output.logits_BLV[..., :260][same_BL], said["logits"][same_BL][..., IDS_V], atol=1e-4)
    return tokens_BL


def check_patches(config, said, output) -> np.ndarray:
    """Patches are equal; returns bool [B, L], where both decoders read the same patch."""
    same_BL = np.ones(output.layout.commit_BL.shape, bool)
    length = same_BL.shape[1]
    limited = config.get("max_patch_length") is not None
    for row, (commit_L, lengths_P) in enumerate(zip(np.asarray(output.layout.commit_BL), said["lengths"], strict=True)):
        # Theirs are for bytes that are there: the last one's own patch is open. (In a
        # batch, a row of fewer patches ends in one that is a byte too long, and one of -1.)
        ends = np.cumsum([n for n in lengths_P if n > 0])
        assert (np.flatnonzero(commit_L[:-1]) + 1).tolist() == ends[ends < length].tolist()
        assert commit_L[-1] == (said["entropy"][row][-1] > said["threshold"]) or limited
        # Under a greatest length, theirs leaves the last byte's patch open until there is a
        # next byte, even where that is sure to start a patch; ours does not wait.
        same_BL[row, -1] = not (limited and commit_L[-1])
    return same_BL


needs_peer = pytest.mark.skipif(
    bool(missing), reason=f"{' and '.join(missing)} not installed: bash launch/setup.sh peer runs all of the parity"
)


@needs_peer
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", theirs.VARIANTS)
def test_patches_hashes_and_logits(tmp_path, name, seed):
    import torch
    from transformers.models.blt import modeling_blt

    config = folders.settings(**theirs.VARIANTS[name])
    folders.write(tmp_path, config, seed)
    tokens_BL = compare(tmp_path, config, seed)
    rows = tiny.rows(tokens_BL)
    ids_BL = torch.as_tensor(np.asarray(encoder.blt_ids(rows)).astype(int))
    table = config["encoder_hash_byte_group_vocab"]
    for n in config["encoder_hash_byte_group_size"]:
        for prime in encoder.PRIMES[: config["encoder_hash_byte_group_nb_functions"]]:
            wanted = modeling_blt.byte_group_hash_function(ids_BL, n, prime, table)
            assert np.array_equal(encoder.table_rows(rows, n, prime, table), wanted)


@needs_peer
@pytest.mark.parametrize("window, length", [(1, 40), (2, 40), (20, 60), ("left out", 540)])
def test_rows_longer_than_the_local_window(tmp_path, window, length):
    config = folders.settings(local_attention_window_len=window)
    if window == "left out":
        del config["local_attention_window_len"]
    folders.write(tmp_path, config)
    compare(tmp_path, config, 0, length)


@needs_peer
def test_a_decoder_of_one_layer_reads_its_context_once(tmp_path):
    config = folders.settings()
    config["decoder_config"] |= {"num_hidden_layers": 1, "cross_attn_all_layers": False}
    folders.write(tmp_path, config)
    compare(tmp_path, config, 0)


@pytest.mark.parametrize("name", theirs.KEPT)
def test_patches_and_logits_that_transformers_once_gave(tmp_path, name):
    config, said = folders.settings(**theirs.VARIANTS[name]), json.loads(theirs.GOLDEN.read_text())[name]
    folders.write(tmp_path, config, 0)
    _, output = ours(tmp_path, said["threshold"], 0)
    np.testing.assert_allclose(output.entropy_BL, said["entropy"], atol=2e-5)
    check_patches(config, said, output)
    rows = [int(np.flatnonzero(IDS_V == i)[0]) for i in theirs.IDS]
    logits = np.asarray(output.logits_BLV)[:, theirs.POSITIONS][..., rows]
    np.testing.assert_allclose(logits, said["logits"], atol=1e-4)
