"""`seal grade FILE`: grade answers in a file, and report how a grader agrees with verdicts that the file carries."""
