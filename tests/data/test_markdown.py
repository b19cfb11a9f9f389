"""Titles and passages of Markdown: front matter, headings of both kinds, and what only looks like one."""

import pytest

from seal_lightning.data.markdown import read_markdown


@pytest.mark.parametrize(
    ("text", "title", "passage"),
    [
        ("# The mill #\n\nText.\n", "The mill", "Text."),
        ("Lake Munn\n=========\n\nText.\n", "Lake Munn", "Text."),
        ("Lake Munn\n---\nText.\n", "Lake Munn", "Text."),
        ("\n\n## Deeper\nText.\n# Higher\n", "Deeper", "Text.\n# Higher"),
        ("Intro.\n\n# Later\n\nText.", "Later", "Intro.\n\n# Later\n\nText."),
        ("# *The* [mill](a.md) `on` ![the](a.png) Dorn {#mill}\n\nText.", "The mill on the Dorn", "Text."),
        ("#\n\n# Named\n\nText.", "Named", "#\n\n# Named\n\nText."),
        ("#no heading\n\nText.", "", "#no heading\n\nText."),
        ("> # Quoted\n\n- # Item\n\nText.", "", "> # Quoted\n\n- # Item\n\nText."),
        ("```sh\n# a comment\n```\nText.", "", "```sh\n# a comment\n```\nText."),
        ("    # indented\n\nText.", "", "    # indented\n\nText."),
        ("<!--\n# not\n\n# shown\n-->\n\n# Shown\n", "Shown", "<!--\n# not\n\n# shown\n-->\n\n# Shown"),
        ("%%\n# a note to myself\n%%\n\n# Shown\n", "Shown", "%%\n# a note to myself\n%%\n\n# Shown"),
        ("Two lines\nabove a rule\n---\nText.", "", "Two lines\nabove a rule\n---\nText."),
        ("# Code\n\n    x = 1\n\n    y = 2\n", "Code", "    x = 1\n\n    y = 2"),
        (
            "<h1 align=center><b>The</b> mill</h1>\n\n## Use",
            "The mill",
            "<h1 align=center><b>The</b> mill</h1>\n\n## Use",
        ),
        ("# Only this\n", "Only this", ""),
        ("import A from 'a';\n\n# Page\n\nText.", "Page", "import A from 'a';\n\n# Page\n\nText."),
    ],
)
def test_headings(text, title, passage):
    assert read_markdown(text) == (title, passage)


@pytest.mark.parametrize(
    ("text", "title", "passage"),
    [
        ("---\ntitle: The mill\n# internal: do not publish\ntags: [a]\n---\n\nText.\n", "The mill", "Text."),
        ("---\ntitle: The bridge\n---\n\n# Bridge\n\nText.\n", "The bridge", "Text."),
        ("---\ntags: [a]\n---\n\n# Bridge\n\nText.\n", "Bridge", "Text."),
        ("\n---\nTitle: 'A: b'\n...\nText.", "A: b", "Text."),
        ("---\n---\n# T\nText.", "T", "Text."),
        ("---\n# only a comment\n---\nText.", "", "Text."),
        ("---\ntitle: The mill: a history\ndate: 2024-13-45\n---\nText.", "The mill: a history", "Text."),
        ("---\ntitle: {{title}}\ntags:\n  - a\n---\nText.", "{{title}}", "Text."),
        ("---\ntitle: 1803\nyes: no\n---\nText.", "1803", "Text."),
        ("---\ntitle:\ndraft: true\n---\n# T\nText.", "T", "Text."),
        ("---\ntitle: >\n  folded\n  lines\n---\nText.", "folded lines", "Text."),
        ("---\ntitle: [a, b]\n---\nText.", "", "Text."),
        ("---\nx: |\n  a\n  ---\n  b\ntitle: T\n---\nText.", "T", "Text."),
        ('+++\ntitle = "The mill"\ndate = 2024-05-01\n# do not publish\n+++\nText.', "The mill", "Text."),
        ("+++\ntitle = The mill\n# no quotes\n[author]\ntitle = Dr.\n+++\nText.", "The mill", "Text."),
        ('{\n  "title": "The mill",\n  "date": "2024"\n}\n\nText.', "The mill", "Text."),
        ('{\n  "sample": 1\n}\n\nText.', "", '{\n  "sample": 1\n}\n\nText.'),
    ],
)
def test_front_matter_gives_the_title_and_is_not_learnt(text, title, passage):
    assert read_markdown(text) == (title, passage)


@pytest.mark.parametrize(
    "text",
    [
        "---\n\nA rule above.\n\n---\n\nText.",
        "---\nA sentence that is no data.\n---\nText.",
        "---\ntitle: never closed\n\nText.",
        "---\n- a\n- b\n\n---\nText.",
        "+++\nnot = = toml\n+++\nText.",
        "Text first.\n\n---\ntitle: x\n\n---\n",
        "---",
        "{\nno json\n}\nText.",
    ],
)
def test_what_only_looks_like_front_matter_is_text(text):
    assert read_markdown(text)[1].split() == text.split()
