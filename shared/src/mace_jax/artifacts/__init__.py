"""The files the tools exchange: read, validate, write."""
