"""The qcow2 image format: layout, writer, reader."""
