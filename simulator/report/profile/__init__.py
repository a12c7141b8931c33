"""A profile shown: its numbers, tables, pictures and page, and how two of them differ."""
