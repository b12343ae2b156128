"""The input formats, one module each. `READERS` is the only place that lists them.

A new format takes a module that defines what `base.Reader` lists, and one entry here.
"""

# The module of each --input_format. A file is of the first format whose pattern finds its name. The
# modules are imported only when there is something to read: --help needs none of them.
READERS = {
  'image': 'batch.readers.image_files',
  'tfrecord': 'batch.readers.tfrecord',
  'tar': 'batch.readers.tar',
  'idx': 'batch.readers.idx',
  'parquet': 'batch.readers.parquet',
  'manifest': 'batch.readers.manifest',
}
