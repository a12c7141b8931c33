"""The one place where files are opened and parsed: whatever does not fit is one line with file, line and key."""
