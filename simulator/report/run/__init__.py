"""A run shown: its tables and page."""
