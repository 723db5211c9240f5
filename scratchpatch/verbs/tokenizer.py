"""Learn the tokens of a config from its training split, for models of tokens beside those of bytes.

usage: scratchpatch tokenizer --config=FILE [--config.FIELD=VALUE]... [--sample_bytes=N] [--json]

The file that data.tokenizer names is written, with as many tokens as data.vocabulary says: byte-pair encoding over
bytes, in the format of the `tokenizers` library (extra `tokens`). Every byte is a token too, so any text can be read.
The same text gives the same file; one that is there is not learnt again. What held-out documents say is not learnt.

examples:
  scratchpatch tokenizer --config=experiments/tokens/config.py
  scratchpatch tokenizer --config=experiments/tokens/config.py --config.data.vocabulary=8192 \
--config.data.tokenizer=data/code_8192.json
"""

from scratchpatch.verbs import verb

_FLAGS = (
    verb.JSON,
    verb.integer("sample_bytes", "Bytes to learn from, about: the beginning of the training split, the same share of "
        "each source. Memory grows with their distinct words.", 1 << 28),
)


def _run(values: verb.Flags, answer: verb.Answer) -> None:
    from scratchpatch.preparation.vocabulary import learn, table

    answer.show(learn(values.config, values.sample_bytes), values, table)


VERB = verb.Verb("tokenizer", __doc__, _run, _FLAGS, config=True, required=("config",))
