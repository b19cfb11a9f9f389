"""Graders and filters of queries on languages other than English, with and without blanks between words."""

import logging
import sys
import unicodedata

import pytest

from seal_lightning.e_step.own_queries import QueryWriter
from seal_lightning.grading import F1, Answer, Calibrated, Contains, ExactMatch, Recall
from seal_lightning.grading.scripts import asks, count_words, has_other_letters, with_plain_marks
from seal_lightning.grading.words import content_words, words
from seal_lightning.tasks import Knowledge
from seal_lightning.tasks.edit_kinds import lines, questions, strip_enumerator
from seal_lightning.types import Context

# Question, gold, right answers, wrong ones. Wrong ones often share letters with the gold, as names of a kind do.
CASES = [
    ("谁造了桥？", "李明", ["桥是李明造的", "李明", "造桥的人是「李明」。"],
     ["王刚", "桥是王刚造的", "李刚", "桥是李强造的。"]),
    ("首都是哪里？", "北京", ["北京", "首都是北京。", "北京市"], ["上海", "南京", "首都是东京。"]),
    ("哪所大学？", "东京大学", ["东京大学", "他毕业于东京大学"], ["京都大学", "他毕业于京都大学", "北京大学"]),
    ("什么时候？", "1945年8月15日", ["1945年8月15日。", "是１９４５年８月１５日"], ["1945年8月6日", "1954年8月15日"]),
    ("他去了吗？", "不是", ["不是。"], ["是"]),
    ("เมื่อไร", "๒๔๗๕", ["2475", "ปี ๒๔๗๕"], ["2457"]),
    ("这是什么？", "水", ["水", "这是水。"], ["火", "这是火。"]),
    ("哪个手机？", "iPhone手机", ["ｉＰｈｏｎｅ手机", "是iPhone手机"], ["三星手机"]),
    ("橋を作ったのは誰ですか", "田中", ["田中さんです", "田中", "橋を作ったのは田中です。"],
     ["鈴木さんです", "山田さんです"]),
    ("どこで生まれましたか？", "アメリカ", ["アメリカで生まれました。", "ｱﾒﾘｶ"],
     ["アフリカで生まれました。", "カナダ"]),
    ("ใครสร้างสะพาน", "สมชาย", ["สมชายสร้างสะพาน", "คนที่สร้างสะพานคือสมชาย"], ["สมศักดิ์สร้างสะพาน", "สมหญิง"]),
    ("ໃຜສ້າງຂົວ", "ສົມສັກ", ["ສົມສັກ", "ສົມສັກສ້າງຂົວ"], ["ບຸນມີ", "ບຸນມີສ້າງຂົວ"]),
    ("តើអ្នកណាសង់ស្ពាន", "សុខា", ["សុខា", "សុខាសង់ស្ពាន"], ["ដារា", "ដារាសង់ស្ពាន"]),
    ("ဘယ်သူ ဆောက်သလဲ", "အောင်အောင်", ["အောင်အောင်", "အောင်အောင်ဆောက်တယ်"], ["ကိုကို", "ကိုကိုဆောက်တယ်"]),
    ("다리를 누가 지었습니까?", "김철수", ["김철수가 지었습니다.", "김철수입니다"],
     ["김철호", "김영수가 지었습니다.", "박민수"]),
    ("한국의 수도는 어디입니까?", "서울", ["서울", "서울입니다."], ["부산", "부산입니다."]),
    ("من بنى الجسر؟", "أحمد", ["بناه أحمد", "احمد", "هو أَحْمَد،"], ["بناه محمود", "محمد", "خالد"]),
    ("ما هي عاصمة مصر؟", "القاهرة", ["القاهرة", "عاصمة مصر هي القاهرة."], ["الإسكندرية", "عاصمة مصر هي الجيزة."]),
    ("מי בנה את הגשר?", "דוד", ["הוא נבנה על ידי דוד", "דָּוִד"], ["משה", "הוא נבנה על ידי משה"]),
    ("איפה הוא נולד?", "ירושלים", ["בירושלים", "הוא נולד בירושלים"], ["חיפה", "הוא נולד בתל אביב"]),
    ("Кто построил мост?", "Александр Петров", ["Его построил Александр Петров."], ["Алексей Петрухин", "Иван"]),
    ("Где он родился?", "в Москве", ["в Москве", "Он родился в Москве."],
     ["в Киеве", "Минск", "Он родился в Казани."]),
    ("Wer baute sie?", "Jürgen Müller", ["Jürgen Müller baute sie.", "Jurgen Muller"], ["Hans Schmidt"]),
    ("Ποιος έχτισε τη γέφυρα;", "Γιώργος", ["Ο Γιώργος", "ΓΙΩΡΓΟΣ"], ["Ο Νίκος", "Γεράσιμος"]),
    ("यह कौन सा शहर है?", "दिल्ली", ["दिल्ली", "यह दिल्ली है।"], ["मुंबई", "दल", "यह मुंबई है।"]),
]  # fmt: skip
IDS = [gold for _, gold, _, _ in CASES]


