"""Asking a language model: templates, requests, replies, prices, and a record of each exchange."""
