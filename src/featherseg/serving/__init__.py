"""Models over HTTP: a versioned API and a web page.

The only folder that imports FastAPI, uvicorn and Prometheus.
"""