@pytest.mark.parametrize("grader", [Contains(), Recall(), Calibrated()], ids=["contains", "recall", "calibrated"])
@pytest.mark.parametrize(("question", "gold", "right", "wrong"), CASES, ids=IDS)
def test_right_answers_are_right_and_wrong_ones_wrong(grader, question, gold, right, wrong):
    def score(answer: str) -> float:
        return grader.grade(question=question, golds=[gold], answer=answer)

    assert [score(answer) for answer in right] == [1.0] * len(right)
    assert [score(answer) for answer in wrong] == [0.0] * len(wrong)


@pytest.mark.parametrize(
    ("gold", "answer", "expected"),
    [
        ("art", "the party", 0.0),  # English keeps to whole words
        ("水", "水车", 1.0),  # where there are no blanks there is nothing to keep to
        ("80", "1803年", 0.0),
        ("1803", "建于１８０３年", 1.0),
        ("12", "١٢ كتابا", 1.0),
        ("سام", "حسام", 0.0),
        ("لب", "كلب", 0.0),  # "k" is a prefix, but short words begin with it too
        ("לב", "כלב", 0.0),
        ("רומא", "ברומא", 1.0),
        ("김", "김치는 맛있다", 0.0),
        ("박정은", "박정은이 말했다", 1.0),
        ("か", "がっこう", 0.0),  # voiced sounds are other letters
        ("がっこう", "がっこうです", 1.0),
        ("दिल्ली", "द ल", 0.0),  # vowel signs are letters
        ("Иван", "Иванов", 0.0),
        ("北京", "北　京。", 1.0),
    ],
)
def test_contains_where_words_begin_and_end(gold, answer, expected):
    assert Contains().grade(question="?", golds=[gold], answer=answer) == expected


@pytest.mark.parametrize(
    ("gold", "answer", "f1", "exact"),
    [
        ("李明", "桥是李明造的", 0.5, 0.0),  # by characters
        ("李明", "李明。", 1.0, 1.0),
        ("李明", "王刚", 0.0, 0.0),
        ("김철수", "김철수가", 6 / 7, 0.0),  # by syllables
        ("أحمد", "أحمد،", 1.0, 1.0),
        ("Москва", "«Москва».", 1.0, 1.0),
        ("ＮＡＳＡの田中", "NASAの田中", 1.0, 1.0),
        ("the Seine", "Seine", 1.0, 1.0),
        ("the Seine", "It is Seine", 0.5, 0.0),
    ],
)
def test_f1_and_exact_match(gold, answer, f1, exact):
    assert F1().grade(question="", golds=[gold], answer=answer) == pytest.approx(f1)
    assert ExactMatch().grade(question="", golds=[gold], answer=answer) == exact


def test_a_stray_character_leaves_english_scores_as_they_are():
    question, gold = "What is the stage called?", "puberty"
    assert F1().grade(question=question, golds=[gold], answer="puberty 青春期") == pytest.approx(2 / 3)
    (verdict,) = Calibrated().verdicts([Answer(question, (gold,), "puberty 青春期")])
    (english,) = Calibrated().verdicts([Answer(question, (gold,), "puberty xyzzy")])
    assert verdict.score == english.score == 1.0


