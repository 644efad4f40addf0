"""The built-in reporters, and what they share with the commands that print results."""
