"""NLVR2: is a statement about two photographs true? ``plugin.py`` lists the parts."""
