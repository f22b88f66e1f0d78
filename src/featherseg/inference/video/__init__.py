"""Videos and cameras. The only folder that imports PyAV."""
