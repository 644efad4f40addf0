"""Pre-training on captions: masked words, masked regions, image-text matching. ``plugin.py`` lists the parts."""
