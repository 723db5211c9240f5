"""Wrong usage is one line that names the mistake and the nearest right word; exit code 2."""

import pytest
from absl import flags

from scratchpatch import cli, places
from scratchpatch.verbs import VERBS
from tests.verbs.commands import wrong

CONFIG_VERBS = [name for name, verb in VERBS.items() if verb.config]
PATHS = {"workdir", "out", "output", "html", "text", "baseline", "folder", "prompt_file", "prompts"}


def test_unknown_verb_names_the_nearest(capsys):
    assert "no verb 'trian'; the nearest is 'train'" in wrong(capsys, "trian")


def test_unknown_flag_names_the_nearest(capsys):
    err = wrong(capsys, "eval", "--wrokdir=x")
    assert "wrokdir" in err and "Did you mean: workdir" in err


@pytest.mark.parametrize(("name", "flag"), [(n, f) for n, v in VERBS.items() for f in v.required[:1]])
def test_missing_flag_is_named(capsys, name, flag):
    assert f"{name} needs --{flag}=" in wrong(capsys, name)


def test_train_needs_a_workdir_beside_its_config(capsys, config_file):
    assert "train needs --workdir=DIR" in wrong(capsys, "train", f"--config={config_file}")
    assert "train needs --workdir=DIR" in wrong(capsys, "train", f"--config={config_file}", "--workdir=")


def test_a_bucket_is_no_workdir(capsys, config_file):
    said = wrong(capsys, "train", f"--config={config_file}", "--workdir=gs://bucket/run")
    assert "--workdir=gs://bucket/run: wanted a folder" in said and "NFS" in said


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.trainig.steps=5", "--config has no field 'trainig.steps'; the nearest is --config.training.steps"),
        ("--config.model.trunk=5", "no field 'model.trunk'; the nearest is --config.model.trunk."),
        ("--config.training.steps=five", "steps=five: the field takes a value of type int, such as 1000"),
        ("--config.optimizer.eps=tiny", "--config.optimizer.eps=tiny: the field takes a value of type float"),
        ("--config.model.pooling.last_state=5", "the field takes a value of type bool, such as True"),
        ("--config.data.sources=text: x", "the field takes a value of type tuple"),
        ("--config.data.sources=text:x", "must hold (SPEC, weight) pairs"),
        ("--config.patching.kind=fix", "patching.kind = 'fix' must be one of byte, fixed"),
        ("--config.training.batch_rows=0", "training.batch_rows = 0 must lie between 1 and 1048576"),
        ("--config.seed", "--config.seed"),
        ("stray", "'stray' is not a flag"),
    ],
)
def test_wrong_override_is_named_with_the_right_one(capsys, config_file, argument, words):
    assert words in wrong(capsys, "audit", f"--config={config_file}", argument)


def test_override_before_the_config_is_explained(capsys, config_file):
    assert "give --config=FILE before it" in wrong(capsys, "audit", "--config.seed=1", f"--config={config_file}")


