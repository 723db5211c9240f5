"""What transformers' BLT says about a checkpoint folder, and the file that keeps some of it.

    PYTHONPATH=. .venv/bin/python -m tests.interop.theirs      writes them anew (needs the extra `peer`)

golden.json has what it says, written.json a config.json that it writes. So the parity is also tested where neither
torch nor transformers is installed.
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from tests.interop import folders

GOLDEN, WRITTEN = (Path(__file__).with_name(name) for name in ("golden.json", "written.json"))
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
# Large tables make a folder of 32 MB, so the kept file leaves them out.
KEPT = [name for name in VARIANTS if name != "large tables"]
POSITIONS, IDS = (1, 2, 17, 40, 98), (0, 1, 2, 3, 36, 101, 259)
_LENGTH = 100


def write_config(folder) -> tuple[dict, dict]:
    """The config of `folders.settings()` as transformers writes it: into a checkpoint, and with all its fields."""
    import transformers

    config = transformers.BltConfig(**{k: v for k, v in folders.settings().items() if k != "model_type"})
    config.save_pretrained(folder)
    return json.loads((Path(folder) / "config.json").read_text()), json.loads(config.to_json_string(use_diff=False))


def run(folder, config: dict, seed: int, length: int = _LENGTH) -> dict:
    """Two documents through transformers' model.

    Returns a dict: threshold, lengths (of patches, [B, P]), entropy [B, L], logits [B, L, 260].
    """
    import torch
    import transformers

    model = transformers.BltForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    tokens_BL = folders.documents(2, length, seed)
    ids_BL = torch.as_tensor(np.where(tokens_BL < 256, tokens_BL + 4, 1)).long()
    with torch.no_grad():
        entropy_BL, _, _ = model.model.patcher(ids_BL, patch_size=4, threshold=0.0)
        # A threshold amid the entropies, in the widest gap, so that no rounding decides.
        ordered = np.sort(entropy_BL.numpy().ravel())
        middle = ordered[len(ordered) // 2 : len(ordered) * 4 // 5]
        at = int(np.diff(middle).argmax())
        threshold = model.config.patching_threshold = float((middle[at] + middle[at + 1]) / 2)
        limit = config.get("max_patch_length")
        _, lengths_BP, _ = model.model.patcher(ids_BL, patch_size=4, threshold=threshold, max_patch_length=limit)
        logits_BLV = model(input_ids=ids_BL, use_cache=False).logits
    return {
        "threshold": threshold,
        "lengths": lengths_BP.tolist(),
        "entropy": entropy_BL.numpy(),
        "logits": logits_BLV.numpy(),
    }


def main() -> None:
    found = {}
    for name in KEPT:
        with tempfile.TemporaryDirectory() as folder:
            config = folders.settings(**VARIANTS[name])
            folders.write(Path(folder), config, 0)
            said = run(folder, config, 0)
        logits = said["logits"][:, POSITIONS][..., IDS]
        found[name] = said | {"entropy": said["entropy"].round(6).tolist(), "logits": logits.round(6).tolist()}
    GOLDEN.write_text(json.dumps(found) + "\n")
    with tempfile.TemporaryDirectory() as folder:
        WRITTEN.write_text(json.dumps(write_config(folder)[0], indent=1) + "\n")


if __name__ == "__main__":
    main()
