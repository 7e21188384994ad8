"""Replicas with queues in virtual time, asked by gateways that run the real decisions."""
