"""A plan shown: its tables and page."""
