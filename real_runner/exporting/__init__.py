"""Drafters in the forms that engines load: `dsim export drafter`."""
