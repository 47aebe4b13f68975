"""The figures of the gallery are read at the size of a thumbnail too."""

import matplotlib as mpl


def enlarge(gallery_conf, fname):
    """Set larger letters than matplotlib does, before each example."""
    mpl.rcParams["font.size"] = 13
