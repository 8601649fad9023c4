"""Phantom cohorts: drawn radiographs with findings, written as two hospitals write them."""
