"""HNSW of faiss-cpu on vectors from files: prints recall@10 and the time of one search as JSON.

usage: run.py RECORDS QUERIES TRUTH DIMENSION THREADS

RECORDS and QUERIES are 32-bit floats, TRUTH ten 32-bit positions a query, all little-endian and without a header.
THREADS build the index; a search has one, as one caller has.
"""

import json
import sys
import time

import faiss
import numpy

records, queries, truth, dimension, threads = sys.argv[1:]
records = numpy.fromfile(records, "<f4").reshape(-1, int(dimension))
queries = numpy.fromfile(queries, "<f4").reshape(-1, int(dimension))
truth = numpy.fromfile(truth, "<u4").reshape(len(queries), -1)

index = faiss.IndexHNSWFlat(int(dimension), 16, faiss.METRIC_INNER_PRODUCT)
index.hnsw.efConstruction = 200
index.hnsw.efSearch = 64
faiss.omp_set_num_threads(int(threads))
began = time.perf_counter()
index.add(records)
build = time.perf_counter() - began

faiss.omp_set_num_threads(1)
limit = truth.shape[1]
for query in queries[:100]:
    index.search(query[None, :], limit)
times, hits = [], 0
for query, expected in zip(queries, truth):
    began = time.perf_counter()
    _, found = index.search(query[None, :], limit)
    times.append((time.perf_counter() - began) * 1e6)
    hits += len(set(found[0].tolist()) & set(expected.tolist()))
times.sort()
print(json.dumps({
    "recall_at_10": hits / truth.size,
    "p50": times[len(times) // 2],
    "p99": times[len(times) * 99 // 100],
    "build": build,
}))
