"""Files that are whole or absent when written, and read within bounds."""
