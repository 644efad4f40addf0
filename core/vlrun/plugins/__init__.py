"""What plugins may offer, and what the installed ones do."""
