from scratchpatch import config as config_lib
from scratchpatch.bench import quickstart


def test_the_checkout_has_the_quickstart_and_a_package_alone_its_like(monkeypatch, tmp_path):
    from_file = quickstart.config()
    monkeypatch.setattr(quickstart, "_FILE", tmp_path / "none.py")
    for config in (from_file, quickstart.config()):
        config_lib.check(config)
        assert (config.data.window, config.model.trunk.d_model, config.model.trunk.layers) == (512, 128, 4)
