"""Certificates, and TLS over a plain transport."""
