"""pyalloc: a Linux memory machine you can script."""
