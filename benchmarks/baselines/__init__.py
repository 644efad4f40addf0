"""What our ways are measured against, written the way the papers' code, or our own earlier code, works."""
