"""The embedding teacher: asked, cached, probed."""
