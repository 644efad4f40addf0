"""Image-text retrieval: which caption belongs to which image? ``plugin.py`` lists the parts."""
