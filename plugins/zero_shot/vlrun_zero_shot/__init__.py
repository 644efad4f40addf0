"""Zero-shot image-text retrieval: how well does a pre-trained matching head rank? ``plugin.py`` lists the parts."""