@pytest.mark.parametrize("name", CONFIG_VERBS)
def test_bad_config_file_is_wrong_usage(capsys, tmp_path, name):
    assert "nowhere.py does not exist" in wrong(capsys, name, f"--config={tmp_path}/nowhere.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert f"{broken}:1: invalid syntax" in wrong(capsys, name, f"--config={broken}")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "--max_bytes=-1", "--prompt=x"], "--max_bytes=-1"),
        (["generate", "--max_bytes=many", "--prompt=x"], "--max_bytes=many"),
        (["generate", "--temperature=-0.5", "--prompt=x"], "--temperature=-0.5"),
        (["generate", "--temperature=nan", "--prompt=x"], "--temperature=nan"),
        (["serve", "--port=70000"], "--port=70000"),
        (["serve", "--drain_seconds=inf"], "--drain_seconds=inf"),
        (["serve", "--name="], "--name="),
        (["generate"], "--prompt=TEXT and --prompt_file=FILE"),
        (["generate", "--prompt=x", "--prompt_file=y"], "--prompt=TEXT and --prompt_file=FILE"),
        (["generate", "--prompt=x", "--prompts=y"], "--prompt=TEXT and --prompt_file=FILE"),
        (["generate", "--prompt=x", "--top_p=0"], "--top_p=0.0 must be a number above 0 and at most 1"),
        (["generate", "--prompt=x", "--threshold=nan"], "--threshold=nan must be a number from -1e+30"),
        (["generate", "--prompt=x", "--threshold=1", "--rate=0.2"], "--rate=0.2 steers the threshold that threshold"),
        (["generate", "--prompt=x", "--stop="], "holds an empty string"),
        (["generate", "--prompt=x", "--logprobs=5"], "--logprobs=5 goes with --json or --prompts"),
        (["generate", "--prompt=x", "--logprobs=21"], "--logprobs=21"),
        (["generate", "--prompt=x", "--json", "--raw"], "--raw and --json exclude each other"),
        (["generate", "--prompt=x", "--rows=2"], "--rows goes with --prompts alone"),
        (["generate", "--prompt=x", "--out=y"], "--out goes with --prompts alone"),
        (["generate", "--prompts=x", "--out=y", "--raw"], "--raw goes with --prompt or --prompt_file alone"),
        (["generate", "--prompts=x"], "generate --prompts=FILE needs --out=FILE"),
        (["generate", "--prompts=x", "--out=no/such/folder/y"], "--out=no/such/folder/y: wanted a file in a folder"),
        (["generate", "--prompts=x", "--out=./x"], "--out=./x is the file of --prompts"),
        (["eval", "--split=validate"], "--split=validate"),
        (["eval", "--step=-1"], "--step=-1"),
        (["eval", "--max_bytes=0"], "--max_bytes=0"),
        (["eval", "--override", "trigger.treshold=1"], "nearest is 'trigger.threshold'"),
        (["eval", "--unsafe_execution"], "--unsafe_execution is of tasks"),
        (["eval", "--output=no/such/folder/x.json"], "--output=no/such/folder/x.json"),
        (["eval", "--mesh=rows:2"], "--mesh=rows:2: no axis 'rows'"),
        (["eval", "--devices=0"], "--devices=0"),
        (["eval", "--distributed=here"], "--distributed=here: wanted none, auto or HOST:PORT,PROCESS,PROCESSES"),
        (["calibrate", "--target_bytes_per_patch=6", "--distributed=a:1,2,2"], "processes count from 0"),
        (["generate", "--prompt=x", "--distributed=here"], "--distributed=here"),
        (["eval", "--poll_seconds=5"], "--poll_seconds goes with eval with --follow alone"),
        (["eval", "--stopped_code=5"], "--stopped_code goes with eval with --follow alone"),
        (["eval", "--follow", "--step=5"], "--step goes with eval without --follow alone"),
        (["eval", "--follow", "--output=x"], "--output goes with eval without --follow alone"),
        (["eval", "--follow", "--poll_seconds=inf"], "--poll_seconds=inf: wanted a finite number"),
        (["inspect", "--text=x", "--html=no/such/folder/x.html"], "--html=no/such/folder/x.html"),
        (["calibrate"], "give one of --target_bytes_per_patch=6 and --target_scratchpads_per_byte=0.2"),
        (["calibrate", "--target_bytes_per_patch=6", "--target_scratchpads_per_byte=0.2"], "give one of"),
        (["calibrate", "--target_bytes_per_patch=0.5"], "--target_bytes_per_patch=0.5: wanted a number of at least 1"),
        (["calibrate", "--target_bytes_per_patch=nan"], "--target_bytes_per_patch=nan"),
        (["calibrate", "--target_scratchpads_per_byte=0"], "per_byte=0.0: wanted a number above 0"),
        (["calibrate", "--target_scratchpads_per_byte=1.5"], "--target_scratchpads_per_byte=1.5"),
        (["calibrate", "--target_bytes_per_patch=6", "--sample_bytes=0"], "--sample_bytes=0"),
        (["calibrate", "--target_bytes_per_patch=6", "--override", "patching.knd=x"], "nearest is 'patching.kind'"),
        (["checkpoint"], "say what to do: scratchpatch checkpoint list, verify, prune or export"),
        (["checkpoint", "purge"], "purge"),
        (["checkpoint", "prune"], "checkpoint prune needs --keep_last=N"),
        (["checkpoint", "prune", "--keep_last=0"], "--keep_last=0"),
        (["checkpoint", "prune", "--keep_last=1", "--step=5"], "--step goes with checkpoint verify or export alone"),
        (["checkpoint", "list", "--keep_last=1"], "--keep_last goes with checkpoint prune alone"),
        (["checkpoint", "verify", "--dry_run"], "--dry_run goes with checkpoint prune alone"),
        (["checkpoint", "verify", "--step=-1"], "--step=-1"),
        (["checkpoint", "export"], "checkpoint export needs --out=DIR"),
        (["checkpoint", "export", "--out=x", "--layout=flat"], "--layout=flat"),
        (["checkpoint", "export", "--out=x", "--json"], "--json goes with checkpoint list or verify or prune alone"),
    ],
)
def test_wrong_flag_value_is_named(capsys, workdir, argv, words):
    assert words in wrong(capsys, argv[0], f"--workdir={workdir}", *argv[1:])


def test_bench_refuses_an_unknown_measurement(capsys):
    assert "speed" in wrong(capsys, "bench", "speed")


def test_a_tilde_means_home_in_every_flag_that_takes_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = set()
    for name, verb in VERBS.items():
        values = flags.FlagValues()
        verb.define(values)
        for flag in PATHS & set(values):
            values[flag].parse("~/a b")
            assert values[flag].value == "/home/me/a b", (name, flag)
            values[flag].parse("gs://bucket/~")
            assert values[flag].value == "gs://bucket/~"
            seen.add(flag)
    assert seen == PATHS


def test_a_tilde_means_home_in_config(capsys, monkeypatch, stand_in, tmp_path, config_file):
    monkeypatch.setenv("HOME", str(tmp_path))
    calls = stand_in("scratchpatch.accounting.account", account=lambda c: {"seed": c.seed}, text=lambda d: "")
    assert cli.main(["account", "--config=~/experiment.py", "--config.seed=3"]) == 0
    assert len(calls) == 2 and capsys.readouterr().out == "\n"
    assert f"config file {tmp_path}/no.py does not exist" in wrong(capsys, "account", "--config=~/no.py")


def test_a_tilde_without_a_home_is_wrong_usage(capsys, monkeypatch):
    monkeypatch.setattr(places, "home", lambda: None)
    for argv in (["eval", "--workdir=~/run"], ["account", "--config=~/x.py"]):
        assert "this user has no home folder (HOME is not set): write the whole path" in wrong(capsys, *argv)
