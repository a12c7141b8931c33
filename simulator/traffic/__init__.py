"""What comes: requests, their arrival times, lengths and domains."""
