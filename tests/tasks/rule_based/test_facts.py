"""What a passage states by its form."""

from seal_lightning.tasks.rule_based.facts import Property, Sentence, facts_of


def test_sentences_end_where_they_end():
    text = "Mr. Sallow built 2.1 metres, e.g. of oak. See v. 3.2.\nHe rests.\n\n- A lamp. It blinks!"
    assert facts_of(text) == [
        Sentence("Mr. Sallow built 2.1 metres, e.g. of oak."),
        Sentence("See v. 3.2."),
        Sentence("He rests."),
        Sentence("A lamp."),
        Sentence("It blinks!"),
    ]


def test_names_and_values():
    text = (
        "Chair: Miriam Okafor\n**Next meeting:** 18 April\n\n- `timeout`: seconds, 15 by default\n\nWeight\n: 310 grams"
    )
    assert facts_of(text) == [
        Property("Chair", "Miriam Okafor"),
        Property("Next meeting", "18 April"),
        Property("timeout", "seconds, 15 by default"),
        Property("Weight", "310 grams"),
    ]


def test_a_clause_before_a_colon_is_no_name():
    text = "There is one thing that nobody ever says: rent is due."
    assert facts_of(text) == [Sentence(text)]


def test_a_table_names_its_rows():
    text = "| Day | To | |\n|---|---|---|\n| Monday | Dunfold | 14 |\n| Tuesday | | 19 |\n"
    assert facts_of(text) == [
        Property("To", "Dunfold", owner="Monday", kind="Day"),
        Property("Day", "14", owner="Monday", kind="Day"),
        Property("Day", "19", owner="Tuesday", kind="Day"),
    ]


def test_a_table_without_column_names_has_names_and_values():
    assert facts_of("| | |\n|---|---|\n| Weight | 310 grams |\n") == [Property("Weight", "310 grams")]


def test_python_code():
    wave = "    def wave(self, height: float = 1.5, *, wet=True) -> str:\n        ...\n"
    code = f'class Sea:\n    """Water.\n\n    More."""\n\n{wave}'
    assert facts_of(f"```python\n{code}```") == [
        Property("description", "Water.", owner="Sea", kind="class"),
        Property("arguments", "height, wet", owner="Sea.wave", kind="function"),
        Property("return type", "str", owner="Sea.wave", kind="function"),
        Property("default of height", "1.5", owner="Sea.wave", kind="function"),
        Property("default of wet", "True", owner="Sea.wave", kind="function"),
    ]


def test_code_that_python_warns_of_is_read():
    assert facts_of('```python\ndef wave(height=1if 2else 3): "\\d"\n```')[-1] == Property(
        "default of height", "1 if 2 else 3", owner="wave", kind="function"
    )


def test_other_code_has_signatures_only():
    assert facts_of("```rust\nfn wave(height: f64) -> u8 {}\nlet x = 3;\n```") == [
        Property("arguments", "height: f64", owner="wave", kind="function")
    ]
    assert facts_of("```\nno python: at all\n```") == []


def test_headings_rules_and_repetitions_state_nothing():
    assert facts_of("# Rules\n\n---\n\nDogs bark.\n\nDogs bark.\n\n***") == [Sentence("Dogs bark.")]
