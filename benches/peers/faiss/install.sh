#!/bin/sh
# Installs faiss-cpu beside this script, for `cargo bench --bench vectors` to compare with.
set -eu
cd "$(dirname "$0")"
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check faiss-cpu==1.15.1 numpy
