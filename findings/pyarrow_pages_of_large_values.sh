#!/usr/bin/env bash
# pyarrow 26.0.1: data_page_size does not bound the pages of large values; one image read from a Parquet file takes those
# of a thousand.
#
# A table of 2,048 values of 100 kB, as encoded photos are, is written with data_page_size=65536 (the default is 1 MiB).
# Expected: pages of about that size, of one value each here, so that to read the first row takes a few hundred kB.
# Seen: pages of 102 MB. The size is looked at after every write_batch_size = 1024 values, and the page of a dictionary,
# which no photo is found in twice, is as large again. With write_batch_size=1 pages are as small as was asked for.
#     as asked for, data_page_size=65536            the first row takes 204.9 MB
#     without a dictionary                          the first row takes 102.5 MB
#     without a dictionary, write_batch_size=1      the first row takes 0.2 MB
set -euo pipefail
here=$(mktemp -d)
trap 'rm -rf "$here"' EXIT
"${PYTHON:-python3}" -m venv "$here/venv"
"$here/venv/bin/pip" install -q pyarrow==26.0.1
cd "$here"
"$here/venv/bin/python" - <<'P'
import os, sys
import pyarrow as pa
import pyarrow.parquet as pq

table = pa.table({"image": [os.urandom(100_000) for _ in range(2048)]})
taken = []
for what, options in (
    ("as asked for, data_page_size=65536", {}),
    ("without a dictionary", {"use_dictionary": False}),
    ("without a dictionary, write_batch_size=1", {"use_dictionary": False, "write_batch_size": 1}),
):
    pq.write_table(table, "a.parquet", data_page_size=1 << 16, **options)
    before = pa.total_allocated_bytes()
    rows = pq.ParquetFile("a.parquet", memory_map=True, pre_buffer=False).iter_batches(1, use_threads=False)
    first = next(rows)
    taken.append((pa.total_allocated_bytes() - before) / 1e6)
    print(f"{what:45} the first row takes {taken[-1]:.1f} MB")
    del rows, first
as_before = taken[0] > 150 and 90 < taken[1] < 150 and taken[2] < 5
print("pages are larger than was asked for" if as_before else "the behaviour has changed")
sys.exit(0 if as_before else 1)
P
