"""The named configs: --config=folder is folder.py of this folder. Installed, they are the package delta_jax.configs."""
