"""The answer: pictures, pages and text."""
