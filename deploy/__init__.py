"""Manifests, images and values, and checks of them."""
