"""What all layers above share: types, errors, configuration, files, devices.

Imports neither torch nor Lightning.
"""
