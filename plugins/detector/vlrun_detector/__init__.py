"""Bottom-up attention: from photographs to region features; ``plugin.py`` says what it offers."""
