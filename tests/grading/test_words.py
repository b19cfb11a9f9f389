import pytest

from seal_lightning.grading.words import content_words, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,000", ["1000"]),
        ("12,345,678.5", ["12345678.5"]),
        ("in 1,00", ["in", "1", "00"]),
        ("Twenty", ["20"]),
        ("twenty-one; Ninety ninth", ["21", "99"]),
        ("the 21st, twenty-first", ["the", "21", "21"]),
        ("Second", ["2"]),
        ("King's kings' king\u2019s", ["king", "kings", "king"]),
        ("50% of it", ["50", "percent", "of", "it"]),
        ("Orl\u00e9ans \ufb01le STRASSE stra\u00dfe", ["orleans", "file", "strasse", "strasse"]),
        ("state-of-the-art snake_case", ["state", "of", "the", "art", "snake", "case"]),
        ("\u4e1c\u4eac", ["\u4e1c", "\u4eac"]),
        ("... ?!", []),
        ("", []),
    ],
)
def test_words(text, expected):
    assert words(text) == expected


def test_content_words_are_stems_without_stop_words():
    assert content_words("The armies of the army were founded in 1945") == {"arm", "found", "1945"}
