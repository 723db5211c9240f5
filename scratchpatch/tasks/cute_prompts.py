"""Prompts of ours for the tasks of CUTE, for models that continue text: `cute.prompt = base`.

They are not the published ones. A prompt is four worked examples, a line each, and a fifth line that breaks off where
its answer would begin, with an open quote; an answer ends with the closing quote, or with the line.
"""

from collections.abc import Sequence

STOP = (b'"', b"\n")
_CONTAINS = 'Does "{}" occur in "{}"? "'
_INSERT = 'Put "{}" after every "{}" in "{}": "'
_DELETE = 'Take every "{}" out of "{}": "'
_SUBSTITUTE = 'Turn every "{}" into "{}" in "{}": "'
_SWAP = 'Let "{}" and "{}" change places in "{}": "'
TEMPLATES = {
    "spell": 'The letters of "{}", with spaces between them: "',
    "spell_inverse": 'The word whose letters are "{}": "',
    "contains_char": _CONTAINS,
    "contains_word": _CONTAINS,
    "orth": 'Which is spelled more like "{}": "{}" or "{}"? "',
    "sem": 'Which is closer in meaning to "{}": "{}" or "{}"? "',
    "ins_char": _INSERT,
    "ins_word": _INSERT,
    "del_char": _DELETE,
    "del_word": _DELETE,
    "sub_char": _SUBSTITUTE,
    "sub_word": _SUBSTITUTE,
    "swap_char": _SWAP,
    "swap_word": _SWAP,
}
# Inputs and the answer of each example.
EXAMPLES = {
    "spell": (
        ("garden", "g a r d e n"),
        ("music", "m u s i c"),
        ("winter", "w i n t e r"),
        ("apple", "a p p l e"),
    ),
    "spell_inverse": (
        ("g a r d e n", "garden"),
        ("m u s i c", "music"),
        ("w i n t e r", "winter"),
        ("a p p l e", "apple"),
    ),
    "contains_char": (
        ("r", "garden", "Yes"),
        ("o", "music", "No"),
        ("k", "winter", "No"),
        ("p", "apple", "Yes"),
    ),
    "contains_word": (
        ("river", "They walked to the river.", "Yes"),
        ("boat", "They walked to the river.", "No"),
        ("bread", "My sister bought a new lamp.", "No"),
        ("lamp", "My sister bought a new lamp.", "Yes"),
    ),
    "orth": (
        ("house", "mouse", "home", "mouse"),
        ("stone", "rock", "store", "store"),
        ("quick", "fast", "quilt", "quilt"),
        ("light", "night", "lamp", "night"),
    ),
    "sem": (
        ("house", "mouse", "home", "home"),
        ("stone", "rock", "store", "rock"),
        ("quick", "fast", "quilt", "fast"),
        ("light", "night", "lamp", "lamp"),
    ),
    "ins_char": (
        ("o", "r", "garden", "garoden"),
        ("t", "s", "music", "mustic"),
        ("e", "w", "winter", "weinter"),
        ("a", "p", "apple", "apapale"),
    ),
    "ins_word": (
        ("green", "the", "They walked to the river.", "They walked to the green river."),
        ("both", "They", "They walked to the river.", "They both walked to the river."),
        ("very", "a", "My sister bought a new lamp.", "My sister bought a very new lamp."),
        ("old", "My", "My sister bought a new lamp.", "My old sister bought a new lamp."),
    ),
    "del_char": (
        ("r", "garden", "gaden"),
        ("m", "music", "usic"),
        ("n", "winter", "witer"),
        ("p", "apple", "ale"),
    ),
    "del_word": (
        ("walked", "They walked to the river.", "They to the river."),
        ("the", "They walked to the river.", "They walked to river."),
        ("new", "My sister bought a new lamp.", "My sister bought a lamp."),
        ("My", "My sister bought a new lamp.", "sister bought a new lamp."),
    ),
    "sub_char": (
        ("d", "b", "garden", "garben"),
        ("u", "a", "music", "masic"),
        ("w", "h", "winter", "hinter"),
        ("p", "d", "apple", "addle"),
    ),
    "sub_word": (
        ("river", "boat", "They walked to the river.", "They walked to the boat."),
        ("They", "Dogs", "They walked to the river.", "Dogs walked to the river."),
        ("bought", "saw", "My sister bought a new lamp.", "My sister saw a new lamp."),
        ("new", "small", "My sister bought a new lamp.", "My sister bought a small lamp."),
    ),
    "swap_char": (
        ("g", "n", "garden", "nardeg"),
        ("u", "i", "music", "misuc"),
        ("w", "t", "winter", "tinwer"),
        ("a", "l", "apple", "lppae"),
    ),
    "swap_word": (
        ("walked", "the", "They walked to the river.", "They the to walked river."),
        ("to", "river", "They walked to the river.", "They walked river the to."),
        ("sister", "lamp", "My sister bought a new lamp.", "My lamp bought a new sister."),
        ("a", "new", "My sister bought a new lamp.", "My sister bought new a lamp."),
    ),
}


def base(task: str, inputs: Sequence[str]) -> str:
    """The prompt of a question."""
    template = TEMPLATES[task]
    lines = [f'{template.format(*example[:-1])}{example[-1]}"\n' for example in EXAMPLES[task]]
    return "".join(lines) + template.format(*inputs)
