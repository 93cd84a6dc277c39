"""Asking a language model: templates, requests, replies, prices, and every exchange kept."""
