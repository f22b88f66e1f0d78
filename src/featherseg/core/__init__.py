"""What every layer above shares: types, errors, configuration, files, devices. Imports neither torch nor Lightning."""
