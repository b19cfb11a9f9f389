"""`seal adapt DOCUMENTS --output FOLDER`: documents in, adapters out, which answer about them without seeing them.

    documents -> passages -> self-edits, the best kept -> adapters: one each or one for all -> scores -> PEFT folders

It is SEAL's inner loop for good (arXiv 2506.10943, section 3): what a fit throws away after scoring stays here. What is
finished is on disk, and `--resume` goes on from it. Left out: training the self-editor, which is `seal fit`.
"""
