"""A local web page on which one asks a finished run about pictures."""
