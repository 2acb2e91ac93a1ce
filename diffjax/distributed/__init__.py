"""Devices and processes: mesh, sharding, peers, preemption and the watchdog."""
