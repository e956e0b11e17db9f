"""Doctor: looks at a box before it goes live, and packs what a helper far away needs.

`findings` is what every check gives; `machine`, `files` and `plan` are the checks; `bundle` packs.
Nothing here opens a device or changes anything.
"""
