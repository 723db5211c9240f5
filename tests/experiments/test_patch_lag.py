"""The patch-lag study: what its page says of patches that are concatenated."""

from experiments.patch_lag import config, summary


def test_variants_differ_from_the_pooled_ones_in_pooling_alone():
    for variant in config.CONCAT:
        made, pooled = config.get_config(variant), config.get_config(variant.removesuffix("_concat"))
        pooled.model.pooling.kind = "concat"
        assert made == pooled and not made.model.pooling.last_state


def test_concatenation_is_compared_by_seed():
    results = {}
    for base, bpb in (("p16_entropy", 2.94), ("p16_every", 2.90)):
        for seed in (0, 1):
            results[f"{base}_last", seed] = {"bpb": bpb + 0.01 * seed, "parameters": 1000}
            results[f"{base}_concat", seed] = {"bpb": bpb - 0.05, "parameters": 1900}
            results["byte", seed] = {"bpb": 2.88, "parameters": 1000}
    study = summary.Study(results)
    entropy, every = summary.concatenation(study)[2:]
    assert entropy.startswith("- p=16 + entropy, r=3/16: against pooling")
    assert "with `last_state` -0.0550 (-0.0500, -0.0600): better" in entropy
    assert "against byte-level +0.0100 (+0.0100, +0.0100): worse; +900 parameters." in entropy
    assert "against byte-level -0.0300 (-0.0300, -0.0300): better" in every