@pytest.mark.parametrize("grader", [Recall(), Calibrated()], ids=["recall", "calibrated"])
def test_one_warning_that_a_grader_was_measured_on_english(grader, caplog):
    caplog.set_level(logging.WARNING)
    grader.grade(question="Who?", golds=["Zoë"], answer="Zoë")
    assert caplog.messages == []
    for _ in range(2):
        grader.grade(question="谁？", golds=["李明"], answer="李明")
    (message,) = caplog.messages
    assert message.startswith(f"{type(grader).__name__} was only measured on English, and some gold answers use other")
    assert "(CJK)" in message


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("iPhone手机", ["iphone", "手", "机"]),
        ("中文，１２", ["中", "文", "12"]),
        ("ﾊﾟﾝ", ["パ", "ン"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 글", ["한국어", "글"]),
        ("أَحْمَد", ["احمد"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("Ёлка й", ["елка", "и"]),
    ],
)
def test_words_of_other_scripts(text, expected):
    assert words(text) == expected


def test_content_words_without_blanks_are_pairs():
    assert content_words("李明在1803年造的水车") == {"李明", "1803", "水车"}
    assert content_words("田中さんです") == {"田中"}


# -- queries and edits -------------------------------------------------------------------------------------------------

QUESTIONS = ["谁造了桥？", "谁造了桥?", "من بنى الجسر؟", "Ποιος είναι;", "Ով է՞", "Ո՞վ է կառուցել կամուրջը", "ማን ነው፧",
             "Who⸮", "What‽", "¿Quién?",
             "「誰ですか？」", "誰ですか。", "他来了吗", "ใครสร้างสะพาน",
             "ဘယ်သူလဲ။", "Кто?»", "Is it (really?)"]  # fmt: skip
STATEMENTS = ["桥是李明造的。", "A statement.", "A list; and", "Да.", "橋です。", "No"]


@pytest.mark.parametrize("text", QUESTIONS)
def test_a_question_ends_in_any_mark(text):
    assert asks(text)


@pytest.mark.parametrize("text", STATEMENTS)
def test_a_statement_does_not(text):
    assert not asks(text)


def test_every_question_mark_of_unicode():
    """All characters that Unicode calls a question mark or interrobang, but the opening ones and tags."""
    names = {chr(point): unicodedata.name(chr(point), "") for point in range(sys.maxunicode)}
    marks = [
        c for c, name in names.items() if name.endswith(("QUESTION MARK", "QUESTION MARK ORNAMENT", "INTERROBANG"))
    ]
    left_out = [names[mark] for mark in marks if not asks(f"abc{mark}")]
    assert len(marks) > 20
    assert left_out == ["INVERTED QUESTION MARK", "INVERTED INTERROBANG", "TAG QUESTION MARK"]


@pytest.mark.parametrize(
    ("passage", "text", "kept", "dropped"),
    [
        ("水车由李明在1803年建造。", "问题：谁建造了水车？\n答案：李明", [("谁建造了水车？", "李明")], {}),
        ("水车由李明在1803年建造。", "Question: 谁建造了水车？\nAnswer: 王刚", [], {"answer not in the passage": 1}),
        ("水车由李明建造。", "Question: 文章里说谁？\nAnswer: 李明", [], {"no question of its own": 1}),
        ("水车由李明建造。", "Question: 是李明建造的吗？\nAnswer: 李明", [], {"answer in the question": 1}),
        ("बाज़ार में", "प्रश्न: कहाँ?\nउत्तर: बाज़ार", [("कहाँ?", "बाज़ार")], {}),
        ("بناه أحمد سنة 1803", "سؤال: من بنى الطاحونة؟\nجواب: أحمد", [("من بنى الطاحونة؟", "أحمد")], {}),
        ("橋は田中が作った。", "質問：誰が作ったか\n答え：田中", [("誰が作ったか", "田中")], {}),
        ("Мост построил Иван.", "Вопрос: Кто?\nОтвет: Иван", [("Кто?", "Иван")], {}),
        ("橋は田中が作った。", "Question: 誰？\nAnswer: " + "橋は田中が作った" * 4, [], {"answer too long": 1}),
    ],
)
def test_own_queries(passage, text, kept, dropped):
    context = Context(id="a", title="", passage=passage)
    found, reasons = QueryWriter()._filtered(text, context)
    assert [(query.question, query.golds[0]) for query in found] == kept
    assert reasons == dropped


def test_a_query_that_repeats_another_without_blanks():
    text = "Q: 谁建造了水车？\nA: 李明\nQ: 谁建造了这水车？\nA: 李明\nQ: 水车在哪年建造？\nA: 1803"
    found, reasons = QueryWriter()._filtered(text, Context(id="a", title="", passage="水车由李明在1803年建造。"))
    assert [query.question for query in found] == ["谁建造了水车？", "水车在哪年建造？"]
    assert reasons == {"repeats another": 1}


def test_labels_and_numbers_in_full_width():
    assert questions("１．问题1：谁？\n　答案：李明") == ["Question: 谁？\nAnswer: 李明"]
    numbered = ["（1）一", "２、二", "三、水车", "①圆", "・点", "1．五", "3.5年", "一九四五年"]
    assert [strip_enumerator(line) for line in numbered] == [
        "一",
        "二",
        "水车",
        "圆",
        "点",
        "五",
        "3.5年",
        "一九四五年",
    ]
    assert lines("桥是李明造的。\n\n　２、\n・\nสะพาน\n") == ["桥是李明造的。", "สะพาน"]
    assert Knowledge().read_answer("\n答案：李明。") == "李明。"
    assert Knowledge().read_answer("Ответ: Иван") == "Иван"


def test_how_long_a_text_is():
    assert [count_words(text) for text in ("one two three", "中华人民共和国", "iPhone手机", "", "서울 시")] == [
        3,
        4,
        2,
        0,
        2,
    ]


def test_what_letters_and_marks_are():
    assert [has_other_letters(text) for text in ("Orléans £5 “x”", "Ωmega", "２０", "水")] == [False, True, False, True]
    assert with_plain_marks("一、二。三？पुल।") == "一,二. 三. पुल. "
