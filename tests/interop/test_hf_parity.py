"""Our BLT against transformers' own, in float32. Runs where the extra `peer` is installed."""

import importlib.util

import jax
import numpy as np
import pytest

from scratchpatch.interop.hf_blt import load_hf_blt
from scratchpatch.model import ngrams
from scratchpatch.model import weights as weights_lib
from scratchpatch.patching import documents as documents_lib
from tests.interop import folders

missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
pytestmark = pytest.mark.skipif(
    bool(missing), reason=f"{' and '.join(missing)} not installed: bash launch/setup.sh peer runs the parity with transformers"
)

VARIANTS = {
    "k2": {},
    "k1": {"k": 1},
    "all layers": {"all_layers": True},
    "3 functions": {"functions": 3},
    "short patches": {"max_patch_length": 5},
    "projected": {"wide": True},
    "whole window": {"local_attention_window_len": None},
    "large tables": {"encoder_hash_byte_group_vocab": 500002, "encoder_hash_byte_group_size": [3, 8]},
}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", VARIANTS)
def test_patches_hashes_and_logits(tmp_path, name, seed):
    import torch
    import transformers
    from transformers.models.blt import modeling_blt

    config = folders.settings(**VARIANTS[name])
    folders.write(tmp_path, config, seed)
    theirs = transformers.BltForCausalLM.from_pretrained(tmp_path, attn_implementation="eager").eval()
    tokens_BL = folders.documents(2, 100, seed)
    ids_BL = torch.as_tensor(np.where(tokens_BL < 256, tokens_BL + 4, 1)).long()
    with torch.no_grad():
        entropy_BL, _, _ = theirs.model.patcher(ids_BL, patch_size=4, threshold=0.0)
        # A threshold amid the entropies, in the widest gap, so that no rounding decides.
        ordered = np.sort(entropy_BL.numpy().ravel())
        middle = ordered[len(ordered) // 2 : len(ordered) * 4 // 5]
        at = int(np.diff(middle).argmax())
        threshold = float((middle[at] + middle[at + 1]) / 2)
        theirs.config.patching_threshold = threshold
        _, lengths_BP, _ = theirs.model.patcher(
            ids_BL, patch_size=4, threshold=threshold, max_patch_length=config.get("max_patch_length")
        )
        logits_BLV = theirs(input_ids=ids_BL, use_cache=False).logits.numpy()

    lm = load_hf_blt(tmp_path, window=128, max_patch_bytes=128).override({"patching.threshold": threshold})
    definition, _ = weights_lib.abstract(lm.config)
    output = jax.jit(lambda w, t: weights_lib.merge(definition, w)(t))(lm.weights, tokens_BL)
    np.testing.assert_allclose(output.entropy_BL, entropy_BL, atol=2e-5)
    length, same_L = tokens_BL.shape[1], []
    for commit_L, entropy_L, lengths_P in zip(
        np.asarray(output.layout.commit_BL), entropy_BL.numpy(), lengths_BP.numpy(), strict=True
    ):
        # Theirs are for bytes that are there: the last one's own patch is open. (In a
        # batch, a row of fewer patches ends in one that is a byte too long, and one of -1.)
        ends = np.cumsum(lengths_P[lengths_P > 0])
        assert (np.flatnonzero(commit_L[:-1]) + 1).tolist() == ends[ends < length].tolist()
        limited = config.get("max_patch_length") is not None
        assert commit_L[-1] == (entropy_L[-1] > threshold) or limited
        same_L.append([True] * (length - 1) + [not (limited and commit_L[-1])])
    # Under a greatest length, theirs leaves the last byte's patch open until there is a
    # next byte, even where that is sure to start a patch; ours does not wait.
    same_BL = np.array(same_L)
    mine = np.asarray(output.logits_BLV)
    for ours, their in ((slice(0, 256), slice(4, 260)), ([256, 257, 258, 259], [2, 0, 1, 3])):
        np.testing.assert_allclose(mine[same_BL][..., ours], logits_BLV[same_BL][..., their], atol=1e-4)

    start_BL = documents_lib.starts(tokens_BL)
    for n in config["encoder_hash_byte_group_size"]:
        for prime in ngrams.PRIMES[: config["encoder_hash_byte_group_nb_functions"]]:
            table = config["encoder_hash_byte_group_vocab"]
            wanted = modeling_blt.byte_group_hash_function(ids_BL, n, prime, table)
            assert np.array_equal(ngrams.rows(tokens_BL, start_BL, n, prime, table), wanted)
