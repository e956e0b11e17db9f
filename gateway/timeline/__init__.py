"""Timeline: everything that belongs to one trace, over all networks, in one order.

`search` finds a trace in a journal, `items` picks what belongs to it and says it in words, `wire`
keeps what went over the wires in the last minutes, `ladder` and `page` show it.
"""
