"""Options and configuration files of the commands, and what is wrong with them in one line."""
