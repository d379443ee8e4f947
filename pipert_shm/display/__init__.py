"""How do texts, tables and pictures reach a person?

Secrets are masked, tables aligned, long texts paged, and frames scaled down.
"""
