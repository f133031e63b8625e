"""What every render has to keep to. A check takes a render's manifests and yields what breaks it, and where."""
