"""Tests of acdc_explain/experiments."""
