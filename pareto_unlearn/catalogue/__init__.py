"""The facts about methods, metrics and families that several rooms need: strings and numbers, one row each.

The configuration checks names against these rows, the report and the tables take titles, order and marks from
them. Lowest layer: no torch, no import of another room but ``errors``.
"""
