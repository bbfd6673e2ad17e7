"""From raw structures to datasets on disk: what preprocess does.

Frames are parsed and checked by several processes, divided into splits and spooled to one flat file
a split; when the order is known, writers in parallel read the spool, find neighbours and write the
dataset and its index. Everything is done to blocks of structures. Memory is constant but for some
ten bytes a structure.
"""
