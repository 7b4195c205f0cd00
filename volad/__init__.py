"""Find lesions in 3D medical scans without lesion labels."""

__version__ = "0.1.0"
