"""Self-edits by rule: what a document states becomes sentences, and questions with their answers, without a model.

    passage -> blocks -> facts -> statements, questions

Small models invent much of what they write (`docs/adapt.md`); rules repeat only what is there. Questions are asked in
English, of English sentences; a text in another language gives statements, gaps to fill, and what its structure says.
Left out: what only an understanding of the text could ask.
"""
