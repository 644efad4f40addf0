"""LXMERT-S and LXMERT, two-stream backbones; ``plugin.py`` says what this offers."""
