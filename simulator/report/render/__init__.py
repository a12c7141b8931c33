"""A page drawn: HTML, Markdown, terminal, notebook. One file per form; every file knows every kind of block."""
