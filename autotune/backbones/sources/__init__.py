"""Sources of backbones: one file each, listed in `autotune.backbones.SOURCES`."""
