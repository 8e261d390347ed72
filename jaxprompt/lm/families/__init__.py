"""Families of models: from a checkpoint's config.json to a `spec.Spec`."""
