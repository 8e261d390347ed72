"""Devices and processes: where arrays live, and how programs run on all of them."""
